from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import (
    ZOO,
    N,
    dense_ggn,
    dense_gradient,
    dense_hessian,
    linear_regression,
    normal,
    problem,
    quadratic,
    ragged,
    softmax_regression,
    symmetric,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape import (
    GGNOperator,
    GradientAscent,
    HessianOperator,
    Objective,
    filter_normalized,
    line_slice,
    m_sharpness,
    plane_slice,
    pyhessian_eigenvalues,
    random_direction,
    spectral_density,
    top_eigenvalues,
    trace,
)


def close(a, b, atol=1e-12):
    return torch.allclose(a, b, rtol=1e-10, atol=atol)


def test_loss_gradient_and_hessian_of_a_quadratic_are_exact():
    A, w, slopes = symmetric(torch.linspace(-1, 2, 6).double()), normal(6), normal(N, 6, seed=1)
    objective = quadratic(A, w=w, slopes=slopes)
    b = slopes.mean(dim=0)
    assert close(objective.loss(w), w @ A @ w / 2 + b @ w)
    assert close(objective.gradient(w), A @ w + b)
    assert close(objective.hvp(w, torch.eye(6).double()), A)


def test_the_hessian_of_linear_regression_is_the_kronecker_product_of_identity_and_gram_matrix():
    objective, hessian = linear_regression()
    assert close(objective.hvp(objective.weights, torch.eye(12).double()), hessian)


def test_hessian_and_gauss_newton_of_softmax_regression_are_the_closed_form():
    objective, hessian = softmax_regression()
    eye = torch.eye(12).double()
    assert close(objective.hvp(objective.weights, eye), hessian)
    assert close(objective.ggn_product(objective.weights, eye), hessian)


@pytest.mark.parametrize("name", ZOO)
def test_loss_gradient_and_curvature_agree_with_dense_autograd(name):
    given = problem(name)
    objective = given.objective()
    w, eye = objective.weights, torch.eye(objective.space.dim).double()
    assert close(objective.loss(w), given.loss(given.model(given.x), given.y).detach())
    assert close(objective.gradient(w), dense_gradient(given))
    assert close(objective.hvp(w, eye), dense_hessian(given))
    assert close(objective.ggn_product(w, eye), dense_ggn(given))


def test_loss_and_gradient_are_the_two_in_one_pass():
    objective = problem("tanh_mlp").objective()
    loss, gradient = objective.loss_and_gradient(objective.weights)
    assert torch.equal(loss, objective.loss(objective.weights))
    assert torch.equal(gradient, objective.gradient(objective.weights))


def test_the_differentiable_loss_has_the_gradient_and_the_hessian_of_the_objective():
    objective = problem("attention").objective()
    w = objective.weights.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective.differentiable_loss(w), w, create_graph=True)
    v = normal(objective.space.dim)
    assert close(slope, objective.gradient(objective.weights))
    assert close(torch.autograd.grad(slope, w, v)[0], objective.hvp(objective.weights, v))


def test_answers_are_given_at_any_weights_and_not_only_at_the_models():
    given = problem("tanh_mlp")
    objective, other = given.objective(), copy.deepcopy(given.model)
    w = objective.weights + 0.3 * normal(objective.space.dim)
    nn.utils.vector_to_parameters(w, other.parameters())
    assert close(objective.loss(w), given.loss(other(given.x), given.y).detach())


def test_a_selection_of_the_weights_has_their_part_of_gradient_and_hessian():
    given = problem("tanh_mlp")
    objective = given.objective(parameters="2.*")
    assert objective.space.names == ("2.weight", "2.bias")
    assert close(objective.gradient(objective.weights), dense_gradient(given)[16:])
    assert close(objective.hvp(objective.weights, torch.eye(15).double()), dense_hessian(given)[16:, 16:])


def test_shards_are_consecutive_and_the_last_has_what_is_left():
    objective = problem("tanh_mlp").objective()
    shards = list(objective.shards(4))
    assert [shard.num_examples for shard in shards] == [4, 4, 4, 1]
    assert torch.equal(torch.cat([shard.batches[0][0] for shard in shards]), problem("tanh_mlp").x)
    mean = sum(shard.num_examples * shard.loss(objective.weights) for shard in shards) / N
    assert close(mean, objective.loss(objective.weights))


@pytest.mark.parametrize("size", [0, -1, N + 1])
def test_a_shard_size_that_is_no_number_of_examples_is_refused(size):
    with pytest.raises(ValueError, match=f"a shard must have 1 to 13 examples, all there are; got {size}"):
        problem("tanh_mlp").objective().shards(size)


