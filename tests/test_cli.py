"""The command line: help, JSON, exit status, and what each command writes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli
from landscape import Result
from msam import Run
from msam.checkpoints import read_weights

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--set hidden=8 --set train_examples=60 --batch-size 25 --epochs 2"
FEW = "--probes 4 --steps 5 --points 5 --plane-points 3 -k 2 --microbatch-size 16"


def msam(line: str):
    """Run a command line as a user would."""
    return CliRunner().invoke(cli.main, line.split())


def json_of(line: str):
    """The one JSON object on standard output."""
    result = msam(f"{line} --json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs and a sweep, trained from the command line."""
    folder = tmp_path_factory.mktemp("runs")
    for line in (
        f"train {SMALL} --micro-batches 4 --checkpoint-every 1 --out {folder}/a",
        f"train {SMALL} --perturbation none --out {folder}/b",
        f"sweep {SMALL} --perturbation none,sam --micro-batches 1,2 --seeds 2 --out {folder}/sweep",
    ):
        result = msam(line)
        assert result.exit_code == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_has_help_with_an_example_and_json(name):
    result = msam(f"{name} --help")
    assert result.exit_code == 0
    assert f"Example: msam {name} " in result.stdout
    assert "--json" in result.stdout
    assert cli.main.commands[name].help


def test_without_a_command_there_is_help():
    assert "Commands:" in msam("").output


def test_the_version_is_told():
    assert "0.1.0" in msam("--version").stdout


def test_train_writes_config_metrics_and_checkpoints(folder):
    run = Run.open(folder / "a")
    assert run.config.num_microbatches == 4
    assert run.config.settings["hidden"] == 8
    assert run.config.settings["label_noise"] == 0.0  # defaults are written out
    assert len(run.metrics()) == 2
    assert [path.stem for path in run.checkpoints()] == ["epoch-0000", "epoch-0001", "epoch-0002"]
    written = json.loads((folder / "a" / "config.json").read_text())
    assert {"torch", "python", "msam-landscape"} <= written["versions"].keys()


def test_train_json_is_one_object_with_the_last_metrics(folder, tmp_path):
    content = json_of(f"train {SMALL} --out {tmp_path}/run")
    assert repr(content["epoch"]) == "2"
    assert content["config"]["seed"] == 0
    assert content["checkpoint"].endswith("epoch-0002.safetensors")


@pytest.mark.parametrize(
    ("line", "question", "fields"),
    [
        ("spectrum RUN -k 2 --probes 4 --steps 5", "eigenvalues", {"eigenvalues", "residuals", "converged"}),
        ("spectrum RUN -k 2 --probes 4 --steps 5", "trace", {"trace", "stderr"}),
        ("spectrum RUN -k 2 --probes 4 --steps 5", "density", {"mean_eigenvalue", "stderr"}),
        ("sharpness RUN --microbatch-size 16", "sharpness", {"sharpness", "stderr", "rho"}),
        ("slice RUN --points 5", "line", {"lowest_loss", "num_not_finite"}),
        ("slice RUN --dims 2 --plane-points 3", "plane", {"lowest_loss", "cosine"}),
    ],
)
def test_a_measurement_prints_saves_and_draws(folder, line, question, fields):
    content = json_of(line.replace("RUN", f"{folder}/a"))
    answer = content[question]
    assert fields <= answer.keys()
    assert answer["manifest"]["objective"]["num_examples"] == 60
    assert fields & Result.load(answer["result"]).summary().keys()
    assert Path(answer["figure"]).read_bytes().startswith(b"\x89PNG")
    table = msam(line.replace("RUN", f"{folder}/a")).stdout
    assert "± uncertainty" in table
    assert answer["result"] in table


def test_a_checkpoint_is_measured_instead_of_the_last(folder):
    first = json_of(f"sharpness {folder}/a/checkpoints/epoch-0000.safetensors")
    last = json_of(f"sharpness {folder}/a")
    assert first["checkpoint"].endswith("epoch-0000.safetensors")
    assert first["sharpness"]["sharpness"] != last["sharpness"]["sharpness"]


def test_compare_writes_report_table_and_result(folder, tmp_path):
    content = json_of(f"compare {folder}/a {folder}/b {FEW} --out {tmp_path}/report.html")
    assert [entry["group"] for entry in content["runs"]] == ["mSAM, 4 micro-batches", "SGD"]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<img") == 4
    assert f"{100 * content['runs'][0]['test_accuracy']['value']:.1f} ±" in html
    assert (tmp_path / "report.csv").read_text().startswith("name,group,seed,num_microbatches,measure,value,error")
    assert Result.load(tmp_path / "report.npz").names.tolist() == ["a", "b"]


def test_analyze_takes_a_sweep_and_prints_the_table(folder):
    result = msam(f"analyze {folder}/sweep {FEW}")
    assert result.exit_code == 0
    for words in ("SGD", "SAM", "mSAM, 2 micro-batches", "largest Hessian eigenvalue", "m-sharpness"):
        assert words in result.stdout
    assert len(json_of(f"analyze {folder}/sweep {FEW}")["runs"]) == 6


