"""What mSAM refuses, in a sentence, leaving the weights as they were."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from landscape.perturbations import GradientAscent
from msam import Layerwise, mSAM


def msam_on(model):
    return mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.1), num_microbatches=3)


def same(model, other):
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "sentence"),
    [
        (([nn.Parameter(torch.ones(1))], None), {}, TypeError, "base_optimizer must be a torch optimizer; got list"),
        ((None, 0.05), {}, TypeError, "perturbation must be a Perturbation or None; got float"),
        ((None, None), {"num_microbatches": 2.0}, TypeError, "num_microbatches must be an integer; got 2.0"),
        ((None, None), {"num_microbatches": True}, TypeError, "num_microbatches must be an integer; got True"),
        ((None, None), {"num_microbatches": 0}, ValueError, "num_microbatches must be at least 1; got 0"),
        ((None, None), {"module": "model"}, TypeError, "module must be a torch.nn.Module or None; got str"),
        (
            (None, None),
            {"dropout": 0.1},
            TypeError,
            "dropout must be of the kind DropoutPolicy, an object, or None",
        ),
        ((None, None), {"execution": Layerwise}, TypeError, "execution must be of the kind Execution, an object, or"),
        ((None, None), {"batch_norm": "batch"}, TypeError, "batch_norm must be of the kind BatchNormPolicy"),
        ((None, None), {"perturbed": "norm"}, TypeError, "perturbed must be a list of parameters, such as"),
        ((None, None), {"perturbed": nn.Linear(2, 2)}, TypeError, "perturbed must be a list of parameters"),
        ((None, None), {"scaler": 256.0}, TypeError, "scaler must be a torch.amp.GradScaler or None; got 256.0"),
        ((None, None), {"processes": 2}, TypeError, "processes must be of the kind Processes"),
        ((torch.optim.LBFGS([nn.Parameter(torch.ones(1))]), None), {}, ValueError, "LBFGS evaluates its own closure"),
        (
            (mSAM(torch.optim.SGD([nn.Parameter(torch.ones(1))]), None), None),
            {},
            ValueError,
            "mSAM evaluates its own closure and cannot be wrapped",
        ),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments, settings, error, sentence):
    base, perturbation = arguments
    base = torch.optim.SGD([nn.Parameter(torch.ones(1))]) if base is None else base
    with pytest.raises(error, match=sentence):
        mSAM(base, perturbation, **settings)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda loss: loss.repeat(3), r"scalar tensor; got \(3,\)"),
        (lambda loss: loss.item(), "scalar tensor; got float"),
        (lambda loss: loss.detach(), "has no graph; do not detach it"),
        (lambda loss: None, "scalar tensor; got NoneType"),
        (lambda loss: loss.backward() or loss, "a closure must not call backward"),
        (lambda loss: (loss, 1.0, "more"), "scalar tensor; got tuple"),
    ],
)
def test_a_closure_that_returns_no_scalar_with_a_graph_is_refused(spoil, sentence, make_net, make_batch, closure_of):
    model = make_net()
    before, closure = copy.deepcopy(model), closure_of(model)
    with pytest.raises(ValueError, match=sentence):
        msam_on(model).step(lambda batch: spoil(closure(batch)), make_batch(11))
    assert same(model, before)


@pytest.mark.parametrize("hides", [True, False])
def test_a_checkpoint_that_hides_weights_from_gradients_is_refused(hides, make_net, make_batch):
    """They would stay what they are in silence; one that does not is taken, with a weight that is not used besides."""
    model = make_net()
    model.append(nn.Linear(2, 2).double())
    before = copy.deepcopy(model)

    def closure(batch):
        hidden = checkpoint(model[:2], batch[0].clone().requires_grad_(), use_reentrant=hides)
        return nn.functional.cross_entropy(model[2](hidden), batch[1])

    with pytest.raises(ValueError, match="use_reentrant=False") if hides else contextlib.nullcontext():
        msam_on(model).step(closure, make_batch(11))
    assert torch.equal(model[0].weight, before[0].weight) == torch.equal(model[2].weight, before[2].weight) == hides


def test_what_is_no_closure_is_refused_with_the_order_of_arguments(make_net, make_batch, closure_of):
    model = make_net()
    for arguments in ((make_batch(11), closure_of(model)), (None, make_batch(11))):
        with pytest.raises(TypeError, match=r"closure must be a function.*; got (tuple|NoneType)"):
            msam_on(model).step(*arguments)


def test_an_optimizer_of_weights_without_numbers_is_refused(make_net):
    with pytest.raises(
        ValueError, match="the parameter 0 of the base optimizer is on the device 'meta', which has shapes"
    ):
        msam_on(make_net().to("meta"))


def test_an_optimizer_whose_weights_are_all_frozen_is_refused(make_net, make_batch, closure_of):
    model = make_net().requires_grad_(False)
    with pytest.raises(ValueError, match="all parameters of the optimizer are frozen"):
        msam_on(model).step(closure_of(model), make_batch(11))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (x[:2], y[:2]), "2 examples cannot be split into 3"),
        (lambda x, y: (x, y[:5]), r"lengths \[11, 5\]"),
    ],
    ids=["too few", "differing"],
)
def test_a_batch_that_cannot_be_split_is_refused_and_weights_stay(change, sentence, make_net, make_batch, closure_of):
    model = make_net()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=sentence):
        msam_on(model).step(closure_of(model), change(*make_batch(11)))
    assert same(model, before)
