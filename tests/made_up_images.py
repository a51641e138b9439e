"""Little images as the files that people have them in: PNG, parquet, the binary archive, folders of classes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


def pixels(number: int, *, size: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random images, ``(number, channels, size, size)``."""
    return np.random.default_rng(seed).integers(0, 256, (number, channels, size, size), dtype=np.uint8)


def labels(number: int, *, classes: int = CLASSES) -> np.ndarray:
    """Every class in turn."""
    return np.arange(number) % classes


def encoded(image: np.ndarray, *, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An image ``(3, h, w)`` as a file."""
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(stream, kind)
    return stream.getvalue()


def write_parquet(file: Path, images: np.ndarray, numbers, *, image: str = "img", label: str = "label", **more) -> None:
    """As the hub serves it: structs of bytes and path, and labels."""
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": encoded(pixels), "path": f"{i}.png"} for i, pixels in enumerate(images)]
    table = {image: cells, label: [None if number is None else int(number) for number in numbers], **more}
    pyarrow.parquet.write_table(pyarrow.table(table), file)


def cifar_parquet(folder: Path, number: int = 20, *, tests: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Both splits in one file each; the training and the test images."""
    train, test = pixels(number), pixels(tests, seed=1)
    write_parquet(folder / "train-00000-of-00001.parquet", train, labels(number))
    write_parquet(folder / "test-00000-of-00001.parquet", test, labels(tests))
    return train, test


def records(images: np.ndarray, *columns: np.ndarray) -> bytes:
    """Images as the binary archive has them, after the given bytes of each."""
    heads = np.stack([column.astype(np.uint8) for column in columns], axis=1)
    return np.concatenate([heads, images.reshape(len(images), -1)], axis=1).tobytes()


def cifar10_members() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """The six files of the binary archive with ten images each, and the training and the test images."""
    train, test = pixels(50), pixels(10, seed=1)
    parts = {f"data_batch_{i + 1}.bin": records(train[10 * i : 10 * i + 10], labels(10)) for i in range(5)}
    return parts | {"test_batch.bin": records(test, labels(10))}, train, test


def pack(archive: Path, members: dict[str, bytes], *, folder: str = "cifar-10-batches-bin") -> None:
    """A packed archive, in another order than that of the names."""
    with tarfile.open(archive, "w:gz") as opened:
        for name in reversed(list(members)):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(members[name])
            opened.addfile(entry, io.BytesIO(members[name]))


def write_folder(folder: Path, images: dict[str, np.ndarray], *, mode: str = "RGB") -> None:
    """One folder for each class, with files named by their numbers."""
    for name, of_class in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(of_class):
            (folder / name / f"{i:02d}.png").write_bytes(encoded(image, mode=mode))
