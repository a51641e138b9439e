from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, ragged, tanh_mlp
from torch import nn

from landscape import GradientAscent, HessianOperator, Objective, m_sharpness, top_eigenvalues

X, Y = normal(N, 3), classes(N, 3)
DATA = ragged(X, Y)


@pytest.fixture
def model():
    return tanh_mlp().double()


def penalty(model):
    return 0.1 * sum((p**2).sum() for p in model.parameters())


def test_a_forward_that_calls_the_callers_model_is_refused_and_finds_no_flat_landscape(model):
    with pytest.raises(ValueError, match="`forward` calls another model than the one it is given"):
        Objective(model, F.cross_entropy, DATA, forward=lambda given, batch: (model(batch[0]), batch[1]))


@pytest.mark.parametrize("wrapped", [nn.Sequential, nn.DataParallel])
def test_it_is_refused_through_a_wrapper_too(model, wrapped):
    held = wrapped(model)
    with pytest.raises(ValueError, match="another model than the one it is given"):
        Objective(model, F.cross_entropy, DATA, forward=lambda given, batch: (held(batch[0]), batch[1]))


def test_a_forward_that_calls_a_part_of_the_callers_model_is_refused_by_name(model):
    with pytest.raises(
        ValueError, match=r"the loss reads '2\.(weight|bias)' from the model itself and not from the copy"
    ):
        Objective(model, F.cross_entropy, DATA, forward=lambda given, batch: (model[2](given[:2](batch[0])), batch[1]))


def penalised_function(model):
    return lambda outputs, y: F.cross_entropy(outputs, y) + penalty(model)


class Penalised(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, outputs, y):
        return F.cross_entropy(outputs, y) + penalty(self.model)


class Trainer:
    def __init__(self, model):
        self.model = model

    def loss(self, outputs, y):
        return F.cross_entropy(outputs, y) + penalty(self.model)


HOLDERS = {
    "a closure": penalised_function,
    "a module": Penalised,
    "a bound method": lambda model: Trainer(model).loss,
    "a partial": lambda model: functools.partial(lambda m, z, y: F.cross_entropy(z, y) + penalty(m), model),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_a_loss_that_reads_the_callers_weights_is_refused_by_name(model, holder):
    with pytest.raises(
        ValueError, match=r"the loss reads '\d\.(weight|bias)' from the model itself.*among the outputs"
    ):
        Objective(model, holder(model), DATA)


def test_it_is_refused_in_whatever_batch_it_happens(model):
    def loss(outputs, y):
        return F.cross_entropy(outputs, y) + (penalty(model) * 0 if y[0] == Y[10] and len(y) < 4 else 0)

    with pytest.raises(ValueError, match="from the model itself"):
        Objective(model, loss, DATA)


def test_the_way_out_of_a_penalty_gives_its_curvature(model):
    plain = Objective(model, F.cross_entropy, DATA)
    penalised = Objective(
        model,
        lambda outputs, y: F.cross_entropy(outputs[0], y) + outputs[1],
        DATA,
        forward=lambda given, batch: ((given(batch[0]), penalty(given)), batch[1]),
    )
    w, v = plain.weights, normal(31)
    assert torch.allclose(penalised.hvp(w, v), plain.hvp(w, v) + 0.2 * v, rtol=1e-10, atol=1e-13)


def test_weights_that_are_not_measured_may_be_read_from_anywhere(model):
    body, y = model[:2], normal(N, 3)
    objective = Objective(
        model, F.mse_loss, ragged(X, y), parameters="2.*", forward=lambda given, b: (given[2](body(b[0])), b[1])
    )
    direct = Objective(model, F.mse_loss, ragged(X, y), parameters="2.*")
    assert torch.equal(objective.hvp(direct.weights, direct.weights), direct.hvp(direct.weights, direct.weights))


def test_another_model_with_trainable_weights_may_be_held(model):
    teacher = tanh_mlp().double()
    objective = Objective(
        model,
        lambda outputs, targets: F.mse_loss(outputs, targets),
        DATA,
        forward=lambda given, batch: (given(batch[0]), teacher(batch[0])),
    )
    assert top_eigenvalues(HessianOperator(objective)).converged.all()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0).double())

    def forward(self, outputs, y):
        return self.scale * F.cross_entropy(outputs, y)


