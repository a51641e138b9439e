"""Image files in folders that are named after their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from landscape.memory import available_bytes, in_words
from landscape.progress import Report
from msam.data.cache import Decoded
from msam.data.pictures import SUFFIXES, Collected, decoded, sides_of

Classes = Mapping[str, Sequence[Path]]  # the images of each class
_NAMES = {"train": ("train",), "test": ("test",), "validation": ("validation", "val", "valid")}
_LAYOUT = "train/<class>/ and test/<class>/ (or val/, validation/), or <class>/ alone, with images in them"


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder: ``train/<class>/...`` and ``test/<class>/...``, or ``<class>/...``.

    A validation folder is the test set where there is no test folder. Files and folders whose names begin with a dot,
    and files that are no images, are passed over.

    Attributes:
        folder: the folder.
        splits: the images of each class in each split; a folder of classes alone is one split, ``"train"``.
    """

    folder: Path
    splits: Mapping[str, Classes]

    @classmethod
    def at(cls, folder: Path) -> ImageFolder:
        """What there is in a folder.

        Raises:
            FileNotFoundError: if there are no classes, a class has no image, or there are training images alone.
            ValueError: if the classes of a split are not those of the training images.
        """
        places = {
            split: next((folder / name for name in names if (folder / name).is_dir()), None)
            for split, names in _NAMES.items()
        }
        if places["train"] is None:
            return cls(folder, {"train": _classes(folder)})
        if places["test"] is None:
            places["test"], places["validation"] = places["validation"], None
        if places["test"] is None:
            raise FileNotFoundError(
                f"{folder} has a folder train and none named test, val or validation; make one, or put the "
                f"classes into {folder} itself to have them split"
            )
        splits = {split: _classes(place) for split, place in places.items() if place is not None}
        for split, classes in splits.items():
            unlike = sorted(splits["train"].keys() ^ classes.keys())
            if unlike:
                there = "train" if unlike[0] in splits["train"] else split
                raise ValueError(
                    f"the classes of {places['train']} and {places[split]} differ: {unlike[0]!r} is in {there} alone; "
                    "they must be the same folders"
                )
        return cls(folder, splits)

    @property
    def files(self) -> list[Path]:
        """All images."""
        return [file for classes in self.splits.values() for files in classes.values() for file in files]

    def read(self, report: Report, *, size: int | None = None) -> Decoded:
        """All pixels, ``(n, 3, h, w)``, or ``(n, 1, h, w)`` where all images are grey.

        With them, of each image of the first split and each channel, are the sums of its pixels and of their squares,
        ``(n, c, 2)``: means and deviations over any of the images are exact.

        Args:
            report: of what has been read.
            size: the sides that images are brought to; when left out they must be squares of one size.

        Raises:
            ValueError: if an image cannot be read, or is of another size than the others, or the size is one that there
                is no memory for.
        """
        wanted, free = 3 * len(self.files) * (size or 0) ** 2, available_bytes(torch.device("cpu"))
        if wanted > free:
            raise ValueError(
                f"{len(self.files)} images of {size}x{size} pixels take {in_words(wanted)} of memory, and "
                f"{in_words(free)} are free; choose a smaller size"
            )
        progress = report(f"{self.folder}: reading images")
        total, done, grey, tensors, sums = len(self.files), 0, True, {}, []
        images = Collected(total, advice="resize all with --set size=PIXELS")
        for classes in self.splits.values():
            for files in classes.values():
                for file in files:
                    pixels = decoded(file.read_bytes(), str(file), size=size)
                    if pixels.shape[1] != pixels.shape[2]:
                        raise ValueError(
                            f"{file} has {sides_of(pixels)} pixels and is no square; resize all with --set size=PIXELS"
                        )
                    images.add(pixels, str(file))
                    sums.append([pixels.sum((1, 2), dtype=np.int64), np.square(pixels, dtype=np.int64).sum((1, 2))])
                    grey = grey and bool((pixels == pixels[:1]).all())
                    done += 1
                    if done % 500 == 0 or done == total:
                        progress(done, total)
        channels, start = 1 if grey else 3, 0
        for split, classes in self.splits.items():
            labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
            part = images.pixels[start : start + len(labels), :channels]
            tensors[f"{split}.images"] = torch.from_numpy(np.ascontiguousarray(part))
            tensors[f"{split}.labels"] = torch.from_numpy(labels.astype(np.int64))
            start += len(labels)
        of_train = np.array(sums[: len(tensors["train.labels"])]).transpose(0, 2, 1)[:, :channels]  # (n, c, 2)
        tensors["train.sums"] = torch.from_numpy(np.ascontiguousarray(of_train))
        return Decoded(tensors, {"classes": [*self.splits["train"]]})


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, in the order of their names."""
    found = {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or place.name.startswith((".", "__")):
            continue
        files = [file for file in sorted(place.rglob("*")) if _is_image(file)]
        if not files:
            raise FileNotFoundError(f"the class {place} has no image; put some there, or remove the folder")
        found[place.name] = files
    if len(found) < 2:
        there = f"has one class alone, {next(iter(found))!r}" if found else "has no folders of classes"
        raise FileNotFoundError(f"{folder} {there}; it must have {_LAYOUT}")
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
