"""Certificates: an answer is held against what it must agree with, and every check is told with its outcome."""

from __future__ import annotations

from typing import Any

from landscape.answers import Certificate, Check, Eigenpairs, TraceEstimate
from landscape.arguments import seed_of
from landscape.certified_pairs import ChecksOfPairs
from landscape.certified_trace import ChecksOfTrace
from landscape.manifest import Manifest, differences
from landscape.operators import CurvatureOperator, require_operator
from landscape.progress import Progress, silent
from landscape.results import Result
from landscape.soundness import against_quotients, determinism, symmetry, timed


def certify(result: Result, operator: CurvatureOperator, *, seed: int = 0, progress: Progress = silent) -> Certificate:
    """Hold eigenpairs or a trace against what they must agree with.

    Of the products themselves: they are symmetric, u'Av = v'Au; the same twice; and the derivative of the gradient, as
    difference quotients in double precision tell, along random signs and along the first eigenvector. Kinks of a
    piecewise smooth network are told apart from wrong products by quotients at several steps.

    Of eigenpairs: residuals ‖A v − λ v‖ computed anew with one product for each pair, orthonormal vectors, and the same
    question asked again from another start. By Cauchy's interlacing theorem no orthonormal set of vectors can show an
    i-th eigenvalue further out than the true one: where the repetition, or PyHessian, shows one that is by more than
    the residuals, pairs were missed. Of a trace: a repetition with other probes, within standard errors.

    PyHessian (Yao et al. 2020, arXiv 1912.07145) is asked the same question where it can be: the Hessian at the
    objective's own weights, on the CPU. The seconds beside it and beside our repetition are of the question alone.

    Args:
        result: :class:`Eigenpairs` or a :class:`TraceEstimate`.
        operator: the one that it was measured with, or an equal one.
        seed: of random vectors; the repetition's are other ones than the result's.
        progress: called with the checks done and their number.

    Returns:
        All checks with value, tolerance, verdict and seconds. It has passed when none has failed.

    Raises:
        TypeError: if the result is of another kind, or the operator is none.
        ValueError: if the result is of other weights, other data or another operator.

    >>> import torch
    >>> from landscape.objective import Objective
    >>> from landscape.operators import HessianOperator
    >>> from landscape.spectrum import top_eigenvalues
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> data = [(torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(2, 1).double())]
    >>> hessian = HessianOperator(Objective(model, torch.nn.functional.mse_loss, data))  # diag(9, 1)
    >>> certify(top_eigenvalues(hessian, k=2), hessian).passed
    True
    """
    require_operator(operator)
    seed = seed_of(seed)
    if isinstance(result, Eigenpairs):
        require_subject(result, operator)
        looks = ChecksOfPairs(result, operator, seed).looks()
    elif isinstance(result, TraceEstimate):
        require_subject(result, operator)
        looks = ChecksOfTrace(result, operator, seed).looks()
    else:
        raise TypeError(f"a certificate is of Eigenpairs or of a TraceEstimate; got {type(result).__name__}")
    looks |= {
        "symmetry of products": lambda: symmetry(operator, seed=seed),
        "difference quotients, random direction": lambda: against_quotients(operator, None, seed=seed),
        "same product and loss twice": lambda: determinism(operator, seed=seed),
    }
    checks: list[Check] = []
    for name, look in looks.items():
        checks.append(timed(name, look))
        progress(len(checks), len(looks))
    asked = dict(result.manifest["measurement"])
    settings = {"name": "certify", "kind": type(result).__name__, "of": asked, "seed": seed}
    return Certificate.of(type(result).__name__, checks, operator.manifest() | {"measurement": settings})


def require_subject(result: Result, operator: CurvatureOperator) -> None:
    """A result must be of the operator's weights, data and kind.

    Raises:
        ValueError: naming what differs.
    """
    if not {"objective", "subject", "measurement"} <= result.manifest.keys():
        raise ValueError("the result has no record of the weights and data it is of, so it cannot be certified")
    theirs, ours = (_without_way(manifest) for manifest in (result.manifest, operator.manifest()))
    subjects = ({"subject of the measurement": m["subject"]} for m in (theirs, ours))
    found = [*differences(*subjects), *differences(theirs, ours)]
    if found:
        raise ValueError(
            f"the result is not of this operator; they differ in {'; '.join(found)}. Certify it with the operator of "
            "the checkpoint and the data that it was measured on, or measure again."
        )


def _without_way(manifest: Manifest) -> dict[str, Any]:
    """A manifest without what was asked, and without the way of computing products, which shows with the first one."""
    operator = {key: value for key, value in manifest.get("operator", {}).items() if key != "products"}
    return {**manifest, "measurement": {}, "operator": operator}
