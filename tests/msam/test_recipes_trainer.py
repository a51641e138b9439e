"""The recipe for the Hugging Face Trainer, its very code, against the plain loop and the plain Trainer."""

from __future__ import annotations

import copy

import pytest
import torch

from landscape.perturbations import GradientAscent
from msam import mSAM

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("default")  # its packages warn of their own

HEADING = "Hugging Face Trainer"
LENGTHS = [12, 5, 9, 2, 11, 7, 12, 3, 6, 10, 4, 8]


@pytest.fixture
def recipe(cook):
    """What the recipe defines before it trains."""
    found = cook(HEADING, changed=[(line, "") for line in TRAINING])
    transformers.utils.logging.set_verbosity_error()
    return found


TRAINING = [
    "MSAMTrainer(GPT2LMHeadModel(config), settings, train_dataset=dataset).train()\n",
    'MSAMTrainer(GPT2LMHeadModel(config), settings, train_dataset=dataset).train("trainer/checkpoint-2")  # resumed\n',
]


def gpt2(dropout=0.1):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_embd=8, n_head=2, n_positions=16, vocab_size=20, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # without it the Trainer counts the first token of a text, which has no loss
    return model


def texts():
    """Forty-eight of them, of 2 to 12 tokens, so that every micro-batch has another number of tokens."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(1, 20, (48, 12), generator=generator)
    kept = [torch.arange(12) < LENGTHS[i % 12] for i in range(48)]
    return [{"input_ids": text, "labels": text.where(mask, -100)} for text, mask in zip(drawn, kept, strict=True)]


def settings(folder, **changes):
    chosen = {
        "max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
        "max_grad_norm": 0.5, "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, "weight_decay": 0.1, "adam_epsilon": 1e-4,
    }  # fmt: skip
    return transformers.TrainingArguments(str(folder), **{**chosen, **changes})


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def distance(one, two):
    return torch.stack([(a - b).norm() for a, b in zip(one, two, strict=True)]).norm().item()


def losses(trainer, key="loss"):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def recording(kind, batches):
    class Recording(kind):
        def training_step(self, model, inputs, num_items_in_batch=None):
            batches.append(copy.deepcopy(dict(inputs)))
            return super().training_step(model, inputs, num_items_in_batch)

    return Recording


def without_a_perturbation(trainer):
    """So that it does what the plain Trainer does: it draws from the same random numbers, too."""
    trainer.create_optimizer()
    trainer.msam.seed, trainer.msam.descent = None, None
    return trainer


def test_it_comes_to_the_weights_of_the_plain_loop(recipe, tmp_path):
    """Bit for bit, with dropout, schedule, weight decay, clipping and accumulation by the Trainer."""
    batches = []
    model, plain = gpt2(), gpt2()
    trainer = recording(recipe["MSAMTrainer"], batches)(model, settings(tmp_path), train_dataset=texts())
    trainer.train()

    kind, options = transformers.Trainer.get_optimizer_cls_and_kwargs(settings(tmp_path))
    decayed = set(trainer.get_decay_parameter_names(plain))
    groups = [[p for n, p in plain.named_parameters() if (n in decayed) is wanted] for wanted in (True, False)]
    base = kind([{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}], **options)
    optimizer = mSAM(base, GradientAscent(rho=0.05), num_microbatches=4, module=plain, seed=42)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, 0, 3)

    def closure(part):
        tokens = (part["labels"][:, 1:] != -100).sum()
        return plain(**part, num_items_in_batch=tokens, use_cache=False).loss, tokens  # as the Trainer

    plain.train()
    assert len(batches) == 6
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        optimizer.accumulate(closure, first)
        optimizer.accumulate(closure, second)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
    assert same(weights(model), weights(plain))
    assert trainer.msam.steps == 3


def test_it_resumes_to_the_weights_of_the_uninterrupted_training(recipe, tmp_path):
    """From the Trainer's own checkpoint, in the middle of an epoch and with dropout."""
    whole, parts = gpt2(), gpt2()
    kept = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    recipe["MSAMTrainer"](whole, settings(tmp_path, **kept), train_dataset=texts()).train()
    assert not same(weights(whole), weights(parts))
    trainer = recipe["MSAMTrainer"](parts, settings(tmp_path, **kept), train_dataset=texts())
    trainer.train(str(tmp_path / "checkpoint-2"))
    assert same(weights(parts), weights(whole))
    assert trainer.msam.steps == 5


