"""Rescalings of networks are found, all of them and no others, and leave the function as it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from networks import net
from problems import N, classes, conv_net, normal, ragged
from torch import nn

from landscape import Objective, find_rescalings
from landscape.rescalings import KINDS, LAYERS, LOGITS, NORMALISED, UNITS, WITHIN_EPS, verified


def over(model, *shape, loss=F.cross_entropy, seed=7, **settings):
    """An objective over ragged batches whose targets are classes, or numbers for the squared error."""
    targets = normal(N, 3, seed=8) if loss is F.mse_loss else classes(N, 3, seed=8)
    return Objective(model.double(), loss, ragged(normal(N, *shape, seed=seed), targets), **settings)


def mlp(activation=nn.ReLU):
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3))


def outputs(objective):
    model = objective.model
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in objective.batches])


def by_kind(search, kind):
    return [rescaling.name for rescaling in search.found if rescaling.kind == kind]


def test_what_a_relu_layer_gains_the_next_one_loses():
    objective = over(mlp(), 4)
    (layers, units, logits) = find_rescalings(objective, factor=3.0).found
    assert (layers.kind, units.kind, logits.kind) == (LAYERS, UNITS, LOGITS)
    assert {name: factor.item() for name, factor in layers.factors.items()} == {
        "0.weight": 3.0,
        "0.bias": 3.0,
        "2.weight": pytest.approx(1 / 3, abs=1e-12),
    }
    assert units.factors["0.bias"].tolist() == pytest.approx([3, 1 / 3, 3, 1 / 3, 3])
    assert torch.allclose(
        units.factors["2.weight"].flatten() * units.factors["0.weight"].flatten(), torch.ones(5).double()
    )
    for rescaling in (layers, units):
        other = rescaling.apply(objective)
        assert not torch.allclose(other.weights, objective.weights)
        assert torch.allclose(outputs(other), outputs(objective), rtol=1e-13)
    assert torch.allclose(outputs(logits.apply(objective)), 3 * outputs(objective), rtol=1e-13)


@pytest.mark.parametrize("activation", [nn.GELU, nn.Tanh, nn.Sigmoid])
def test_between_layers_without_homogeneity_there_is_none(activation):
    search = find_rescalings(over(mlp(activation), 4))
    assert [rescaling.kind for rescaling in search.found] == [LOGITS]
    assert search.skipped == ()


HOMOGENEOUS = {
    "leaky": lambda: nn.LeakyReLU(0.1),
    "dropout in evaluation": lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5)),
    "a slope that is learnt": lambda: nn.Sequential(nn.PReLU(), nn.Identity()),
    "cut off": nn.ReLU6,
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_homogeneous_layers_between_let_a_factor_through_and_others_do_not(name):
    model = nn.Sequential(nn.Linear(4, 5), HOMOGENEOUS[name](), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(20)  # so that the six of ReLU6 matters
    assert by_kind(find_rescalings(over(model, 4)), LAYERS) == ([] if name == "cut off" else ["0 → 2"])


def test_pooling_and_flattening_let_it_through_unit_by_unit():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    search = find_rescalings(over(model, 1, 5, 5))
    assert by_kind(search, LAYERS) == by_kind(search, UNITS) == ["0 → 5"]
    units = search.found[1]
    assert units.factors["5.weight"].flatten().tolist() == [0.5] * 4 + [2] * 4 + [0.5] * 4 + [2] * 4


def test_batch_norm_takes_its_statistics_along_exactly():
    model = conv_net()
    objective = over(model, 1, 3, 3)
    (rescaling,) = [one for one in find_rescalings(objective, factor=0.01).found if one.kind == NORMALISED]
    assert rescaling.name == "0, 1"
    assert rescaling.tolerance < 1e-8
    other = rescaling.apply(objective)
    assert torch.allclose(outputs(other), outputs(objective), rtol=1e-12)
    batch_norm, eps = other.model[1], model[1].eps
    assert torch.allclose(batch_norm.running_mean, 0.01 * model[1].running_mean)
    assert torch.allclose(batch_norm.running_var + eps, 1e-4 * (model[1].running_var + eps))  # or eps would matter
    assert torch.allclose(other.space.unflatten(other.weights)["0.weight"], 0.01 * model[0].weight)


def test_where_eps_is_added_to_a_variance_of_the_data_the_outputs_stay_within_a_stated_tolerance():
    objective = over(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)), 4)
    before, logits = find_rescalings(objective).found
    assert (before.kind, before.name, logits.kind) == (NORMALISED, "0", LOGITS)
    assert before.tolerance == WITHIN_EPS
    far = (outputs(before.apply(objective)) - outputs(objective)).abs().max() / outputs(objective).abs().max()
    assert 1e-8 < far < WITHIN_EPS
    assert verified(objective, before).difference == pytest.approx(far.item(), rel=1e-9)


def test_an_eps_that_is_too_large_is_said():
    search = find_rescalings(over(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, eps=0.5), nn.Linear(5, 3)), 4))
    assert by_kind(search, NORMALISED) == []
    assert any(reason.startswith("0: the eps of the normalisation changes the outputs by") for reason in search.skipped)


RESIDUAL = {
    LAYERS: ["norm1 → conv2", "norm2, shortcut → head"],
    UNITS: ["norm2, shortcut → head"],  # channels of norm1 meet within the groups of the next convolution
    NORMALISED: ["conv1", "conv2"],
    LOGITS: ["head"],
}


def test_in_a_residual_network_both_branches_move_together():
    model, batch = net("residual")
    search = find_rescalings(Objective(model, F.cross_entropy, [batch]))
    assert {kind: by_kind(search, kind) for kind in KINDS} == RESIDUAL


def test_attention_has_its_own_although_all_three_lie_in_one_tensor():
    model, batch = net("attention")
    search = find_rescalings(Objective(model, F.cross_entropy, [batch]))
    assert by_kind(search, LAYERS) == [
        "0, 1.out → 3",
        "1.norm → 1.qkv (1 of 3), 1.qkv (2 of 3), 1.qkv (3 of 3)",
        "1.qkv (1 of 3) → 1.qkv (2 of 3)",
        "1.qkv (3 of 3) → 1.out",
    ]
    assert by_kind(search, UNITS) == []


class Branching(nn.Module):
    """What no tracer follows: a way that depends on the data, a gate, a list of layers called by index."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)])

    def forward(self, x):
        if x.sum().item() > 1e9:
            return self.layers[2](x[:, :1].expand(-1, 5))
        return self.layers[2](torch.sigmoid(self.layers[0](x)) * self.layers[1](x))


