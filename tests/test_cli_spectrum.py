"""msam spectrum in its ways: certified, forecast, within a budget, along a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from commands import json_of, msam, refused

from landscape import Certificate, Result
from msam import Run

SMALL = "--set hidden=8 --set train_examples=60 --batch-size 60 --epochs 3"
FEW = "-k 2 --probes 6 --steps 4"


def contents(folder: Path):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of descent that kept its checkpoints, and one that kept its last."""
    folder = tmp_path_factory.mktemp("runs")
    for line in (
        f"train {SMALL} --perturbation none --momentum 0 --schedule constant --checkpoint-every 1 --out {folder}/kept",
        f"train {SMALL} --out {folder}/last",
    ):
        result = msam(line)
        assert result.exit_code == 0, result.stderr
    return folder


def test_all_eigenvalues_there_are_can_be_asked_for(folder):
    content = json_of(f"spectrum {folder}/last -k 10 --probes 10 --steps 4 --parameters 3.bias")
    pairs = content["eigenvalues"]["eigenvalues"]
    assert len(pairs) == 10
    assert sum(pairs) == pytest.approx(content["trace"]["trace"], rel=1e-4)
    assert 10 * content["density"]["mean_eigenvalue"] == pytest.approx(sum(pairs), rel=1e-4)


def test_a_certificate_is_printed_saved_and_passes(folder):
    content = json_of(f"spectrum {folder}/kept {FEW} --certify")
    for question in ("eigenvalues", "trace"):
        certificate = content[question]["certificate"]
        assert certificate["passed"] is True
        assert {"name", "value", "tolerance", "verdict", "seconds", "remark"} == certificate["checks"][0].keys()
        assert any(check["name"].startswith("PyHessian") for check in certificate["checks"])
        saved = Certificate.load(certificate["result"])
        assert saved.passed
        assert saved.manifest["measurement"]["of"]["name"] in ("top_eigenvalues", "trace")
    assert "certificate" not in content["density"]
    shown = msam(f"spectrum {folder}/kept {FEW} --certify").stdout
    for words in ("check of the Eigenpairs", "tolerance", "verdict", "seconds", "symmetry of products", "PyHessian"):
        assert words in shown


def test_a_certificate_that_fails_is_printed_and_ends_with_status_1_and_a_sentence(folder):
    content = json_of(f"spectrum {folder}/last {FEW}")
    path = Path(content["eigenvalues"]["result"])
    result = Result.load(path)
    dataclasses.replace(result, eigenvalues=1.05 * result.eigenvalues).save(path)  # somebody has tampered with it
    failed = json_of(f"spectrum {folder}/last {FEW} --certify", status=1)
    assert failed["eigenvalues"]["certificate"]["passed"] is False
    assert failed["trace"]["certificate"]["passed"] is True
    shown = msam(f"spectrum {folder}/last {FEW} --certify")
    assert shown.exit_code == 1
    assert "FAILED" in shown.stdout
    sentence = shown.stderr.split("Error: ")[-1]
    assert sentence.startswith("the certificate failed: residual ‖Av − λv‖ / |λ| is ")
    assert "of the eigenvalues. Do not use these numbers as they are" in sentence
    path.unlink()
    assert msam(f"spectrum {folder}/last {FEW} --certify").exit_code == 0


def test_a_budget_that_is_too_short_says_so_and_poisons_nothing(folder):
    line = f"spectrum {folder}/kept -k 3 --probes 40 --steps 5"
    short = json_of(f"{line} --budget 0.0001s")
    for question in ("eigenvalues", "trace", "density"):
        assert short[question]["cut_short"] is True
    assert not all(short["eigenvalues"]["converged"])
    assert "cut short by the budget of 0.0001s" in msam(f"{line} --budget 0.0001s").stdout
    full = json_of(line)
    for question in ("eigenvalues", "trace", "density"):
        assert full[question]["cut_short"] is False
        assert full[question]["result"] != short[question]["result"]
    assert all(full["eigenvalues"]["converged"])
    again = json_of(f"{line} --budget 1h")
    assert again["trace"]["result"] == full["trace"]["result"]
    failed = json_of(f"{line} --budget 0.0001s --certify")  # the full answers serve, and they pass
    assert failed["eigenvalues"]["certificate"]["passed"] is True


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(folder):
    before = contents(folder)
    content = json_of(f"spectrum {folder}/kept -k 4 --probes 30 --steps 6 --dry-run")
    by_name = {entry["question"]: entry for entry in content["questions"]}
    assert list(by_name) == ["eigenvalues", "trace", "density"]
    assert by_name["trace"]["products"] == by_name["trace"]["most_products"] == 30
    assert by_name["density"]["products"] == 60
    assert 0 < by_name["eigenvalues"]["products"] <= by_name["eigenvalues"]["most_products"]
    assert all(entry["seconds"] > 0 for entry in by_name.values())
    assert all(entry["memory"] > 610 * 4 for entry in by_name.values())
    assert content["total"]["seconds"] == pytest.approx(sum(entry["seconds"] for entry in by_name.values()))
    assert content["answered"] == []
    shown = msam(f"spectrum {folder}/kept -k 4 --probes 30 --steps 6 --dry-run").stdout
    for words in ("question", "products", "at most", "seconds", "memory", "density", "a gradient took"):
        assert words in shown
    assert contents(folder) == before


