"""Every model that can be named takes a step of mSAM, and is then measured, as the formulas say on the model alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from texts import save_config, save_model, write_glue
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import GradientAscent, m_sharpness
from landscape.batches import map_tensors, take
from landscape.denominators import denominator_of
from msam import Examples, Task, load_task, mSAM
from msam.models import IMAGE_MODELS, image_model
from msam.selections import train_only

N, RHO, LR = 5, 0.05, 0.1  # examples, in two micro-batches and three shards, the last of them ragged
SMALL = {"mlp": {"hidden": 4}, "wrn-28-10": {"width": 1}, "vit": {"depth": 2, "width": 8}}  # the layers are all there
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
KINDS = {  # task -> class of the model, its config, and settings of both
    "digits": ("ViTForImageClassification", "ViT", {"image_size": 8, "patch_size": 4, "num_channels": 1} | STILL),
    "glue:sst2": ("BertForSequenceClassification", "Bert", STILL),
    "text": ("GPT2LMHeadModel", "GPT2", GPT2),
}


def named(name: str, folder: Path, **settings: object) -> Task:
    """Digits with a model that is built in."""
    del folder
    return load_task("digits", {"model": name, **SMALL.get(name, {"width": 4}), **settings})


def large(norm: str, folder: Path) -> Task:
    """Pictures of 224 pixels, with ResNet-50."""
    del folder
    few = Examples(torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0)), torch.arange(3))
    build = image_model("resnet50", channels=3, size=224, classes=3, width=4, norm=norm)
    return Task("large", build, functional.cross_entropy, few, few, about="made up")


def of_folder(name: str, folder: Path, *, weights: bool) -> Task:
    """A model of the transformers library, with weights of its own or untrained."""
    kind, config, settings = KINDS[name]
    place = folder / "model"
    more: dict[str, object] = {}
    if name == "text":
        book = folder / "book.txt"
        book.write_text(" ".join(f"{chr(97 + n % 5)}{chr(97 + n % 3)}x" for n in range(200)))
        more = {"data": str(book), "length": 6, "vocabulary": 280}
        settings = settings | {"vocab_size": 300}
    elif name == "glue:sst2":
        more = {"data": str(write_glue(folder, "sst2")), "vocabulary": 40}
    if weights:
        save_model(place, kind, **({"num_labels": 10} if name == "digits" else {}), **settings)
    else:
        save_config(place, config, **settings)
    if weights and name != "digits":
        more |= {"tokenizer": str(tokenizer(place, name, folder))}
    return load_task(name, {"model": f"hf:{place}", **more})


def tokenizer(place: Path, name: str, folder: Path) -> Path:
    """A tokenizer beside weights, which the task takes with them."""
    from msam.data.tokens import trained

    text = (folder / "book.txt").read_text() if name == "text" else "good bad film is a story"
    words = trained(
        [text], kind="pieces" if name == "text" else "words", size=280 if name == "text" else 40, lower=True
    )
    words.inner.save(str(place / "tokenizer.json"))
    return place


CASES: dict[str, tuple[Callable[[Path], Task], str]] = {  # what makes a task, and the pattern that is trained
    **{name: (partial(named, name), "*") for name in IMAGE_MODELS},
    "vit, mean": (partial(named, "vit", pool="mean"), "*"),
    "resnet56, group norm": (partial(named, "resnet56", norm="group"), "*"),
    "wrn-28-10, group norm": (partial(named, "wrn-28-10", norm="group"), "*"),
    "resnet50 at 224 pixels": (partial(large, "batch"), "*"),
    "resnet50 at 224 pixels, group norm": (partial(large, "group"), "*"),
    **{f"{name}, weights": (partial(of_folder, name, weights=True), "*") for name in KINDS},
    **{f"{name}, config alone": (partial(of_folder, name, weights=False), "*") for name in KINDS},
    "glue:sst2, a part": (partial(of_folder, "glue:sst2", weights=True), "*.attention.self.*"),
}


class Written:
    """Loss and gradient of a model over some examples, by ``torch.autograd`` alone; the model's weights are moved."""

    def __init__(self, task: Task, model: nn.Module, data: tuple) -> None:
        self._task, self._model, self._data = task, model, data
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._denominator = denominator_of(task.loss)

    @property
    def w(self) -> Tensor:
        """``(dim,)``."""
        return torch.cat([p.detach().flatten() for p in self._parameters])

    def at(self, w: Tensor, start: int = 0, stop: int = N) -> tuple[Tensor, float]:
        """The loss of consecutive examples with its graph, and what it was divided by."""
        with torch.no_grad():
            for p, part in zip(self._parameters, w.split([p.numel() for p in self._parameters]), strict=True):
                p.copy_(part.view_as(p))
        with sdpa_kernel(SDPBackend.MATH):
            outputs, targets = self._task.forward(self._model, take(self._data, start, stop))
            return self._task.loss(outputs, targets), float(self._denominator(outputs, targets))

    def gradient(self, loss: Tensor, **graph: bool) -> Tensor:
        """``(dim,)``; zeros for a parameter that the loss does not depend on."""
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True, **graph)
        return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                          for g, p in zip(found, self._parameters, strict=True)])  # fmt: skip

    def ascended(self, w: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, float]:
        """The loss of a shard at w and at w + ρ g / ‖g‖, with the graph of the latter, and its denominator."""
        clean, weight = self.at(w, start, stop)
        g = self.gradient(clean)
        return clean.detach(), self.at(w + RHO * g / g.norm(), start, stop)[0], weight