def test_a_model_that_cannot_be_traced_and_has_a_gate():
    search = find_rescalings(over(Branching(), 4, loss=F.mse_loss))
    assert by_kind(search, LAYERS) == by_kind(search, UNITS) == ["layers.1 → layers.2"]
    assert by_kind(search, LOGITS) == []  # numbers are no predictions of classes


def test_tied_weights_are_scaled_once_and_for_all():
    model, batch = net("tied words")
    objective = Objective(model, F.cross_entropy, [batch])
    (layers, _) = find_rescalings(objective).found
    assert {name: factor.item() for name, factor in layers.factors.items()} == {
        "words.weight": 2.0,
        "scores.bias": 4.0,
        "head.weight": 0.25,
    }
    assert torch.allclose(outputs(layers.apply(objective)), outputs(objective), rtol=1e-12)


@pytest.mark.parametrize("how", ["frozen", "selected"])
def test_what_is_frozen_or_not_selected_is_not_used_and_named(how):
    model = mlp()
    model[0].bias.requires_grad_(how == "selected")
    objective = over(model, 4)
    objective = objective.select("*weight") if how == "selected" else objective
    search = find_rescalings(objective)
    assert by_kind(search, LAYERS) == []
    assert search.skipped == ("0 → 2: 0.bias is frozen, or no part of the weights measured",)


class WithSpare(nn.Module):
    """A network, and a layer that no output depends on."""

    def __init__(self):
        super().__init__()
        self.net, self.spare = mlp(), nn.Linear(2, 2)
        nn.init.zeros_(self.net[0].bias)

    def forward(self, x):
        return self.net(x)


def test_zeros_and_what_is_not_used_need_no_factor():
    search = find_rescalings(over(WithSpare(), 4))
    assert set(search.found[0].factors) == {"net.0.weight", "net.2.weight"}
    assert search.skipped == ()


def test_what_is_no_rescaling_is_refused_when_it_is_verified():
    objective = over(mlp(), 4)
    layers, *_ = find_rescalings(objective).found
    wrong = dataclasses.replace(layers, factors={**layers.factors, "2.weight": torch.tensor(0.51)})
    with pytest.raises(
        ValueError, match=r"between layers, 0 → 2: the outputs change by 0\.0\d+ of their size over all"
    ):
        verified(objective, wrong)
    right = verified(objective, layers)
    assert (right.difference, right.num_examples) == (0.0, N)


def test_what_holds_to_first_order_alone_is_no_rescaling():
    class Slow(nn.Module):
        """a² + b² with a = b = 1: to first order what a gains b may lose."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (self.a**2 + self.b**2) * x

    x = normal(40, 3)  # enough for all derivatives to be taken at a = b
    search = find_rescalings(Objective(Slow().double(), F.mse_loss, [(x, x)]))
    assert search.found == ()
    assert "it holds to first order only; at a factor of 2 the outputs change by 1.1" in search.skipped[0]


def test_few_data_are_made_up_for_by_further_weights():
    objective = Objective(mlp().double(), F.mse_loss, [(normal(2, 4), normal(2, 3))])  # six outputs, four tensors
    one = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    single = Objective(one, F.mse_loss, [(normal(1, 4), normal(1, 1))])
    for given in (objective, single):
        search = find_rescalings(given)
        assert by_kind(search, LAYERS) == by_kind(search, UNITS) == ["0 → 2"]
        assert search.skipped == ()


def test_a_factor_for_every_second_layer_is_turned_round_so_that_they_do_not_cancel():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    objective = over(model, 4)
    layers, units, _ = find_rescalings(objective).together()
    assert [layers.factors[f"{i}.weight"].item() for i in (0, 2, 4)] == [2.0, 0.25, 2.0]
    for all_at_once in (layers, units):
        assert verified(objective, all_at_once).difference < 1e-14
    assert layers.name == "2 at once: 0 → 2; 2 → 4"


def test_in_single_precision_a_power_of_two_leaves_the_outputs_to_the_bit():
    model = mlp()
    objective = over(model, 4)
    single = Objective(model.float(), F.cross_entropy, [(x.float(), y) for x, y in objective.batches])
    layers, units, _ = find_rescalings(single).found
    for rescaling in (layers, units):
        assert torch.equal(outputs(rescaling.apply(single)), outputs(single))


def test_nothing_of_the_callers_is_changed():
    model = conv_net().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    objective = over(model, 1, 3, 3)
    for rescaling in find_rescalings(objective).found:
        verified(objective, rescaling).apply(objective)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(objective.weights, over(model, 1, 3, 3).weights)


@pytest.mark.parametrize("factor", [0.0, -2.0, 1.0, float("inf"), float("nan")])
def test_a_factor_that_makes_no_sense_is_refused(factor):
    with pytest.raises(ValueError, match="factor must be a positive number other than 1"):
        find_rescalings(over(mlp(), 4), factor=factor)
