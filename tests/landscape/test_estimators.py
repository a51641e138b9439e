"""Each estimator against its definition, written out on a dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import normal, symmetric

from landscape.estimators import Hutchinson, HutchPlusPlus, KrylovAware, Source
from landscape.measures import BlocksOfTheTrace, Pair, diagonal_entries, square
from landscape.xtrace import XTrace

A = symmetric(torch.cat([4.0 / torch.arange(1, 31).double() ** 2, -torch.linspace(0, 0.3, 10).double()]))
DIM = len(A)
FORMS = {
    "blocks": (BlocksOfTheTrace([25, 15]), [torch.block_diag(A[:25, :25], torch.zeros(15, 15)), None]),
    "square": (square, [A @ A]),
    "diagonal": (diagonal_entries, None),
}


def matrices(form):
    """The symmetric M of each quadratic form x'Mx."""
    if form == "square":
        return torch.stack([A @ A])
    masks = (
        torch.eye(DIM).double()
        if form == "diagonal"
        else torch.eye(2).double().repeat_interleave(torch.tensor([25, 15]), dim=1)
    )
    return torch.stack([(mask[:, None] * A + A * mask) / 2 for mask in masks])


def source(seed=0):
    return Source(lambda V: A @ V, torch.zeros(DIM).double(), torch.Generator().manual_seed(seed))


def xtrace_by_definition(M, probes):
    """One estimate per probe."""
    count = probes.shape[1]
    found = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        Q = torch.linalg.qr(A @ probes[:, others]).Q if others else torch.zeros(DIM, 0).double()
        u = probes[:, i] - Q @ (Q.T @ probes[:, i])
        found.append(torch.trace(Q.T @ M @ Q) + (DIM - count + 1) / (u @ u) * (u @ M @ u))
    return torch.stack(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_xtrace_is_its_definition_with_and_without_each_probe(form, count):
    estimation = XTrace().begin(source(), FORMS[form][0])
    estimation.spend(2 * count)
    found = estimation.samples()
    probes = torch.randn(count, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64).T
    for row, M in enumerate(matrices(form)):
        torch.testing.assert_close(found.values[row], xtrace_by_definition(M, probes), rtol=1e-9, atol=1e-9)
        for j in range(count):
            left = probes[:, [i for i in range(count) if i != j]]
            wanted = xtrace_by_definition(M, left).mean()
            torch.testing.assert_close(found.without[row, j], wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_krylov_deflation_is_its_definition(form):
    estimation = KrylovAware().begin(source(), FORMS[form][0])
    estimation.spend(12)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, DIM, generator=generator, dtype=torch.float64).T
    K = torch.cat([torch.linalg.matrix_power(A, p) @ start for p in range(6)], dim=1)
    Q = torch.linalg.qr(K / K.norm(dim=0)).Q
    torch.testing.assert_close(Q @ Q.T, estimation._basis @ estimation._basis.T, rtol=0, atol=1e-9)
    U = torch.cat([pair.vectors for pair in estimation._probes], dim=1)
    assert (Q.T @ U).abs().max() < 1e-9
    for row, M in enumerate(matrices(form)):
        wanted = torch.trace(Q.T @ M @ Q) + torch.einsum("ik,ij,jk->k", U, M, U)
        torch.testing.assert_close(estimation.samples().values[row], wanted, rtol=1e-8, atol=1e-8)


def test_hutch_plus_plus_takes_the_range_of_a_sketch():
    estimation = HutchPlusPlus().begin(source(), square)
    estimation.spend(12)
    signs = 2.0 * torch.randint(0, 2, (4, DIM), generator=_after_one_vector()).double().T - 1
    Q = torch.linalg.qr(A @ signs).Q
    torch.testing.assert_close(Q @ Q.T, estimation._basis @ estimation._basis.T, rtol=0, atol=1e-9)


def _after_one_vector():
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, DIM, generator=generator, dtype=torch.float64)  # the start of a Krylov space, drawn first
    return generator


def test_hutchinson_averages_quadratic_forms_of_random_signs():
    estimation = Hutchinson().begin(source(seed=4), BlocksOfTheTrace([DIM]))
    estimation.spend(2)
    signs = 2.0 * torch.randint(0, 2, (2, DIM), generator=torch.Generator().manual_seed(4)).double() - 1
    wanted = torch.einsum("pi,ij,pj->p", signs, A, signs)
    torch.testing.assert_close(estimation.samples().values[0], wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", [Hutchinson(), HutchPlusPlus(), XTrace(), KrylovAware()], ids=repr)
def test_an_estimate_that_is_continued_wastes_nothing_and_stays_unbiased(estimator):
    found = []
    for seed in range(300):
        estimation = estimator.begin(source(seed), BlocksOfTheTrace([DIM]))
        for budget in (4, 10, 11, 24):
            estimation.spend(budget)
            assert estimation.products in (budget, budget - 1)
        found.append(estimation.samples().values.mean().item())
    assert estimation.samples().values.shape[1] == {"Hutchinson()": 24, "HutchPlusPlus()": 8}.get(repr(estimator), 12)
    assert abs(np.mean(found) - A.trace().item()) < 3.5 * np.std(found) / np.sqrt(300)


def test_forms_of_two_different_vectors_are_symmetric():
    x, y = (Pair(v, A @ v) for v in (normal(DIM, 3, seed=1), normal(DIM, 3, seed=2)))
    for form, (measure, _) in FORMS.items():
        wanted = torch.einsum("ik,fij,jk->fk", x.vectors, matrices(form), y.vectors)
        torch.testing.assert_close(measure(x, y), wanted, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(measure(y, x), wanted, rtol=1e-10, atol=1e-10)