def test_the_objective_is_fixed_when_it_is_made():
    given = problem("tanh_mlp")
    x = given.x.clone()
    objective = Objective(given.model, given.loss, ragged(x, given.y))
    before = objective.loss(objective.weights)
    x.mul_(2)
    with torch.no_grad():
        given.model[0].weight.zero_()
    assert torch.equal(objective.loss(objective.weights), before)
    assert objective.model[0].weight.any()


def test_batches_of_no_example_do_not_count():
    given = problem("tanh_mlp")
    batches = [(given.x[:0], given.y[:0]), *ragged(given.x, given.y), (given.x[:0], given.y[:0])]
    objective = Objective(given.model, given.loss, batches)
    assert torch.equal(objective.loss(objective.weights), given.objective().loss(objective.weights))


def test_what_a_model_caches_while_the_loss_is_evaluated_can_be_differentiated_afterwards():
    class Cached(nn.Linear):
        positions = torch.ones(0, 1).double()

        def forward(self, x):
            if len(self.positions) < x.shape[1]:
                self.positions = torch.arange(x.shape[1]).double()[:, None]
            return (super().forward(x) * self.positions[: x.shape[1]]).mean(dim=1)

    data = [(normal(3, 5, 3), normal(3, 2)), (normal(3, 9, 3), normal(3, 2))]  # the second batch is longer
    objective = Objective(Cached(3, 2).double(), F.mse_loss, data)
    objective.loss(objective.weights)
    assert objective.gradient(objective.weights).isfinite().all()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3).double()

    def forward(self, ids, mask):
        return type("Output", (), {"logits": (self.embed(ids) * mask[..., None]).sum(dim=1)})()


def test_dictionary_batches_with_labels_are_read_and_logits_are_taken():
    ids, mask, labels = torch.randint(0, 5, (N, 4)), torch.rand(N, 4).double().round(), torch.randint(0, 3, (N,))
    model = Tokens()
    parts = zip(ids.split(5), mask.split(5), labels.split(5), strict=True)
    data = [{"ids": i, "mask": m, "labels": y} for i, m, y in parts]
    objective = Objective(model, F.cross_entropy, data)
    expected = F.cross_entropy(model(ids, mask).logits, labels).detach()
    assert close(objective.loss(objective.weights), expected)


def test_a_forward_of_ones_own_reads_any_batch():
    given = problem("tanh_mlp_mse")
    data = [{"image": x, "goal": y, "weight": torch.ones(len(x))} for x, y in ragged(given.x, given.y)]
    objective = Objective(given.model, given.loss, data, forward=lambda model, b: (model(b["image"]), b["goal"]))
    assert close(objective.loss(objective.weights), given.objective().loss(objective.weights))


def test_a_shuffled_data_loader_is_accepted_and_is_the_same_data():
    given = problem("tanh_mlp")
    loader = DataLoader(TensorDataset(given.x, given.y), batch_size=5, shuffle=True)
    shuffled, ordered = Objective(given.model, given.loss, loader), given.objective()
    assert close(shuffled.hvp(shuffled.weights, shuffled.weights), ordered.hvp(ordered.weights, ordered.weights))
    assert shuffled.manifest()["objective"]["data"] == ordered.manifest()["objective"]["data"]
    assert shuffled.order != ordered.order


def test_the_manifest_says_what_was_measured():
    given = problem("conv_batch_norm")
    data = ragged(given.x, given.y)
    manifest = Objective(given.model, given.loss, data, parameters="4.*", split="test").manifest()
    assert len(manifest["objective"].pop("architecture")) == 16
    assert manifest["objective"] == {
        "loss": "cross_entropy",
        "reduction": "mean over targets other than -100, no class weights",
        "forward": "supervised",
        "split": "test",
        "num_examples": N,
        "data": given.objective().manifest()["objective"]["data"],
        "mode": "evaluation",
        "batch_norm": "frozen running statistics",
        "parameters": "4.*",
        "dim": 27,
        "dtype": "float64",
    }
    assert manifest["subject"]["model"] == "Sequential"


