"""m-sharpness by every way of taking all shards at once, against the definition, to rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import NETS, net
from problems import N, classes, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import (
    AdaptiveAscent,
    GradientAscent,
    Linf,
    Objective,
    RandomPerturbation,
    SeveralSteps,
    every_tensor,
    m_sharpness,
    m_sharpness_grid,
)
from landscape.rises import measurement
from landscape.rises.layerwise import LayerByLayer, _Ascended
from landscape.rises.vectorised import WithCopies

WAYS = {way.words: way for way in (LayerByLayer, WithCopies)}
ASCENTS = {
    "gradient": GradientAscent(0.3),
    "adaptive": AdaptiveAscent(0.5, eta=0.1),
    "adaptive, all tensors": AdaptiveAscent(0.5, eta=0.1, scaled=every_tensor),
    "signs": GradientAscent(0.02, ball=Linf()),
    "adaptive signs": AdaptiveAscent(0.05, eta=0.0, ball=Linf()),
}
SIZES = [1, 3, 4, 13]  # the last shard is ragged, or all there is


@pytest.fixture
def only(monkeypatch):
    """Lets shards of all sizes be taken by one way alone, or one after another."""

    def choose(*ways):
        monkeypatch.setattr(measurement, "BUILDERS", ways)
        monkeypatch.setattr(measurement, "FEWEST", 1)
        for way in ways:
            monkeypatch.setattr(way, "pays", lambda self, size: True)

    return choose


def grid(objective, perturbation, sizes=SIZES, radii=None):
    found = m_sharpness_grid(objective, perturbation, microbatch_sizes=sizes, radii=radii)
    return [result for of_size in found for result in of_size]


def require_same(ours, theirs, *, words=None, rtol=1e-10):
    """The same numbers, and how the first were found."""
    for a, b in zip(ours, theirs, strict=True):
        assert np.allclose(a.per_shard, b.per_shard, rtol=rtol, atol=1e-13)
        assert np.allclose(a.denominators, b.denominators, rtol=1e-14)
        assert a.shard_sizes.tolist() == b.shard_sizes.tolist()
        assert a.value == pytest.approx(b.value, rel=rtol)
        assert (a.stderr, a.microbatch_size) == (pytest.approx(b.stderr, rel=1e-9, nan_ok=True), b.microbatch_size)
        if words is not None:
            ways = a.manifest["machine"]["shards"]["ways"]
            assert set(ways) == {words}


def in_batches(name):
    model, (x, y) = net(name)
    return Objective(model.eval(), functional.cross_entropy, [(x[:5], y[:5]), (x[5:10], y[5:10]), (x[10:], y[10:])])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETS)
def test_every_layer_gives_the_rises_of_the_definition(name, way, only):
    objective, sizes = in_batches(name), [1, 4, 11]
    for ascent in (
        ASCENTS.values() if name in ("mlp", "attention") else (GradientAscent(0.3), ASCENTS["adaptive signs"])
    ):
        only()
        expected = grid(objective, ascent, sizes)
        only(WAYS[way])
        require_same(grid(objective, ascent, sizes), expected, words=way)


@pytest.mark.parametrize("way", WAYS)
def test_only_some_weights_are_perturbed(way, only):
    for name in ("attention", "residual"):
        objective = in_batches(name)
        for pattern in sorted(set(objective.space.names))[::3]:
            part = objective.select(pattern)
            only()
            expected = grid(part, GradientAscent(0.3), [1, 4])
            only(WAYS[way])
            require_same(grid(part, GradientAscent(0.3), [1, 4]), expected)


def tokens(loss, forward):
    """A network that labels every token; some are ignored, and so are all of a few examples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randint(0, 7, (N, 4), generator=torch.Generator().manual_seed(1))
    y = classes(N * 4, 3, seed=2).view(N, 4)
    y[:, 0], y[3:6], y[12] = -100, -100, -100
    return Objective(model, loss, ragged(x, y), forward=forward)


