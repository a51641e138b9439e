"""Universal SAM: the estimates against their formulas, and their expectations against closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from landscape.chance import normals, uniforms
from msam import DeterminantDescent, FrobeniusDescent, TraceDescent, mSAM

A = torch.tensor([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, -0.5]]).double()
B = torch.tensor([0.4, -0.7, 0.3]).double()
W = torch.tensor([0.3, -0.8, 0.5]).double()


def symmetric_cubic(dim):
    C = torch.randn(dim, dim, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.stack([C.permute(p) for p in itertools.permutations(range(3))]).mean(0)


C = symmetric_cubic(3)
C[0, 0, 0] += 2


def loss_at(w):
    """w'Aw/2 + b'w + C[w, w, w]/6."""
    return w @ A @ w / 2 + B @ w + torch.einsum("ijk,i,j,k->", C, w, w, w) / 6


def gradient_at(w):
    return A @ w + B + torch.einsum("ijk,j,k->i", C, w, w) / 2


def hessian_at(w):
    return A + torch.einsum("ijk,k->ij", C, w)


def probe(shift):
    w = W if shift is None else W + torch.cat(list(shift))
    return loss_at(w), list(gradient_at(w).split([2, 1]))


def estimates(descent, number):
    """(direction − g)/λ for as many keys, ``(number, 3)``."""
    found = [
        torch.cat(descent.direction(list(W.split([2, 1])), probe, perturbed=[True, True], key=(0, k)))
        for k in range(number)
    ]
    return (torch.stack(found) - gradient_at(W)) / descent.lam


def assert_mean(samples, expected):
    """Every coordinate of the mean within 4.5 standard errors, which are small against what is expected."""
    stderr = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - expected).abs() < 4.5 * stderr).all()
    assert stderr.norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("rho", [0.5, 2.0])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_trace_estimate_has_the_gradient_of_half_the_trace_for_its_mean(rho, samples):
    slope_of_trace = torch.einsum("iik->k", C)
    found = estimates(TraceDescent(rho, samples=samples, lam=0.3), 3000)
    assert_mean(found, rho**2 * slope_of_trace / 2)


@pytest.mark.parametrize("rho", [0.5, 1.0])
@pytest.mark.parametrize("samples", [2, 3])
def test_the_frobenius_estimate_has_the_gradient_of_the_variance_for_its_mean(rho, samples):
    H = hessian_at(W)
    slope_of_square = 2 * torch.einsum("ij,ijk->k", H, C)
    averaged = gradient_at(W) + rho**2 / 2 * torch.einsum("iik->k", C)
    expected = H @ averaged + rho**2 / 4 * slope_of_square
    assert_mean(estimates(FrobeniusDescent(rho, samples=samples, lam=0.3), 4000), expected)


def test_the_determinant_estimate_from_one_probe_has_the_gradient_of_the_mean_of_exp_x_for_its_mean():
    rho, half_width = 0.7, 0.8
    nodes, weights = np.polynomial.legendre.leggauss(20)
    grid = torch.tensor(list(itertools.product(nodes, repeat=3))) * half_width
    shares = torch.tensor(list(itertools.product(weights, repeat=3))).prod(1) / 8
    w = W.clone().requires_grad_()
    x = torch.func.vmap(lambda u: (loss_at(w + rho * u) - loss_at(w)) / rho**2)(grid)
    (slope,) = torch.autograd.grad((shares * x.exp()).sum(), w)
    found = estimates(DeterminantDescent(rho, half_width=half_width, lam=0.3), 5000)
    assert_mean(found, rho**2 * slope)


VALLEY = torch.tensor([[1.5, 0.8], [2.5, 1.5]]).double()  # L = Σ (a_i + k_i z) y_i²/2, minimal along y = 0


def in_the_valley(z, watched):
    def probe(shift):
        y1, y2, z_ = torch.stack([torch.zeros(()), torch.zeros(()), z]).double() + (0 if shift is None else shift[0])
        h = VALLEY[:, 0] + VALLEY[:, 1] * z_
        y = torch.stack([y1, y2])
        loss, slope = (h * y**2).sum() / 2, torch.stack([h[0] * y1, h[1] * y2, (VALLEY[:, 1] * y**2).sum() / 2])
        if shift is not None:
            watched.append((loss, slope[2]))
        return loss, [slope]

    return probe


def test_along_a_valley_the_determinant_estimate_is_the_gradient_of_the_determinant_across():
    z, rho, half_width, n = torch.tensor(0.4).double(), 1e-3, 4.5, 8000
    watched = []
    descent = DeterminantDescent(rho, half_width=half_width, samples=n)
    (found,) = descent.direction([torch.zeros(3).double()], in_the_valley(z, watched), perturbed=[True], key=(0, 0))
    h, k = VALLEY[:, 0] + VALLEY[:, 1] * z, VALLEY[:, 1]
    expected = rho**2 * (half_width**2 / math.pi) ** 2 * (k[0] * h[1] + k[1] * h[0])  # ∇_z of h_1 h_2
    losses, slopes = (torch.stack(column) for column in zip(*watched, strict=True))
    psi = torch.exp(-losses / (2 * rho**2))
    first, mean = (psi * slopes).mean(), psi.mean()
    influence = (psi * slopes - first) / mean**3 - 3 * first / mean**4 * (psi - mean)
    stderr = influence.std() / math.sqrt(n)
    assert stderr < 0.1 * expected.abs()
    assert (found[2] - expected).abs() < 4 * stderr


def test_along_a_valley_the_frobenius_estimate_is_the_gradient_of_the_squared_norm():
    z, rho = torch.tensor(0.4).double(), 1.0
    descent = FrobeniusDescent(rho, lam=1.0)
    probe = in_the_valley(z, [])
    found = [
        descent.direction([torch.zeros(3).double()], probe, perturbed=[True], key=(0, key))[0][2] for key in range(3000)
    ]
    h, k = VALLEY[:, 0] + VALLEY[:, 1] * z, VALLEY[:, 1]
    assert_mean(torch.stack(found)[:, None], (rho**2 / 4 * 2 * (h * k).sum())[None])


def by_the_book(descent, g, losses, gradients, loss):
    """The update of the paper's sources, written out: sums over probes, then one combination."""
    n, rho = len(losses), descent.rho
    if isinstance(descent, FrobeniusDescent):
        cross = sum(value * slope for value, slope in zip(losses, gradients, strict=True))
        return (cross / (n - 1) - sum(losses) / (n - 1) * sum(gradients) / n) / rho**2
    x = [(value - loss) / rho**2 for value in losses]
    psi = [torch.ones(()).double() if isinstance(descent, TraceDescent) else torch.exp(-value / 2) for value in x]
    slopes = [1.0 if isinstance(descent, TraceDescent) else -p / 2 for p in psi]
    outer = 1.0 if isinstance(descent, TraceDescent) else -2 / (sum(psi) / n) ** 3
    return outer * sum(s * (slope - g) / n for s, slope in zip(slopes, gradients, strict=True))


