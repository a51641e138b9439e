"""Tasks of the user's own whose targets are no single class: regression has no accuracy, tokens have one."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import torch
from commands import json_of, msam, refused
from torch.nn import functional

from landscape import LineSlice, Result
from msam import Run, TrainConfig

TASKS = """
import torch
from torch import nn
from torch.nn import functional
from msam import Examples, Task

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)
    def forward(self, words, mask):
        seen = self.words(words) * mask[..., None]
        return self.head(seen + seen.mean(1, keepdim=True))  # (n, length, classes)

def drawn(number, seed):
    return torch.randn(number, 3, generator=torch.Generator().manual_seed(seed))

def regression():
    train, test = (Examples(x, x.sin().sum(1, keepdim=True)) for x in (drawn(30, 0), drawn(11, 1)))
    build = lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return Task("regression", build, functional.mse_loss, train, test, "sines")

def sentences(number, seed):
    words = torch.randint(1, 9, (number, 5), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(5) < 2 + torch.arange(number)[:, None] % 4).long()
    return Examples({"words": words, "mask": mask}, torch.where(mask == 1, words % 3, -100))

def turned(model, batch):
    return model(**batch[0]).transpose(1, 2), batch[1]

def tokens():
    return Task("tokens", Tagger, functional.cross_entropy, sentences(30, 0), sentences(11, 1), "words", forward=turned)

def straight():
    return Task("straight", Tagger, functional.cross_entropy, sentences(30, 0), sentences(11, 1), "words")

def own_loss(outputs, targets):
    return functional.cross_entropy(outputs.transpose(1, 2), targets)

def counted(outputs, targets):
    return (targets != -100).sum()

def own():
    data = sentences(30, 0), sentences(11, 1)
    return Task("own", Tagger, own_loss, *data, "words", denominator=counted)
"""
FEW = "-k 1 --probes 12 --steps 4 --microbatch-size 8 --points 3 --plane-points 3 --draws 2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of each task, with the folder of the tasks as the working directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "of_targets.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for task in ("regression", "tokens", "own"):
            for name, more in (("sgd", "--perturbation none"), ("sam", "--micro-batches 2")):
                line = f"train --task of_targets:{task} {more} --batch-size 8 --epochs 2 --out {folder}/{task}-{name}"
                assert msam(line).exit_code == 0, msam(line).output
        yield folder


def test_a_row_of_the_metrics_has_an_empty_cell_where_there_is_no_accuracy(runs):
    rows = list(csv.DictReader((runs / "regression-sgd/metrics.csv").read_text().splitlines()))
    assert [row["test_accuracy"] for row in rows] == ["", ""]
    assert np.isnan(Run.open(runs / "regression-sgd").metrics()[-1]["test_accuracy"])
    assert float(rows[-1]["test_loss"]) > 0
    tokens = Run.open(runs / "tokens-sgd").metrics()[-1]
    assert 0 < tokens["test_accuracy"] < 1


def test_the_outcome_of_training_says_so_on_the_terminal_and_in_json(runs):
    line = f"train --task of_targets:regression --epochs 1 --out {runs}/again"
    shown = msam(line).stdout
    assert shown.splitlines()[-1].split()[-1] == "-"
    assert json_of(f"{line} --overwrite")["test_accuracy"] is None


def test_a_comparison_of_regressions_has_losses_and_flatness_and_no_accuracy(runs):
    line = f"compare {runs}/regression-sgd {runs}/regression-sam {FEW} --out {runs}/report.html"
    content = json_of(line)
    for run in content["runs"]:
        assert run["test_accuracy"] == run["gap"] == {"value": None, "error": None}
        assert run["test_loss"]["error"] > 0
        assert run["trace"]["value"] > 0
    html = (runs / "report.html").read_text()
    assert "<td>-</td>" in html
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>|base64,[^\"]*", "", html, flags=re.DOTALL))
    assert "There is no accuracy: the targets are not known to be classes." in html
    assert "Test loss: lowest for" in html
    assert "Flatness and test loss" in html
    table = msam(f"analyze {runs}/regression-sgd {runs}/regression-sam {FEW}").stdout
    assert "test loss" in table
    assert table.count(" - ") == 4
    assert "nan" not in table


def test_tokens_have_the_accuracy_of_those_that_count(runs):
    (run,) = json_of(f"analyze {runs}/tokens-sam {FEW}")["runs"]
    task = Run.open(runs / "tokens-sam").config.load_task()
    model, test = Run.open(runs / "tokens-sam").load_model(task), task.test
    outputs = model(**test.inputs).transpose(1, 2)
    right = (outputs.argmax(1) == test.targets)[test.targets != -100]
    assert run["test_accuracy"]["value"] == pytest.approx(right.double().mean().item(), rel=1e-12)
    assert run["test_loss"]["value"] == pytest.approx(functional.cross_entropy(outputs, test.targets).item(), rel=1e-6)
    assert run["test_accuracy"]["error"] > 0
    assert Run.open(runs / "tokens-sam").metrics()[-1]["test_accuracy"] == run["test_accuracy"]["value"]


def test_a_loss_of_ones_own_is_weighed_by_its_denominator_and_has_no_accuracy(runs):
    plain, own = (Run.open(runs / name).metrics()[-1] for name in ("tokens-sam", "own-sam"))
    assert own["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-5)
    assert own["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-5)
    assert np.isnan(own["test_accuracy"])
    products = []
    for name in ("tokens", "own"):
        run = Run.open(runs / "tokens-sgd")  # one model under both losses
        task = TrainConfig(task=f"of_targets:{name}").load_task()
        objective = task.objective(run.load_model(task), batch_size=8)
        products.append(objective.hvp(objective.weights, objective.weights))
    assert products[0].norm() > 0
    torch.testing.assert_close(*products)


@pytest.mark.parametrize(("task", "score"), [("regression", ""), ("tokens", "accuracy")])
def test_slices_and_paths_have_a_score_where_there_are_classes(runs, task, score):
    content = json_of(f"slice {runs}/{task}-sgd --points 3")
    found = Result.load(content["line"]["result"])
    assert isinstance(found, LineSlice)
    assert found.score == score
    assert (found.scores is None) == (score == "")
    if task == "tokens":
        accuracy = Run.open(runs / "tokens-sgd").metrics()[-1]["test_accuracy"]
        assert found.held_out_scores[1] == pytest.approx(accuracy, rel=1e-12)
    path = json_of(f"path {runs}/{task}-sgd {runs}/{task}-sam --points 3")
    assert ("score_barrier" in path["straight"]) == (score != "")


def test_outputs_in_another_order_are_refused_with_the_way_out(runs):
    sentence = refused(f"train --task of_targets:straight --epochs 1 --out {runs}/straight", status=2)
    assert "outputs (30, 5, 3) and targets (30, 5)" in sentence
    assert "transpose(1, 2)" in sentence


def test_the_kernel_task_has_no_accuracy(tmp_path):
    assert json_of(f"train --task kernel --epochs 1 --out {tmp_path}/a")["test_accuracy"] is None
