"""Choices of a model's parameters: those that are perturbed, ``mSAM(perturbed=...)``, and those that are trained."""

from __future__ import annotations

import difflib
import fnmatch
import re

from torch import nn

_NORMALISES = re.compile(r"(batch|layer|group|instance|rms)_?norm", re.IGNORECASE)


def norm_layers(module: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of normalisation layers, as in SAM on these alone (Mueller 2023, arXiv 2306.04226).

    A layer normalises when its class, or one that it is derived from, is named so: BatchNorm, LayerNorm, GroupNorm,
    InstanceNorm or RMSNorm, with anything before or after.

    Raises:
        ValueError: if there are none.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    >>> [tuple(parameter.shape) for parameter in norm_layers(net)]
    [(4,), (4,)]
    """
    owners = _owners(module)
    found = [p for name, p in _trainable(module).items() if _normalises(owners[name])]
    if not found:
        kinds = sorted({type(owner).__name__ for owner in owners.values()})
        raise ValueError(
            f"no normalisation layer has trainable parameters; the model has them in {', '.join(kinds) or 'no layer'}. "
            "Use matching(module, pattern) to choose by name"
        )
    return found


def all_but_norm_layers(module: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that are not in normalisation layers.

    Raises:
        ValueError: if there are none.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    >>> [tuple(parameter.shape) for parameter in all_but_norm_layers(net)]
    [(4, 3), (4,)]
    """
    owners = _owners(module)
    found = [p for name, p in _trainable(module).items() if not _normalises(owners[name])]
    if not found:
        kinds = sorted({type(owner).__name__ for owner in owners.values()})
        raise ValueError(
            f"all trainable parameters are in normalisation layers: {', '.join(kinds) or 'there are none'}. "
            "Use matching(module, pattern) to choose by name"
        )
    return found


def matching(module: nn.Module, pattern: str) -> list[nn.Parameter]:
    """The trainable parameters whose name matches a shell-style pattern, such as ``"head.*"`` or ``"*.weight"``.

    Names are those of ``module.named_parameters()``; a tied parameter has the first of its names.

    Raises:
        ValueError: if nothing matches; it names parameters with names like the pattern.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    >>> [tuple(parameter.shape) for parameter in matching(net, "*.bias")]
    [(4,), (4,)]
    """
    named = _trainable(module)
    found = [parameter for name, parameter in named.items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, named, n=3, cutoff=0.3) or list(named)[:3]
        raise ValueError(
            f"no trainable parameter matches {pattern!r}; there are, for instance, {', '.join(near) or 'none at all'}"
        )
    return found


def train_only(module: nn.Module, pattern: str) -> None:
    """Freeze all parameters but the trainable ones whose name matches a pattern, such as LoRA's ``"*lora_*"``.

    Buffers, as the running statistics of batch norm, go on changing in training mode.

    Raises:
        ValueError: if nothing matches; nothing is frozen then, and it names parameters with names like the pattern.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    >>> train_only(net, "1.*")
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['1.weight', '1.bias']
    """
    kept = {id(parameter) for parameter in matching(module, pattern)}
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in kept)


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _owners(module: nn.Module) -> dict[str, nn.Module]:
    """The layer of each trainable parameter."""
    return {name: module.get_submodule(name.rpartition(".")[0]) for name in _trainable(module)}


def _normalises(layer: nn.Module) -> bool:
    return any(_NORMALISES.search(kind.__name__) for kind in type(layer).__mro__)
