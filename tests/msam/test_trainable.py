"""Only some of the parameters are trained: the others stay, are kept in checkpoints, and are not measured."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GradientAscent
from msam import Run, TrainConfig, mSAM, train
from msam.checkpoints import read_weights
from msam.data import shuffled
from msam.selections import train_only

HEAD = TrainConfig(
    settings={"model": "cnn", "norm": "group", "width": 4, "train_examples": 40},
    trainable="8.*",
    num_microbatches=3,
    batch_size=16,  # the last batch has eight
    epochs=3,
    schedule="constant",
)


def trained(config, path):
    return train(config.load_task(), config, Run.create(path, config))


def features(task):
    """What the head is given, by the untrained body."""
    with torch.no_grad():
        return task.model(seed=0)[:8](task.train.inputs)


@pytest.mark.parametrize("execution", ["one-by-one", "layerwise", "vectorised"])
def test_training_the_head_alone_is_training_a_linear_layer_on_the_features(execution, tmp_path):
    run = trained(dataclasses.replace(HEAD, execution=execution), tmp_path / "run")
    task = HEAD.load_task()
    begun, ended = task.model(seed=0).state_dict(), read_weights(run.checkpoint)
    assert begun.keys() == ended.keys()
    assert [name for name in begun if not torch.equal(begun[name], ended[name])] == ["8.weight", "8.bias"]

    linear, x = task.model(seed=0)[8], features(task)
    sgd = torch.optim.SGD(linear.parameters(), lr=HEAD.lr, momentum=HEAD.momentum)
    optimizer = mSAM(sgd, GradientAscent(rho=HEAD.rho), num_microbatches=3, module=linear)
    for epoch in range(3):
        order = shuffled(40, seed=0, epoch=epoch)
        for chosen in order.split(16):
            batch = x[chosen], task.train.targets[chosen]
            optimizer.step(lambda b: functional.cross_entropy(linear(b[0]), b[1]), batch)
    torch.testing.assert_close(ended["8.weight"], linear.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ended["8.bias"], linear.bias.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_of_few_parameters_that_was_stopped_ends_with_the_same_weights(optimizer, tmp_path):
    config = dataclasses.replace(HEAD, optimizer=optimizer, lr=0.01, weight_decay=0.1)
    whole, stopped = trained(config, tmp_path / "whole"), Run.create(tmp_path / "stopped", config)

    def stop(epochs, _):
        if epochs == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config.load_task(), config, stopped, progress=stop)
    train(config.load_task(), config, stopped)
    first, second = read_weights(whole.checkpoint), read_weights(stopped.checkpoint)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_run_gives_back_is_frozen_but_for_what_was_trained(tmp_path):
    run = trained(dataclasses.replace(HEAD, epochs=1), tmp_path / "run")
    model = run.load_model(HEAD.load_task())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["8.weight", "8.bias"]
    objective = HEAD.load_task().objective(model, parameters="8.*")
    assert objective.manifest()["objective"]["parameters"] == "8.*"
    assert objective.space.dim == 10 * 32 + 10


def test_of_what_is_trained_only_a_part_may_be_perturbed():
    config = dataclasses.replace(HEAD, perturbed="*.bias")
    (group,) = config.optimizer_for(config.model(config.load_task())).param_groups
    assert sum(p.requires_grad for p in group["params"]) == 2
    with pytest.raises(ValueError, match=r"no trainable parameter matches '0\.\*'; there are, for instance, 8"):
        dataclasses.replace(HEAD, perturbed="0.*").load_task()


def test_a_pattern_without_a_match_freezes_nothing_and_is_answered_with_near_names():
    with pytest.raises(ValueError, match=r"no trainable parameter matches '9\.wieght'; there are, for instance, 8\.w"):
        dataclasses.replace(HEAD, trainable="9.wieght").load_task()
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="no trainable parameter matches"):
        train_only(net, "2.*")
    assert all(p.requires_grad for p in net.parameters())


def test_tied_parameters_are_trained_by_the_first_of_their_names_and_frozen_ones_stay_frozen():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    train_only(net, "0.*")
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["0.weight"]
