"""CIFAR is read alike from parquet and from the binary archive, and what is not whole is refused with the reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from made_up_images import cifar10_members, cifar_parquet, labels, pack, pixels, records, write_parquet

from landscape.progress import unreported
from msam.data.cifar import CIFAR10, CIFAR100, source_of

SMALL10 = dataclasses.replace(CIFAR10, images={"train": 10, "test": 10})  # each file of the binary archive
SMALL100 = dataclasses.replace(CIFAR100, images={"train": 100, "test": 100})


def read(kind, folder):
    return source_of(kind, folder).read(unreported).tensors


def check(tensors, train, test):
    for split, images in (("train", train), ("test", test)):
        assert tensors[f"{split}.images"].dtype == torch.uint8
        assert np.array_equal(tensors[f"{split}.images"].numpy(), images)
        assert tensors[f"{split}.labels"].tolist() == labels(len(images)).tolist()


@pytest.fixture
def members():
    return cifar10_members()


def test_the_hubs_parquet_is_read_from_the_folder_or_one_in_it(tmp_path):
    train, test = cifar_parquet(tmp_path)
    check(read(CIFAR10, tmp_path), train, test)
    (tmp_path / "plain_text").mkdir()
    for file in tmp_path.glob("*.parquet"):
        file.rename(tmp_path / "plain_text" / file.name)
    check(read(CIFAR10, tmp_path), train, test)


def test_shards_are_read_in_order_and_one_that_is_missing_is_named(tmp_path):
    train, test = pixels(20), pixels(10, seed=1)
    for i in range(2):
        file, part = tmp_path / f"train-0000{i}-of-00002.parquet", slice(10 * i, 10 * i + 10)
        write_parquet(file, train[part], labels(20)[part], image="image")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", test, labels(10), image="image")
    check(read(CIFAR10, tmp_path), train, test)
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"of the 2 parts that .*train-00000-of-00002.parquet .* number 1 is miss"
    ):
        source_of(CIFAR10, tmp_path)


def test_files_of_other_data_in_the_folder_are_passed_over(tmp_path):
    train, test = cifar_parquet(tmp_path)
    for split in ("train", "test"):
        (tmp_path / f"{split}-00000-of-00001.parquet").rename(tmp_path / f"cifar10-{split}.parquet")
        (tmp_path / f"sst2-{split}.parquet").write_bytes(b"of another task")
        (tmp_path / f"cifar100-{split}.parquet").write_bytes(b"of another task")
    (tmp_path / "latest.parquet").write_bytes(b"has test in its name, within a word")
    check(read(CIFAR10, tmp_path), train, test)


def test_the_fine_labels_are_those_of_cifar100(tmp_path):
    for split in ("train", "test"):
        images = pixels(100)
        write_parquet(tmp_path / f"{split}.parquet", images, labels(100, classes=100), label="fine_label",
                      coarse_label=[0] * 100)  # fmt: skip
    assert read(CIFAR100, tmp_path)["train.labels"].tolist() == list(range(100))
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    fine = labels(100, classes=100)
    raw = records(images, fine % 20, fine)
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed" / "cifar-100-binary.tar.gz", {"train.bin": raw, "test.bin": raw})
    for split in ("train", "test"):
        (tmp_path / f"{split}.bin").write_bytes(raw)
    for folder in (tmp_path, tmp_path / "packed"):
        tensors = read(SMALL100, folder)
        assert tensors["test.labels"].tolist() == list(range(100))
        assert np.array_equal(tensors["train.images"].numpy(), images)


def test_the_binary_archive_is_read_packed_or_not(members, tmp_path):
    parts, train, test = members
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed" / "cifar-10-binary.tar.gz", parts)
    check(read(SMALL10, tmp_path / "packed"), train, test)
    (tmp_path / "lying" / "cifar-10-batches-bin").mkdir(parents=True)
    for name, raw in parts.items():
        (tmp_path / "lying" / "cifar-10-batches-bin" / name).write_bytes(raw)
    check(read(SMALL10, tmp_path / "lying"), train, test)
    check(read(SMALL10, tmp_path / "lying" / "cifar-10-batches-bin"), train, test)


@pytest.mark.parametrize(
    ("kind", "archive", "part"),
    [
        (CIFAR10, "cifar-10-python.tar.gz", "cifar-10-batches-py/data_batch_1"),
        (CIFAR100, "cifar-100-python.tar.gz", "cifar-100-python/train"),
    ],
)
def test_the_pickled_archive_is_refused_with_the_reason_and_a_way_out(kind, archive, part, tmp_path):
    binary = archive.replace("python", "binary")
    sentence = f"is of the pickled archive, which is not read: unpickling runs .*{binary} from https://www.cs"
    (tmp_path / archive).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=f"{archive} {sentence}"):
        source_of(kind, tmp_path)
    (tmp_path / archive).unlink()
    (tmp_path / part).parent.mkdir()
    (tmp_path / part).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=f"{part} {sentence}"):
        source_of(kind, tmp_path)


def test_where_there_is_nothing_it_says_what_to_put_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no CIFAR-10 in .*; put cifar-10-binary.tar.gz from .*Nothing is down"
    ):
        source_of(CIFAR10, tmp_path)
    cifar_parquet(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"no whole CIFAR-10 in .*: train-00000-of-00001.parquet would be its"):
        source_of(CIFAR10, tmp_path)


def test_an_archive_that_is_cut_short_or_lacks_a_part_says_so(members, tmp_path):
    parts, _, _ = members
    archive = tmp_path / "cifar-10-binary.tar.gz"
    pack(archive, parts)
    archive.write_bytes(archive.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is not a whole archive \(.*\); download it again"):
        read(SMALL10, tmp_path)
    pack(archive, {name: raw for name, raw in parts.items() if name != "data_batch_3.bin"})
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz has no data_batch_3.bin in it"):
        read(SMALL10, tmp_path)
    for cut in (1, 3073, 30730):  # within an image, between two, and all of them
        pack(archive, parts | {"data_batch_4.bin": parts["data_batch_4.bin"][:-cut]})
        words = rf"data_batch_4.bin in .*binary.tar.gz has {30730 - cut} bytes; 10 images of 3073 have 30730; download"
        with pytest.raises(ValueError, match=words):
            read(SMALL10, tmp_path)
    archive.unlink()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(parts[name])
    with pytest.raises(FileNotFoundError, match=r"has data_batch_1.bin and no data_batch_2.bin; unpack"):
        source_of(CIFAR10, tmp_path)


def test_the_binary_files_have_the_sizes_of_the_official_ones(members, tmp_path):
    sizes = {kind.name: {s: n * (kind.record + 3072) for s, n in kind.images.items()} for kind in (CIFAR10, CIFAR100)}
    assert sizes["cifar10"] == {"train": 30_730_000, "test": 30_730_000}
    assert sizes["cifar100"] == {"train": 153_700_000, "test": 30_740_000}
    pack(tmp_path / "cifar-10-binary.tar.gz", members[0])
    with pytest.raises(ValueError, match=r"data_batch_1.bin in .* has 30730 bytes; 10000 images of 3073 have 30730000"):
        read(CIFAR10, tmp_path)


def test_a_label_outside_the_range_and_an_empty_class_are_named(members, tmp_path):
    parts, train, _ = members
    bad = labels(10).copy()
    bad[4] = 10
    pack(tmp_path / "cifar-10-binary.tar.gz", parts | {"data_batch_2.bin": records(train[:10], bad)})
    with pytest.raises(
        ValueError, match=r"image 5 of data_batch_2.bin in .* has the label 10; those of CIFAR-10 are 0 to 9"
    ):
        read(SMALL10, tmp_path)
    for split, wrong, sentence in (
        ("train", [10, *labels(19)], "row 1 of .*train.parquet has the label 10; those of CIFAR-10 are 0 to 9"),
        ("train", [*labels(19), None], "row 20 of .*train.parquet has the label None"),
        ("test", [0, *labels(20)[1:10] % 9], "the test images of CIFAR-10 have none of class 9; .*test.parquet must"),
    ):  # fmt: skip
        for name in ("train", "test"):
            numbers = wrong if name == split else labels(20)
            write_parquet(tmp_path / f"{name}.parquet", pixels(len(numbers)), numbers)
        with pytest.raises(ValueError, match=sentence):
            read(CIFAR10, tmp_path)


def test_an_image_of_another_size_or_none_at_all_is_named_by_its_row(tmp_path):
    cifar_parquet(tmp_path)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", pixels(20, size=31), labels(20))
    with pytest.raises(
        ValueError, match=r"row 1 of .*train-00000-of-00001.parquet is an image of 31x31 pixels; .* 32x32"
    ):
        read(CIFAR10, tmp_path)
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"img": [{"bytes": b"x", "path": "a"}], "label": [0]}), file)
    with pytest.raises(ValueError, match=r"row 1 of .*train-00000-of-00001.parquet is no image that can be read"):
        read(CIFAR10, tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"img": ["a.png"], "label": [0]}), file)
    with pytest.raises(ValueError, match=r"row 1 of .* has no image; the column must hold the bytes of image files"):
        read(CIFAR10, tmp_path)


def test_reading_reports_how_far_it_is(tmp_path):
    cifar_parquet(tmp_path)
    seen = []
    source_of(CIFAR10, tmp_path).read(lambda stage: lambda done, total: seen.append((stage, done, total)))
    assert seen == [("CIFAR-10: reading images", 30, 30)]
