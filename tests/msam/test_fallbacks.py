"""Models that cannot be taken with all micro-batches at once are taken one after another, and one warning says why."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from networks import B, closure_of, images, net
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from landscape import GradientAscent
from landscape.perturbations import Perturbation
from msam import CentralizedDescent, TraceDescent, mSAM
from msam.execution import OneByOne
from msam.layerwise import Layerwise
from msam.vectorised import Vectorised


def optimizer_of(model, number, execution, *, rho=0.1, seed=None):
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.2, momentum=0.9)
    return mSAM(sgd, GradientAscent(rho=rho), num_microbatches=number, module=model, execution=execution, seed=seed)


class UsedOutside(nn.Module):
    """A weight that also acts outside its layer, which no rule sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x) + x @ self.layer.weight.T


class WithUnused(nn.Sequential):
    """A layer that is never called."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 3))
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self[0](x)


class Scaled(nn.Linear):
    """A layer derived from one of torch's."""

    def forward(self, x):
        return 2 * super().forward(x)


class Checkpointed(nn.Sequential):
    """Layers that are called again in the backward pass."""

    def forward(self, x):
        return self[2](checkpoint(lambda y: self[1](self[0](y)).tanh(), x, use_reentrant=False))


class Raw(nn.Module):
    """A weight of its own that is no row of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        return x @ self.weight


class Turned(nn.Module):
    """Examples in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)

    def forward(self, x):
        return self.layer(x.T[..., None]).mean(0)


class Attending(nn.Module):
    """Attention to something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(5, 1)

    def forward(self, x):
        return self.layer(x[:, None], 2 * x[:, None], x[:, None])[0][:, 0, :3]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), "batch norm in training mode"),
        (lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.LSTM(5, 3)), "1 is a LSTM, for which there is no rule"),
        (lambda: nn.Sequential(Scaled(5, 3)), "0 is a Scaled, for which there is no rule"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))), "a weight of 0 is computed"),
        (UsedOutside, "its gradient was off by"),
        (WithUnused, "spare is not called"),
        (lambda: Checkpointed(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)), "CheckpointError"),
        (Raw, "the model or the closure fails with RuntimeError"),
        (Turned, r"the input of layer, \(5, 11, 1\), has no row for each example"),
        (Attending, "layer is no self-attention"),
        (lambda: nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.Linear(5, 3)), "draws random numbers, and with a"),
    ],
)
def test_a_model_that_cannot_be_taken_falls_back_with_one_warning_that_says_why(build, reason):
    torch.manual_seed(2)
    model = build().double()
    other = copy.deepcopy(model)
    closure = lambda m: lambda b: functional.cross_entropy(_first(m(b[0])), b[1])  # noqa: E731
    ours = optimizer_of(model, 3, Layerwise(), seed=7)
    theirs = optimizer_of(other, 3, OneByOne(), seed=7)
    batch = (images(5), torch.zeros(B, dtype=torch.long))
    with pytest.warns(UserWarning, match=reason):
        ours.step(closure(model), batch)
    theirs.step(closure(other), batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no second warning
        ours.step(closure(model), batch)
    theirs.step(closure(other), batch)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert not any("forward" in layer.__dict__ for layer in model.modules())
    assert all(torch.equal(p, q) for p, q in zip(model.buffers(), other.buffers(), strict=True))


def _first(output):
    return output[0][:, 0] if isinstance(output, tuple) else output


def test_a_loss_that_is_no_plain_mean_is_found_out_on_the_first_step():
    model, (inputs, targets) = net("mlp")
    weight = torch.tensor([1.0, 5.0, 0.2]).double()
    optimizer = optimizer_of(model, 3, Layerwise())
    with pytest.warns(UserWarning, match="the loss is perhaps no plain mean over examples"):
        optimizer.step(lambda b: functional.cross_entropy(model(b[0]), b[1], weight=weight), (inputs, targets))


class Downhill(Perturbation):
    """Not an ascent."""

    def ascent(self, weights, gradients):
        return [-slope for slope in gradients]

    def settings(self):
        return {"perturbation": "Downhill"}


def test_other_perturbations_and_a_missing_module_fall_back():
    model, batch = net("mlp")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for other in (Downhill(), CentralizedDescent(GradientAscent(rho=0.5)), TraceDescent(rho=0.5)):
        with pytest.warns(UserWarning, match=re.escape(f"{other!r} is neither GradientAscent nor AdaptiveAscent")):
            mSAM(sgd, other, module=model, execution=Layerwise()).step(closure_of(model), batch)
    with pytest.warns(UserWarning, match="mSAM was not given the module"):
        mSAM(sgd, GradientAscent(rho=0.5), execution=Layerwise()).step(closure_of(model), batch)


@pytest.mark.parametrize("execution", [Layerwise, Vectorised])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_taken_one_by_one_and_says_so(backend, execution):
    model, batch = net("patches")
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend)
    ours, theirs = optimizer_of(compiled, 3, execution()), optimizer_of(other, 3, OneByOne())
    with pytest.warns(UserWarning, match="the model is compiled; its layers cannot be taken apart"):
        ours.step(closure_of(compiled), batch)
    theirs.step(closure_of(other), batch)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12)


@pytest.mark.parametrize("execution", [Layerwise, Vectorised])
def test_a_closure_around_compiled_code_is_never_wrong(execution):
    model, batch = net("mlp")
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager")
    compiled(batch[0])
    ours, theirs = optimizer_of(model, 3, execution()), optimizer_of(other, 3, OneByOne())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, which sees the code change
        for _ in range(3):
            ours.step(closure_of(compiled), batch)
            theirs.step(closure_of(other), batch)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12)


class Coupled(nn.Module):
    """Couples the examples of a batch in training, and is no batch norm."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0) + 0.1) if self.training else x


@pytest.mark.parametrize("seed", [None, 3])
def test_examples_that_are_coupled_in_training_alone_are_found(seed):
    model = nn.Sequential(nn.Linear(4, 5), Coupled(), nn.Tanh(), nn.Linear(5, 3)).double()
    batch = (torch.randn(12, 4).double(), torch.randint(0, 3, (12,)))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    execution = Layerwise()
    optimizer = mSAM(sgd, GradientAscent(rho=0.1), num_microbatches=3, module=model, execution=execution, seed=seed)
    with pytest.warns(UserWarning, match="not computed layer by layer"):
        optimizer.step(closure_of(model), batch)
    assert "its gradient was off" in execution.reason
