"""Tasks of the user's own: loaded once by each command, and what goes wrong in one is a sentence that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import json_of, msam, refused

OWN = '''
import dataclasses
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from msam import Examples, Task

KEPT = nn.Linear(3, 2)


def counted(*, width: int = 4) -> Task:
    """Three numbers, two classes."""
    with Path("loaded").open("a") as stream:
        stream.write(f"{width}\\n")
    draws = torch.Generator().manual_seed(0)
    train, test = (Examples(torch.randn(n, 3, generator=draws), torch.arange(n) % 2) for n in (12, 6))
    build = lambda: nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
    return Task("counted", build, functional.cross_entropy, train, test)


def spoiled(*, part: str) -> Task:
    """A task with one part that does not fit the others."""
    task, number = counted(), torch.arange(12)
    inputs, few = task.train.inputs, torch.arange(6)
    parts = {
        "train": Examples(inputs, number % 3),
        "test": Examples(task.test.inputs, few - 1),
        "doubles": Examples(inputs.double(), number % 2),
        "build": lambda: 1 / 0,
        "frozen": lambda: nn.Linear(3, 2).requires_grad_(False),
        "nothing": lambda: nn.Identity(),
        "unset": lambda: nn.utils.skip_init(nn.Linear, 3, 2).apply(lambda layer: layer.weight.data.fill_(torch.nan)),
        "empty": lambda: nn.Linear(3, 2, device="meta"),
        "lazy": lambda: nn.LazyLinear(2),
        "sparse": Examples(inputs.to_sparse(), number % 2),
        "shapes": Examples(inputs.to("meta"), number % 2),
        "instance": nn.Linear(3, 2),
        "model": lambda: nn.Linear(4, 2),
        "loss": lambda outputs, targets: {}["scores"],
        "forward": lambda model, batch: model(batch[0]),
        "number": lambda outputs, targets: 3.0,
        "sum": lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="sum"),
    }
    places = {
        "build": ("instance", "model", "frozen", "nothing", "unset", "empty", "lazy"),
        "train": ("doubles", "shapes", "sparse"),
        "loss": ("number", "sum"),
    }
    place = next((place for place, names in places.items() if part in names), part)
    return dataclasses.replace(task, **{place: parts[part]})


def mended() -> Task:
    """A task that fails, until there is a file."""
    task = counted()

    def loss(outputs, targets):
        if not Path("there").exists():
            raise KeyboardInterrupt if Path("slow").exists() else KeyError("scores")
        return task.loss(outputs, targets)

    return Task("mended", task.build, loss, task.train, task.test)


def changing() -> Task:
    """A task whose test data are others once there is a file."""
    task = counted()
    test = task.test.taken(torch.arange(5)) if Path("changed").exists() else task.test
    return dataclasses.replace(task, test=test)


def leaves() -> Task:
    """A task that ends the program."""
    raise SystemExit(3)


def kept() -> Task:
    """A task that builds the same model each time."""
    task = counted()
    return Task("kept", lambda: KEPT, functional.cross_entropy, task.train, task.test)
'''
LOUD = """
from msam import Task
from own_counted import counted
print("imported")

def loud() -> Task:
    print("loaded")
    task = counted()

    def build():
        print("built")
        return task.build()

    def loss(outputs, targets):
        print("asked")
        return task.loss(outputs, targets)

    return Task("loud", build, loss, task.train, task.test, "made up")
"""
SHORT = "--task own_counted:counted --epochs 1 --batch-size 6"
FEW = "-k 1 --probes 2 --steps 2 --points 2 --plane-points 2 --microbatch-size 6"


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """The settings a task was loaded with since it was last asked; its module lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_counted.py").write_text(OWN)

    def since():
        found = (tmp_path / "loaded").read_text().split()
        (tmp_path / "loaded").unlink()
        return found

    return since


def test_a_training_loads_its_task_once(loaded):
    json_of("train", SHORT, "--micro-batches 2 --trainable 0.* --out a")
    assert loaded() == ["4"]
    json_of("train", SHORT, "--micro-batches 2 --trainable 0.* --resume --out a")
    assert loaded() == ["4"]


