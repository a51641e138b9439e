"""CIFAR-10 and CIFAR-100 from files that are there: the hub's parquet, or the official binary archive."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from landscape.progress import Report
from msam.data.cache import Decoded
from msam.data.parquet import Table
from msam.data.pictures import Collected, Pixels, decoded, sides_of

SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SPLITS = ("train", "test")
_IMAGE = 3 * 32 * 32  # bytes: red, green, blue, each row by row


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets.

    Attributes:
        name: of the task.
        title: for a person.
        classes: their number.
        labels: what the column of labels may be called.
        members: of the binary archive, for each split.
        images: that each of them holds, for each split.
        record: bytes before the pixels of an image in them; the last is the label.
        pickled: names that the pickled archive and its parts have.
        mean: of the training pixels, channel by channel, on a scale of 0 to 1.
        std: their standard deviation, likewise.
    """

    name: str
    title: str
    classes: int
    labels: tuple[str, ...]
    members: Mapping[str, Sequence[str]]
    images: Mapping[str, int]
    record: int
    pickled: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def archive(self) -> str:
        """The name of the binary archive."""
        return f"{self.title.lower()}-binary.tar.gz"


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    labels=("label",),
    members={"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    images={"train": 10_000, "test": 10_000},
    record=1,
    pickled=("cifar-10-python.tar.gz", "data_batch_1", "test_batch"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    labels=("fine_label", "label"),
    members={"train": ["train.bin"], "test": ["test.bin"]},
    images={"train": 50_000, "test": 10_000},
    record=2,
    pickled=("cifar-100-python.tar.gz", "train", "test"),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


@dataclass(frozen=True)
class Source:
    """Files that a data set is read from.

    Attributes:
        files: all of them.
        about: what they are, for a person.
        read: reads them.
    """

    files: Sequence[Path]
    about: str
    read: Callable[[Report], Decoded]


def source_of(kind: Cifar, folder: Path) -> Source:
    """What there is of a data set in a folder: parquet, or else the binary archive, packed or not.

    Raises:
        FileNotFoundError: if there is nothing, a part is missing, or there is the pickled archive alone.
    """
    tables = {split: _tables(kind, folder, split) for split in _SPLITS}
    if any(tables.values()):
        for split, found in tables.items():
            if not found:
                other = _SPLITS[split == "train"]
                raise FileNotFoundError(
                    f"there is no whole {kind.title} in {folder}: {tables[other][0].name} would be its {other} images, "
                    f"and there is no parquet file of the {split} images, whose name must have {split} in it"
                )
            _require_all_shards(found)
        files = [file for found in tables.values() for file in found]
        return Source(files, "parquet", lambda report: _from_parquet(kind, tables, report))
    packed = next((place / kind.archive for place in _places(folder) if (place / kind.archive).is_file()), None)
    if packed is not None:
        return Source([packed], kind.archive, lambda report: _from_binary(kind, packed, _unpacked(packed), report))
    names = [name for split in _SPLITS for name in kind.members[split]]
    for place in _places(folder):
        there = [name for name in names if (place / name).is_file()]
        if there:
            missing = [name for name in names if name not in there]
            if missing:
                raise FileNotFoundError(f"{place} has {there[0]} and no {missing[0]}; unpack {kind.archive} again")
            members = {name: place / name for name in names}
            reading = lambda report: _from_binary(kind, place, _lying(members), report)  # noqa: E731, B023
            return Source(list(members.values()), "the binary files", reading)
    for place in _places(folder):
        pickles = [name for name in kind.pickled if (place / name).is_file()]
        if pickles:
            raise FileNotFoundError(
                f"{place / pickles[0]} is of the pickled archive, which is not read: unpickling runs whatever code the "
                f"file names. Put {kind.archive} from {SITE} there, or the parquet files of the hub"
            )
    raise FileNotFoundError(
        f"there is no {kind.title} in {folder}; put {kind.archive} from {SITE} there, unpacked or not, or the train "
        "and test parquet files of the hub. Nothing is downloaded"
    )


def _places(folder: Path) -> list[Path]:
    """The folder and those in it, where archives and the hub's repositories have their files."""
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]


def _tables(kind: Cifar, folder: Path, split: str) -> list[Path]:
    """Parquet files of one split; where some have the data set in their name, these alone."""
    named = re.compile(rf"(?<![a-z]){split}(?![a-z])")
    own = re.compile(rf"cifar[-_]?{kind.classes}(?!\d)")
    for place in _places(folder):
        found = [file for file in sorted(place.glob("*.parquet")) if named.search(file.name.lower())]
        ours = [file for file in found if own.search(file.name.lower())]
        others = [file for file in found if "cifar" not in file.name.lower()]
        if ours or others:
            return ours or others
    return []


def _require_all_shards(files: Sequence[Path]) -> None:
    """Of ``train-00000-of-00002.parquet`` there must be both."""
    parts = [(file, re.search(r"-(\d+)-of-(\d+)", file.name)) for file in files]
    numbers = {int(part[1]): int(part[2]) for _, part in parts if part}
    missing = [i for i in range(max(numbers.values(), default=0)) if i not in numbers]
    if missing:
        raise FileNotFoundError(
            f"of the {max(numbers.values())} parts that {files[0]} is one of, number {missing[0]} is missing; put it "
            "there"
        )


def _from_parquet(kind: Cifar, tables: Mapping[str, Sequence[Path]], report: Report) -> Decoded:
    opened = {split: [Table(file, ("img", "image"), kind.labels) for file in tables[split]] for split in _SPLITS}
    progress = report(f"{kind.title}: reading images")
    done, total = 0, sum(len(table) for found in opened.values() for table in found)
    read = {}
    for split, found in opened.items():
        images = Collected(sum(len(table) for table in found), advice=f"those of {kind.title} have 32x32")
        labels = []
        for table in found:
            for row, (image, label) in enumerate(table.rows(), start=1):
                name = f"row {row} of {table.file}"
                images.add(_pixels(image, name), name)
                labels.append(_label(label, kind, name))
                done += 1
                if done % 500 == 0 or done == total:
                    progress(done, total)
            table.close()
        read[split] = (images.pixels, np.array(labels, dtype=np.int64))
    return _whole(kind, read, {split: ", ".join(map(str, tables[split])) for split in _SPLITS})


def _pixels(image: object, name: str) -> Pixels:
    raw = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(raw, bytes):
        raise ValueError(f"{name} has no image; the column must hold the bytes of image files")
    pixels = decoded(raw, name)
    if pixels.shape != (3, 32, 32):
        raise ValueError(f"{name} is an image of {sides_of(pixels)} pixels; those of CIFAR have 32x32")
    return pixels


def _label(label: object, kind: Cifar, name: str) -> int:
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < kind.classes:
        raise ValueError(f"{name} has the label {label}; those of {kind.title} are 0 to {kind.classes - 1}")
    return label


def _unpacked(archive: Path) -> Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]:
    """Reads members of an archive, wherever in it they are; nothing is written."""

    def members(names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(archive, "r:gz") as opened:
                for member in opened:  # in their order: to go back is to unpack everything again
                    stream = opened.extractfile(member) if Path(member.name).name in names else None
                    if stream is not None:
                        found[Path(member.name).name] = stream.read()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{archive} is not a whole archive ({error}); download it again") from None
        for name in names:
            if name not in found:
                raise ValueError(f"{archive} has no {name} in it; download it again")
            yield f"{name} in {archive}", found.pop(name)

    return members


def _lying(members: Mapping[str, Path]) -> Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]:
    return lambda names: ((str(members[name]), members[name].read_bytes()) for name in names)


