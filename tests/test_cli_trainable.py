"""Parameters that are trained, and weights that are measured, by patterns on the command line."""

from __future__ import annotations

import pytest
from commands import json_of, msam, refused

SMALL = "--set hidden=8 --set train_examples=60 --batch-size 60 --epochs 2 --checkpoint-every 1"
FEW = "-k 1 --probes 4 --steps 3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of the head alone, whose bodies differ."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        result = msam(f"train {SMALL} --trainable 3.* --seed {seed} --out {folder}/{seed}")
        assert result.exit_code == 0, result.stderr
    return folder


def measured(content):
    objective = content["eigenvalues"]["manifest"]["objective"]
    return objective["parameters"], objective["dim"]


def test_what_was_trained_is_measured_and_a_part_of_it_where_that_is_asked_for(folder):
    assert measured(json_of(f"spectrum {folder}/0 {FEW}")) == ("3.*", 90)
    part = json_of(f"spectrum {folder}/0 {FEW} --parameters *.bias")
    assert measured(part) == ("*.bias of 3.*", 10)
    assert list(part["trace"]["blocks"]) == ["3.bias"]
    line = json_of(f"slice {folder}/0 --points 3 --parameters *.weight")
    assert line["line"]["manifest"]["objective"]["dim"] == 80
    sharpness = json_of(f"sharpness {folder}/0 --draws 2 --parameters *.weight")
    assert sharpness["worst_case"]["manifest"]["objective"]["dim"] == 80


def test_checkpoints_that_differ_in_what_is_not_measured_are_not_put_on_one_line(folder):
    for command in (f"path {folder}/0 {folder}/1", f"slice {folder}/0 --through {folder}/1"):
        sentence = refused(command, status=2)
        assert "differ in weights that are not measured (1.weight, 1.bias)" in sentence
        assert sentence.endswith("Name checkpoints that share these.")
    sentence = refused(f"slice {folder}/0 --dims 2 --along trajectory --parameters *.bias", status=2)
    assert "differ in weights that are not measured (3.weight)" in sentence  # 1.weight is not either, but has not moved
    assert sentence.endswith("or leave out --parameters.")


def test_patterns_that_match_nothing_or_do_not_go_together_are_refused(folder):
    sentence = refused(f"train {SMALL} --trainable heads.* --out {folder}/none", status=2)
    assert sentence.startswith("no trainable parameter matches 'heads.*'; there are, for instance,")
    assert not (folder / "none").exists()
    assert "no trainable parameter matches '1.*'" in refused(f"spectrum {folder}/0 --parameters 1.*", status=2)
    sentence = refused(f"spectrum {folder}/0 --all-checkpoints --parameters *.bias", status=2)
    assert "leave out --parameters" in sentence
