"""The recipes of docs/recipes.md, their very code, against the plain loop or against the formula written out."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape.perturbations import GradientAscent
from msam import Layerwise, mSAM

OTHERS = pytest.mark.filterwarnings("default")  # of their own packages


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def close(one, two, **tolerance):
    torch.testing.assert_close(one, two, **(tolerance or {"rtol": 1e-10, "atol": 1e-13}))


def written_out(parameters, loss, shards, base, rho):
    """One step by the formula: shards are (batch, share), and shares add up to one."""
    total = [torch.zeros_like(p) for p in parameters]
    for shard, share in shards:
        slopes = torch.autograd.grad(loss(shard), parameters)
        norm = torch.sqrt(sum(slope.square().sum() for slope in slopes))
        before = weights(nn.ParameterList(parameters))
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                p += rho * slope / norm
        for sum_, slope in zip(total, torch.autograd.grad(loss(shard), parameters), strict=True):
            sum_ += share * slope
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
    for p, slope in zip(parameters, total, strict=True):
        p.grad = slope
    base.step()


def pieces(batch, number):
    """A tuple of tensors in so many parts, with the share of each."""
    return [((x, y), len(y) / len(batch[1])) for x, y in zip(*(t.tensor_split(number) for t in batch), strict=True)]


# The plain loop


def test_the_plain_loop_goes_on_from_its_checkpoint_to_the_same_weights(cook, tmp_path):
    train = cook("The plain loop")["train"]
    whole = train(tmp_path / "whole.pt", until=4)
    train(tmp_path / "parts.pt", until=2)
    assert same(weights(train(tmp_path / "parts.pt", until=4)), weights(whole))
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    assert one["scaler"] == two["scaler"]
    assert one["scheduler"] == two["scheduler"]
    assert one["optimizer"]["msam"] == two["optimizer"]["msam"]
    assert one["optimizer"]["msam"]["counted"]["steps"] == 4 * 18


@pytest.mark.parametrize("forgotten", ["model", "optimizer", "scheduler", "scaler"])
def test_each_part_of_the_plain_loops_checkpoint_counts(forgotten, cook, tmp_path):
    """Left out of the file, it makes a difference: the scale grows in the second epoch already here."""
    changed = [
        ("torch.amp.GradScaler(device)", "torch.amp.GradScaler(device, growth_interval=20)"),
        ("            part.load_state_dict", f'            name == "{forgotten}" or part.load_state_dict'),
    ]
    train = cook("The plain loop", changed=changed)["train"]
    whole = train(tmp_path / "whole.pt", until=4)
    train(tmp_path / "parts.pt", until=2)
    parts = train(tmp_path / "parts.pt", until=4)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    assert not same(weights(parts), weights(whole)) or one["scaler"] != two["scaler"]


# Compiled models


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_comes_to_the_same_weights_and_is_compiled_once(backend, cook):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    recipe = cook("Compiled models", changed=[("aot_eager", backend)])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    optimizer = mSAM(sgd, GradientAscent(rho=0.05), num_microbatches=4, seed=0)
    for size in (18, 18, 11):
        batch = torch.randn(size, 20), torch.randint(0, 3, (size,))
        optimizer.step(lambda part: functional.cross_entropy(plain(part[0]), part[1]), batch)
    assert same(weights(recipe["model"]), weights(plain))


@pytest.mark.parametrize(("dynamic", "graphs"), [(None, [1, 2, 2, 2, 3]), (True, [1, 1, 1, 1, 2])])
def test_what_compiles_anew_is_a_second_size_and_a_single_example(dynamic, graphs):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = nn.Linear(20, 3)
    compiled, found = torch.compile(model, backend="eager", dynamic=dynamic), []
    optimizer = mSAM(torch.optim.SGD(model.parameters(), lr=0.1), GradientAscent(rho=0.05), num_microbatches=2)
    for size in (8, 9, 12, 5, 2):  # micro-batches of 4, of 5 and 4, of 6, of 3 and 2, of one
        batch = torch.randn(size, 20), torch.randint(0, 3, (size,))
        optimizer.step(lambda part: functional.cross_entropy(compiled(part[0]), part[1]), batch)
        found.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert found == graphs


def test_layerwise_is_right_where_the_closure_calls_the_compiled_model():
    torch._dynamo.reset()
    models = []
    for compiled in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
        forward = torch.compile(model, backend="aot_eager") if compiled else model
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        execution = Layerwise() if compiled else None
        optimizer = mSAM(sgd, GradientAscent(rho=0.05), num_microbatches=4, module=model, execution=execution)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(3):
                batch = torch.randn(10, 20), torch.randint(0, 3, (10,))
                optimizer.step(lambda part, f=forward: functional.cross_entropy(f(part[0]), part[1]), batch)
        told = [str(one.message) for one in said if "not computed layer by layer" in str(one.message)]
        assert not told
        models.append(weights(model))
    close(*models, rtol=1e-5, atol=1e-7)


# Some of the weights, tied weights, tokens


@pytest.mark.usefixtures("double")
def test_low_rank_factors_are_trained_by_the_formula_and_the_rest_stays(cook):
    """The norm is over the factors alone. Did the micro-batches fall back to the loop, there would be a warning."""
    recipe = cook("Some of the weights", whole=False)
    model, optimizer = recipe["model"], recipe["optimizer"]
    twin, frozen = copy.deepcopy(model), [p.clone() for p in model.parameters() if not p.requires_grad]
    factors = [p for p in twin.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(factors, lr=0.01)
    for _ in range(3):
        batch = torch.randn(18, 20), torch.randint(0, 3, (18,))
        optimizer.step(lambda part: functional.cross_entropy(model(part[0]), part[1]), batch)
        loss = lambda part: functional.cross_entropy(twin(part[0]), part[1])  # noqa: E731
        written_out(factors, loss, pieces(batch, 4), adam, rho=0.05)
    close(weights(model), weights(twin))
    assert len(factors) == 4
    assert same(frozen, [p for p in model.parameters() if not p.requires_grad])


@pytest.mark.usefixtures("double")
def test_a_tied_language_model_is_trained_by_the_formula_weighted_by_tokens(cook):
    recipe = cook("Tied weights, and losses that are means over tokens", whole=False)
    model, optimizer, closure = recipe["model"], recipe["optimizer"], recipe["closure"]
    for part in model.modules():  # masks differ between the formula and mSAM's own streams
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    model.layer.self_attn.dropout = 0.0
    twin = copy.deepcopy(model)
    adam = torch.optim.AdamW(twin.parameters(), lr=1e-3)
    for one in (adam, optimizer):
        one.param_groups[0]["eps"] = (
            1e-3  # the bias of the keys has a gradient of zero, which Adam would divide by itself
        )
    batch = {"tokens": recipe["tokens"], "labels": recipe["padded"]}
    shards = [
        dict(zip(batch, part, strict=True)) for part in zip(*(t.tensor_split(4) for t in batch.values()), strict=True)
    ]
    counts = [float(closure(shard)[1]) for shard in shards]
    assert len(set(counts)) > 1
    for _ in range(2):
        recipe["model"] = model
        optimizer.step(closure, batch)
        recipe["model"] = twin
        shares = [(shard, count / sum(counts)) for shard, count in zip(shards, counts, strict=True)]
        written_out([*twin.parameters()], lambda shard: closure(shard)[0], shares, adam, rho=0.05)
    assert model.head.weight is model.embedding.weight
    close(weights(model), weights(twin))


@OTHERS
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("execution", [None, Layerwise])
def test_gpt2_with_its_tied_head_is_trained_by_the_formula(execution):
    """One after another and layer by layer, without a warning."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_embd=8, n_head=2, n_positions=8, vocab_size=20, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).train()
    twin = copy.deepcopy(model)
    assert twin.lm_head.weight is twin.transformer.wte.weight
    sgd, plain = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin))
    chosen = None if execution is None else execution()
    optimizer = mSAM(sgd, GradientAscent(rho=0.05), num_microbatches=3, module=model, execution=chosen)
    texts = torch.randint(0, 20, (7, 6))

    def loss_of(one):  # that of transformers is in single precision, whatever the model's is
        return lambda b: functional.cross_entropy(one(input_ids=b).logits[:, :-1].flatten(0, 1), b[:, 1:].flatten())

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            optimizer.step(loss_of(model), texts)
            shards = [(part, len(part) / 7) for part in texts.tensor_split(3)]
            written_out([*twin.parameters()], loss_of(twin), shards, plain, rho=0.05)
    assert not any("layer by layer" in str(one.message) for one in said)
    close(weights(model), weights(twin))
