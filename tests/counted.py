"""What tensors take in memory, counted as they come and go."""

from __future__ import annotations

import gc
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counted(TorchDispatchMode):
    """Within it, the storages that are made are counted for as long as they live; those that were there are not.

    No garbage is collected meanwhile, so that what cycles hold counts whenever that would have been.

    Attributes:
        bytes: that are held now.
        most: that were held at once.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.most = 0
        self._known = set()

    def __enter__(self):
        gc.collect()
        gc.disable()
        return super().__enter__()

    def __exit__(self, *raised):
        gc.enable()
        return super().__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                weakref.finalize(storage, self._known.discard, storage._cdata)  # another may come to lie there
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage):
        place, size = storage._cdata, storage.nbytes()
        self._known.add(place)
        self.bytes += size
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place, size):
        self._known.discard(place)
        self.bytes -= size
