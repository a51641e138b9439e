"""A step along gradients that are times the scale of a scaler: taken, or skipped where they overflowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer


def switched_on(scaler: GradScaler | None) -> GradScaler | None:
    """A scaler that scales; one that is switched off is none.

    Raises:
        TypeError: if it is something else.
    """
    if scaler is not None and not isinstance(scaler, GradScaler):
        raise TypeError(f"scaler must be a torch.amp.GradScaler or None; got {scaler!r}")
    return scaler if scaler is not None and scaler.is_enabled() else None


def scale_of(scaler: GradScaler | None, device: torch.device) -> float | None:
    """What a scaler multiplies losses by, a power of two as a rule; None where there is none."""
    if scaler is None:
        return None
    return float(scaler.scale(torch.ones((), device=device)))  # its own tensors are made at first use


def step_scaled(
    scaler: GradScaler, base: Optimizer, *, wrapper: Optimizer, finite: bool, clip: Callable[[], None]
) -> None:
    """Unscale, clip and step; or skip the step, and lower the scale.

    The loop may have unscaled the gradients itself, as loops do that clip or log them: ``scaler.unscale_(optimizer)``.

    Args:
        scaler: knows what has been unscaled, by the identity of the optimizer.
        base: the optimizer that steps.
        wrapper: the one around it, of the same gradients, which a loop knows it by.
        finite: whether all gradients were, those at w included, which the scaler does not see.
        clip: shortens the gradients once they are unscaled.
    """
    if scaler._found_inf_per_device(wrapper):
        scaler._per_optimizer_states[id(base)] = scaler._per_optimizer_states.pop(id(wrapper))
    if not scaler._found_inf_per_device(base):
        scaler.unscale_(base)
    if not finite:
        for found in scaler._found_inf_per_device(base).values():
            found.fill_(1.0)
    clip()
    scaler.step(base)
    scaler.update()


def before_accumulating(scaler: GradScaler | None, optimizers: Sequence[Optimizer], *, started: bool) -> None:
    """Forget what the loop has unscaled and dropped since.

    Args:
        scaler: None has nothing to forget.
        optimizers: those that a loop knows the gradients by.
        started: whether there is a gradient that is to be added to.

    Raises:
        ValueError: if that has been unscaled.
    """
    states = {} if scaler is None else scaler._per_optimizer_states
    unscaled = [states.pop(id(one)) for one in optimizers if states.get(id(one), {}).get("found_inf_per_device")]
    if unscaled and started:
        raise ValueError(
            "the gradient was unscaled before the last batch was accumulated, whose gradient is not; call "
            "scaler.unscale_ after the last one, or zero_grad() to begin anew"
        )
