"""The quick ways of computing a point give the objective's own numbers, or are not taken."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from networks import NETS, net
from problems import ZOO, classes, normal, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import Objective, accuracy, filter_normalized, line_slice, plane_slice
from landscape.folding import Fold, folds, rectify_in_place
from landscape.forward import Seam, supervised
from landscape.points import Points
from landscape.readings import Reading

QUICK = "in place"


def way_of(result):
    return result.manifest["machine"]["points"]


def over(model, *shape, number=9, loss=functional.cross_entropy):
    """An objective over ragged batches of images."""
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    data = ragged(normal(number, *shape, seed=7), classes(number, 3, seed=8), (4, 4, number - 8))
    return Objective(model.double().eval(), loss, data)


def require_own_losses(objective, *, rtol=1e-12):
    d = filter_normalized(objective, seed=0) + 0.1
    t = [-1.0, 0.0, 0.3, 2.0]
    result = line_slice(objective, d, coordinates=t)
    expected = [objective.loss(objective.weights + s * d).item() for s in t]
    assert np.allclose(result.losses, expected, rtol=rtol)
    assert result.losses[1] == objective.loss(objective.weights).item()  # to the last bit
    return result


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_all_kinds_are_computed_in_place_and_have_their_own_losses(name):
    assert way_of(require_own_losses(problem(name).objective())).startswith(QUICK)


@pytest.mark.parametrize("name", NETS)
def test_more_networks(name):
    model, batch = net(name)
    assert way_of(require_own_losses(Objective(model.eval(), functional.cross_entropy, [batch]))).startswith(QUICK)


class Block(nn.Module):
    """Batch norms after convolutions, after a sum, and after a convolution that something else reads as well."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(4, affine=False)
        self.conv3, self.norm3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.norm4 = nn.BatchNorm2d(4)
        self.linear, self.norm5 = nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        one = functional.relu_(self.norm1(self.conv1(x)))
        two = self.norm2(self.conv2(one))
        three = self.conv3(two)
        both = self.norm3(three) + three.tanh()
        return self.head(self.norm5(self.linear(self.norm4(both + one).mean((2, 3)))))


def test_batch_norm_is_folded_where_nothing_else_reads_what_it_reads():
    assert way_of(require_own_losses(over(Block(), 2, 5, 5))) == "in place, channels last, 3 batch norms folded"


def test_what_is_folded_is_found():
    model = Block().double().eval()
    found = folds(Seam(model, supervised), (normal(3, 2, 5, 5), classes(3, 3)), channels_last=False)
    assert [fold.norm for fold in found] == [model.norm1, model.norm2, model.norm5]
    assert folds(Seam(nn.Linear(2, 2), supervised), (normal(3, 2), classes(3, 2)), channels_last=False) == []


SEQUENCES = {
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(12, 3)),
        (2, 5),
        1,
    ),
    "three": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(2, 3)),
        (1, 2, 2, 2),
        1,
    ),
    "linear over tokens": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(20, 3)),
        (5, 3),
        0,
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)),
        (1, 2, 2),
        0,
    ),
}


@pytest.mark.parametrize(("build", "shape", "number"), SEQUENCES.values(), ids=SEQUENCES.keys())
def test_layers_of_other_dimensions(build, shape, number):
    way = way_of(require_own_losses(over(build(), *shape)))
    assert way.startswith(QUICK)
    assert ("1 batch norm folded" in way) == (number == 1)


def test_a_layer_that_is_called_twice_keeps_its_norm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 3)

        def forward(self, x):
            return self.head((self.norm(self.conv(x)).tanh() + self.conv(x)).mean((2, 3)))

    assert way_of(require_own_losses(over(Twice(), 2, 3, 3))) == "in place, channels last"


def test_a_network_that_minds_how_images_lie_in_memory_is_given_them_as_they_are():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).view(len(x), 8))

    assert way_of(require_own_losses(over(Views(), 2, 3, 3))) == "in place, 1 batch norm folded"


def test_single_precision_is_within_a_millionth_of_double():
    objective = over(Block(), 2, 5, 5)
    d = filter_normalized(objective, seed=0)
    single = Objective(
        objective.model.float().requires_grad_(),
        functional.cross_entropy,
        [(x.float(), y) for x, y in objective.batches],
    )
    t = np.linspace(-1, 1, 5)
    ours, truth = line_slice(single, d, coordinates=t), line_slice(objective, d, coordinates=t)
    assert way_of(ours) == "in place, channels last, 3 batch norms folded"
    assert np.allclose(ours.losses, truth.losses, rtol=1e-6)


