from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import ZOO, N, classes, normal, problem, ragged, tanh_mlp
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations, parametrize

from landscape import GGNOperator, HessianOperator, Objective, pyhessian_eigenvalues, top_eigenvalues, trace

X, Y = normal(N, 3), classes(N, 3)


def objective_of(model, x=X, loss=F.cross_entropy):
    return Objective(model.double(), loss, ragged(x, Y))


def between_layers(function):
    class Between(nn.Module):
        def forward(self, x):
            return function(x)

    return nn.Sequential(nn.Linear(3, 4), Between(), nn.Linear(4, 3))


class Square(Function):
    """x² with a backward pass that torch cannot differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope


class Reversed(Function):
    """The identity, with the gradient of its negative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return -slope


class WrongTwice(Function):
    """tanh, whose second derivative has the wrong sign."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        once = 1 - torch.tanh(x) ** 2
        return slope * (2 * once.detach() - once)


def normed(**options):
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4), **options), nn.Tanh(), nn.Linear(4, 3))


def on_its_own_outputs():
    """A network that ends in a function that is differentiable once, where no gradient flows into its backward."""

    def forward(model, batch):
        return Square.apply(model(batch[0])), batch[1]

    return Objective(tanh_mlp().double(), lambda z, _: z.sum() / len(z), ragged(X, Y), forward=forward)


@pytest.mark.parametrize("name", [None, 0, 1])
def test_the_weight_norm_of_torch_is_refused_and_folded_weights_are_not(name):
    model = normed() if name is None else normed(dim=name)
    objective = objective_of(model)
    sentence = (
        r"the Hessian of this model cannot be trusted: they (are not symmetric|differ by).*remove_parametrizations"
    )
    for measure in (
        lambda: top_eigenvalues(HessianOperator(objective)),
        lambda: trace(HessianOperator(objective), 2),
        lambda: objective.hvp(objective.weights, objective.weights),
        lambda: next(objective.shards(4)).hvp(objective.weights, objective.weights),
        lambda: pyhessian_eigenvalues(objective),
    ):
        with pytest.raises(ValueError, match=sentence):
            measure()
    parametrize.remove_parametrizations(model[0], "weight")
    assert top_eigenvalues(HessianOperator(objective_of(model))).converged.all()


def test_the_gauss_newton_matrix_of_a_weight_norm_is_right_and_not_refused():
    objective = objective_of(normed())
    model, w = objective.model, objective.weights

    def outputs(w):
        named = objective.space.unflatten(w)
        g, v = (named[f"0.parametrizations.weight.original{i}"] for i in (0, 1))
        hidden = torch.tanh(X @ (g * v / v.norm(dim=1, keepdim=True)).T + named["0.bias"])
        return hidden @ named["2.weight"].T + named["2.bias"]

    heads = outputs(w)
    assert torch.allclose(heads, model(X))
    J = torch.autograd.functional.jacobian(outputs, w).reshape(heads.numel(), -1)
    inner = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z.view_as(heads), Y), heads.flatten())
    product = GGNOperator(objective).apply(torch.eye(len(w)).double())
    assert torch.allclose(product, J.T @ inner @ J, rtol=1e-10, atol=1e-13)


WRONG = {
    "differentiable once": lambda: objective_of(between_layers(Square.apply)),
    "differentiable once, at the end": on_its_own_outputs,
    "a gradient of another sign": lambda: objective_of(between_layers(Reversed.apply)),
    "a wrong second derivative": lambda: objective_of(between_layers(WrongTwice.apply)),
    "detached": lambda: objective_of(between_layers(lambda x: x * torch.tanh(x.detach()))),
    "straight through": lambda: objective_of(between_layers(lambda x: x**2 + (x.round() - x).detach() * x)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("single", [False, True], ids=["double precision", "single precision"])
def test_a_product_that_is_no_derivative_of_the_gradient_is_refused(wrong, single):
    objective = wrong()
    if single:
        definition = objective._definition
        model = objective.model.float().requires_grad_()
        data = ragged(X.float(), Y)
        objective = Objective(model, definition.loss, data, forward=definition.seam.read)
    with pytest.raises(ValueError, match=r"with the Hessian of this model cannot be trusted.*Measure without it"):
        objective.hvp(objective.weights, objective.weights)


class Loss(Function):
    """The mean of squares, half of whose curvature is left out."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return (z**2).mean()

    @staticmethod
    def backward(ctx, slope):
        (z,) = ctx.saved_tensors
        return slope * (z.detach() + z) / z.numel()


def test_a_gauss_newton_product_that_is_wrong_is_refused():
    objective = objective_of(tanh_mlp(), loss=lambda z, _: Loss.apply(z))
    with pytest.raises(ValueError, match="with the Gauss-Newton matrix of this model cannot be trusted: they differ"):
        objective.ggn_product(objective.weights, objective.weights)