@pytest.fixture
def made(request, tmp_path):
    """A task in double precision, its model, and a few of its training examples."""
    make, pattern = CASES[request.param]
    task = make(tmp_path)
    model = task.model(seed=0).double()
    if pattern != "*":
        train_only(model, pattern)
    few = next(task.train.batches(N))
    inputs, targets = map_tensors(lambda t: t.double() if t.is_floating_point() else t, few)
    return dataclasses.replace(task, train=Examples(inputs, targets)), model, (inputs, targets)


@pytest.mark.parametrize("made", CASES, indirect=True)
def test_a_step_and_what_is_measured_then_are_those_of_the_formulas(made):
    task, model, data = made
    number, written = len(data[1]), Written(task, model.train(), data)
    begun, middle = written.w, (number + 1) // 2
    parts = []
    for start, stop in ((0, middle), (middle, number)):
        _, above, weight = written.ascended(begun, start, stop)
        parts.append((weight, written.gradient(above)))
    step = -LR * sum(weight * g for weight, g in parts) / sum(weight for weight, _ in parts)
    written.at(begun)

    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR)
    optimizer = mSAM(sgd, GradientAscent(RHO), num_microbatches=2, module=model)
    denominator = denominator_of(task.loss)

    def closure(batch):
        outputs, targets = task.forward(model, batch)
        return task.loss(outputs, targets), denominator(outputs, targets)

    optimizer.step(closure, data)
    w = written.w
    assert (w - begun - step).norm() <= 1e-9 * step.norm()

    objective = task.objective(model.eval(), batch_size=3)
    v = torch.randn(len(w), dtype=w.dtype, generator=torch.Generator().manual_seed(1))
    product = written.gradient(written.gradient(written.at(w)[0], create_graph=True) @ v)
    assert (objective.hvp(objective.weights, v) - product).norm() <= 1e-9 * product.norm()
    shards = [written.ascended(w, start, start + 2) for start in range(0, number, 2)]
    rise = sum(weight * (above.detach() - clean) for clean, above, weight in shards)
    written.at(w)
    found = m_sharpness(objective, GradientAscent(RHO), microbatch_size=2).value
    assert found == pytest.approx(float(rise) / sum(weight for _, _, weight in shards), rel=1e-9)
