"""mSAM: sharpness-aware minimisation on micro-batches, around any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from landscape.arguments import integer, real
from landscape.batches import Batch, num_examples
from landscape.perturbations import Perturbation
from msam.averages import mean_of, not_shared
from msam.batchnorm import BatchNormPolicy, ShardStatistics
from msam.descents import AtPerturbation, Descent, descent_of
from msam.diagnostics import PerShard
from msam.dropout import DropoutPolicy, SameMasks
from msam.execution import Execution, OneByOne
from msam.holdings import alike, are_among, chosen_parameters, given, require_base, require_state_of, require_thawed
from msam.left import Left, clear
from msam.microbatches import sizes
from msam.processes import OneProcess, Processes
from msam.replay import buffers_kept_on_error
from msam.scaling import before_accumulating, scale_of, step_scaled, switched_on
from msam.step import Closure, Outcome, Step, require_closure


class mSAM(torch.optim.Optimizer):
    """Steps a base optimizer along gradients taken at perturbed weights, one perturbation per micro-batch.

    A batch S of b examples is split into micro-batches S_1 ... S_m (Behdin et al. 2022, arXiv 2212.04343)::

        g_i = ∇L_{S_i}(w)      ε_i = perturbation(w, g_i)      h_i = ∇L_{S_i}(w + ε_i)
        w ← base optimizer on Σ_i |S_i|/b · h_i

    One micro-batch is SAM (Foret et al. 2021); a perturbation of None, or of radius zero, is the base optimizer.
    ``param_groups`` and ``state`` are those of the base optimizer, so schedulers and checkpoints act on either.
    Weight decay, momentum and the like stay in the base optimizer and out of ε.

    Both passes of a micro-batch draw the same random numbers (dropout masks) unless told otherwise. Buffers of
    ``module`` change in the clean pass only, so that running batch-norm statistics are those of the unperturbed
    weights. Weights are put back from a copy, also after an error; buffers are then what they were before the step.

    Args:
        base_optimizer: any optimizer that steps without a closure; it holds the weights.
        perturbation: (weights, gradients) -> ε, such as ``GradientAscent(rho=0.05)``; or a :class:`Descent`, which
            looks at losses and gradients near w as it likes; or None.
        num_microbatches: m ≥ 1. It counts micro-batches; the m of Foret et al. counts the examples of one.
        module: the model, for its buffers and layers. Leave it out only when it has no buffers.
        perturbed: the parameters that are perturbed, over which norms are taken; all when left out.
        execution: how micro-batches are carried out, ``OneByOne()`` when left out; the same result within rounding.
        batch_norm: which statistics a micro-batch is normalised by, ``ShardStatistics()`` when left out: its own.
        dropout: what the second pass of a micro-batch draws, ``SameMasks()`` when left out: the numbers of the first.
        processes: those that share the work, such as ``Distributed()``; only this one when left out.
        scaler: of the loss, for float16 autocast. A step in which a gradient overflows, at w or at w + ε, is skipped,
            and the scaler is told; do not call its ``step`` and ``update`` yourself. Between :meth:`accumulate` and
            :meth:`step`, ``scaler.unscale_`` may be called on this optimizer, to clip or to log the gradient.
        max_grad_norm: the averaged gradient is shortened to this L2 norm where it is longer.
        seed: gives each micro-batch of each step a stream of random numbers of its own, which depends on neither the
            execution nor the number of processes; None to draw from torch's global state.
        observes: report on every micro-batch in ``per_shard``, after each step.

    Attributes:
        per_shard: the report on the last step, when ``observes``; the same on each process.
        steps: the number of steps taken, skipped ones included.
        skipped_steps: the number of those that were skipped.
        denominator: what the mean loss of the last step was divided by: examples, or the sum of what closures reported.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if ``num_microbatches`` is below one, the base optimizer needs a closure, or it holds weights that
            are not the module's.

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
        perturbation: Perturbation | Descent | None,
        *,
        num_microbatches: int = 1,
        module: nn.Module | None = None,
        perturbed: Iterable[Tensor] | None = None,
        execution: Execution | None = None,
        batch_norm: BatchNormPolicy | None = None,
        dropout: DropoutPolicy | None = None,
        processes: Processes | None = None,
        scaler: torch.amp.GradScaler | None = None,
        max_grad_norm: float | None = None,
        seed: int | None = None,
        observes: bool = False,
    ) -> None:
        self.descent = descent_of(perturbation)
        self.num_microbatches = integer(num_microbatches, "num_microbatches", least=1)
        if max_grad_norm is not None and not real(max_grad_norm, "max_grad_norm") > 0:
            raise ValueError(f"max_grad_norm must be positive; got {max_grad_norm}")
        require_base(base_optimizer, module, not_a=mSAM)
        self.base_optimizer = base_optimizer
        self.module = module
        self.perturbed = None if perturbed is None else chosen_parameters(perturbed, base_optimizer)
        self.execution = given(execution, "execution", Execution, default=OneByOne)
        self.batch_norm = given(batch_norm, "batch_norm", BatchNormPolicy, default=ShardStatistics)
        self.dropout = given(dropout, "dropout", DropoutPolicy, default=SameMasks)
        self.processes = given(processes, "processes", Processes, default=OneProcess)
        self.scaler = switched_on(scaler)
        self.max_grad_norm = max_grad_norm
        self.seed = None if seed is None else integer(seed, "seed")
        self.observes = observes
        self.per_shard: PerShard | None = None
        self.steps = self.skipped_steps = self._batches = 0
        self.denominator = 0.0
        self._waiting: Outcome | None = None
        self._left = Left([])
        self._own = ("_own", *self.__dict__)
        # Not Optimizer.__init__, which would make groups and a state of its own beside the base optimizer's.
        super().__setstate__({"defaults": base_optimizer.defaults})

    @property
    def perturbation(self) -> Perturbation | Descent | None:
        """What was given as the perturbation."""
        return self.descent.perturbation if isinstance(self.descent, AtPerturbation) else self.descent

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of the base optimizer."""
        return self.base_optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the base optimizer."""
        return self.base_optimizer.state

    def step(self, closure: Closure | Callable[[], Any] | None = None, batch: Batch = None) -> Tensor:  # type: ignore[override]
        """One step on a batch, and on those accumulated before it.

        Without a batch it is the base optimizer's step along what :meth:`accumulate` left in ``.grad``, for frameworks
        that clip or log the gradient and then call ``step()`` by themselves; a closure is then the base optimizer's.

        Args:
            closure: micro-batch -> mean loss over it, with its graph. It is called twice per micro-batch and must
                not call ``backward``. Where the mean is not over examples (tokens that are not ignored, class
                weights), it returns (mean loss, what it was divided by), and micro-batches are weighted by that.
            batch: see :func:`microbatches`. With several processes each is given the same batch, and carries out its
                share of the micro-batches.

        Returns:
            The mean loss over the batch at the weights before the step, a detached scalar tensor.

        Raises:
            TypeError: if the closure is no function.
            ValueError: if a batch has fewer examples than micro-batches, the loss is no scalar with a whole graph,
                or all weights are frozen. The weights are then what they were.
        """
        if batch is not None:
            self.accumulate(closure, batch)  # type: ignore[arg-type]
        dropped = batch is None and all(p.grad is None for p in self._parameters())  # as after zero_grad()
        if self._waiting is None or (dropped and any(slope is not None for slope in self._waiting.gradient)):
            raise ValueError("there is no gradient to step along; call step(closure, batch), or accumulate first")
        outcome, self._waiting = self._waiting, None
        self._step_base(outcome, closure if batch is None else None)
        self.steps += 1
        self.denominator = outcome.denominator
        if self.descent is not None and outcome.clean is not None and bool(outcome.finite):
            self.descent.learn(outcome.clean, perturbed=self._perturbed(self._left.weights))
        return outcome.loss

    def accumulate(self, closure: Closure, batch: Batch) -> Tensor:
        """Take in one more batch, split into ``num_microbatches`` of its own, for the next step.

        Accumulated batches are so many more micro-batches of one step, weighted by their denominators. Their mean
        gradient, times the scale of the scaler, is left in ``.grad`` as ``backward`` would leave it. When all ``.grad``
        are None or have been set to zero, as by ``zero_grad()``, what was accumulated before is dropped.

        Args:
            closure: as for :meth:`step`.
            batch: as for :meth:`step`.

        Returns:
            The mean loss over this batch, a detached scalar tensor.

        Raises:
            ValueError: as :meth:`step`.
        """
        parameters = require_thawed(self._parameters())
        require_closure(closure)
        parts = sizes(num_examples(batch), self.num_microbatches)
        step = Step(
            closure=closure,
            batch=batch,
            sizes=parts,
            own=self.processes.block(len(parts)),
            parameters=parameters,
            perturbed=self._perturbed(parameters),
            descent=self.descent,
            module=self.module,
            number=self._batches,
            seed=self.seed,
            scale=scale_of(self.scaler, parameters[0].device),
            observes=self.observes,
            dropout=self.dropout,
            of_optimizer=alike(self.base_optimizer, steps=self.steps),
        )
        self.processes.agree(step)
        started = self._waiting is not None and not self._left.is_dropped
        before_accumulating(self.scaler, [self, self.base_optimizer], started=started)
        if not started:
            self._waiting = None
            clear(self)  # the memory is wanted, and what is frozen now keeps no old gradient to move along
        elif not self._left.is_of(parameters):
            raise ValueError("weights were frozen, thawed or added between two accumulated batches; step before that")
        with buffers_kept_on_error(self.module), self.batch_norm.during(step):
            outcome = self.processes.outcome(step, self.execution)
            if outcome.denominator == 0:
                raise ValueError("a denominator of zero for every micro-batch, as where all targets are ignored")
            if any(slope is None for slope in outcome.gradient):  # they may have been replaced in the module
                require_base(self.base_optimizer, self.module, not_a=mSAM)
        self._batches += 1
        self._waiting = outcome if self._waiting is None else mean_of([self._waiting, outcome])
        observer = self._waiting.observer
        self.per_shard = None if observer is None else observer.report
        for parameter, slope in zip(parameters, not_shared(self._waiting.gradient), strict=True):
            parameter.grad = slope
        self._left = Left(parameters)
        return outcome.loss

    def state_dict(self) -> dict[str, Any]:
        """The state of the base optimizer, and under ``"msam"`` what else the next steps depend on, if anything.

        That is what the perturbation has learnt, and the counts that random numbers go by. The state of the scaler is
        its own, as in any loop.
        """
        plain = self.descent is None or not (self.descent.learns or self.descent.draws)
        if plain and self.seed is None and self.scaler is None:
            return self.base_optimizer.state_dict()
        counted = {"steps": self.steps, "skipped_steps": self.skipped_steps, "batches": self._batches}
        learnt = {} if self.descent is None else self.descent.state_dict()
        return self.base_optimizer.state_dict() | {"msam": {"counted": counted, "learnt": learnt}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, or the state of a base optimizer alone.

        Raises:
            ValueError: if it is that of another optimizer or of other weights; nothing is then changed.
        """
        require_state_of(self.base_optimizer, state_dict)
        base = {key: value for key, value in state_dict.items() if key != "msam"}
        own: Mapping[str, Any] = state_dict.get("msam", {})
        if self.descent is not None:
            self.descent.load_state_dict(own.get("learnt", {}))
        counted = own.get("counted", {})
        self.base_optimizer.load_state_dict(base)
        self.steps, self.skipped_steps = counted.get("steps", 0), counted.get("skipped_steps", 0)
        self._batches = counted.get("batches", 0)
        self._waiting = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; where ``perturbed`` was given it is stepped and not perturbed.

        Raises:
            ValueError: if its weights are not the module's, or such as no base optimizer may hold; it is not added.
        """
        self.base_optimizer.add_param_group(param_group)
        try:
            require_base(self.base_optimizer, self.module, not_a=mSAM)
        except ValueError:
            self.param_groups.pop()
            raise

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _perturbed(self, parameters: list[Tensor]) -> list[bool]:
        return are_among(parameters, self.perturbed)

    def _step_base(self, outcome: Outcome, closure: Any) -> None:
        """Clip and step, or skip the step where a gradient overflowed and lower the scale."""
        if self.scaler is None or all(p.grad is None for p in self._parameters()):  # where it has nothing to look at
            self._clip()
            self.base_optimizer.step(closure)
            return
        finite = bool(outcome.finite)
        self.skipped_steps += not finite
        step_scaled(self.scaler, self.base_optimizer, wrapper=self, finite=finite, clip=self._clip)

    def _clip(self) -> None:
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters(), self.max_grad_norm)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in (*self._own, "defaults")}

    def __repr__(self) -> str:
        return f"mSAM({self.base_optimizer!r}, {self.descent!r}, num_microbatches={self.num_microbatches})"
