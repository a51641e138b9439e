from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import N, classes, normal, problem, ragged, tanh_mlp
from torch import nn

from landscape import HessianOperator, Objective

X, Y = normal(N, 3), classes(N, 3)
DATA = ragged(X, Y)


def build(model=None, loss=F.cross_entropy, data=DATA, **options):
    return Objective((model or tanh_mlp()).double(), loss, data, **options)


def test_a_generator_as_data_is_refused():
    with pytest.raises(TypeError, match=r"iterable more than once; got a generator.*Pass a DataLoader"):
        build(data=(batch for batch in DATA))


def test_one_batch_instead_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"got one batch\. Pass \[\(inputs, targets\)\]"):
        build(data=(X, Y))


def test_data_that_cannot_be_iterated_are_refused():
    with pytest.raises(TypeError, match="data must be an iterable of batches; got int"):
        build(data=3)


def test_a_dictionary_instead_of_a_list_of_batches_is_refused():
    with pytest.raises(ValueError, match="a batch must contain a tensor with one row per example; got str"):
        build(data={"x": X, "labels": Y})


@pytest.mark.parametrize("data", [[], [(X[:0], Y[:0])]], ids=["no batch", "no example"])
def test_empty_data_are_refused(data):
    with pytest.raises(ValueError, match="the data set is empty"):
        build(data=data)


def test_lengths_of_inputs_and_targets_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"must agree in their first dimension.*got lengths \[13, 12\]"):
        build(data=[(X, Y[:-1])])


def test_a_batch_that_is_neither_a_pair_nor_labelled_is_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r"must be \(inputs, targets\) or a mapping with 'labels'; got tuple.*forward="):
        build(data=[(X, X, Y)])


def test_something_that_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got function"):
        Objective(lambda x: x, F.cross_entropy, DATA)


class Augmented:
    """Gives other inputs at each pass."""

    def __init__(self, change):
        self.change = change

    def __iter__(self):
        return ((self.change(x), y) for x, y in DATA)


def test_augmentation_is_refused_and_leaves_the_random_state():
    model = tanh_mlp()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"a second pass over the data gave other examples\. Turn off augmentation"):
        build(model, data=Augmented(lambda x: x + torch.randn_like(x)))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (nn.Dropout(0.1), r"where 1 \(Dropout\) draws a new mask at each call"),
        (nn.BatchNorm1d(3), r"where 1 \(BatchNorm1d\) normalises with the statistics of each batch"),
    ],
)
def test_training_mode_with_dropout_or_batch_norm_is_refused_and_evaluation_mode_is_not(layer, sentence):
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(ValueError, match=f"the model is in training mode, {sentence}.*Call model.eval"):
        build(model)
    assert build(model.eval()).num_examples == N


def test_dropout_between_recurrent_layers_is_refused():
    with pytest.raises(ValueError, match=r"where it \(GRU\) applies dropout between its layers"):
        build(nn.GRU(3, 3, num_layers=2, dropout=0.5))


def test_training_mode_without_effect_is_accepted_and_recorded():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.LayerNorm(3))
    assert build(model).manifest()["objective"]["mode"] == "training"


class Functional(nn.Linear):
    def forward(self, x):
        return F.dropout(super().forward(x), p=0.5, training=True)


def test_functional_dropout_is_refused_and_leaves_the_random_state():
    model = Functional(3, 3)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="the objective is not deterministic: the same weights and data gave loss"):
        build(model)
    assert torch.equal(state, torch.get_rng_state())


def test_noise_from_a_generator_of_the_models_own_is_refused():
    class Noisy(nn.Linear):
        source = torch.Generator()

        def forward(self, x):
            return super().forward(x) + torch.randn(3, generator=self.source, dtype=torch.float64)

        def __deepcopy__(self, memo):
            return Noisy(3, 3).double()

    with pytest.raises(ValueError, match="the objective is not deterministic"):
        build(Noisy(3, 3))


def test_batch_norm_without_running_statistics_is_refused_in_evaluation_mode_too():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match=r"is not the weighted mean over its parts.*treat examples one by one"):
        build(model)


def test_a_loss_module_that_sums_is_refused():
    with pytest.raises(ValueError, match=r"must be a mean over its batch; got reduction='sum'\. Set reduction='mean'"):
        build(loss=nn.CrossEntropyLoss(reduction="sum"))


def test_an_unknown_loss_that_sums_is_refused():
    with pytest.raises(ValueError, match=r"is not the weighted mean over its parts.*The loss must be a mean"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y, reduction="sum"))


