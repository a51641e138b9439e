"""Which masks the second pass of a micro-batch draws; the same ones by default, as is asked in test_replay.py."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent, SeveralSteps
from msam import Descent, FreshMasks, Layerwise, Run, SameMasks, Vectorised, mSAM, train


def stepped(model, batch, *, dropout=None, seed=None, execution=None, ascent=None):
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    settings = {"module": model, "num_microbatches": 3, "seed": seed, "dropout": dropout, "execution": execution}
    optimizer = mSAM(sgd, ascent or GradientAscent(0.3), **settings)
    return optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1]), batch)


def test_fresh_masks_are_those_of_a_loop_of_two_plain_passes(make_net, make_batch):
    """As in two calls of the model, one after another, from the same random state."""
    model = make_net(torch.float64, nn.Dropout(0.5))
    twin, (inputs, targets) = copy.deepcopy(model), make_batch(11)
    torch.manual_seed(5)
    loss = stepped(model, (inputs, targets), dropout=FreshMasks())
    after = torch.get_rng_state()
    torch.manual_seed(5)
    total, losses, weights = [torch.zeros_like(p) for p in twin.parameters()], [], list(twin.parameters())
    for x, y in zip(inputs.split([4, 4, 3]), targets.split([4, 4, 3]), strict=True):
        clean = functional.cross_entropy(twin(x), y)
        slopes = torch.autograd.grad(clean, weights)
        length = torch.cat([slope.flatten() for slope in slopes]).norm()
        kept = [w.detach().clone() for w in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, [0.3 * slope / length for slope in slopes])
        there = torch.autograd.grad(functional.cross_entropy(twin(x), y), weights)
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)
            torch._foreach_add_(total, [slope * len(y) / 11 for slope in there])
        losses.append(clean.detach() * len(y) / 11)
    assert torch.equal(torch.get_rng_state(), after)
    with torch.no_grad():
        torch._foreach_sub_(weights, [0.2 * slope for slope in total])
    torch.testing.assert_close(loss, sum(losses), rtol=1e-12, atol=0)
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", [None, 4])
def test_every_pass_draws_anew_also_where_there_are_several(seed, make_net, make_batch):
    model, masks = make_net(torch.float64, nn.Dropout(0.5)), []
    model[1].register_forward_hook(lambda module, args, output: masks.append(tuple((output != 0).flatten().tolist())))
    ascent = SeveralSteps(GradientAscent(0.3), steps=2)
    stepped(model, make_batch(11), dropout=FreshMasks(), seed=seed, ascent=ascent)
    assert len(masks) == len(set(masks)) == 9
    masks.clear()
    stepped(model, make_batch(11), dropout=SameMasks(), seed=seed, ascent=ascent)
    assert len(masks) == 3 * len(set(masks)) == 9


class AskingAgain(Descent):
    """Asks for the gradient at w, which is handed over, once more, and for another one in between."""

    def direction(self, weights, probe, *, perturbed, key):
        shifts = None, [torch.zeros_like(weight) for weight in weights], None
        self.asked = [[slope.clone() for slope in probe(shift)[1]] for shift in shifts]
        return self.asked[0]

    def settings(self):
        return {}


def test_a_gradient_that_is_taken_once_more_is_of_the_same_masks_and_draws_nothing_for_good(make_net, make_batch):
    model, (x, y), descent = make_net(torch.float64, nn.Dropout(0.5)), make_batch(11), AskingAgain()
    torch.manual_seed(5)
    stepped(model, (x, y), ascent=descent, dropout=FreshMasks())
    after = torch.get_rng_state()
    first, between, again = descent.asked
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], between[0])
    torch.manual_seed(5)
    for part in x.split([4, 4, 3]):
        model(part), model(part)
    assert torch.equal(after, torch.get_rng_state())


def test_a_seed_decides_fresh_masks_too(make_net, make_batch):
    models = [make_net(torch.float64, nn.Dropout(0.5)) for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        stepped(model, make_batch(11), dropout=FreshMasks(), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


@pytest.mark.parametrize("execution", [Layerwise, Vectorised])
def test_all_at_once_leaves_fresh_masks_to_one_after_another_and_says_so(execution, make_net, make_batch):
    models = [make_net(torch.float64, nn.Dropout(0.5)) for _ in range(2)]
    torch.manual_seed(5)
    stepped(models[0], make_batch(11), dropout=FreshMasks())
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match=r"OneByOne: .* the same dropout masks, and FreshMasks\(\) asks for others"):
        stepped(models[1], make_batch(11), dropout=FreshMasks(), execution=execution())
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepped(make_net(), make_batch(11), execution=execution())


def test_training_takes_the_masks_of_the_config_and_records_them(make_net, toy_task, toy_config, tmp_path):
    task = dataclasses.replace(toy_task, build=lambda: make_net(torch.float32, nn.Dropout(0.5)))
    ended = {}
    for name in ("same", "fresh"):
        config = toy_config(dropout=name, rho=0.5)
        run = train(task, config, Run.create(tmp_path / name, config))
        assert Run.open(run.path).config.dropout == name
        ended[name] = run.load_model(task).state_dict()
    assert not torch.equal(ended["same"]["0.weight"], ended["fresh"]["0.weight"])
    with pytest.raises(ValueError, match="there is no dropout 'none'; there are: same, fresh"):
        toy_config(dropout="none")