class Counting(nn.Module):
    """Counts its calls in a buffer, and its outputs depend on the count."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


def test_a_network_that_remembers_is_computed_the_plain_way():
    assert way_of(require_own_losses(over(Counting(), 3))) == "plain"


def test_a_fold_that_is_wrong_is_not_taken(monkeypatch):
    right = Fold.refresh

    def wrong(self):
        right(self)
        self.weight[0] *= 1 + 1e-9

    monkeypatch.setattr(Fold, "refresh", wrong)
    assert way_of(require_own_losses(over(Block(), 2, 5, 5), rtol=1e-13)) == "in place, channels last, layer by layer"


def test_a_fold_that_is_right_at_the_weights_only_is_not_taken(monkeypatch):
    right = Fold.refresh
    monkeypatch.setattr(Fold, "refresh", lambda fold: right(fold) if fold.bias is None else None)
    assert way_of(require_own_losses(over(Block(), 2, 5, 5))) == "in place, channels last, layer by layer"


def test_points_that_overflow_are_the_plain_ones_and_the_way_is_tried_where_the_model_is_finite():
    given = over(Block(), 2, 5, 5)
    d = filter_normalized(given, seed=0)
    result = line_slice(given, d, coordinates=[1e300, -1e200, 0.5, 0.0, 0.2])
    assert way_of(result) == "in place, channels last, 3 batch norms folded"
    assert np.isfinite(result.losses).tolist() == [False, False, True, True, True]
    nowhere = line_slice(given, d, coordinates=[1e300, 0.0])
    assert way_of(nowhere) == "plain"
    assert np.isfinite(nowhere.losses).tolist() == [False, True]


def test_a_coordinate_beyond_single_precision_is_not_finite():
    model = nn.Linear(3, 3)
    objective = Objective(model, functional.cross_entropy, [(torch.randn(5, 3), torch.arange(5) % 3)])
    result = line_slice(objective, torch.ones(12), coordinates=[0.0, 1e300])
    assert math.isfinite(result.losses[0])
    assert not math.isfinite(result.losses[1])


def test_hooks_and_the_callers_model_are_left_alone():
    seen = []
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).double().eval()
    model[0].register_forward_hook(lambda *_: seen.append(1))
    before, keys = copy.deepcopy(model.state_dict()), set(vars(model[0]))
    objective = Objective(model, functional.cross_entropy, [(normal(5, 2, 3, 3), classes(5, 3))])
    result = plane_slice(objective, (torch.ones(72), normal(72)), x=[0.0, 1.0], y=[1.0], score=accuracy)
    assert "folded" in way_of(result)
    assert seen
    assert set(vars(model[0])) == keys
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model[1].weight.grad
    objective.hvp(objective.weights, objective.weights)  # nothing is left of passes without gradients


def test_an_evaluation_that_finds_no_memory_goes_on_with_half_the_examples(monkeypatch):
    objective = over(Block(), 2, 5, 5)
    d = filter_normalized(objective, seed=0)
    points = Points([Reading(objective, accuracy)], objective.weights, [d], np.array([[0.5]]))
    whole = points.at(0)
    way, sizes = points._ways[0], []
    outputs = way.outputs

    def scarce(term):
        sizes.append(len(term.batch[1]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError
        return outputs(term)

    monkeypatch.setattr(way, "outputs", scarce)
    assert points.at(0)[::2] == pytest.approx(whole[::2], rel=1e-13)
    assert sizes == [9, 4, 5]


def test_an_error_of_the_score_far_from_the_weights_is_raised():
    def score(outputs, targets):
        if outputs.abs().max() > 1e3:
            raise FloatingPointError("too far")
        return outputs.mean()

    objective = problem("tanh_mlp").objective()
    with pytest.raises(FloatingPointError, match="too far"):
        line_slice(objective, torch.ones(31), coordinates=[0.0, 1e4], score=score)


def test_relu_is_in_place_where_nothing_else_reads_what_it_reads_and_never_on_the_data():
    class Rectified(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.one, self.two, self.of_data = nn.ReLU(), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            one = self.first(self.of_data(x))
            two = self.second(self.one(one))
            return self.head(self.two(two) + two)

    objective = over(Rectified(), 4)
    before = objective.batches[0][0].clone()
    assert way_of(require_own_losses(objective)) == "in place"
    assert torch.equal(objective.batches[0][0], before)
    seam = Seam(copy.deepcopy(objective.model), supervised)
    rectify_in_place(seam, objective.batches[0])
    assert [seam.model.one.inplace, seam.model.two.inplace, seam.model.of_data.inplace] == [True, False, False]
