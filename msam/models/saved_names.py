"""Names that the transformers library saves weights under, which are not those of its models everywhere."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from msam.models.huggingface import quietly


def as_transformers_reads(model: nn.Module, content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a file by the names of a model of the transformers library, where the library reads all of them.

    It saves some models, as ViT, under the names that their weights had in its older versions, and renames them when
    they are loaded; files of these versions have no other names.

    Args:
        model: that the weights are for; it stays as it is.
        content: of the file, names to tensors.

    Returns:
        None where the model is not the library's, or a name or a shape is not one that it knows.
    """
    library: Any = sys.modules.get("transformers")  # which a model of it has imported
    if library is None or not isinstance(model, library.PreTrainedModel):
        return None
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    dtypes = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    if len(tensors) < len(content) or not dtypes:
        return None
    with quietly(), torch.random.fork_rng([]), torch.device("cpu"):
        try:
            read, said = type(model).from_pretrained(
                None,
                config=copy.deepcopy(model.config),
                state_dict=tensors,
                dtype=dtypes[0],
                ignore_mismatched_sizes=True,  # which are said
                output_loading_info=True,
            )
        except Exception:  # of any type; that the names differ is said without it
            return None
    differing = any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return None if differing else dict(read.state_dict())