def test_with_one_microbatch_and_no_perturbation_it_is_the_plain_trainer(recipe, tmp_path):
    """Bit for bit, what is logged included."""
    one, two = gpt2(), gpt2()
    options = {"gradient_accumulation_steps": 1, "max_steps": 4}
    plain = transformers.Trainer(one, settings(tmp_path, **options), train_dataset=texts())
    plain.train()
    ours = recipe["MSAMTrainer"](two, settings(tmp_path, **options), train_dataset=texts())
    without_a_perturbation(ours).msam.num_microbatches = 1
    ours.train()
    assert same(weights(one), weights(two))
    for key in ("loss", "grad_norm", "learning_rate"):
        assert losses(ours, key) == losses(plain, key)


def test_zero_rho_is_the_plain_trainer_too(recipe, tmp_path):
    one, two = gpt2(), gpt2()
    options = {"gradient_accumulation_steps": 1}
    transformers.Trainer(one, settings(tmp_path, **options), train_dataset=texts()).train()
    ours = recipe["MSAMTrainer"](two, settings(tmp_path, **options), train_dataset=texts())
    ours.create_optimizer()
    ours.msam.seed, ours.msam.num_microbatches, ours.msam.descent.rho = None, 1, 0.0
    ours.train()
    assert same(weights(one), weights(two))


def test_tokens_weigh_the_same_in_micro_batches_and_accumulated_batches_as_in_the_plain_trainer(recipe, tmp_path):
    """Without a perturbation and without dropout, however the batch is cut, it is the mean over all its tokens."""
    one, two = gpt2(dropout=0.0), gpt2(dropout=0.0)
    plain = transformers.Trainer(one, settings(tmp_path), train_dataset=texts())
    ours = without_a_perturbation(recipe["MSAMTrainer"](two, settings(tmp_path), train_dataset=texts()))
    plain.train()
    ours.train()
    assert ours.msam.num_microbatches == 4
    moved = distance(weights(two), weights(gpt2(dropout=0.0)))
    assert distance(weights(one), weights(two)) < 1e-4 * moved
    assert losses(ours, "grad_norm") == pytest.approx(losses(plain, "grad_norm"), rel=1e-6)


def test_the_perturbation_and_the_number_of_micro_batches_matter(recipe, tmp_path):
    """The tests above would otherwise say nothing."""
    trained = []
    for number, rho in ((4, 0.05), (1, 0.05), (4, 0.0)):
        trainer = recipe["MSAMTrainer"](gpt2(dropout=0.0), settings(tmp_path), train_dataset=texts())
        trainer.create_optimizer()
        trainer.msam.num_microbatches, trainer.msam.descent.rho = number, rho
        trainer.train()
        trained.append(weights(trainer.model))
    moved = distance(trained[0], weights(gpt2()))
    assert distance(trained[0], trained[1]) > 1e-2 * moved
    assert distance(trained[0], trained[2]) > 1e-2 * moved


def test_gradient_checkpointing_comes_to_the_same_weights(recipe, tmp_path):
    models = [gpt2(), gpt2()]
    for model, saves in zip(models, (False, True), strict=True):
        options = {"gradient_checkpointing": saves, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        recipe["MSAMTrainer"](model, settings(tmp_path, **options), train_dataset=texts()).train()
    assert distance(*map(weights, models)) < 1e-4 * distance(weights(models[0]), weights(gpt2()))


def test_it_trains_in_bfloat16(recipe, tmp_path):
    """Autocast is at work: the weights are close to those of full precision, and not the same."""
    models = [gpt2(dropout=0.0), gpt2(dropout=0.0)]
    logged = []
    for model, bf16 in zip(models, (False, True), strict=True):
        trainer = recipe["MSAMTrainer"](model, settings(tmp_path, bf16=bf16), train_dataset=texts())
        trainer.train()
        logged.append(losses(trainer))
    assert not same(*(weights(model) for model in models))
    assert logged[1] == pytest.approx(logged[0], rel=1e-2)


@pytest.mark.parametrize("count", ["world_size", "n_gpu"])
def test_several_processes_are_refused(count, recipe, tmp_path, monkeypatch):
    trainer = recipe["MSAMTrainer"](gpt2(), settings(tmp_path), train_dataset=texts())
    monkeypatch.setattr(transformers.TrainingArguments, count, property(lambda self: 2))
    with pytest.raises(ValueError, match="one process and one device"):
        trainer.create_optimizer()


def test_label_smoothing_takes_the_labels_out_of_what_it_is_given_and_not_out_of_the_batch(recipe, tmp_path):
    """Which the closure sees twice."""
    one, two = gpt2(dropout=0.0), gpt2(dropout=0.0)
    options = {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 1}
    transformers.Trainer(one, settings(tmp_path, **options), train_dataset=texts()).train()
    ours = recipe["MSAMTrainer"](two, settings(tmp_path, **options), train_dataset=texts())
    ours.create_optimizer()
    ours.msam.descent.rho = 1e-6
    ours.train()
    assert distance(weights(one), weights(two)) < 1e-3 * distance(weights(two), weights(gpt2(dropout=0.0)))
