"""The commands ``msam sharpness`` and ``msam slice``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import json_of, msam, refused

from landscape import Audit, PlaneSlice, Result, SharpnessCurve, SharpnessOverSizes, WorstCaseSharpness

SMALL = "--set hidden=8 --set train_examples=60 --batch-size 25 --checkpoint-every 1"
FEW = "--draws 3 --microbatch-size 20"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two runs, one of them with three checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    for line in (f"--epochs 2 --out {folder}/a", f"--epochs 1 --seed 1 --out {folder}/b"):
        assert msam(f"train {SMALL} {line}").exit_code == 0
    return folder


def test_sharpness_has_three_kinds_each_with_its_error_its_file_and_its_picture(folder):
    found = json_of(f"sharpness {folder}/a {FEW}")
    for kind in ("sharpness", "worst_case", "average_case"):
        assert found[kind]["sharpness"] > 0
        assert found[kind]["stderr"] > 0
        assert Path(found[kind]["figure"]).is_file()
    worst = Result.load(found["worst_case"]["result"])
    assert isinstance(worst, WorstCaseSharpness)
    assert worst.value >= found["sharpness"]["sharpness"] - 1e-6  # of the same ball and the same shards
    assert worst.microbatch_size == 20


def test_radii_and_noises_are_drawn_as_curves_and_the_audit_says_what_moves(folder):
    found = json_of(
        f"sharpness {folder}/a {FEW} --radii 0.02,0.05 --noises 0.01,0.02 --audit --microbatch-sizes 60,1,20"
    )
    sizes = Result.load(found["sharpness_over_sizes"]["result"])
    assert isinstance(sizes, SharpnessOverSizes)
    assert sizes.microbatch_sizes.tolist() == [1, 20, 60]
    assert sizes.values[1] == pytest.approx(found["sharpness"]["sharpness"], rel=1e-4)
    assert Path(found["sharpness_over_sizes"]["figure"]).is_file()
    curves = [Result.load(found[name]["result"]) for name in ("worst_case_over_radii", "average_case_over_noises")]
    assert all(isinstance(curve, SharpnessCurve) for curve in curves)
    assert [curve.rhos.tolist() for curve in curves] == [[0.02, 0.05], [0.01, 0.02]]
    audit = Result.load(found["audit"]["result"])
    assert isinstance(audit, Audit)
    assert {"worst-case sharpness", "average-case sharpness", "Hessian trace"} <= set(audit.measures.tolist())
    adaptive = audit.measures.tolist().index("m-sharpness, adaptive")
    assert audit.verdicts[adaptive, audit.rescalings.tolist().index("between layers")] == "invariant"


@pytest.mark.parametrize("radii", ["0.1,0.1", "-1", "nan", "a", ""])
def test_radii_that_are_none_are_wrong_usage(radii, folder):
    for option in ("radii", "noises"):
        found = msam("sharpness", f"{folder}/a", f"--{option}", radii)
        assert found.exit_code == 2
        assert f"{option} must be one or more" in found.stderr or f"'--{option}'" in found.stderr


@pytest.mark.parametrize("sizes", ["8,8", "0", "2.5", ""])
def test_sizes_of_shards_that_are_none_are_wrong_usage(sizes, folder):
    assert msam("sharpness", f"{folder}/a", "--microbatch-sizes", sizes).exit_code == 2


def test_shards_larger_than_the_data_are_refused_before_anything_is_measured(folder, tmp_path):
    shutil.copytree(folder / "b", tmp_path / "run")
    said = refused(f"sharpness {tmp_path}/run {FEW} --microbatch-sizes 1,61", status=2)
    assert said == "a shard must have 1 to 60 examples, all there are; got 61. Give another size of micro-batches."
    assert not list(tmp_path.glob("run/results/*"))


def test_a_slice_has_both_splits_and_the_accuracy(folder):
    found = json_of(f"slice {folder}/a --dims 2 --plane-points 3 --surface")
    plane = Result.load(found["plane"]["result"])
    assert isinstance(plane, PlaneSlice)
    assert plane.score == "accuracy"
    for values in (plane.scores, plane.held_out_losses, plane.held_out_scores):
        assert values.shape == (3, 3)
    assert Path(found["plane"]["surface"]).stat().st_size > 10_000
    assert not list((folder / "a" / "results").glob("unfinished-*"))


def test_a_slice_goes_through_other_checkpoints_along_eigenvectors_and_along_the_training(folder):
    line = json_of(f"slice {folder}/a --through {folder}/b --points 5")
    assert Result.load(line["line"]["result"]).mark_names.tolist() == ["a", "b"]
    through = f"--through {folder}/b --through {folder}/a/checkpoints/epoch-0000.safetensors"
    plane = json_of(f"slice {folder}/a --dims 2 --plane-points 3 {through}")
    assert len(Result.load(plane["plane"]["result"]).marks) == 3
    path = json_of(f"slice {folder}/a --dims 2 --plane-points 3 --along trajectory")
    assert path["plane"]["explained"][0] > path["plane"]["explained"][1]
    assert Result.load(json_of(f"slice {folder}/a --along eigenvectors --points 3")["line"]["result"]).length == (
        pytest.approx(1, abs=1e-5)
    )


@pytest.mark.parametrize(
    ("line", "status", "sentence"),
    [
        ("--surface", 2, "--surface draws a plane; ask for --dims 2"),
        ("--along gradient", 2, "along must be one of random, eigenvectors, trajectory"),
        ("--along trajectory", 2, "a trajectory is seen in a plane"),
        ("--through DIR/b --dims 2", 2, "a plane goes through two others; got 1"),
        ("--through DIR/none", 2, "there is no run at"),
        ("--through DIR/a", 2, "there is no line between them"),
        ("--tolerance 2", 2, "tolerance must be a share of the range"),
    ],
)
def test_slices_that_make_no_sense_are_refused(line, status, sentence, folder):
    said = refused(f"slice {folder}/a", line.replace("DIR", str(folder)), status=status)
    assert sentence in said


def test_json_of_a_slice_is_one_object(folder):
    for which in ("", " --parameters *.bias"):
        assert json.loads(msam(f"slice {folder}/a --points 3 --json{which}").stdout)["line"]["num_points"] == 3