def test_flatness_vs_m_writes_a_figure_and_its_numbers(folder, tmp_path):
    content = json_of(f"flatness-vs-m {folder}/sweep --out {tmp_path}/f.pdf")
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    assert sorted({entry["num_microbatches"] for entry in content["runs"]}) == [0, 1, 2]
    assert (tmp_path / "f.csv").is_file()


def test_a_sweep_given_again_trains_nothing_anew(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "sweep").rglob("*.safetensors")}
    result = msam(f"sweep {SMALL} --perturbation none,sam --micro-batches 1,2 --seeds 2 --out {folder}/sweep")
    assert result.exit_code == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "sweep").rglob("*.safetensors")}


def test_a_sweep_over_several_radii_is_not_drawn_as_one_curve(folder, tmp_path):
    assert msam(f"sweep {SMALL} --rho 0.1,0.2 --micro-batches 1 --seeds 1 --out {tmp_path}/s").exit_code == 0
    result = msam(f"flatness-vs-m {tmp_path}/s")
    assert result.exit_code == 2
    assert not list(tmp_path.glob("s/*/results"))  # known before anything is measured
    assert "SAM, rho 0.1; SAM, rho 0.2" in result.stderr


def test_plot_draws_results_of_one_kind_and_refuses_others(folder, tmp_path):
    line = json_of(f"slice {folder}/a --points 5")["line"]["result"]
    other = json_of(f"slice {folder}/b --points 5")["line"]["result"]
    assert msam(f"plot {line} {other} --out {tmp_path}/p.svg").exit_code == 0
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()
    finer = json_of(f"slice {folder}/b --points 7")["line"]["result"]
    refused = msam(f"plot {line} {finer} --out {tmp_path}/q.png")
    assert refused.exit_code == 2
    assert "measurement.coordinates" in refused.stderr
    assert not (tmp_path / "q.png").exists()


def test_resume_of_a_finished_run_changes_nothing(folder):
    before = (folder / "b" / "checkpoints" / "epoch-0002.safetensors").read_bytes()
    assert msam(f"train --out {folder}/b --resume").exit_code == 0
    assert (folder / "b" / "checkpoints" / "epoch-0002.safetensors").read_bytes() == before


def test_resume_with_other_settings_is_refused(folder):
    result = msam(f"train --lr 0.5 --out {folder}/b --resume")
    assert result.exit_code == 2
    assert "the run was begun with lr 0.1, not 0.5" in result.stderr


def test_overwrite_replaces_a_run(tmp_path):
    assert msam(f"train {SMALL} --seed 1 --out {tmp_path}/run").exit_code == 0
    assert msam(f"train {SMALL} --seed 2 --out {tmp_path}/run --overwrite").exit_code == 0
    assert Run.open(tmp_path / "run").config.seed == 2


def test_a_terminal_that_knows_ascii_only_gets_question_marks_and_all_numbers(folder):
    code = f"import cli; cli.main(['sharpness', '{folder}/a'])"
    settings = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=settings, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"m-sharpness" in done.stdout
    assert b"?" in done.stdout
    assert done.stdout.isascii()


def test_training_layer_by_layer_ends_where_one_after_another_does(tmp_path):
    for execution in ("one-by-one", "layerwise"):
        done = msam(f"train {SMALL} --micro-batches 5 --execution {execution} --out {tmp_path}/{execution}")
        assert done.exit_code == 0, done.stderr
    first, second = (read_weights(Run.open(tmp_path / name).checkpoint) for name in ("one-by-one", "layerwise"))
    assert all(torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-5) for name in first)


def test_a_warning_goes_to_standard_error_and_json_alone_to_standard_output(tmp_path):
    small = "--model cnn-bn --set width=4 --set train_examples=60 --batch-size 20 --epochs 1"
    result = msam(f"train {small} --micro-batches 2 --execution layerwise --out {tmp_path}/run --json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["epoch"] == 1
    assert "Warning: micro-batches are not computed layer by layer, but by OneByOne: batch norm" in result.stderr


@pytest.mark.parametrize(
    ("line", "last"),
    [
        (f"train {SMALL} --out OUT/run", {"mSAM": (2, 2)}),
        ("sharpness RUN --microbatch-size 16 --rho 0.07", {"m-sharpness": (4, 4)}),
        ("spectrum RUN -k 2 --probes 6 --steps 4", {"trace": (6, 6)}),
        ("slice RUN --dims 1 --points 7", {"line slice": (7, 7)}),
    ],
)
def test_progress_is_reported_to_the_end(line, last, folder, tmp_path, monkeypatch):
    seen = {}

    @contextlib.contextmanager
    def recorded(*, silent=False):
        assert not silent
        yield lambda stage: lambda done, total: seen.__setitem__(stage, (done, total))

    monkeypatch.setattr("figures.terminal.stages", recorded)
    result = msam(
        line.replace("RUN", f"{folder}/a").replace("OUT", str(tmp_path)).replace("train ", "train --micro-batches 2 ")
    )
    assert result.exit_code == 0, result.stderr
    for name, end in last.items():
        assert [step for stage, step in seen.items() if name in stage] == [end]
