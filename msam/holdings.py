"""What an optimizer is given and holds: which weights, and a state that is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from landscape.checks import require_numbers

OF_SOME = {  # settings that some of torch's optimizers have and others have not
    *("momentum", "dampening", "nesterov"),
    *("betas", "eps", "amsgrad", "decoupled_weight_decay", "momentum_decay", "lr_decay", "initial_accumulator_value"),
    *("alpha", "centered", "rho", "lambd", "t0", "etas", "step_sizes", "ns_coefficients", "ns_steps"),
}
Kind = TypeVar("Kind")
_SHARDED = ("FSDP", "FullyShardedDataParallel")  # classes that torch makes as it goes, or that take long to import
ALIKE = {torch.optim.Adamax: "exp_inf", torch.optim.RAdam: "exp_avg_sq"}  # told apart by what they keep of a weight
LIKE_THE_WEIGHTS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg")


def given(value: Kind | None, name: str, kind: type[Any], *, default: Callable[[], Kind]) -> Kind:
    """The value of an argument, or the default where it is left out.

    Raises:
        TypeError: if it is of another kind.
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be of the kind {kind.__name__}, an object, or None; got {value!r}")
    return default() if value is None else value


def require_state_of(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Torch loads the state of one optimizer into another without a word; this does not.

    Raises:
        ValueError: if the state dict is that of another optimizer, or of weights of other numbers or shapes.
    """
    name = type(optimizer).__name__
    whole = state_dict if isinstance(state_dict, Mapping) else {}
    groups, state = whole.get("param_groups"), whole.get("state")
    if not isinstance(groups, list) or not isinstance(state, Mapping):
        raise ValueError("this is not the state dict of an optimizer: it lacks param_groups or state")
    own = whole.get("msam", {})
    parts: list[Any] = [own.get("learnt", {}), own.get("counted", {})] if isinstance(own, Mapping) else [None]
    if not all(isinstance(part, Mapping) for part in parts) or any(type(n) is not int for n in parts[1].values()):
        raise ValueError(f"the state dict is damaged: what mSAM has counted and learnt is {own!r}"[:200])
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        held = [len(group["params"]) for group in optimizer.param_groups]
        raise ValueError(
            f"the state dict is of groups of {[len(group['params']) for group in groups]} parameters, "
            f"and this {name} has groups of {held}; build it as it was when the state was saved"
        )
    saved = {key for group in groups for key in group}
    lacking, foreign = set(optimizer.defaults) - saved, (saved - set(optimizer.defaults)) & OF_SOME
    decays = [{group.get("decoupled_weight_decay") for group in each} for each in (groups, optimizer.param_groups)]
    if lacking & (OF_SOME - {"decoupled_weight_decay"}) or len(lacking) >= len(optimizer.defaults) / 4:
        why = f"it lacks {', '.join(sorted(lacking))}"  # an option more is no matter: a newer torch may know it
    elif foreign:
        why = f"it has {', '.join(sorted(foreign))}"
    elif {True, False} <= decays[0] | decays[1] and decays[0] != decays[1]:
        why = "one of Adam and AdamW decays weights through the gradient, and the other beside it"
    else:
        kept = [key for kind, key in ALIKE.items() if isinstance(optimizer, kind)]
        why = "".join(
            f"it keeps no {key}" for key in kept if any(key not in entry for entry in state.values() if entry)
        )
    if why:
        raise ValueError(f"the state dict is of another optimizer than this {name}: {why}")
    indices = [index for group in groups for index in group["params"]]
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for index, weight in zip(indices, weights, strict=True):
        for key, value in state.get(index, {}).items():
            if key in LIKE_THE_WEIGHTS and isinstance(value, Tensor) and value.shape != weight.shape:
                raise ValueError(
                    f"the state dict is of other weights: {key} has shape {tuple(value.shape)}, "
                    f"the weights {tuple(weight.shape)}"
                )


def chosen_parameters(perturbed: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> tuple[Tensor, ...]:
    """The parameters that are to be perturbed, each once; not by their identities, which a copy would not share.

    Raises:
        TypeError: if they are something else.
        ValueError: if there are none, or the optimizer does not hold them all.
    """
    if isinstance(perturbed, Tensor | str) or not isinstance(perturbed, Iterable):
        raise TypeError(f"perturbed must be a list of parameters, such as norm_layers(model); got {perturbed!r}"[:200])
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    chosen = {id(parameter): parameter for parameter in perturbed}
    if not chosen:
        raise ValueError("perturbed has no parameters in it; leave it out to perturb all, or give no perturbation")
    foreign = chosen.keys() - own
    if foreign:
        raise ValueError(f"{len(foreign)} of the parameters in perturbed are not held by the base optimizer")
    return tuple(chosen.values())


def are_among(parameters: Iterable[Tensor], chosen: Iterable[Tensor] | None) -> list[bool]:
    """Which of the parameters are those chosen; all of them where that is None."""
    keys = None if chosen is None else {*map(id, chosen)}
    return [keys is None or id(p) in keys for p in parameters]


def alike(optimizer: torch.optim.Optimizer, *, steps: int) -> dict[str, float]:
    """What the optimizers of processes that share steps must have alike, numbers by what they are."""
    return {
        "learning rates": float(sum(float(group.get("lr", 0.0)) for group in optimizer.param_groups)),
        "numbers of steps taken": float(steps),
        "numbers of weights of which the optimizer has a state": float(len(optimizer.state)),
    }


def require_thawed(parameters: list[Tensor]) -> list[Tensor]:
    """The parameters that are trained; there must be some.

    Raises:
        ValueError: if nothing is.
    """
    if not parameters:
        raise ValueError("all parameters of the optimizer are frozen; set requires_grad on those to be trained")
    return parameters


def require_base(optimizer: torch.optim.Optimizer, module: nn.Module | None, *, not_a: type) -> None:
    """A base optimizer must step without a closure, hold weights, and where there is a module, none but its.

    Raises:
        TypeError: if it is no optimizer, or the module no module.
        ValueError: if it evaluates a closure of its own, is ``not_a``, or its weights are none, or others,
            or have sparse gradients, or no numbers.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"base_optimizer must be a torch optimizer; got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS | not_a):
        name = type(optimizer).__name__
        raise ValueError(f"{name} evaluates its own closure and cannot be wrapped; use SGD, AdamW or the like")
    if module is not None and not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module or None; got {type(module).__name__}")
    for part in [] if module is None else module.modules():
        kind = type(part).__name__
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel) or kind.startswith(_SHARDED):
            raise ValueError(
                f"mSAM and {kind} would each share out the work in their own way; call the plain model in the closure, "
                "give it as module, and let mSAM share micro-batches by processes=Distributed()"
            )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not held:
        raise ValueError("the base optimizer holds no parameters; build it from module.parameters()")
    require_numbers((f"the parameter {number} of the base optimizer", p) for number, p in enumerate(held))
    thin = (
        []
        if module is None
        else [key for key, part in module.named_modules() if getattr(part, "sparse", False) is True]
    )
    if thin:
        raise ValueError(
            f"{thin[0] or 'the module'} has sparse gradients, of which no norm and no mean is taken here; "
            "build it with sparse=False"
        )
    own = set() if module is None else {id(p) for p in module.parameters()}
    foreign = sum(id(p) not in own for p in held)
    if module is not None and foreign:
        raise ValueError(
            f"{foreign} of the {len(held)} parameters that the base optimizer holds are not parameters of module; "
            "build it from module.parameters() after the module has its final parameters, "
            "or pass an nn.ModuleList of all modules that are trained"
        )