def test_a_sweep_loads_its_task_once_and_so_does_a_study_of_its_runs(loaded):
    swept = json_of("sweep", SHORT, "--micro-batches 1,2 --seeds 2 --out s")["runs"]
    assert loaded() == ["4"]
    alone = json_of("train", SHORT, "--micro-batches 2 --seed 1 --out a")
    assert [swept[-1][name] for name in ("train_loss", "test_loss")] == [alone["train_loss"], alone["test_loss"]]
    loaded()
    json_of("flatness-vs-m s --probes 2 --microbatch-size 6")
    assert loaded() == ["4"]


def test_a_task_that_says_nothing_of_its_data_goes_by_its_name(loaded):
    json_of("train", SHORT, "--out a")
    assert "a/checkpoints/epoch-0001.safetensors: counted\n" in msam("spectrum a -k 1 --probes 6 --steps 2").stdout


def test_a_study_loads_a_task_once_for_each_of_its_settings(loaded):
    for name, width in (("a", 4), ("b", 5), ("c", 4)):
        json_of("train", SHORT, f"--set width={width} --out {name}")
    loaded()
    assert msam("compare a b c", FEW, "--out r.html").exit_code == 2  # of another architecture
    assert loaded() == ["4", "5"]


def test_weights_from_elsewhere_load_their_task_once_however_many_they_are(loaded, tmp_path):
    first = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    for number, name in enumerate(("one", "two", "three")):
        torch.save({key: tensor + number for key, tensor in first.state_dict().items()}, tmp_path / f"{name}.pt")
    about = "--task own_counted:counted"
    json_of("sharpness --weights one.pt", about, "--microbatch-size 6 --draws 2")
    assert loaded() == ["4"]  # when it is adopted
    json_of("sharpness --weights one.pt", about, "--microbatch-size 6 --draws 2")
    assert loaded() == ["4"]
    json_of("path --weights one.pt --weights two.pt", about, "--points 3")
    assert loaded() == ["4"]
    json_of("slice --weights one.pt", about, "--through three.pt --points 3")
    assert loaded() == ["4"]


def test_what_a_task_prints_is_not_part_of_the_answer(loaded, tmp_path):
    (tmp_path / "own_loud.py").write_text(LOUD)
    found = msam("train --task own_loud:loud --epochs 1 --batch-size 6 --out a --json")
    assert json.loads(found.stdout)["run"] == "a"
    assert {"imported", "loaded", "built", "asked"} <= set(found.stderr.split())
    assert json_of("sharpness a --microbatch-size 6 --draws 2")["run"] == "a"
    assert "loaded" not in msam("sharpness a --microbatch-size 6 --draws 2").stdout
    (tmp_path / "own_louder.py").write_text(LOUD)
    assert json_of("tasks show own_louder:loud")["settings"] == []
    assert "Usage: " in msam("train --help").stdout


def test_models_that_share_their_parameters_are_refused(loaded):
    sentence = refused("train --task own_counted:kept --epochs 1 --batch-size 6 --out a", status=2)
    assert sentence.startswith("the task kept builds models that share the parameter weight, so that training one")
    assert "copy.deepcopy" in sentence


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("train", "the target 2 is none of the classes 0 to 1 that outputs (6, 2) are for; mend the targets"),
        ("test", "the target -1 is none of the classes 0 to 1 that outputs (6, 2) are for; mend the targets"),
        ("doubles", "the task counted failed in epoch 1 with RuntimeError: mat1 and mat2 must have the same dtype"),
        ("build", "the task counted failed to build its model with ZeroDivisionError: division by zero; MSAM_"),
        ("instance", "the task counted failed to build its model with TypeError: Linear.forward() missing 1"),
        ("frozen", "the model of the task counted has no parameters that are trained; set requires_grad on some"),
        ("nothing", "the model of the task counted has no parameters that are trained; set requires_grad on some"),
        ("unset", "the model of the task counted begins with weights that are not finite, first in weight; mend its"),
        (
            "empty",
            "weight of the model of the task counted is on the device 'meta', which has shapes",
        ),
        (
            "lazy",
            "weight of the model of the task counted is of a lazy layer, which has neither shape nor numbers before",
        ),
        (
            "sparse",
            "the task own_counted:spoiled cannot be used: a tensor of a batch is sparse_coo, of which no part can",
        ),
        ("shapes", "the task own_counted:spoiled cannot be used: a tensor of train is on the device 'meta', which has"),
        ("model", "the task counted failed in epoch 1 with RuntimeError: mat1 and mat2 shapes cannot be"),
        ("loss", "the task counted failed in epoch 1 with KeyError: 'scores'; MSAM_TRACEBACK=1 shows where"),
        ("sum", "the loss of the task counted is a sum over its batch, "),
        ("number", "the loss must return a scalar tensor, the mean over the batch; got float"),
        ("forward", "the task counted failed in epoch 1 with TypeError: forward must return a pair, (outputs, t"),
    ],
)
def test_a_part_of_a_task_that_does_not_fit_is_named(part, sentence, loaded):
    found = msam("train --task own_counted:spoiled --epochs 1 --batch-size 6 --out a --set", f"part={part}")
    assert found.exit_code == 2
    assert found.stdout == ""
    assert f"Error: {sentence}" in found.stderr
    assert found.stderr.split("Error: ", 1)[1].count("\n") == 1
    assert (part in ("train", "test", "doubles", "model", "loss", "number", "forward")) == Path("a").exists()