def _from_binary(
    kind: Cifar, where: Path, members: Callable[[Sequence[str]], Iterator[tuple[str, bytes]]], report: Report
) -> Decoded:
    names = [(split, name) for split in _SPLITS for name in kind.members[split]]
    progress = report(f"{kind.title}: reading images")
    images: dict[str, list[Pixels]] = {split: [] for split in _SPLITS}
    labels: dict[str, list[Pixels]] = {split: [] for split in _SPLITS}
    length = kind.record + _IMAGE
    pairs = zip(names, members([name for _, name in names]), strict=True)
    for done, ((split, _), (name, raw)) in enumerate(pairs, start=1):
        if len(raw) != kind.images[split] * length:
            raise ValueError(
                f"{name} has {len(raw)} bytes; {kind.images[split]} images of {length} have "
                f"{kind.images[split] * length}; download {kind.archive} again"
            )
        records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, length)
        for row, label in enumerate(records[:, kind.record - 1].tolist(), start=1):
            _label(label, kind, f"image {row} of {name}")
        images[split].append(records[:, kind.record :].reshape(-1, 3, 32, 32))
        labels[split].append(records[:, kind.record - 1])
        progress(done, len(names))
    read = {split: (np.concatenate(images[split]), np.concatenate(labels[split]).astype(np.int64)) for split in _SPLITS}
    return _whole(kind, read, dict.fromkeys(_SPLITS, str(where)))


def _whole(kind: Cifar, read: Mapping[str, tuple[Pixels, npt.NDArray[np.int64]]], where: Mapping[str, str]) -> Decoded:
    """Both splits, in which every class must occur."""
    tensors = {}
    for split, (pixels, labels) in read.items():
        missing = np.flatnonzero(np.bincount(labels, minlength=kind.classes) == 0)
        if len(missing):
            raise ValueError(
                f"the {split} images of {kind.title} have none of class {missing[0]}; {where[split]} must hold all "
                f"{kind.classes} classes"
            )
        tensors[f"{split}.images"], tensors[f"{split}.labels"] = torch.from_numpy(pixels), torch.from_numpy(labels)
    return Decoded(tensors, {"classes": [str(number) for number in range(kind.classes)]})
