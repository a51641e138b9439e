"""Steps of mSAM on real architectures, over ragged dict batches with padding: Σ_i d_i ∇L_i(w + ε_i) / Σ_i d_i."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from architectures import FUSED, PLAIN, Dense, Instance, fused, instance
from torch import nn

from landscape import GradientAscent, HessianOperator, Objective, m_sharpness
from msam import Fastest, Layerwise, OneByOne, Vectorised, mSAM
from msam.microbatches import sizes

RHO, LR, MOMENTUM, DECAY, SHARDS, STEPS = 0.05, 0.1, 0.9, 0.01, 3, 3
NO_VALUES = "looks at the values of a tensor"
REASONS = {  # why not, where an execution does not take an instance
    Vectorised: dict.fromkeys(("BERT", "RoBERTa", "GPT-2", "BERT over tokens"), NO_VALUES),
}


def closure_of(given, model):
    """The mean loss of a batch with what it was divided by; the mean alone where that is its examples."""

    def closure(batch):
        outputs = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        loss = given.criterion(outputs, batch["labels"])
        return (loss, given.settings["denominator"](outputs, batch["labels"])) if given.settings else loss

    return closure


def stepped(given, execution, *, number=SHARDS):
    """The weights after some steps on all the data, and the losses that were reported."""
    model = copy.deepcopy(given.model)
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=number, module=model, execution=execution)
    losses = [float(optimizer.step(closure_of(given, model), given.whole)) for _ in range(STEPS)]
    return torch.cat([p.detach().flatten() for p in trained]), losses


def written_out(given, dense, *, number=SHARDS):
    """The same by the formula."""
    w, velocity, losses, shards, start = dense.w, 0, [], [], 0
    for size in sizes(len(given.counted), number):
        shards.append(slice(start, start + size))
        start += size

    def clean(rows):
        return dense.loss(w, rows)

    def beside(rows):
        g = dense.gradient(w, rows)
        return dense.gradient(w + RHO * g / g.norm(), rows)

    for _ in range(STEPS):
        losses.append(float(dense.mean_over(shards, clean)))
        velocity = MOMENTUM * velocity + dense.mean_over(shards, beside) + DECAY * w
        w = w - LR * velocity
    return w, losses


def require_the_formula(given, dense, execution, **settings):
    (w, losses), (expected, heights) = stepped(given, execution, **settings), written_out(given, dense, **settings)
    assert (w - expected).norm() <= 1e-12 * (expected - dense.w).norm()
    assert losses == pytest.approx(heights, rel=1e-12)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("execution", [OneByOne, Layerwise, Vectorised])
def test_micro_batches_are_weighed_by_the_targets_that_count(name, execution):
    given, dense = fused(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        require_the_formula(given, dense, execution())
    reason = REASONS.get(execution, {}).get(name)
    assert [reason in str(warning.message) for warning in caught] == ([True] if reason else [])
    assert not any("github" in str(warning.message) for warning in caught)


def test_plain_attention_is_vectorised():
    given = instance(PLAIN["GPT-2"])
    require_the_formula(given, Dense(given), Vectorised(memory=2**30))


def test_fastest_says_once_for_each_execution_why_it_does_not_take_the_model(adapted):
    given, dense = adapted
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        require_the_formula(given, dense, Fastest())
    said = [str(warning.message) for warning in caught]
    assert ["micro-batches are not computed" in sentence for sentence in said] == [True, True]


def test_an_example_alone_and_a_few_at_a_time():
    given, dense = fused("GPT-2")
    require_the_formula(given, dense, OneByOne(), number=7)
    require_the_formula(given, dense, OneByOne(device_batch_size=2))


def test_a_micro_batch_without_any_target_does_not_count():
    given, _ = fused("BERT over tokens")
    labels = given.whole["labels"].clone()
    labels[3:5] = -100  # the second of three
    bare = Instance(
        given.model, given.whole | {"labels": labels}, given.criterion, (labels != -100).sum(1), given.settings
    )
    require_the_formula(bare, Dense(bare), OneByOne())


class Adapted(nn.Module):
    """A frozen linear layer with a trainable product of two thin matrices beside it (Hu et al. 2021)."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        rows, columns = base.weight.shape
        self.lora_A = nn.Parameter(torch.randn(rank, columns).to(base.weight))
        self.lora_B = nn.Parameter(torch.randn(rows, rank).to(base.weight))

    def forward(self, x):
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


@pytest.fixture(scope="module")
def adapted():
    """BERT with adapters in its queries and values, and all else frozen."""
    given = copy.deepcopy(instance(FUSED["BERT"]))
    given.model.requires_grad_(False)
    attention = given.model.bert.encoder.layer[0].attention.self
    with torch.random.fork_rng():
        torch.manual_seed(4)
        attention.query, attention.value = Adapted(attention.query), Adapted(attention.value)
    return given, Dense(given)


def test_adapters_are_measured_alone_and_chosen_by_pattern(adapted):
    given, dense = adapted
    objective = given.objective()
    assert [name.split(".")[-2:] for name in objective.space.names] == [
        [layer, factor] for layer in ("query", "value") for factor in ("lora_A", "lora_B")
    ]
    assert torch.allclose(HessianOperator(objective).apply(torch.eye(32).double()), dense.hessian, rtol=0, atol=1e-12)
    found = m_sharpness(objective, GradientAscent(RHO), microbatch_size=3).value
    assert found == pytest.approx(dense.rise(RHO, 3), rel=1e-10)
    part = Dense(given, "*.lora_B")
    some = objective.select("*.lora_B")
    assert torch.allclose(some.hvp(part.w, part.w), part.hessian @ part.w, rtol=0, atol=1e-12)


def test_adapters_are_trained_and_what_is_frozen_stays(adapted):
    given, dense = adapted
    before = copy.deepcopy(given.model.state_dict())
    require_the_formula(given, dense, OneByOne())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each of them says why it falls back
        for execution in (Layerwise(), Vectorised(memory=2**30)):
            require_the_formula(given, dense, execution)
    assert all(torch.equal(value, before[name]) for name, value in given.model.state_dict().items())


def test_a_loss_of_outputs_in_another_order_is_refused_with_the_shapes():
    given, _ = fused("BERT over tokens")
    with pytest.raises(ValueError, match=r"outputs \(4, 5, 3\) and targets \(4, 5\)"):
        Objective(given.model, F.cross_entropy, given.batches)