def test_what_does_not_fit_is_named_in_a_measurement_too(loaded):
    trained = json_of("train", SHORT, "--out a")["checkpoint"]
    for part, sentence in (
        ("train", "the target 2 is none of the classes 0 to 1"),
        ("loss", "the task counted failed on its train data with KeyError: 'scores'; MSAM_TRACEBACK=1 shows where"),
    ):
        about = f"--task own_counted:spoiled --set part={part} --weights {trained}"
        found = msam("sharpness", about)
        assert found.exit_code == 2
        assert f"Error: {sentence}" in found.stderr


def test_a_training_that_failed_in_its_first_epoch_is_begun_again_by_the_same_command(loaded, tmp_path):
    line = "train --task own_counted:mended --epochs 1 --batch-size 6 --out a"
    assert "'scores'; MSAM_TRACEBACK=1 shows where" in refused(line, status=2)
    (tmp_path / "slow").touch()
    assert "interrupted; what was finished is kept" in refused(line, status=1)
    (tmp_path / "there").touch()
    assert json_of(line)["epoch"] == 1
    assert "holds a run already" in refused(line, status=2)


def test_a_run_is_measured_and_a_sweep_gone_on_with_on_other_data_only_when_that_is_said(loaded, tmp_path):
    few = "--epochs 1 --batch-size 6 --checkpoint-every 1 --micro-batches 1,2 --seeds 1"
    swept = f"sweep --task own_counted:changing {few} --out s"
    json_of(swept)
    (tmp_path / "changed").touch()
    unlike = "its test data were 6 examples, and are 5"
    said = f"s/run-01 was trained on other data than the task own_counted:changing gives now: {unlike}. Put the data "
    assert refused(swept, status=2) == f"{said}back as they were, or train in another folder"
    measured = "sharpness s/run-01 --microbatch-size 6 --draws 2"
    assert refused(measured, status=2) == f"{said}back as they were, or measure on those of now with --other-data"
    about = f"counted (run-01 was trained on other data: {unlike})"
    assert json_of(measured, "--other-data")["about"] == about
    few = "--other-data --probes 2 --microbatch-size 6"
    all_of_it = f"{few} -k 1 --steps 2 --draws 2 --points 2 --plane-points 2"
    both = f"{about}; run-02 was trained on other data: {unlike}"
    lines = {
        f"analyze s {all_of_it}": both,
        f"flatness-vs-m s {few}": both,
        "path s/run-01 s/run-02 --points 3 --other-data": both,
        "spectrum s/run-01 --all-checkpoints --other-data": about.replace("run-01", "run-01/epoch-0001"),
    }
    for line, told in lines.items():
        assert json_of(line)["about"] == told
        assert told in msam(line).stdout


def test_a_task_that_ends_the_program_is_named(loaded):
    sentence = msam("train --task own_counted:leaves --out a").stderr
    assert sentence.endswith("Error: the task own_counted:leaves failed with SystemExit: 3\n")
