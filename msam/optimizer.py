"""mSAM: sharpness-aware minimisation on micro-batches, around any torch optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from landscape.arguments import integer
from landscape.batches import Batch, num_examples
from landscape.perturbations import Perturbation
from msam.execution import Closure, Execution, OneByOne, Step
from msam.microbatches import sizes


class mSAM(torch.optim.Optimizer):
    """Steps a base optimizer along gradients taken at perturbed weights, one perturbation per micro-batch.

    A batch S of b examples is split into micro-batches S_1 ... S_m (Behdin et al. 2022, arXiv 2212.04343)::

        g_i = ∇L_{S_i}(w)      ε_i = perturbation(w, g_i)      h_i = ∇L_{S_i}(w + ε_i)
        w ← base optimizer on Σ_i |S_i|/b · h_i

    One micro-batch is SAM (Foret et al. 2021); a perturbation of None, or of radius zero, is the base optimizer.
    ``param_groups`` and ``state`` are those of the base optimizer, so schedulers and checkpoints act on either.
    Weight decay, momentum and the like stay in the base optimizer and out of ε.

    Both passes of a micro-batch draw the same random numbers (dropout masks). Buffers of ``module`` change in the
    clean pass only, so that running batch-norm statistics are those of the unperturbed weights; each micro-batch is
    normalised by its own statistics. Weights are put back from a copy, also after an error.

    Args:
        base_optimizer: any optimizer that steps without a closure; it holds the weights.
        perturbation: (weights, gradients) -> ε, such as ``GradientAscent(rho=0.05)``, or None.
        num_microbatches: m ≥ 1. It counts micro-batches; the m of Foret et al. counts the examples of one.
        module: the model, for its buffers. Leave it out only when it has none.
        execution: how micro-batches are carried out, ``OneByOne()`` when left out; the same result within rounding.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if ``num_microbatches`` is below one, or the base optimizer needs a closure.

    >>> from landscape.perturbations import GradientAscent
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = mSAM(torch.optim.SGD([w], lr=0.5), GradientAscent(rho=1.0), num_microbatches=2)
    >>> loss = optimizer.step(lambda x: (w * x).square().mean() / 2, torch.tensor([1.0, 1.0]))
    >>> loss.item(), w.item()  # the gradient of w²/2 at w + 1 is 2
    (0.5, 0.0)
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        perturbation: Perturbation | None,
        *,
        num_microbatches: int = 1,
        module: nn.Module | None = None,
        execution: Execution | None = None,
    ) -> None:
        if not isinstance(base_optimizer, torch.optim.Optimizer):
            raise TypeError(f"base_optimizer must be a torch optimizer; got {type(base_optimizer).__name__}")
        if isinstance(base_optimizer, torch.optim.LBFGS | mSAM):
            name = type(base_optimizer).__name__
            raise ValueError(f"{name} evaluates its own closure and cannot be wrapped; use SGD, AdamW or the like")
        if perturbation is not None and not isinstance(perturbation, Perturbation):
            raise TypeError(f"perturbation must be a Perturbation or None; got {type(perturbation).__name__}")
        num_microbatches = integer(num_microbatches, "num_microbatches")
        if num_microbatches < 1:
            raise ValueError(f"num_microbatches must be at least 1; got {num_microbatches}")
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module or None; got {type(module).__name__}")
        self.base_optimizer = base_optimizer
        self.perturbation = perturbation
        self.num_microbatches = num_microbatches
        self.module = module
        self.execution = OneByOne() if execution is None else execution
        # Not Optimizer.__init__, which would make groups and a state of its own beside the base optimizer's.
        super().__setstate__({"defaults": base_optimizer.defaults})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of the base optimizer."""
        return self.base_optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the base optimizer."""
        return self.base_optimizer.state

    def step(self, closure: Closure, batch: Batch) -> Tensor:  # type: ignore[override]
        """One step on a batch.

        Args:
            closure: micro-batch -> mean loss over it, with its graph. It is called twice per micro-batch and must
                not call ``backward``. Where the mean is not over examples (tokens that are not ignored, class
                weights), it returns (mean loss, what it was divided by), and micro-batches are weighted by that.
            batch: a tensor, or tuples, lists and mappings of tensors that share their first dimension.

        Returns:
            The mean loss over the batch at the weights before the step, a detached scalar tensor.

        Raises:
            ValueError: if the batch has fewer examples than micro-batches, or the closure does not return a scalar
                with a graph, or all weights are frozen. The weights are then what they were.
        """
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if not parameters:
            raise ValueError("all parameters of the optimizer are frozen; set requires_grad on those to be trained")
        parts = sizes(num_examples(batch), self.num_microbatches)
        loss, gradient = self.execution.gradients(
            Step(closure, batch, parts, parameters, self.perturbation, self.module)
        )
        self.zero_grad()  # a weight frozen since the last step keeps no old gradient to move along
        for parameter, slope in zip(parameters, gradient, strict=True):
            parameter.grad = slope
        self.base_optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of the base optimizer, which is all there is."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the base optimizer."""
        self.base_optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer."""
        self.base_optimizer.add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        names = ("base_optimizer", "perturbation", "num_microbatches", "module", "execution", "defaults")
        return {name: self.__dict__[name] for name in names}

    def __repr__(self) -> str:
        return f"mSAM({self.base_optimizer!r}, {self.perturbation!r}, num_microbatches={self.num_microbatches})"
