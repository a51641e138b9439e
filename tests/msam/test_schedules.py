from __future__ import annotations

import io

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from landscape import FriendlyAscent, GradientAscent, Perturbation, SeveralSteps
from msam import CentralizedDescent, RhoScheduler, TraceDescent, mSAM

FACTOR = {"warm-up": lambda n: min(1.0, n / 3), "decay": lambda n: 0.5**n, "constant": lambda n: 1}


def make(model, perturbation):
    return mSAM(torch.optim.SGD(model.parameters(), lr=0.1), perturbation)


@pytest.mark.parametrize("name", FACTOR)
def test_the_radius_goes_as_the_learning_rate_of_a_lambda_schedule(name, make_net):
    model = make_net()
    ascent = GradientAscent(rho=0.1)
    optimizer = make(model, ascent)
    schedule = RhoScheduler(optimizer, FACTOR[name])
    rates = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    reference = LambdaLR(rates, FACTOR[name])
    for _ in range(5):
        assert schedule.rho == ascent.rho == pytest.approx(reference.get_last_lr()[0], rel=1e-15)
        schedule.step()
        rates.step()
        reference.step()
    assert schedule.steps == 5


def test_steps_are_taken_with_the_radius_of_the_moment(make_net, make_batch, closure_of):
    model, plain = make_net(), make_net()
    optimizer = make(model, GradientAscent(rho=0.4))
    schedule = RhoScheduler(optimizer, FACTOR["decay"])
    for seed in range(3):
        optimizer.step(closure_of(model), make_batch(11, seed=seed))
        schedule.step()
        make(plain, GradientAscent(rho=0.4 * 0.5**seed)).step(closure_of(plain), make_batch(11, seed=seed))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_at_radius_zero_a_step_costs_one_pass(make_net, make_batch, closure_of):
    model, calls = make_net(), []
    optimizer = make(model, GradientAscent(rho=0.4))
    schedule = RhoScheduler(optimizer, FACTOR["warm-up"])
    for _ in range(2):
        optimizer.step(lambda batch: calls.append(schedule.steps) or closure_of(model)(batch), make_batch(11))
        schedule.step()
    assert calls == [0, 1, 1]


@pytest.mark.parametrize(
    "perturbation",
    [
        SeveralSteps(FriendlyAscent(0.4), steps=2),
        CentralizedDescent(GradientAscent(0.4)),
        TraceDescent(0.4),
    ],
    ids=repr,
)
def test_everything_with_a_radius_can_be_scheduled(perturbation, make_net):
    schedule = RhoScheduler(make(make_net(), perturbation), lambda n: 1 + n)
    schedule.step()
    assert perturbation.rho == schedule.rho == 0.8


def test_saved_and_loaded_it_goes_on_where_it_stood(make_net):
    first = RhoScheduler(make(make_net(), GradientAscent(rho=0.4)), FACTOR["decay"])
    for _ in range(3):
        first.step()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    other = RhoScheduler(make(make_net(), GradientAscent(rho=7.0)), FACTOR["decay"])
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert (other.rho, other.steps) == (first.rho, 3) == (0.05, 3)
    other.step()
    assert other.rho == 0.025


class Fixed(Perturbation):
    """Has no radius."""

    def ascent(self, weights, gradients):
        return gradients

    def settings(self):
        return {"perturbation": "Fixed"}


def test_what_cannot_be_scheduled_is_refused(make_net):
    with pytest.raises(TypeError, match="optimizer must be an mSAM; got SGD"):
        RhoScheduler(torch.optim.SGD(make_net().parameters(), lr=0.1), FACTOR["decay"])
    for perturbation in (None, Fixed()):
        with pytest.raises(ValueError, match="has no radius to change; use a perturbation with a rho"):
            RhoScheduler(make(make_net(), perturbation), FACTOR["decay"])
    for factor, error, sentence in (
        (lambda n: -1, ValueError, "rho must be a finite number, zero or more"),
        (lambda n: float("nan"), ValueError, "rho must be a finite number, zero or more"),
        (lambda n: None, TypeError, "what factor returns must be a number; got None"),
    ):
        with pytest.raises(error, match=sentence):
            RhoScheduler(make(make_net(), GradientAscent(rho=0.4)), factor)


def test_the_state_of_another_schedule_is_refused_and_changes_nothing(make_net):
    schedule = RhoScheduler(make(make_net(), GradientAscent(rho=0.4)), FACTOR["decay"])
    with pytest.raises(ValueError, match="this is not the state of a RhoScheduler: it holds last_epoch"):
        schedule.load_state_dict({"last_epoch": 3})
    with pytest.raises(TypeError, match=r"steps must be an integer; got 1\.5"):
        schedule.load_state_dict({"steps": 1.5, "first_rho": 0.2})
    for damaged in ({"steps": -1, "first_rho": 0.2}, {"steps": 3, "first_rho": -0.2}):
        with pytest.raises(ValueError, match=r"steps must be at least 0|first_rho must be a finite number"):
            schedule.load_state_dict(damaged)
    assert schedule.rho == 0.4
    assert schedule.state_dict() == {"steps": 0, "first_rho": 0.4}