def test_a_hidden_ignore_index_is_refused_with_the_way_out():
    y = Y.clone()
    y[0] = 7
    with pytest.raises(ValueError, match=r"is not the weighted mean.*pass denominator=lambda"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y, ignore_index=7), data=ragged(X, y))


def test_a_constant_denominator_is_refused_on_an_even_batch_too():
    with pytest.raises(ValueError, match="is not the weighted mean over its parts"):
        build(data=ragged(X, Y, (6, 6, 1)), denominator=lambda outputs, targets: 1)


def test_a_loss_per_example_is_refused():
    with pytest.raises(ValueError, match=r"must return a scalar tensor, the mean over the batch; got \(5,\)"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y, reduction="none"))


def test_a_loss_that_is_a_plain_number_is_refused():
    with pytest.raises(ValueError, match="must return a scalar tensor, the mean over the batch; got float"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y).item())
    with pytest.raises(ValueError, match="must return a scalar tensor, the mean over the batch; got a complex number"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y) * (1 + 0j))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start_is_refused(value):
    with pytest.raises(ValueError, match=f"the loss at the model's weights is {value}; a landscape is measured around"):
        build(loss=lambda outputs, y: F.cross_entropy(outputs, y) + value)


def test_weights_that_are_not_finite_are_refused():
    model = tanh_mlp()
    nn.init.constant_(model[0].bias, math.nan)
    with pytest.raises(ValueError, match="the model's weights are not all finite"):
        build(model)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="has no trainable parameter"):
        build(tanh_mlp().requires_grad_(False))


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no trainable parameter matches 'head\.\*'"):
        build(parameters="head.*")


def test_weights_that_are_not_used_are_refused_where_nothing_else_is_selected():
    with pytest.raises(ValueError, match="the loss does not depend on the weights to measure: none of them is used"):
        problem("unused").objective(parameters="unused.*")


def test_a_call_in_inference_mode_is_refused_and_does_not_find_a_flat_landscape():
    objective = problem("tanh_mlp").objective()
    with torch.inference_mode(), pytest.raises(ValueError, match=r"the call stands under torch\.inference_mode"):
        objective.hvp(objective.weights, objective.weights)


@pytest.mark.parametrize("w", [torch.zeros(30), torch.zeros(31, 1), [0.0] * 31], ids=["short", "column", "list"])
@pytest.mark.parametrize("method", ["loss", "gradient", "loss_and_gradient", "differentiable_loss"])
def test_weights_of_another_shape_are_refused(method, w):
    with pytest.raises(ValueError, match=r"w must be a tensor of shape \(31,\), like objective.weights; got"):
        getattr(build(), method)(w)


@pytest.mark.parametrize("V", [torch.zeros(30), torch.zeros(2, 31), torch.zeros(31, 2, 2), [0.0] * 31])
@pytest.mark.parametrize("method", ["hvp", "ggn_product"])
def test_vectors_of_another_shape_are_refused(method, V):
    objective = build()
    with pytest.raises(ValueError, match=r"V must be a tensor of shape \(31,\) or \(31, k\); got"):
        getattr(objective, method)(objective.weights, V)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_refused_since_no_check_could_tell_noise_from_rounding(dtype):
    data = [(X[:1].to(dtype), X[:1].to(dtype))]
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"measured in float32 or float64; the weights are {kind}. Use model.float"):
        Objective(nn.Linear(3, 3).to(dtype), F.mse_loss, data)


def test_complex_weights_are_refused():
    model = nn.Linear(3, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"the weights are complex64\. Write them as pairs of real numbers"):
        Objective(model, lambda z, y: z.abs().mean(), [(X.to(torch.complex64), Y)])


@pytest.mark.parametrize("method", ["loss", "gradient", "loss_and_gradient", "differentiable_loss"])
def test_weights_of_another_dtype_are_refused(method):
    sentence = r"w must have the dtype .* torch.float64 on cpu; got torch.float32 on cpu. Use w.to\(objective.weights\)"
    with pytest.raises(ValueError, match=sentence):
        getattr(build(), method)(torch.zeros(31))


@pytest.mark.parametrize("method", ["hvp", "ggn_product"])
def test_vectors_of_another_dtype_are_refused_and_no_vector_has_no_product(method):
    objective = build()
    with pytest.raises(ValueError, match=r"V must have the dtype .* got torch.int64 on cpu"):
        getattr(objective, method)(objective.weights, torch.ones(31, dtype=torch.int64))
    with pytest.raises(ValueError, match="weights must have the dtype"):
        HessianOperator(objective, weights=objective.weights.float())
    assert getattr(objective, method)(objective.weights, torch.zeros(31, 0).double()).shape == (31, 0)
