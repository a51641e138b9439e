"""Models of the transformers library as they are: their batches and outputs need no wrapper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from problems import classes
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import GGNOperator, HessianOperator, Objective

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")


def tokens(n, length, *, vocabulary=11, seed=0):
    return torch.randint(1, vocabulary, (n, length), generator=torch.Generator().manual_seed(seed))


def bert():
    """A classifier of sentences of several lengths, with dropout that evaluation switches off."""
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=4,
        max_position_embeddings=6,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config)
    ids = tokens(7, 5)
    mask = torch.ones_like(ids)
    mask[2:5, 3:] = 0
    batch = transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": classes(7, 3)})
    return model, batch


def gpt2():
    """A language model with tied embeddings; padding has no target."""
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=6, n_embd=4, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    ids = tokens(7, 5)
    labels = ids.clone()
    labels[1, 3:] = labels[4:, 4:] = -100
    return transformers.GPT2LMHeadModel(config), {"input_ids": ids, "labels": labels}


def next_token(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def tokens_with_a_target(logits, labels):
    return (labels[:, 1:] != -100).sum()


CASES = {
    "bert": (bert, F.cross_entropy, None),
    "gpt2": (gpt2, next_token, tokens_with_a_target),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_hessian_over_ragged_batches_of_their_own_kind(name):
    build, loss, denominator = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch = build()
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(20)  # they begin so small that the model is linear
    kind = type(batch)
    data = [kind({key: value[start:stop] for key, value in batch.items()}) for start, stop in ((0, 4), (4, 6), (6, 7))]
    objective = Objective(
        model, loss, data, denominator=denominator, parameters="*attn*" if name == "gpt2" else "*.query.*"
    )
    names, shapes = objective.space.names, objective.space.shapes

    def whole(w):
        blocks = dict(
            zip(names, (p.view(s) for p, s in zip(w.split(objective.space.sizes), shapes, strict=True)), strict=True)
        )
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with sdpa_kernel(SDPBackend.MATH):
            return loss(functional_call(model, blocks, (), inputs).logits, batch["labels"])

    dense = torch.autograd.functional.hessian(whole, objective.weights)
    eye = torch.eye(objective.space.dim).double()
    assert torch.allclose(objective.loss(objective.weights), whole(objective.weights), rtol=1e-12)
    found = HessianOperator(objective).apply(eye)
    assert (found - dense).abs().max() <= 1e-9 * dense.abs().max(), (found - dense).norm() / dense.norm()
    gauss_newton = GGNOperator(objective).apply(eye)
    assert torch.linalg.eigvalsh(gauss_newton).min() > -1e-12
    assert not torch.allclose(gauss_newton, dense, rtol=1e-3)