CALLS = {
    "make": lambda o: None,
    "loss": lambda o: o.loss(o.weights),
    "loss_and_gradient": lambda o: o.loss_and_gradient(o.weights),
    "hvp": lambda o: o.hvp(o.weights, o.weights),
    "ggn_product": lambda o: o.ggn_product(o.weights, o.weights),
    "manifest": lambda o: o.manifest(),
    "top_eigenvalues": lambda o: top_eigenvalues(HessianOperator(o), 2, max_products=5),
    "trace": lambda o: trace(GGNOperator(o), 3),
    "spectral_density": lambda o: spectral_density(HessianOperator(o), 3, num_probes=2),
    "m_sharpness": lambda o: m_sharpness(o, GradientAscent(0.1), microbatch_size=4),
    "directions": lambda o: (random_direction(o, seed=0), filter_normalized(o, seed=0)),
    "line_slice": lambda o: line_slice(o, filter_normalized(o, seed=0), coordinates=[0.0, 1.0]),
    "plane_slice": lambda o: plane_slice(o, (random_direction(o, seed=0), random_direction(o, seed=1)), x=[0], y=[1]),
    "pyhessian": lambda o: pyhessian_eigenvalues(o, max_iterations=2),
}


def state_of(model):
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        name: (t.detach().clone(), t.requires_grad, None if t.grad is None else t.grad.clone()) for name, t in named
    }


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("gradients", [torch.enable_grad, torch.no_grad])
def test_no_call_changes_the_model_its_data_or_the_random_state(call, gradients):
    given = problem("conv_batch_norm")
    model = given.model
    model[0].bias.requires_grad_(False)
    model[4].train()  # a mode of its own, which has no effect
    model(given.x).sum().backward()
    seen = []
    handle = model.register_forward_hook(lambda module, args, out: seen.append(module is model))
    loader = DataLoader(TensorDataset(given.x, given.y), batch_size=5, shuffle=True)
    before, modes, x = state_of(model), [m.training for m in model.modules()], given.x.clone()
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    with gradients():
        call(Objective(model, given.loss, loader))
        assert torch.is_grad_enabled() == (gradients is torch.enable_grad)
    after = state_of(model)
    assert all(torch.equal(before[n][0], after[n][0]) and before[n][1] == after[n][1] for n in before)
    assert all((a[2] is None) == (b[2] is None) for a, b in zip(before.values(), after.values(), strict=True))
    assert all(before[n][2] is None or torch.equal(before[n][2], after[n][2]) for n in before)
    assert modes == [m.training for m in model.modules()]
    assert list(model._forward_hooks) == [handle.id]
    assert not any(seen)  # the caller's module itself was never called
    assert torch.equal(x, given.x)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), str(np.random.get_state()))  # noqa: NPY002


def test_networks_of_one_size_and_other_layers_are_of_another_architecture():
    data = [(torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long))]
    kinds = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)]
    models = [nn.Sequential(nn.Conv2d(1, 4, 1), norm, nn.Flatten()).eval() for norm in kinds]
    manifests = [Objective(model, nn.functional.cross_entropy, data).manifest()["objective"] for model in models]
    assert manifests[0]["dim"] == manifests[1]["dim"]
    assert manifests[0]["architecture"] != manifests[1]["architecture"]
    assert manifests[1]["architecture"] == manifests[2]["architecture"]


def test_other_statistics_of_batch_norm_give_another_objective_and_leave_the_first_as_it_was():
    given = problem("conv_batch_norm")
    objective, mean = given.objective(), normal(2, seed=9)
    before = objective.loss(objective.weights)
    other = objective.with_buffers({"1.running_mean": mean})
    given.model[1].running_mean = mean
    assert torch.equal(other.loss(other.weights), given.objective().loss(objective.weights))
    assert torch.equal(objective.loss(objective.weights), before)
    assert other.manifest()["subject"]["fixed"] != objective.manifest()["subject"]["fixed"]
    with pytest.raises(ValueError, match=r"buffers\['1.mean'\] has shape \(2,\); the model has no such buffer"):
        objective.with_buffers({"1.mean": mean})
    with pytest.raises(ValueError, match=r"has shape \(3,\); the model has \(2,\)"):
        objective.with_buffers({"1.running_mean": normal(3)})


def test_a_layer_that_is_held_under_two_names_keeps_its_weights():
    layer = nn.Linear(3, 3).double()
    objective = Objective(nn.Sequential(layer, nn.Tanh(), layer), F.mse_loss, [(normal(5, 3), normal(5, 3, seed=1))])
    objective.gradient(objective.weights + 1)
    assert torch.equal(objective.model[2].weight, layer.weight)