def test_an_objective_does_not_follow_a_loss_that_changes_later(model):
    loss, weight = Scaled(), torch.tensor([1.0, 2.0, 3.0]).double()
    weighted = nn.CrossEntropyLoss(weight=weight)
    partial = functools.partial(F.cross_entropy, weight=weight)
    objectives = [Objective(model, each, DATA) for each in (loss, weighted, partial)]
    before = [(o.loss(o.weights).item(), o.manifest()) for o in objectives]
    loss.scale.fill_(9.0)
    weight.fill_(1.0)
    assert [(o.loss(o.weights).item(), o.manifest()) for o in objectives] == before


def test_a_model_that_cannot_be_copied_is_refused_with_a_sentence(model):
    model.kept = model(X)  # a graph
    with pytest.raises(TypeError, match=r"model cannot be copied \(Only Tensors created explicitly.*works on copies"):
        Objective(model, F.cross_entropy, DATA)


class Counting(nn.Linear):
    """Behaves in another way from its fortieth call on."""

    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + (self.calls > 40) * 0.5)


class Replacing(Counting):
    def forward(self, x):
        self.calls = self.calls + 1
        return nn.Linear.forward(self, x) * (1 + (self.calls > 40) * 0.5)


@pytest.mark.parametrize("kind", [Counting, Replacing])
def test_every_evaluation_starts_from_the_same_buffers(kind):
    objective = Objective(kind().double(), F.cross_entropy, DATA)
    w = objective.weights
    first = objective.loss(w), objective.gradient(w), objective.hvp(w, w)
    for _ in range(40):
        assert objective.loss(w) == first[0]
    assert torch.equal(objective.gradient(w), first[1])
    assert torch.equal(objective.hvp(w, w), first[2])
    assert objective.model.calls == 0


def test_the_buffers_of_a_loss_are_the_same_at_every_evaluation():
    class Remembering(Scaled):
        def forward(self, outputs, y):
            self.scale += 1
            return super().forward(outputs, y)

    objective = Objective(nn.Linear(3, 3).double(), Remembering(), DATA)
    assert len({objective.loss(objective.weights).item() for _ in range(3)}) == 1


def bucketed(target):
    return [(normal(n, length, 3), target(n, length)) for n, length in [(3, 4), (2, 7), (4, 5)]]


def tokens(n, length):
    return classes(n * length, 3).view(n, length)


def test_token_targets_of_several_lengths_are_refused_under_a_loss_that_does_not_say_what_it_divides_by():
    model, data = nn.Linear(3, 3).double(), bucketed(tokens)
    forward = lambda model, batch: (model(batch[0]).transpose(1, 2), batch[1])  # noqa: E731
    hidden = lambda outputs, y: F.cross_entropy(outputs, y)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"examples of different shapes \(\(4,\) and \(7,\)\).*Pass denominator=lambda"
    ):
        Objective(model, hidden, data, forward=forward)
    known = Objective(model, F.cross_entropy, data, forward=forward)
    said = Objective(model, hidden, data, forward=forward, denominator=lambda outputs, y: y.numel())
    assert known.loss(known.weights) == said.loss(said.weights)
    assert known.weight == 3 * 4 + 2 * 7 + 4 * 5
    rows = Objective(model, hidden, data, forward=forward, denominator=lambda outputs, y: len(y))
    assert rows.weight == 9
    assert m_sharpness(rows, GradientAscent(0.0), microbatch_size=1).value == 0


def test_outputs_of_several_lengths_without_targets_are_refused_too():
    data = bucketed(lambda n, length: torch.zeros(n))
    forward = lambda model, batch: (model(batch[0]), None)  # noqa: E731
    with pytest.raises(ValueError, match=r"examples of different shapes \(\(4, 3\) and \(7, 3\)\)"):
        Objective(nn.Linear(3, 3).double(), lambda z, _: (z**2).mean(), data, forward=forward)
