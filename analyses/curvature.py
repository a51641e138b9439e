"""What is asked about the curvature at a checkpoint, under its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import landscape
from analyses.answer import Answer
from analyses.protocol import ESTIMATORS, Protocol
from analyses.subject import Subject
from landscape.answers import Certificate, Eigenpairs, Forecast, SpectralDensity, TraceEstimate
from landscape.certifying import certify
from landscape.density import spectral_density
from landscape.forecasting import for_density, for_eigenvalues, for_trace, forecast as forecast_of
from landscape.spectrum import top_eigenvalues
from landscape.traces import trace as trace_of

Question = dict[str, Any]  # what decides an answer


def eigenvalues(subject: Subject) -> Answer[Eigenpairs]:
    """The largest Hessian eigenvalues."""
    question = _questions(subject.protocol)["eigenvalues"]
    ask = partial(top_eigenvalues, subject.hessian, **question)
    return subject.within_budget(Eigenpairs, "eigenvalues", question, ask)


def trace(subject: Subject) -> Answer[TraceEstimate]:
    """The Hessian trace."""
    question = _questions(subject.protocol)["trace"]
    estimator = getattr(landscape, question["estimator"])()
    ask = partial(trace_of, subject.hessian, **question | {"estimator": estimator})
    return subject.within_budget(TraceEstimate, "trace", question, ask)


def density(subject: Subject) -> Answer[SpectralDensity]:
    """The Hessian's spectral density, with the largest eigenvalues apart from it."""
    question = _questions(subject.protocol)["density"]

    def ask(**limits: Any) -> SpectralDensity:
        outliers = eigenvalues(subject).result
        return spectral_density(subject.hessian, **_without(question, "eigenvalues"), outliers=outliers, **limits)

    return subject.within_budget(
        SpectralDensity, "density", question, ask, rests_on=lambda: eigenvalues(subject).is_cut_short
    )


def answered(subject: Subject) -> list[str]:
    """Which of eigenvalues, trace and density have been measured before, to the end."""
    return [name for name, asked in _questions(subject.protocol).items() if subject.path_of(name, asked).is_file()]


def certificate(subject: Subject, answer: Answer[Any]) -> Answer[Certificate]:
    """The certificate of eigenvalues or of a trace, made anew each time; the first process keeps it beside these."""
    progress = subject.report(f"{subject.run.name}: {Certificate.title} of the {answer.result.title}")
    found = certify(answer.result, subject.hessian, seed=subject.protocol.seed, progress=progress)
    path = answer.path.with_name(f"certificate-{answer.path.name}")
    if subject.keeps:
        found.save(path)
    return Answer(found, path)


def forecast(subject: Subject) -> Forecast:
    """What eigenvalues, trace and density would cost, were they asked now; nothing is kept of it."""
    p = subject.protocol
    subject.report(f"{subject.run.name}: {Forecast.title}")
    asked = (
        for_eigenvalues(subject.hessian, p.eigenvalues),
        for_trace(p.trace_probes),
        for_density(subject.hessian, p.density_steps, p.density_probes, outliers=p.eigenvalues),
    )
    return forecast_of(subject.hessian, asked)


def _questions(p: Protocol) -> dict[str, Question]:
    """What decides the answers to the questions about the Hessian."""
    pairs = {"k": p.eigenvalues, "tol": p.tol, "seed": p.seed}
    probes = {"num_steps": p.density_steps, "num_probes": p.density_probes, "seed": p.seed}
    return {
        "eigenvalues": pairs,
        "trace": {"num_probes": p.trace_probes, "seed": p.seed, "estimator": ESTIMATORS[p.estimator][0]},
        "density": probes | {"eigenvalues": pairs},
    }


def _without(question: Mapping[str, Any], name: str) -> Question:
    return {key: value for key, value in question.items() if key != name}