def test_a_dry_run_tells_what_has_been_measured_before(folder):
    assert msam(f"spectrum {folder}/kept -k 1 --probes 5 --steps 3").exit_code == 0
    assert json_of(f"spectrum {folder}/kept -k 1 --probes 7 --steps 3 --dry-run")["answered"] == [
        "eigenvalues",
        "density",
    ]
    shown = msam(f"spectrum {folder}/kept -k 1 --probes 7 --steps 3 --dry-run").stdout
    assert "measured before, and read back at no cost: eigenvalues, density" in shown


def test_all_checkpoints_are_measured_printed_saved_and_drawn(folder):
    content = json_of(f"spectrum {folder}/kept --all-checkpoints")
    assert [entry["epoch"] for entry in content["checkpoints"]] == [0, 1, 2, 3]
    assert all(entry["threshold"] == pytest.approx(20) for entry in content["checkpoints"])
    assert all(entry["converged"] and entry["num_products"] > 0 for entry in content["checkpoints"])
    assert content["threshold"] == "2/lr: where full-batch descent becomes unstable"
    assert Path(content["figure"]).read_bytes().startswith(b"\x89PNG")
    assert Path(content["table"]).read_text().startswith("epoch,largest_eigenvalue,residual")
    assert Result.load(content["result"]).epochs.tolist() == [0, 1, 2, 3]
    shown = msam(f"spectrum {folder}/kept --all-checkpoints").stdout
    for words in ("epoch 3", "products; threshold 20", content["threshold"], content["figure"], content["table"]):
        assert words in shown
    assert msam(f"plot {content['result']} --out {folder}/course.png").exit_code == 0


def test_a_damaged_checkpoint_is_named_with_status_1_and_the_others_are_there(folder, tmp_path):
    assert msam(f"train {SMALL} --checkpoint-every 1 --out {tmp_path}/run").exit_code == 0
    damaged = Run.open(tmp_path / "run").checkpoints()[1]
    damaged.write_bytes(damaged.read_bytes()[:300])
    content = json_of(f"spectrum {tmp_path}/run --all-checkpoints", status=1)
    assert [entry["epoch"] for entry in content["checkpoints"]] == [0, 2, 3]
    assert content["failed"][0]["checkpoint"] == str(damaged)
    errors = msam(f"spectrum {tmp_path}/run --all-checkpoints").stderr
    assert f"Error: not every checkpoint could be measured: {damaged} is not a whole safetensors file" in errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--certify --dry-run", "choose one of --dry-run and --certify"),
        ("--certify --all-checkpoints", "choose one of --all-checkpoints and --certify"),
        ("--dry-run --all-checkpoints", "choose one of --dry-run and --all-checkpoints"),
        ("--dry-run --budget 60s", "--dry-run measures nothing that a --budget could limit"),
        ("--all-checkpoints -k 3 --probes 9", "leave out -k, --probes"),
        ("--estimator exact-gauss-newton --budget 60s", "cannot cut short the passes"),
        ("--budget 0", "a budget is a duration above zero, such as 60s, 2m, 1h or 90; got '0'"),
        ("--budget 0s", "got '0s'"),
        ("--budget soon", "got 'soon'"),
        ("--budget=-5", "got '-5'"),
    ],
)
def test_ways_that_make_no_sense_are_wrong_usage_and_write_nothing(options, words, folder):
    before = contents(folder)
    assert words in refused(f"spectrum {folder}/kept {options}", status=2)
    assert contents(folder) == before


def test_fewer_products_than_an_estimator_takes_are_wrong_usage(folder):
    sentence = refused(f"spectrum {folder}/last -k 1 --estimator exact-gauss-newton --probes 11", status=2)
    assert "give num_probes=12 or more, or use KrylovAware(); got 11" in sentence


def test_all_checkpoints_of_a_run_that_kept_one_are_refused(folder):
    sentence = refused(f"spectrum {folder}/last --all-checkpoints", status=2)
    assert "has kept epoch-0003.safetensors alone; train with --checkpoint-every 1" in sentence
    one = f"{folder}/kept/checkpoints/epoch-0001.safetensors"
    assert "is one checkpoint; name the run directory" in refused(f"spectrum {one} --all-checkpoints", status=2)