DESCENTS = [
    TraceDescent(0.3, samples=1, seed=4),
    TraceDescent(0.3, samples=3, lam=0.5),
    FrobeniusDescent(0.3, seed=4),
    FrobeniusDescent(0.3, samples=4, lam=0.5),
    DeterminantDescent(0.3, seed=4),
    DeterminantDescent(0.3, half_width=0.5, samples=3, lam=0.5),
]


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("descent", DESCENTS, ids=repr)
def test_a_step_of_msam_is_the_formula_on_every_microbatch(descent, number, make_net, make_batch, closure_of):
    model, plain, (x, y) = make_net(), make_net(), make_batch(11)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), descent, num_microbatches=number, module=model)
    optimizer.step(closure_of(model), make_batch(8, seed=1))
    plain.load_state_dict(model.state_dict())
    loss = optimizer.step(closure_of(model), (x, y))
    weights = [p.detach() for p in plain.parameters()]

    def at(u, part):
        moved = {name: p + descent.rho * e for (name, p), e in zip(plain.named_parameters(), u, strict=True)}
        value = functional.cross_entropy(torch.func.functional_call(plain, moved, (x[part],)), y[part])
        slopes = torch.autograd.grad(value, list(plain.parameters()))
        return value.detach(), torch.cat([slope.flatten() for slope in slopes])

    expected, start = 0, 0
    for i in range(number):
        part = slice(start, start := start + 11 // number + (i < 11 % number))
        value, g = at([torch.zeros_like(w) for w in weights], part)
        losses, gradients = [], []
        for k in range(descent.samples):
            numbers = (descent.seed, 1, i, k)
            if isinstance(descent, DeterminantDescent):
                u = [descent.half_width * e for e in uniforms(weights, *numbers)]
            else:
                u = normals(weights, *numbers)
            there = at(u, part)
            losses.append(there[0])
            gradients.append(there[1])
        direction = g + descent.lam * by_the_book(descent, g, losses, gradients, value)
        expected = expected + (part.stop - part.start) / 11 * direction
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(loss, at([0, 0, 0, 0], slice(0, 11))[0], rtol=1e-13, atol=0)
    assert (found - g).norm() > 0


@pytest.mark.parametrize("descent", [TraceDescent(0.0), TraceDescent(0.3, lam=0), FrobeniusDescent(0)], ids=repr)
def test_without_radius_or_weight_it_is_the_base_optimizer_in_one_pass(descent, make_net, make_batch, closure_of):
    model, plain, calls = make_net(), make_net(), []
    inside = closure_of(model)
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), descent)
    optimizer.step(lambda batch: calls.append(1) or inside(batch), make_batch(11))
    closure_of(plain)(make_batch(11)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    assert len(calls) == 1


def test_only_what_is_perturbed_is_probed_and_all_weights_are_stepped(make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    seen = []

    def closure(batch):
        seen.append([p.detach().clone() for p in model.parameters()])
        return closure_of(model)(batch)

    head = list(model[-1].parameters())
    mSAM(torch.optim.SGD(model.parameters(), lr=0.1), TraceDescent(0.3), perturbed=head).step(closure, make_batch(11))
    moved = [not torch.equal(a, b) for a, b in zip(*seen, strict=True)]
    assert moved == [False, False, True, True]
    closure_of(plain)(make_batch(11)).backward()
    assert not any(torch.allclose(p.grad, q.grad) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_resumed_from_its_state_it_draws_what_it_would_have_drawn(make_net, make_batch, closure_of):
    whole, resumed = make_net(), make_net()
    make = lambda model: mSAM(torch.optim.SGD(model.parameters(), lr=0.1), FrobeniusDescent(0.3))  # noqa: E731
    optimizer, fresh = make(whole), make(resumed)
    for seed in range(4):
        if seed == 2:
            resumed.load_state_dict(whole.state_dict())
            fresh.load_state_dict(optimizer.state_dict())
        optimizer.step(closure_of(whole), make_batch(11, seed=seed))
    for seed in range(2, 4):
        fresh.step(closure_of(resumed), make_batch(11, seed=seed))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_settings_are_complete():
    settings = {"rho": 0.3, "lam": 0.5, "samples": 3, "seed": 0}
    assert DESCENTS[1].settings() == {"perturbation": "TraceDescent", **settings}
    assert DESCENTS[5].settings() == {"perturbation": "DeterminantDescent", **settings, "half_width": 0.5}
    assert repr(DESCENTS[2]) == "FrobeniusDescent(rho=0.3, lam=0.005, samples=2, seed=4)"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TraceDescent(-1), "rho must be a finite number, zero or more; got -1"),
        (lambda: TraceDescent(0.1, lam=math.inf), "lam must be a finite number, zero or more; got inf"),
        (lambda: TraceDescent(0.1, samples=0), "samples must be at least 1; got 0"),
        (lambda: FrobeniusDescent(0.1, samples=1), "samples must be at least 2; got 1"),
        (lambda: DeterminantDescent(0.1, half_width=0), "half_width must be positive; got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
