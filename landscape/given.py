"""An objective, where one is asked for."""

from __future__ import annotations

from torch import nn

from landscape.objective import Objective


def require_objective(value: object, name: str = "objective") -> None:
    """What is measured around its weights must be an objective.

    Raises:
        TypeError: if it is something else, with the way to one.
    """
    if isinstance(value, Objective):
        return
    advice = "Make one of the model, its loss and data: Objective(model, loss, data)."
    if isinstance(getattr(value, "objective", None), Objective):
        advice = "Pass the one that it was made of, .objective."
    elif not isinstance(value, nn.Module):
        advice = "Pass Objective(model, loss, data)."
    raise TypeError(f"{name} must be an Objective; got {type(value).__name__}. {advice}")
