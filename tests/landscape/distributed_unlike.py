"""Run by several processes that do not compute alike, as machines of several kinds do; see test_unlike.py."""

import sys
from contextlib import nullcontext
from unittest import mock

import torch

from landscape import top_eigenvalues
from landscape.processes import Together
from landscape.search import Search
from landscape.subspace import Subspace
from tests.landscape.distributed_products import QUESTIONS, collectives, small_hessian


def rounding(sharing):
    """Within it, lengths are rounded in another way on all but the first process."""
    honest, off = torch.linalg.vector_norm, 1 + 4 * sharing.rank * torch.finfo(torch.float64).eps
    other = lambda *given, **named: honest(*given, **named) * off  # noqa: E731
    return nullcontext() if sharing.is_first else mock.patch.object(torch.linalg, "vector_norm", other)


def rounded(sharing, question):
    """What is found, whether processes were taken to be alike afterwards, and what they exchanged."""
    hessian = small_hessian(sharing)
    with rounding(sharing), collectives() as counts:
        found = QUESTIONS[question](hessian)
    return [float(value) for value in found], sharing.alike, dict(counts)


def ended_early(sharing):
    """Eigenvalues where the last process takes itself to be done long before the others."""
    hessian = small_hessian(sharing)
    mistaken = mock.patch.object(Search, "_one_more_converged", return_value=True)
    with mistaken if sharing.rank == sharing.number - 1 else nullcontext():
        found = top_eigenvalues(hessian, 3, tol=1e-9)
    return found.eigenvalues.tolist(), found.converged.tolist(), found.num_products, sharing.alike


def turned_around(sharing):
    """Eigenvalues and vectors where one process begins with the vector of the others times -1."""
    hessian, honest = small_hessian(sharing), Subspace.start

    def other_way(space, generator, *, near=None):
        length = honest(space, generator, near=near)
        space._leftover = -space._leftover
        return length

    with mock.patch.object(Subspace, "start", other_way) if sharing.rank == 1 else nullcontext():
        found = top_eigenvalues(hessian, 3, tol=1e-9)
    return found.eigenvalues.tolist(), torch.tensor(found.eigenvectors), sharing.alike


def different(sharing):
    """What is said where each process multiplies a vector of its own."""
    hessian = small_hessian(sharing)
    try:
        hessian.apply(hessian.weights + sharing.rank)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    found = {"rounded": {question: rounded(Together(), question) for question in QUESTIONS}}
    found |= {about.__name__: about(Together()) for about in (ended_early, turned_around, different)}
    torch.save(found, f"{sys.argv[1]}/rank{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
