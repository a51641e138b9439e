"""The recipes for Lightning and accelerate, their very code, against the plain loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape.perturbations import GradientAscent
from msam import mSAM

pytestmark = pytest.mark.filterwarnings("default")  # their packages warn of their own


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def in_the_plain_loop(model, batches, *, forward=None):
    """What the recipes are to come to, on two epochs of batches of 16, 16, 16 and 14, with clipping that matters."""
    forward = forward or model
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = mSAM(sgd, GradientAscent(rho=0.05), num_microbatches=4, module=model, max_grad_norm=0.2, seed=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for batch in batches:
        optimizer.step(lambda part: functional.cross_entropy(forward(part[0]), part[1]), batch)
        scheduler.step()
    return weights(model)


def half(model):
    def forward(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float()

    return forward


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_comes_to_the_weights_of_the_plain_loop(precision, cook):
    recipe = cook("Lightning", changed=[("gradient_clip_val=1.0", "gradient_clip_val=0.2")])
    model = recipe["Classifier"]()
    plain = copy.deepcopy(model)
    trainer = recipe["lightning"].Trainer(
        max_epochs=2, devices=1, logger=False, enable_checkpointing=False, precision=precision, accelerator="cpu"
    )
    trainer.fit(model, recipe["loader"])
    expected = in_the_plain_loop(
        plain.net, [*recipe["loader"]] * 2, forward=half(plain.net) if precision == "bf16-mixed" else None
    )
    assert same(weights(model), expected)
    assert trainer.global_step == 8
    assert trainer.callback_metrics["loss"] > 0


def test_lightning_resumes_to_the_weights_of_the_uninterrupted_training(cook):
    recipe = cook("Lightning")
    start, models = recipe["Classifier"](), []
    for parts in ([2], [1, 2]):
        for epochs in parts:
            model = copy.deepcopy(start)
            trainer = recipe["lightning"].Trainer(
                max_epochs=epochs, devices=1, logger=False, enable_checkpointing=False, accelerator="cpu"
            )
            path = "between.ckpt" if epochs == 2 and len(parts) == 2 else None
            trainer.fit(model, recipe["loader"], ckpt_path=path, weights_only=True)
            trainer.save_checkpoint("between.ckpt")
        models.append(weights(model))
        assert trainer.optimizers[0].steps == 8
    assert same(*models)


def test_accelerate_comes_to_the_weights_of_the_plain_loop(cook):
    recipe = cook("accelerate", changed=[("model.parameters(), 1.0)", "model.parameters(), 0.2)")])
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    data = torch.randn(62, 20), torch.randint(0, 3, (62,))
    batches = [*zip(*(part.split(16) for part in data), strict=True)] * 2
    assert same(weights(recipe["model"]), in_the_plain_loop(plain, batches, forward=half(plain)))


def test_accelerate_goes_on_from_its_saved_state(cook):
    whole = cook("accelerate")
    cook("accelerate", changed=[("range(2)", "range(1)")])
    loaded = 'accelerator.load_state("accelerated")\nfor epoch in range(1, 2):'
    parts = cook("accelerate", changed=[("for epoch in range(2):", loaded)])
    assert same(weights(parts["model"]), weights(whole["model"]))
    assert parts["msam"].steps == 8
