"""The geometry of L(w), the loss of a model over a data set as a function of its flat weights.

An :class:`Objective` is L; everything else is a question asked of it, and every answer is a frozen ``Result``::

    objective ──> HessianOperator, GGNOperator, ResidualOperator, EmpiricalFisherOperator
    operator ──> top_eigenvalues, spectral_density, trace, diagonal, frobenius_norm
    (operator, its result) ──> certify
    objective ──> m_sharpness(perturbation), worst_case_sharpness, average_case_sharpness, keskar_sharpness,
                  pac_bayes_sigma, low_pass_flatness        operator ──> fisher_rao_norm, relative_flatness
    objective ──> m_sharpness(perturbation)
    (objective, measures) ──> audit: how far find_rescalings moves each
    objective ──> filter_normalized ──> line_slice, plane_slice
    objective, other ──> align ──> interpolate, bezier

Names are loaded when first used, so that the result classes can be had without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape.alignment import align as align
    from landscape.answers import (
        Audit as Audit,
        AverageCaseSharpness as AverageCaseSharpness,
        Certificate as Certificate,
        DiagonalEstimate as DiagonalEstimate,
        Eigenpairs as Eigenpairs,
        FisherRaoNorm as FisherRaoNorm,
        Forecast as Forecast,
        KeskarSharpness as KeskarSharpness,
        LineSlice as LineSlice,
        LowPassFlatness as LowPassFlatness,
        NormEstimate as NormEstimate,
        PacBayesSigma as PacBayesSigma,
        PathLosses as PathLosses,
        PlaneSlice as PlaneSlice,
        RelativeFlatness as RelativeFlatness,
        Sharpness as Sharpness,
        SharpnessCurve as SharpnessCurve,
        SharpnessOverSizes as SharpnessOverSizes,
        SpectralDensity as SpectralDensity,
        TraceEstimate as TraceEstimate,
        WorstCaseSharpness as WorstCaseSharpness,
    )
    from landscape.auditing import audit as audit, usual_measures as usual_measures
    from landscape.average_case import (
        average_case_curve as average_case_curve,
        average_case_sharpness as average_case_sharpness,
    )
    from landscape.balls import L2 as L2, Ball as Ball, Linf as Linf
    from landscape.batch_norm import Frozen as Frozen, Recomputed as Recomputed
    from landscape.centralized import CentralizedAscent as CentralizedAscent
    from landscape.certifying import certify as certify
    from landscape.chance import RandomPerturbation as RandomPerturbation
    from landscape.choices import FastestProducts as FastestProducts, FirstThatWorks as FirstThatWorks
    from landscape.curves import BendTraining as BendTraining, bezier as bezier
    from landscape.density import spectral_density as spectral_density
    from landscape.diagonals import diagonal as diagonal
    from landscape.differences import CentralDifferences as CentralDifferences
    from landscape.directions import (
        eigenvector_axis as eigenvector_axis,
        eigenvector_plane as eigenvector_plane,
        filter_normalized as filter_normalized,
        plane_through as plane_through,
        random_direction as random_direction,
        towards as towards,
    )
    from landscape.estimators import (
        Estimator as Estimator,
        Hutchinson as Hutchinson,
        HutchPlusPlus as HutchPlusPlus,
        KrylovAware as KrylovAware,
    )
    from landscape.extents import coordinates_around as coordinates_around, grid_around as grid_around
    from landscape.fisher_rao import fisher_rao_norm as fisher_rao_norm
    from landscape.forecasting import Question as Question, forecast as forecast
    from landscape.forward_mode import ForwardOverReverse as ForwardOverReverse
    from landscape.friendly import FriendlyAscent as FriendlyAscent
    from landscape.gauss_newton import ExactGaussNewton as ExactGaussNewton
    from landscape.keskar import RandomSubspaces as RandomSubspaces, keskar_sharpness as keskar_sharpness
    from landscape.logits import LogitNormalized as LogitNormalized
    from landscape.low_pass import low_pass_flatness as low_pass_flatness
    from landscape.norms import frobenius_norm as frobenius_norm
    from landscape.objective import Objective as Objective
    from landscape.operators import (
        CurvatureOperator as CurvatureOperator,
        EmpiricalFisherOperator as EmpiricalFisherOperator,
        GGNOperator as GGNOperator,
        HessianOperator as HessianOperator,
    )
    from landscape.pac_bayes import pac_bayes_sigma as pac_bayes_sigma
    from landscape.parameters import ParameterSpace as ParameterSpace
    from landscape.paths import interpolate as interpolate
    from landscape.per_example import PerExample as PerExample
    from landscape.perturbations import (
        AdaptiveAscent as AdaptiveAscent,
        GradientAscent as GradientAscent,
        Perturbation as Perturbation,
        every_tensor as every_tensor,
        weights_proper as weights_proper,
    )
    from landscape.planes import Axis as Axis, Plane as Plane
    from landscape.processes import Together as Together
    from landscape.reference import (
        pyhessian_eigenvalues as pyhessian_eigenvalues,
        pyhessian_trace as pyhessian_trace,
    )
    from landscape.relative import relative_flatness as relative_flatness
    from landscape.rescalings import (
        Rescaling as Rescaling,
        Rescalings as Rescalings,
        find_rescalings as find_rescalings,
    )
    from landscape.residual import ResidualOperator as ResidualOperator
    from landscape.results import Result as Result
    from landscape.sampling import Adaptive as Adaptive
    from landscape.scores import Accuracy as Accuracy, accuracy as accuracy
    from landscape.several_steps import SeveralSteps as SeveralSteps
    from landscape.sharpness import m_sharpness as m_sharpness, m_sharpness_grid as m_sharpness_grid
    from landscape.slices import line_slice as line_slice, plane_slice as plane_slice
    from landscape.spectrum import top_eigenvalues as top_eigenvalues
    from landscape.traces import trace as trace
    from landscape.trajectories import trajectory_plane as trajectory_plane
    from landscape.unnormalised import UnnormalisedAscent as UnnormalisedAscent
    from landscape.warm import FromSubset as FromSubset
    from landscape.ways import KeptGraphs as KeptGraphs, RebuiltGraphs as RebuiltGraphs
    from landscape.worst_case import worst_case_curve as worst_case_curve, worst_case_sharpness as worst_case_sharpness
    from landscape.xtrace import XTrace as XTrace

_HOME = {
    "ParameterSpace": "parameters",
    "Objective": "objective",
    "CurvatureOperator": "operators",
    "HessianOperator": "operators",
    "GGNOperator": "operators",
    "EmpiricalFisherOperator": "operators",
    "ResidualOperator": "residual",
    "KeptGraphs": "ways",
    "RebuiltGraphs": "ways",
    "ForwardOverReverse": "forward_mode",
    "CentralDifferences": "differences",
    "FirstThatWorks": "choices",
    "FastestProducts": "choices",
    "Together": "processes",
    "top_eigenvalues": "spectrum",
    "FromSubset": "warm",
    "spectral_density": "density",
    "trace": "traces",
    "certify": "certifying",
    "forecast": "forecasting",
    "Question": "forecasting",
    "diagonal": "diagonals",
    "frobenius_norm": "norms",
    "Estimator": "estimators",
    "KrylovAware": "estimators",
    "HutchPlusPlus": "estimators",
    "Hutchinson": "estimators",
    "XTrace": "xtrace",
    "ExactGaussNewton": "gauss_newton",
    "PerExample": "per_example",
    "pyhessian_eigenvalues": "reference",
    "pyhessian_trace": "reference",
    "Perturbation": "perturbations",
    "GradientAscent": "perturbations",
    "UnnormalisedAscent": "unnormalised",
    "AdaptiveAscent": "perturbations",
    "weights_proper": "perturbations",
    "every_tensor": "perturbations",
    "FriendlyAscent": "friendly",
    "CentralizedAscent": "centralized",
    "RandomPerturbation": "chance",
    "SeveralSteps": "several_steps",
    "Ball": "balls",
    "L2": "balls",
    "Linf": "balls",
    "m_sharpness": "sharpness",
    "average_case_curve": "average_case",
    "average_case_sharpness": "average_case",
    "fisher_rao_norm": "fisher_rao",
    "RandomSubspaces": "keskar",
    "keskar_sharpness": "keskar",
    "LogitNormalized": "logits",
    "low_pass_flatness": "low_pass",
    "pac_bayes_sigma": "pac_bayes",
    "relative_flatness": "relative",
    "worst_case_curve": "worst_case",
    "worst_case_sharpness": "worst_case",
    "find_rescalings": "rescalings",
    "Rescaling": "rescalings",
    "Rescalings": "rescalings",
    "audit": "auditing",
    "usual_measures": "auditing",
    "m_sharpness_grid": "sharpness",
    "random_direction": "directions",
    "filter_normalized": "directions",
    "eigenvector_axis": "directions",
    "eigenvector_plane": "directions",
    "towards": "directions",
    "plane_through": "directions",
    "trajectory_plane": "trajectories",
    "coordinates_around": "extents",
    "grid_around": "extents",
    "Axis": "planes",
    "Plane": "planes",
    "Adaptive": "sampling",
    "Accuracy": "scores",
    "line_slice": "slices",
    "plane_slice": "slices",
    "accuracy": "scores",
    "interpolate": "paths",
    "bezier": "curves",
    "BendTraining": "curves",
    "align": "alignment",
    "Frozen": "batch_norm",
    "Recomputed": "batch_norm",
    "Result": "results",
    "Audit": "answers",
    "Eigenpairs": "answers",
    "Certificate": "answers",
    "Forecast": "answers",
    "TraceEstimate": "answers",
    "DiagonalEstimate": "answers",
    "NormEstimate": "answers",
    "SpectralDensity": "answers",
    "Sharpness": "answers",
    "AverageCaseSharpness": "answers",
    "FisherRaoNorm": "answers",
    "KeskarSharpness": "answers",
    "LowPassFlatness": "answers",
    "PacBayesSigma": "answers",
    "RelativeFlatness": "answers",
    "SharpnessCurve": "answers",
    "SharpnessOverSizes": "answers",
    "WorstCaseSharpness": "answers",
    "LineSlice": "answers",
    "PlaneSlice": "answers",
    "PathLosses": "answers",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"landscape.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
