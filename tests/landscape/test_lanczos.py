from __future__ import annotations

import pytest
import torch
from problems import normal, symmetric

from landscape.lanczos import Krylov


def space(A, *, seed=0):
    return Krylov(lambda v: A @ v, len(A), generator=torch.Generator().manual_seed(seed), like=A)


def grown(A, steps, *, starts=(0,), seed=0):
    """A Krylov space after some products, with a new chain at each of the sizes in ``starts``."""
    krylov = space(A, seed=seed)
    while krylov.size < steps:
        if krylov.size in starts:
            krylov.start()
        else:
            krylov.step()
    return krylov


def basis_of(krylov):
    return torch.stack([krylov.vectors(unit) for unit in torch.eye(krylov.size).double()], dim=1)


SPECTRA = {
    "spread": torch.linspace(-1, 2, 40).double(),
    "clustered": torch.cat([torch.linspace(1, 1 + 1e-6, 20), torch.linspace(5, 5 + 1e-8, 20)]).double(),
    "multiple": torch.tensor([3.0] * 10 + [1.0] * 20 + [-2.0] * 10).double(),
    "geometric": 2.0 ** -torch.arange(40).double(),
    "rank three": torch.tensor([4.0, 2.0, 1.0] + [0.0] * 37).double(),
    "negative": -torch.linspace(0.1, 7, 40).double(),
}
STARTS = {"one chain": (0,), "two chains": (0, 10), "three chains": (0, 5, 17)}


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_the_basis_is_orthonormal_and_the_projection_is_that_of_the_operator(spectrum, starts):
    A = symmetric(spectrum)
    krylov = grown(A, 25, starts=starts)
    Q = basis_of(krylov)
    values, coordinates, _ = krylov.ritz()
    assert (Q.T @ Q - torch.eye(25)).abs().max() < 1e-12
    assert (coordinates.T @ (Q.T @ A @ Q) @ coordinates - values.diag()).abs().max() < 1e-12 * spectrum.abs().max()


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("steps", [1, 6, 12, 25, 40])
def test_residuals_are_those_computed_directly(spectrum, starts, steps):
    A = symmetric(spectrum)
    krylov = grown(A, steps, starts=starts)
    values, coordinates, residuals = krylov.ritz()
    vectors = krylov.vectors(coordinates)
    direct = (A @ vectors - vectors * values).norm(dim=0)
    assert (residuals - direct).abs().max() < 1e-12 * spectrum.abs().max()


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_some_eigenvalue_lies_within_the_residual_of_each_ritz_value(spectrum):
    values, _, residuals = grown(symmetric(spectrum), 12).ritz()
    distance = (values[:, None] - spectrum[None]).abs().min(dim=1).values
    assert (distance <= residuals + 1e-13 * spectrum.abs().max()).all()


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_a_complete_space_holds_the_whole_spectrum_with_its_multiplicities(spectrum):
    krylov = grown(symmetric(spectrum), 40)
    assert krylov.complete
    assert torch.allclose(krylov.ritz()[0], spectrum.sort().values, rtol=0, atol=1e-12 * spectrum.abs().max())


def test_a_chain_ends_at_an_invariant_subspace_and_the_next_step_starts_another():
    A = symmetric(SPECTRA["multiple"])  # three distinct eigenvalues: three steps
    krylov = grown(A, 3)
    assert krylov.exhausted
    assert torch.allclose(krylov.ritz()[0], torch.tensor([-2.0, 1.0, 3.0]).double(), rtol=1e-12)
    krylov.step()
    assert krylov.size == 4
    assert not krylov.exhausted
    assert not krylov.complete


def test_the_zero_matrix_exhausts_every_chain_at_once():
    krylov = grown(torch.zeros(5, 5).double(), 3)
    values, _, residuals = krylov.ritz()
    assert krylov.exhausted
    assert not values.any()
    assert not residuals.any()


def test_a_new_space_is_exhausted_and_its_first_step_starts_a_chain():
    krylov = space(symmetric(SPECTRA["spread"]))
    assert krylov.exhausted
    krylov.step()
    assert krylov.size == 1


def test_no_chain_can_start_in_a_complete_space():
    with pytest.raises(RuntimeError, match="no direction is left outside the basis"):
        grown(symmetric(torch.ones(3).double()), 3).start()


def test_one_product_is_spent_for_each_vector():
    A, count = symmetric(SPECTRA["spread"]), 0

    def product(v):
        nonlocal count
        count += 1
        return A @ v

    krylov = Krylov(product, 40, generator=torch.Generator().manual_seed(0), like=A)
    for _ in range(20):
        krylov.step()
    assert count == krylov.size == 20


def test_the_seed_decides_the_space():
    A = symmetric(SPECTRA["spread"])
    first, again, other = (grown(A, 5, seed=seed).ritz()[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_the_scale_is_a_lower_bound_on_the_norm():
    A = symmetric(SPECTRA["negative"])
    assert 1 < grown(A, 12).scale <= 7 * (1 + 1e-12)


def test_a_product_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="a product with the operator is not finite: the loss overflows"):
        grown(torch.full((4, 4), torch.inf).double(), 2)


def test_vectors_are_normalised():
    krylov = grown(symmetric(SPECTRA["spread"]), 10)
    assert torch.allclose(krylov.vectors(normal(10, 3)).norm(dim=0), torch.ones(3).double(), rtol=1e-14)


def test_the_residual_tells_that_products_are_not_symmetric():
    A = symmetric(torch.arange(20.0).double()) + 0.1 * normal(20, 20, seed=4)
    krylov = grown(A, 15, starts=(0, 9))
    values, coordinates, residuals = krylov.ritz()
    vectors = krylov.vectors(coordinates)
    assert torch.allclose(residuals, (A @ vectors - vectors * values).norm(dim=0), rtol=1e-10)
    assert residuals.min() > 0.01
