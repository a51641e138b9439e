"""The built-in transformers: padding and the future change nothing, and executions and products are exact."""

from __future__ import annotations

import pytest
import torch
from networks import ASCENTS, require_same
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import HessianOperator, Objective
from landscape.forward import supervised
from msam.data import Examples
from msam.descents import AtPerturbation
from msam.layerwise import Layerwise
from msam.models.text import LanguageModel, TextClassifier
from msam.step import Step
from msam.tasks.text import NO_TARGET, next_token

B, T, WORDS = 7, 5, 6
LENGTHS = torch.tensor([5, 3, 4, 5, 2, 5, 3])


def classifier(*, dropout=0.0):
    torch.manual_seed(0)
    model = TextClassifier(
        vocabulary=WORDS, places=T, outputs=3, width=4, depth=1, heads=2, dropout=dropout, kinds=2
    ).double()
    return _larger(model)


def language(*, tied=True):
    torch.manual_seed(0)
    return _larger(
        LanguageModel(vocabulary=WORDS, places=T, width=4, depth=1, heads=2, dropout=0.0, tied=tied).double()
    )


def _larger(model):
    """The vectors begin so small that a model is nearly linear."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.std() < 0.1:
            parameter.data.mul_(20)
    return model


def sentences():
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(T) < LENGTHS[:, None]).long()
    ids = torch.randint(1, WORDS, (B, T), generator=generator) * mask
    kinds = (torch.arange(T) >= 2).long() * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}, torch.arange(B) % 3


def blocks():
    ids, _ = sentences()
    targets = torch.where(ids["attention_mask"] == 1, ids["input_ids"].roll(-1, 1), NO_TARGET)
    return {"input_ids": ids["input_ids"]}, targets


def test_padding_changes_no_score():
    model, (inputs, _) = classifier().eval(), sentences()
    whole = model(**inputs)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = {key: value[row : row + 1, :length] for key, value in inputs.items() if key != "attention_mask"}
        torch.testing.assert_close(model(**alone), whole[row : row + 1], rtol=1e-12, atol=1e-14)


def test_the_kinds_of_a_pair_matter_and_so_does_the_order_of_the_words():
    model, (inputs, _) = classifier().eval(), sentences()
    ids = inputs["input_ids"].clone()
    ids[:, 0], ids[:, 1] = 1, 2
    kept = model(**(inputs | {"input_ids": ids}))
    turned = model(**(inputs | {"input_ids": ids[:, [1, 0, 2, 3, 4]]}))
    flipped = model(**(inputs | {"input_ids": ids, "token_type_ids": 1 - inputs["token_type_ids"]}))
    for other in (turned, flipped):
        assert (other - kept).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_a_later_word_changes_no_score_before_it(tied):
    model, (inputs, _) = language(tied=tied).eval(), blocks()
    whole = model(**inputs)
    assert whole.shape == (B, T, WORDS)
    for length in range(1, T):
        torch.testing.assert_close(model(inputs["input_ids"][:, :length]), whole[:, :length], rtol=1e-12, atol=1e-14)
    changed = inputs["input_ids"].clone()
    changed[:, 0] = (changed[:, 0] + 1) % WORDS
    assert (model(changed)[:, -1] - whole[:, -1]).abs().max() > 1e-3


def test_tied_scores_share_the_table_of_words():
    numbers = {tied: sum(p.numel() for p in language(tied=tied).parameters()) for tied in (True, False)}
    assert numbers[False] - numbers[True] == WORDS * 4
    model = language()
    assert model.scores.weight is model.words.weight


def test_dropout_is_of_training_alone():
    model, (inputs, _) = classifier(dropout=0.5), sentences()
    assert not torch.equal(model.train()(**inputs), model(**inputs))
    assert torch.equal(model.eval()(**inputs), model(**inputs))
    assert torch.equal(model(**inputs), classifier().eval()(**inputs))


CASES = {
    "classifier": (classifier, sentences, supervised),
    "tied language model": (language, blocks, next_token),
    "language model": (lambda: language(tied=False), blocks, next_token),
}


@pytest.mark.parametrize("ascent", ASCENTS, ids=lambda ascent: type(ascent).__name__)
@pytest.mark.parametrize("name", CASES)
def test_all_micro_batches_layer_by_layer_are_those_one_after_another(name, ascent):
    build, data, read = CASES[name]
    model, batch = build(), data()

    def closure(part):
        outputs, targets = read(model, part)
        loss = functional.cross_entropy(outputs, targets)
        return loss if targets.ndim == 1 else (loss, (targets != NO_TARGET).sum())

    parameters = list(model.parameters())
    step = Step(
        closure=closure,
        batch=batch,
        sizes=(3, 2, 2),
        own=range(3),
        parameters=parameters,
        perturbed=[True] * len(parameters),
        descent=AtPerturbation(ascent),
        module=model,
    )
    require_same(step, Layerwise())


@pytest.mark.parametrize("name", ["classifier", "tied language model"])
def test_products_are_those_of_the_dense_hessian_over_ragged_batches(name):
    build, data, read = CASES[name]
    model, (inputs, targets) = build().eval(), data()
    objective = Objective(
        model, functional.cross_entropy, list(Examples(inputs, targets).batches(3)), forward=read, parameters="blocks.*"
    )
    names = objective.space.names
    fixed = dict(model.named_parameters())

    def whole(w):
        parts = w.split(objective.space.sizes)
        placed = {key: part.view(fixed[key].shape) for key, part in zip(names, parts, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            outputs = functional_call(model, placed, (), inputs)
        outputs = outputs if targets.ndim == 1 else outputs.transpose(1, 2)
        return functional.cross_entropy(outputs, targets)

    dense = torch.autograd.functional.hessian(whole, objective.weights)
    torch.testing.assert_close(objective.loss(objective.weights), whole(objective.weights), rtol=1e-12, atol=0)
    found = HessianOperator(objective).apply(torch.eye(objective.space.dim, dtype=torch.float64)[:, ::7])
    assert (found - dense[:, ::7]).abs().max() <= 1e-9 * dense.abs().max()
    assert dense.abs().max() > 1e-3