KINKED = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "hard": nn.Hardswish,
    "shrink": lambda: nn.Softshrink(0.1),
    "squared": lambda: nn.Threshold(0.0, 0.0),
}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("blank", [False, True], ids=["dense", "blank inputs and zero biases"])
@pytest.mark.parametrize("activation", KINKED.values(), ids=KINKED.keys())
def test_networks_with_kinks_are_never_refused(activation, blank, kind):
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Linear(3, 200), activation(), nn.Linear(200, 200), activation(), nn.Linear(200, 3)]
        model = nn.Sequential(*layers).to(kind)
        x = X.to(kind).clone()
        if blank:
            x[::2] = 0
            for layer in layers[::2]:
                nn.init.zeros_(layer.bias)
        objective = Objective(model, F.cross_entropy, ragged(x, Y))
        for product in (objective.hvp, objective.ggn_product):
            assert product(objective.weights, objective.weights).isfinite().all()


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("zero", [False, True])
def test_the_zoo_is_never_refused_nor_are_weights_that_are_zero(name, zero):
    given = copy.deepcopy(problem(name))
    if zero:
        for p in given.model.parameters():
            nn.init.zeros_(p)
    objective = given.objective()
    for product in (objective.hvp, objective.ggn_product):
        assert product(objective.weights, torch.ones_like(objective.weights)).isfinite().all()


def test_models_that_compute_in_single_precision_inside_are_not_refused_and_asymmetry_is_still_found():
    class Inside(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.first, self.last, self.function = nn.Linear(3, 50), nn.Linear(50, 3), function

        def forward(self, x):
            return self.last(self.function(self.first(x).float()).to(x.dtype))

    class Only(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.float())  # fails in double precision

    right = (Inside(torch.relu), Inside(torch.tanh), Only(nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 3))))
    for model in right:
        objective = Objective(model.float(), F.cross_entropy, ragged(X.float(), Y))
        assert objective.hvp(objective.weights, objective.weights).isfinite().all()
    model = between_layers(Square.apply)
    nn.init.zeros_(model[0].bias)  # a block without a size of its own
    wrong = Objective(Only(model).float(), F.cross_entropy, ragged(X.float(), Y))
    with pytest.raises(ValueError, match="are not symmetric"):
        wrong.hvp(wrong.weights, wrong.weights)


def test_steps_that_are_lost_in_rounding_inside_the_model_are_no_evidence():
    class Rounded(Function):  # the identity to three digits, which no small step moves
        @staticmethod
        def forward(ctx, x):
            return x.bfloat16().to(x.dtype)

        @staticmethod
        def backward(ctx, slope):
            return slope

    class Rounding(nn.Linear):
        def forward(self, x):
            return F.linear(x, Rounded.apply(self.weight), Rounded.apply(self.bias)) ** 2

    objective = objective_of(Rounding(3, 3))
    assert objective.hvp(objective.weights, objective.weights).any()


def test_class_weights_are_taken_to_double_precision():
    seen = []
    weight = torch.tensor([1.0, 2.0, 0.5])

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(x.dtype)
            return super().forward(x)

    for loss in (nn.CrossEntropyLoss(weight=weight), functools.partial(F.cross_entropy, weight=weight)):
        objective = Objective(Watched(3, 3), loss, ragged(X.float(), Y))
        seen.clear()
        objective.hvp(objective.weights, objective.weights)
        assert seen.count(torch.float64) >= 5  # a product, and four gradients or the loss: it went through


def test_it_is_checked_once_on_a_few_examples_for_all_operators_and_parts_of_an_objective():
    class Counted(nn.Linear):
        seen: list[int] = []  # noqa: RUF012

        def forward(self, x):
            self.seen.append(len(x))
            return super().forward(x)

    x, y = normal(400, 3), classes(400, 3)
    objective = Objective(Counted(3, 3).double(), F.cross_entropy, ragged(x, y, (100, 150, 90, 60)))
    Counted.seen.clear()
    HessianOperator(objective).apply(objective.weights)
    assert sum(Counted.seen) <= 400 + 8 * 8 + 2 * (2 + 8)  # the data, the certificate, and how large graphs are
    Counted.seen.clear()
    HessianOperator(objective).apply(objective.weights)
    next(objective.shards(100)).hvp(objective.weights, objective.weights)
    assert sum(Counted.seen) == 400 + 100


def test_a_first_batch_without_anything_to_count_is_passed_over():
    y = Y.clone()
    y[:5] = -100
    objective = Objective(normed().double(), F.cross_entropy, ragged(X, y))
    with pytest.raises(ValueError, match="cannot be trusted"):
        objective.hvp(objective.weights, objective.weights)
