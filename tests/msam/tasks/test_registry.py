"""Tasks of the user's own: imported from the working directory, their settings typed, their faults said."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

import cli
from msam import load_task
from msam.models import IMAGE_MODELS
from msam.tasks.glue import GLUE
from msam.tasks.registry import complete_settings, described, kind_in_words, settings_of

MODULE = """
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from msam import Examples, Task


class Two(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(2, width), nn.Linear(3, width)
        self.head = nn.Linear(width, 2)

    def forward(self, left, right):
        return self.head(torch.relu(self.first(left) + self.second(right)))


def pairs(*, width: int = 4, noise: float = 0.0, flip: bool = False, kind: Literal["a", "b"] = "a",
          folder: Path = Path("."), most: int | None = None):
    generator = torch.Generator().manual_seed(0)
    def split(n):
        left, right = torch.randn(n, 2, generator=generator), torch.randn(n, 3, generator=generator)
        return Examples({"left": left, "right": right}, (left[:, 0] + right[:, 0] > 0).long())
    assert isinstance(folder, Path)
    about = f"{width} {noise} {flip} {kind} {most}"
    return Task("pairs", lambda: Two(width), functional.cross_entropy, split(40), split(21), about)


def needs(*, path): return None
def said(*, width: int = 3, depth: int = 4):
    \"\"\"A task that says what its settings are.

    Args:
        width: of the layer,
            in units.
        depth: of it.

    Raises:
        ValueError: never.
    \"\"\"
def raises(): raise OSError("no such archive: data.tar")
def other(): return 3
def anything(**settings): return 3
def unknown(*, value: list = ()): return 3
def by_name(*, batch: dict = None): return 3
def several(*, widths: tuple[int, ...] = (4, 8), rate: Literal["auto"] | float = "auto", most: int = None,
            folder=Path("."), plain=(1, 2), word=None):
    task, about = pairs(), repr((widths, rate, most, folder, plain, word))
    return Task("several", task.build, task.loss, task.train, task.test, about)
def odd(*, value: "torch.nothing" = 3): return 3
def empty():
    task = pairs()
    return Task("empty", task.build, task.loss, task.train, Examples(torch.zeros(0, 2), torch.zeros(0)), "")
def ragged():
    task = pairs()
    return Task("ragged", task.build, task.loss, task.train, Examples(torch.zeros(3, 2), torch.zeros(4)), "")
def no_module():
    task = pairs()
    return Task("no_module", lambda: 3, task.loss, task.train, task.test, "")
def lists():
    task = pairs()
    return Task("lists", task.build, task.loss, [1, 2], task.test, "")
def arrays(*, part: Literal["inputs", "targets"] = "inputs", kind: Literal["ndarray", "list"] = "list"):
    task = pairs()
    other = [1] * 3 if kind == "list" else torch.ones(3).numpy()
    parts = {"inputs": torch.ones(3), "targets": torch.ones(3)} | {part: other}
    return Task("arrays", task.build, task.loss, task.train, Examples(**parts), "")
def sums():
    task = pairs()
    return Task("sums", task.build, nn.CrossEntropyLoss(reduction="sum"), task.train, task.test, "")
NUMBER = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """The name of a module in the working directory, which no other test has imported."""
    name = f"mylab_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "tasks.py").write_text(MODULE)
    (tmp_path / name / "broken.py").write_text("import no_such_library")
    (tmp_path / name / "wrong.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_function_in_the_working_directory_is_a_task_with_typed_settings(own):
    task = load_task(f"{own}.tasks:pairs", {"width": "7", "flip": "true", "kind": "b", "most": "none", "noise": "1"})
    assert task.about == "7 1.0 True b None"
    assert task.model(seed=0).head.in_features == 7
    objective = task.objective(task.model(seed=0))
    model = task.model(seed=0)
    expected = functional.cross_entropy(model(**task.train.inputs), task.train.targets)
    torch.testing.assert_close(objective.loss(objective.weights), expected.detach())


def test_settings_of_a_function_are_completed_by_its_defaults(own):
    complete = complete_settings(f"{own}.tasks:pairs", {"most": 3})
    assert complete == {"width": 4, "noise": 0.0, "flip": False, "kind": "a", "folder": ".", "most": 3}
    json.dumps(complete)  # they stand in a config


def test_settings_may_be_several_values_of_several_types_and_none_where_that_is_the_default(own):
    name = f"{own}.tasks:several"
    assert load_task(name, {}).about == repr(((4, 8), "auto", None, Path(), (1, 2), None))
    texts = {"widths": "3", "rate": "0.5", "most": "7", "folder": "a", "plain": "5,6", "word": "w"}
    expected = repr(((3,), 0.5, 7, Path("a"), (5, 6), "w"))
    assert load_task(name, texts).about == expected
    kept = json.loads(json.dumps(complete_settings(name, texts)))  # as it stands in a config
    assert complete_settings(name, kept) == kept
    assert load_task(name, kept).about == expected
    rows = {row["setting"]: (row["type"], row["default"]) for row in described(name)}
    assert rows == {
        "widths": ("int,... with commas", "4,8"),
        "rate": ("auto or float", "auto"),
        "most": ("int or none", "none"),
        "folder": ("Path", "."),
        "plain": ("int,... with commas", "1,2"),
        "word": ("str or none", "none"),
    }


def test_a_module_of_the_working_directory_is_first_for_the_task_and_for_nothing_that_is_imported_later(own, tmp_path):
    """A project may have a ``figures.py`` of its own, and be like a package that is imported afterwards."""
    for folder in ("installed", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("early", "late"):
            (tmp_path / folder / f"{own}_{name}.py").write_text(f"WHERE = {folder!r}")
    sys.path.append(str(tmp_path / "installed"))
    (tmp_path / own / "tasks.py").write_text(f"import {own}_early\n{MODULE}")
    for _ in range(2):
        load_task(f"{own}.tasks:pairs", {})
        assert sys.path.count(str(tmp_path)) == 1
    assert sys.modules[f"{own}_early"].WHERE == "."
    assert importlib.import_module(f"{own}_late").WHERE == "installed"


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("{}.nothing:pairs", {}, r"there is no module '\w+\.nothing' for the task .*; run the command in the folder"),
        ("no_such_package.tasks:pairs", {}, "there is no module 'no_such_package.tasks'"),
        ("{}.broken:pairs", {}, "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("{}.wrong:pairs", {}, "cannot be imported: ZeroDivisionError: division by zero"),
        ("{}.tasks:pear", {}, "has no function 'pear'; did you mean 'pairs'"),
        ("{}.tasks:NUMBER", {}, "is a int; a task is a function that returns"),
        ("{}.tasks:raises", {}, "failed with OSError: no such archive: data.tar"),
        ("{}.tasks:other", {}, "returned a int; it must return a msam.Task"),
        ("{}.tasks:anything", {}, r"takes \*\*settings; its settings must be arguments with names"),
        ("{}.tasks:needs", {}, "needs the setting 'path'; give it with --set path="),
        ("{}.tasks:pairs", {"widht": 3}, "has no setting 'widht'; did you mean 'width'"),
        ("{}.tasks:raises", {"width": 3}, "has no setting 'width'; it has none"),
        ("{}.tasks:pairs", {"flip": "maybe"}, "flip must be true or false; got 'maybe'"),
        ("{}.tasks:pairs", {"kind": "c"}, "there is no kind 'c'; there are: a, b"),
        ("{}.tasks:pairs", {"most": "many"}, "most must be of type int; got 'many'"),
        ("{}.tasks:unknown", {}, "value is of type list, which no text stands for"),
        ("{}.tasks:by_name", {"batch": "3"}, "batch is of type dict, which no text stands for"),
        (
            "{}.tasks:odd",
            {},
            "the settings of the task .* cannot be read: AttributeError: .*has no attribute 'nothing'",
        ),
        (
            "{}/tasks.py:pairs",
            {},
            r"tasks.py is a file, and a task is named by its module, .*: \w+\.tasks:pairs",
        ),
        ("{}.tasks:empty", {}, "cannot be used: test has no examples"),
        ("{}.tasks:ragged", {}, r"cannot be used: .*agree in their first dimension.*\[3, 4\]"),
        ("{}.tasks:lists", {}, r"cannot be used: train must be msam.Examples\(inputs, targets\); got a list"),
        ("{}.tasks:arrays", {}, "cannot be used: the inputs of test must be tensors; got a list"),
        (
            "{}.tasks:arrays",
            {"kind": "ndarray"},
            "the inputs of test must be tensors; got a ndarray, which torch.as_ten",
        ),
        ("{}.tasks:arrays", {"part": "targets"}, "cannot be used: the targets of test must be tensors; got a list"),
        ("{}.tasks:sums", {}, "cannot be used: the loss must be a mean over its batch; got reduction='sum'"),
        (":pairs", {}, "there is no task ':pairs'"),
        ("pairs", {}, "there is no task 'pairs'; there are: digits, .*One of your own is named module.path:function"),
    ],
)
def test_what_cannot_be_a_task_is_refused_with_the_reason(name, settings, sentence, own):
    with pytest.raises(ValueError, match=sentence):
        load_task(name.format(own), settings)


def test_a_task_that_builds_no_module_says_so_when_it_is_built(own):
    with pytest.raises(TypeError, match=r"no_module builds a int; it must build a torch\.nn\.Module"):
        load_task(f"{own}.tasks:no_module", {}).model(seed=0)


def test_the_settings_of_a_task_are_described(own):
    rows = {row["setting"]: (row["type"], row["default"]) for row in described(f"{own}.tasks:pairs")}
    assert rows["width"] == ("int", "4")
    assert rows["kind"] == ("a or b", "a")
    assert rows["most"] == ("int or none", "none")
    assert rows["flip"] == ("bool", "false")
    assert described(f"{own}.tasks:needs") == [{"setting": "path", "type": "str", "default": None, "about": ""}]
    assert [row["about"] for row in described(f"{own}.tasks:said")] == ["of the layer, in units.", "of it."]
    assert kind_in_words(Literal[1, 2] | None) == "1 or 2 or none"


def run(*arguments: str):
    return CliRunner().invoke(cli.main, list(arguments))


def test_a_task_of_ones_own_is_trained_and_measured_from_the_command_line(own):
    name = f"{own}.tasks:pairs"
    trained = run("train", "--task", name, "--set", "width=3", "--micro-batches", "2", "--batch-size", "20",
                  "--epochs", "2", "--out", "a", "--json")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["config"]["settings"]["width"] == 3
    measured = run("spectrum", "a", "-k", "1", "--probes", "4", "--steps", "3", "--json")
    assert measured.exit_code == 0, measured.output
    sub = json.loads(measured.stdout)["eigenvalues"]["manifest"]["objective"]
    assert sub["dim"] == 3 * 3 + 4 * 3 + 4 * 2
    assert "width" in run("tasks", "show", name).stdout


def test_built_in_tasks_are_listed_with_their_settings():
    assert "digits: Handwritten digits" in run("tasks").stdout
    said = json.loads(run("tasks", "--json").stdout)["tasks"]
    needs = {name: re.findall(r"from (--data \S+), with msam-landscape\[(.*)\]\.$", said[name]) for name in said}
    files = {f"glue:{name}": ("--data FOLDER", "data,hf") for name in GLUE}
    files |= dict.fromkeys(("cifar10", "cifar100", "images"), ("--data FOLDER", "data"))
    files["text"] = ("--data PATH", "hf")
    assert all(row["about"] for name in said for row in described(name))
    assert needs == {name: [files[name]] if "data" in settings_of(name) else [] for name in said}
    shown = run("tasks", "show", "digits")
    assert set(IMAGE_MODELS) <= set(shown.stdout.split())
    rows = {row["setting"]: row for row in json.loads(run("tasks", "show", "digits", "--json").stdout)["settings"]}
    assert rows["depth"] == {"setting": "depth", "type": "int or none", "default": "none",
                             "about": "layers of wrn-28-10, blocks of vit."}  # fmt: skip
    assert rows["label_noise"]["about"].endswith("0 to 1. Test labels are always true.")  # of two lines or of one
    wrong = run("tasks", "show", "digit")
    assert wrong.exit_code == 2
    assert "did you mean 'digits'" in wrong.stderr