LOSSES = {
    "ignored tokens": functional.cross_entropy,
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64)),
}
FORWARDS = {
    "examples": lambda model, batch: (model(batch[0]).mT, batch[1]),
    "flat": lambda model, batch: (model(batch[0]).flatten(0, 1), batch[1].flatten()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_shards_weigh_what_their_loss_counts_and_empty_ones_are_left_out(loss, forward, way, only):
    objective = tokens(LOSSES[loss], FORWARDS[forward])
    only()
    expected = grid(objective, GradientAscent(0.3))
    assert len(expected[0].per_shard) <= N - 4  # single examples without anything to count
    only(WAYS[way])
    require_same(grid(objective, GradientAscent(0.3)), expected, words=way)


@pytest.mark.parametrize("way", WAYS)
def test_a_grid_is_its_points_one_by_one_and_leaves_the_perturbation_alone(way, only):
    objective, radii = problem("attention").objective(), [0.0, 0.05, 0.4]
    for ascent in (AdaptiveAscent(0.5, eta=0.1), GradientAscent(0.02, ball=Linf()), RandomPerturbation(0.1, seed=3)):
        before = copy.deepcopy(ascent.__dict__)
        only(WAYS[way])
        found = m_sharpness_grid(objective, ascent, microbatch_sizes=[4, 1], radii=radii)
        assert repr(ascent.__dict__) == repr(before)
        only()
        for size, of_size in zip([4, 1], found, strict=True):
            for rho, result in zip(radii, of_size, strict=True):
                other = copy.deepcopy(ascent)
                other.rho = rho
                require_same([result], [m_sharpness(objective, other, microbatch_size=size)])
                assert result.manifest["measurement"] == {
                    "name": "m_sharpness", "microbatch_size": size, **other.settings()
                }  # fmt: skip
        assert not found[0][0].per_shard.any()


def test_radii_of_several_steps_are_those_of_the_ascent_inside():
    objective, climb = problem("tanh_mlp").objective(), SeveralSteps(GradientAscent(0.1), steps=3)
    ((small, large),) = m_sharpness_grid(objective, climb, microbatch_sizes=[4], radii=[0.1, 0.3])
    assert climb.rho == 0.1
    require_same([small], [m_sharpness(objective, climb, microbatch_size=4)])
    require_same([large], [m_sharpness(objective, SeveralSteps(GradientAscent(0.3), steps=3), microbatch_size=4)])


def test_one_pass_up_and_down_serves_all_sizes_and_radii(only, monkeypatch):
    seen = []
    first = _Ascended.__init__
    monkeypatch.setattr(_Ascended, "__init__", lambda self, *rest: (seen.append(rest[1]), first(self, *rest))[1])
    only(LayerByLayer)
    grid(problem("tanh_mlp").objective(), GradientAscent(0.1), [1, 2, 4], radii=[0.1, 0.2])
    assert [len(batch[0]) for batch in seen] == [1, N]  # one example to know the layers by, and all of them


def test_what_cannot_be_taken_at_once_goes_one_after_another_and_says_why():
    given = problem("tanh_mlp")
    with_penalty = Objective(
        given.model,
        lambda pair, y: functional.cross_entropy(pair[0], y) + pair[1],
        ragged(given.x, given.y),
        forward=lambda model, batch: ((model(batch[0]), model[0].weight.square().sum()), batch[1]),
    )
    result = m_sharpness(with_penalty, GradientAscent(0.1), microbatch_size=1)
    account = result.manifest["machine"]["shards"]
    assert account["ways"] == {"with copies of the weights": N}
    assert account["reasons"]["layer by layer"].startswith("the rise of a shard is ")
    unknown = m_sharpness(with_penalty, SeveralSteps(GradientAscent(0.1), steps=1), microbatch_size=1)
    assert unknown.manifest["machine"]["shards"]["ways"] == {"one after another": N}
    require_same([result], [unknown])


def test_texts_in_batches_go_with_their_examples_in_chunks_and_shards():
    given, names = problem("tanh_mlp"), ["a" * (1 + i % 3) for i in range(N)]
    lengths = torch.tensor([len(name) for name in names]).double()

    def forward(model, batch):
        read = batch["names"]
        share = read if isinstance(read, torch.Tensor) else torch.tensor([len(name) for name in read]).double()
        return model(batch["x"]) * share[:, None], batch["y"]

    found = []
    for column in (names, lengths):
        data = [{"x": given.x[i], "y": given.y[i], "names": column[i]} for i in (slice(0, 8), slice(8, N))]
        objective = Objective(given.model, given.loss, data, forward=forward, chunk_size=2)
        shards = m_sharpness(objective, GradientAscent(0.1), microbatch_size=3)
        found.append(
            (objective.gradient(objective.weights), shards, objective.sample(5, seed=0).loss(objective.weights))
        )
    (slope, shards, sampled), (slope_of_numbers, shards_of_numbers, sampled_of_numbers) = found
    assert torch.allclose(slope, slope_of_numbers, rtol=1e-12)
    assert torch.equal(sampled, sampled_of_numbers)
    require_same([shards], [shards_of_numbers])
    assert "batches have lists" in shards.manifest["machine"]["shards"]["reasons"]["all at once"]


def test_how_shards_went_is_no_part_of_what_makes_numbers_comparable(only):
    from landscape.manifest import differences

    objective, found = problem("tanh_mlp").objective(), []
    for ways in ((), (LayerByLayer,)):
        only(*ways)
        found.append(m_sharpness(objective, GradientAscent(0.1), microbatch_size=4))
    assert found[0].manifest["machine"] != found[1].manifest["machine"]
    assert differences(found[0].manifest, found[1].manifest) == []
