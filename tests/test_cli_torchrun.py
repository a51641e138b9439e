"""Paths, slices and sharpness from the command line, under torchrun as on one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import json_of, msam
from launching import ROOT, launch

from landscape import Result

SMALL = "--set hidden=8 --set train_examples=130 --batch-size 25 --epochs 1"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> list[Path]:
    """Two folders with the same two runs."""
    folders = [tmp_path_factory.mktemp("runs") / name for name in ("shared", "alone")]
    for seed, name in enumerate("ab"):
        assert msam(f"train {SMALL} --seed {seed} --out {folders[0]}/{name}").exit_code == 0
    shutil.copytree(folders[0], folders[1])
    return folders


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("path {0}/a {0}/b --align --bezier --points 3", ["straight", "aligned", "bezier"]),
        ("slice {0}/a --dims 1 --through {0}/b --points 5", ["line"]),
        ("sharpness {0}/a --draws 2 --microbatch-size 20", ["sharpness", "worst_case", "average_case"]),
    ],
    ids=["path", "slice", "sharpness"],
)
def test_two_processes_find_the_numbers_of_one_and_one_of_them_speaks(words, names, pairs):
    shared, alone = (words.format(folder) for folder in pairs)
    ended = launch(2, ROOT / "cli.py", *shared.split(), "--json")
    assert ended.returncode == 0, ended.stderr
    found, expected = json.loads(ended.stdout), json_of(alone)
    for name in names:
        ours, theirs = (Result.load(content[name]["result"]) for content in (found, expected))
        assert type(ours) is type(theirs)
        assert Path(found[name]["result"]).is_relative_to(pairs[0])
        for column, values in ours.to_frame().select_dtypes("number").items():
            np.testing.assert_allclose(values, theirs.to_frame()[column], rtol=1e-4, atol=1e-6, err_msg=str(column))
