"""mSAM beside the rest of torch: schedulers, checkpoints, copies, hooks, parameter groups, frozen and tied weights."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from landscape import FriendlyAscent, GradientAscent
from msam import mSAM

SCHEDULERS = {
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=6),
}
BASES = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.02),
}


def msam_on(model, base="sgd"):
    return mSAM(BASES[base](model), GradientAscent(rho=0.1), num_microbatches=3, module=model)


def same(model, other):
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def reloaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_acts_on_msam_as_on_its_base_and_does_not_warn(scheduler, make_net, make_batch, closure_of):
    model, other = make_net(), make_net()
    direct, wrapped = msam_on(model), msam_on(other)
    schedule, base_schedule = SCHEDULERS[scheduler](direct), SCHEDULERS[scheduler](wrapped.base_optimizer)
    rates = []
    for seed in range(5):
        direct.step(closure_of(model), make_batch(11, seed=seed))
        wrapped.step(closure_of(other), make_batch(11, seed=seed))
        schedule.step()
        base_schedule.step()
        rates.append(direct.param_groups[0]["lr"])
        assert schedule.get_last_lr() == base_schedule.get_last_lr() == [rates[-1]]
        assert direct.param_groups[0]["momentum"] == wrapped.param_groups[0]["momentum"]
    assert same(model, other)
    assert len(set(rates)) == 5


@pytest.mark.parametrize("base", BASES)
def test_saved_after_three_steps_and_loaded_into_a_fresh_msam_it_goes_on_bit_for_bit(
    base, make_net, make_batch, closure_of
):
    whole = make_net(torch.float32)
    optimizer = msam_on(whole, base)
    for seed in range(6):
        if seed == 3:
            saved = reloaded({"model": whole.state_dict(), "optimizer": optimizer.state_dict()})
        optimizer.step(closure_of(whole), make_batch(11, seed=seed, dtype=torch.float32))
    resumed = make_net(torch.float32)
    resumed.load_state_dict(saved["model"])
    fresh = msam_on(resumed, base)
    fresh.load_state_dict(saved["optimizer"])
    for seed in range(3, 6):
        fresh.step(closure_of(resumed), make_batch(11, seed=seed, dtype=torch.float32))
    assert same(whole, resumed)


def test_the_state_of_plain_sgd_can_be_loaded_and_is_the_same_as_its_own(make_net, make_batch, closure_of):
    plain, model = make_net(), make_net()
    sgd = BASES["sgd"](plain)
    closure_of(plain)(make_batch(11)).backward()
    sgd.step()
    optimizer = msam_on(model)
    optimizer.load_state_dict(reloaded(sgd.state_dict()))
    assert optimizer.state_dict().keys() == sgd.state_dict().keys()
    momenta = [optimizer.state[parameter]["momentum_buffer"] for parameter in model.parameters()]
    kept = [sgd.state[parameter]["momentum_buffer"] for parameter in plain.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(momenta, kept, strict=True))
    assert optimizer.state is optimizer.base_optimizer.state


def test_the_state_of_another_perturbation_is_refused_and_nothing_is_changed(make_net, make_batch, closure_of):
    model, other = make_net(), make_net()
    optimizer, friendly = msam_on(model), mSAM(BASES["sgd"](other), FriendlyAscent(rho=0.1))
    optimizer.step(closure_of(model), make_batch(11))
    friendly.step(closure_of(other), make_batch(11, seed=1))
    before = repr(optimizer.state_dict())
    with pytest.raises(ValueError, match="has no state, but the state dict holds"):
        optimizer.load_state_dict(friendly.state_dict())
    assert repr(optimizer.state_dict()) == before


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_consistent_in_itself_and_independent(duplicate, make_net, make_batch, closure_of):
    model = make_net()
    some = model[0].parameters()
    optimizer = mSAM(BASES["sgd"](model), GradientAscent(rho=0.5), num_microbatches=3, module=model, perturbed=some)
    schedule = SCHEDULERS["cosine"](optimizer)  # it replaces the step of the instance, which must not be copied
    optimizer.step(closure_of(model), make_batch(11))
    schedule.step()
    untouched = copy.deepcopy(model)
    twin_model, twin = duplicate((model, optimizer))
    assert twin.param_groups is twin.base_optimizer.param_groups
    assert twin.state is twin.base_optimizer.state
    assert twin.module is twin_model
    held = [parameter for group in twin.param_groups for parameter in group["params"]]
    assert all(one is two for one, two in zip(held, twin_model.parameters(), strict=True))
    twin.step(closure_of(twin_model), make_batch(11, seed=1))
    assert same(model, untouched)
    optimizer.step(closure_of(model), make_batch(11, seed=1))
    assert same(model, twin_model)
    assert not same(model, untouched)


def test_zero_grad_clears_the_gradients(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = msam_on(model)
    optimizer.step(closure_of(model), make_batch(11))
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_old_gradients_do_not_count(make_net, make_batch, closure_of):
    model, other = make_net(), make_net()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    msam_on(model).step(closure_of(model), make_batch(11))
    msam_on(other).step(closure_of(other), make_batch(11))
    assert same(model, other)


def test_an_added_group_is_trained_with_its_own_settings(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = mSAM(torch.optim.SGD(model[0].parameters(), lr=0.1), GradientAscent(rho=0.1))
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.0})
    assert [group["lr"] for group in optimizer.base_optimizer.param_groups] == [0.1, 0.0]
    before = copy.deepcopy(model)
    optimizer.step(closure_of(model), make_batch(11))
    assert not torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[2].weight, before[2].weight)
    assert model[2].weight.grad is not None


@pytest.mark.parametrize(
    ("device", "sentence"), [("cpu", "1 of the 5 parameters .* are not parameters of module"), ("meta", "'meta'")]
)
def test_a_group_of_weights_that_cannot_be_trained_is_not_added(device, sentence, make_net, make_batch, closure_of):
    model, other = make_net(), make_net()
    for each in (msam_on(model), msam_on(other)):
        each.step(closure_of(each.module), make_batch(11))
        if each.module is model:
            with pytest.raises(ValueError, match=sentence):
                each.add_param_group({"params": nn.Parameter(torch.ones(2, device=device))})
        each.step(closure_of(each.module), make_batch(11))
    assert same(model, other)


def test_weights_that_were_replaced_in_the_module_are_found_out(make_net, make_batch, closure_of):
    """As by loading with assign=True: they are not those that the optimizer holds."""
    model = make_net()
    optimizer = msam_on(model)
    optimizer.step(closure_of(model), make_batch(11))
    model[2].load_state_dict({name: p.clone() for name, p in model[2].state_dict().items()}, assign=True)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="2 of the 4 parameters that the base optimizer holds are not parameters"):
        optimizer.step(closure_of(model), make_batch(11))
    assert same(model, before)


def test_step_hooks_of_msam_and_of_its_base_are_called_once_a_step(make_net, make_batch, closure_of):
    model, called = make_net(), []
    optimizer = msam_on(model)
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: called.append("base before"))
    optimizer.base_optimizer.register_step_post_hook(lambda *_: called.append("base after"))
    optimizer.step(closure_of(model), make_batch(11))
    assert called == ["before", "base before", "base after", "after"]


def test_the_representation_says_what_it_is_made_of(make_net):
    assert repr(msam_on(make_net())).startswith("mSAM(SGD")
    assert "num_microbatches=3" in repr(msam_on(make_net()))


def test_frozen_weights_stay_and_get_no_gradient(make_net, make_batch, closure_of):
    model = make_net()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    msam_on(model).step(closure_of(model), make_batch(11))
    assert torch.equal(model[0].weight, before[0].weight)
    assert model[0].weight.grad is None
    assert not torch.equal(model[2].weight, before[2].weight)


def test_weights_frozen_in_the_middle_of_training_stop_moving(make_net, make_batch, closure_of):
    model = make_net()
    optimizer = msam_on(model)
    optimizer.step(closure_of(model), make_batch(11))
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    optimizer.step(closure_of(model), make_batch(11, seed=1))
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[2].weight, before[2].weight)


def test_an_unused_weight_keeps_no_gradient_and_does_not_even_decay(make_net, make_batch, closure_of):
    model = make_net()
    model.register_module("spare", nn.Linear(2, 2))
    inside = nn.Sequential(*list(model)[:3])
    kept = copy.deepcopy(model.spare)
    optimizer = mSAM(torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5), GradientAscent(0.1))
    for seed in range(2):
        optimizer.step(closure_of(inside), make_batch(11, seed=seed))
    assert same(model.spare, kept)
    assert all(parameter.grad is None for parameter in model.spare.parameters())


def test_a_weight_that_one_microbatch_uses_gets_the_gradient_of_that_share():
    shared, early, late = (nn.Parameter(torch.tensor([1.0])) for _ in range(3))
    optimizer = mSAM(torch.optim.SGD([shared, early, late], lr=0.0), GradientAscent(rho=0.0), num_microbatches=2)
    closure = lambda x: (shared * x).mean() + (late if x[0] > 3 else early).sum()  # noqa: E731
    optimizer.step(closure, torch.tensor([1.0, 2.0, 6.0]))
    assert shared.grad.item() == pytest.approx(3.0)
    assert early.grad.item() == pytest.approx(2 / 3)
    assert late.grad.item() == pytest.approx(1 / 3)


def test_a_gradient_that_is_one_number_throughout_can_be_clipped():
    """It lies in one place for all entries as autograd gives it, which cannot be written into."""
    weight = nn.Parameter(torch.zeros(4))
    mSAM(torch.optim.SGD([weight], lr=1.0), None, max_grad_norm=1.0).step(lambda _: weight.sum(), torch.ones(3))
    torch.testing.assert_close(weight.detach(), torch.full((4,), -0.5))


def test_a_weight_that_the_pass_at_w_alone_uses_gets_zeros():
    always, at_first = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    optimizer, calls = mSAM(torch.optim.SGD([always, at_first], lr=0.0), GradientAscent(rho=0.1)), []

    def closure(x):
        calls.append(1)
        return (always * x).mean() + (at_first.sum() if len(calls) == 1 else 0)

    optimizer.step(closure, torch.ones(3))
    assert (always.grad.item(), at_first.grad.item()) == (1.0, 0.0)


def test_a_microbatch_that_uses_no_weight_of_the_optimizer_counts_as_a_zero_gradient():
    mine, other = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    optimizer = mSAM(torch.optim.SGD([mine], lr=0.0), GradientAscent(rho=0.1), num_microbatches=2)
    optimizer.step(lambda x: ((mine if x[0] > 3 else other) * x).mean(), torch.tensor([1.0, 2.0, 6.0]))
    assert mine.grad.item() == pytest.approx(2.0)


class Tied(nn.Module):
    """Reads with the transpose of the matrix it writes with."""

    def __init__(self):
        super().__init__()
        self.write = nn.Linear(4, 4, bias=False, dtype=torch.float64)
        self.read = nn.Linear(4, 4, bias=False, dtype=torch.float64)
        self.read.weight = self.write.weight

    def forward(self, inputs):
        return self.read(torch.tanh(self.write(inputs)))


def test_tied_weights_count_once_in_the_norm(make_batch):
    model, batch = Tied(), make_batch(11)[0]
    weight, radii = model.write.weight.detach().clone(), []

    def closure(inputs):
        radii.append((model.write.weight.detach() - weight).norm().item())
        return model(inputs).square().mean()

    mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.3), num_microbatches=2).step(closure, batch)
    assert radii == pytest.approx([0, 0.3, 0, 0.3], rel=1e-12)
    assert model.read.weight is model.write.weight


def test_a_zero_gradient_moves_nothing_and_gives_no_nan():
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = mSAM(torch.optim.SGD([weight], lr=0.1), GradientAscent(rho=0.3), num_microbatches=2)
    loss = optimizer.step(lambda x: (weight * x).square().mean(), torch.ones(3, 3, dtype=torch.float64))
    assert loss == 0
    assert torch.equal(weight, torch.zeros_like(weight))
