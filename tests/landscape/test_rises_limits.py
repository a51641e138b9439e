"""m-sharpness of many shards at once: within memory, over data of several shapes, and where rounding would spoil it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import normal, problem, ragged
from torch import nn
from torch.nn import functional

from landscape import GradientAscent, Objective, m_sharpness, m_sharpness_grid
from landscape.rises import measurement
from landscape.rises.layerwise import LayerByLayer, _Ascended
from landscape.rises.rows import Rows, portions

ASCENT = GradientAscent(0.3)


@pytest.fixture(autouse=True)
def all_at_once(monkeypatch):
    """Shards of every size are worth it."""
    monkeypatch.setattr(measurement, "FEWEST", 1)
    monkeypatch.setattr(LayerByLayer, "pays", lambda self, size: True)


def one_by_one(objective, size, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(measurement, "BUILDERS", ())
        return m_sharpness(objective, ASCENT, microbatch_size=size)


def ways(result):
    return result.manifest["machine"]["shards"]["ways"]


def test_every_shard_is_in_one_portion():
    generator = np.random.default_rng(0)
    for _ in range(60):
        pieces = [torch.zeros(n, 1 + i % 2) for i, n in enumerate(generator.integers(1, 20, generator.integers(1, 4)))]
        rows = Rows(pieces)
        sizes = sorted({int(size) for size in generator.integers(1, rows.number + 1, 3)})
        most, number = max(int(generator.integers(1, 40)), max(sizes)), int(generator.integers(1, 5))
        found = portions(rows, sizes, most=most, number=number)
        expected = [(size, j) for size in sizes for j in range(-(-rows.number // size))]
        assert sorted(pair for portion in found for pair in portion.shards) == expected
        for part in [half for portion in found for half in (portion.halves() or [portion])]:
            taken = list(part.crossing)
            for run in part.runs:
                taken += [(run.asked, run.first + i) for i in range(run.number)]
                assert run.start >= part.begin
                assert run.stop <= part.border
                assert run.size == run.asked or run.stop == rows.number
            assert sorted(taken) == sorted(part.shards)


@pytest.mark.parametrize("room", [0, 1, 3, 6])
def test_where_memory_runs_out_fewer_examples_go_at_once(room, monkeypatch):
    objective, done = problem("attention").objective(), []
    rises = _Ascended.rises

    def short(self, run):
        if run.number * run.size > room:
            raise torch.OutOfMemoryError("out of memory")
        return rises(self, run)

    monkeypatch.setattr(_Ascended, "rises", short)
    found = m_sharpness_grid(objective, ASCENT, microbatch_sizes=[1, 4], progress=lambda i, n: done.append((i, n)))
    for size, (result,) in zip([1, 4], found, strict=True):
        assert np.allclose(result.per_shard, one_by_one(objective, size, monkeypatch).per_shard, rtol=1e-10)
    assert ways(found[0][0]).get("layer by layer", 0) == {0: 0, 1: 11, 3: 11, 6: 17}[room]
    assert done[-1] == (17, 17)
    assert done == sorted(done)


@pytest.mark.parametrize("size", [4, 13])
def test_a_shard_that_does_not_fit_into_memory_as_a_whole_goes_in_chunks(size, monkeypatch):
    given, written = problem("tanh_mlp"), []

    def forward(model, batch):
        if len(batch[0]) > 3 and short:
            raise torch.OutOfMemoryError("out of memory")
        written.append(len(batch[0]))
        return model(batch[0]), batch[1]

    short = False
    objective = Objective(given.model, given.loss, [(given.x, given.y)], forward=forward)
    expected = one_by_one(objective, size, monkeypatch)
    assert max(written) >= size
    short = True
    written.clear()
    found = one_by_one(objective, size, monkeypatch)
    assert max(written) <= 3
    assert np.allclose(found.per_shard, expected.per_shard, rtol=1e-12)


def test_no_more_examples_go_through_the_model_than_a_chunk_may_have():
    written: list[int] = []

    def forward(model, batch):
        written.append(len(batch[0]))
        return model(batch[0]), batch[1]

    given = problem("tanh_mlp")
    data = ragged(given.x, given.y)
    counted = Objective(given.model, given.loss, data, chunk_size=4, forward=forward)
    written.clear()
    found = m_sharpness_grid(counted, ASCENT, microbatch_sizes=[1, 4, 6])
    assert ways(found[0][0])["layer by layer"] == 13 + 4
    assert max(written) == 4


def of_two_lengths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 3)).double()
    draw = lambda *shape: torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(1))  # noqa: E731
    data = [(draw(8, length), torch.arange(8) % 3) for length in (3, 5)] + [(draw(2, 5), torch.arange(2))]
    forward = lambda net, batch: (net(batch[0]).mean(1), batch[1])  # noqa: E731
    return Objective(model, functional.cross_entropy, data, forward=forward)


def test_examples_of_several_shapes_go_at_once_with_their_like(monkeypatch):
    objective = of_two_lengths()
    for size in (1, 2, 4, 8):
        result = m_sharpness(objective, ASCENT, microbatch_size=size)
        assert set(ways(result)) == {"layer by layer"}
        assert np.allclose(result.per_shard, one_by_one(objective, size, monkeypatch).per_shard, rtol=1e-10)


def test_a_shard_of_examples_of_two_shapes_goes_by_itself(monkeypatch):
    objective = of_two_lengths()
    result = m_sharpness(objective, ASCENT, microbatch_size=3)
    assert ways(result) == {"layer by layer": 5, "one after another": 1}
    assert np.allclose(result.per_shard, one_by_one(objective, 3, monkeypatch).per_shard, rtol=1e-10)
    assert result.shard_sizes.tolist() == [3] * 6


def test_gradients_that_nearly_cancel_in_a_shard_are_not_taken_from_products_of_rows(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40, bias=False), nn.Linear(40, 1, bias=False))
    x, y = normal(6, 40).float(), torch.ones(6, 1)
    x, y = x.repeat_interleave(2, 0), torch.stack([y, y], 1).flatten(0, 1)
    with torch.no_grad():
        away = torch.tensor([1.0, -1.0] * 6)[:, None]
        y = model(x) + away * (1 + 1e-6 * torch.arange(12.0)[:, None])  # slopes of a pair differ by a millionth
    objective = Objective(model, functional.mse_loss, [(x, y)])
    result = m_sharpness(objective, ASCENT, microbatch_size=2)
    expected = one_by_one(objective, 2, monkeypatch)
    assert ways(result) == {"one after another": 6}
    assert np.array_equal(result.per_shard, expected.per_shard)


def test_the_model_and_the_random_state_are_what_they_were():
    given = problem("conv_batch_norm")
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    objective, state = given.objective(), torch.get_rng_state()
    inner = {name: tensor.clone() for name, tensor in objective.work.definition.seam.state_dict().items()}
    m_sharpness_grid(objective, ASCENT, microbatch_sizes=[1, 4], radii=[0.1, 0.2])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.state_dict().items())
    assert all(torch.equal(tensor, inner[name]) for name, tensor in objective.work.definition.seam.state_dict().items())
    assert not any(p.requires_grad for p in objective.work.definition.seam.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"microbatch_sizes": []}, ValueError, "microbatch_sizes is empty; give one value at least"),
        ({"microbatch_sizes": [2, 2]}, ValueError, r"microbatch_sizes has a value twice; got \[2, 2\]"),
        ({"microbatch_sizes": [1, 0]}, ValueError, "the size of a shard must be at least 1; got 0"),
        ({"microbatch_sizes": [1.5]}, TypeError, r"the size of a shard must be an integer; got 1\.5"),
        ({"microbatch_sizes": [1], "radii": []}, ValueError, "radii is empty"),
        ({"microbatch_sizes": [1], "radii": [0.1, 0.1]}, ValueError, r"radii has a value twice; got \[0\.1, 0\.1\]"),
        ({"microbatch_sizes": [1], "radii": [-1.0]}, ValueError, "rho must be a finite number, zero or more; got -1"),
    ],
)
def test_what_is_no_grid_is_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        m_sharpness_grid(problem("tanh_mlp").objective(), ASCENT, **arguments)
