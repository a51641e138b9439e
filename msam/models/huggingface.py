"""Models of the transformers library, from a folder: with its weights, or untrained from its config alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from msam.extras import extra

Kind = Literal["sequence", "image", "causal"]
PREFIX = "hf:"
_WORDS = {"sequence": "sequence classifiers", "image": "image classifiers", "causal": "causal language models"}
_MAPPINGS = {"sequence": "SEQUENCE_CLASSIFICATION", "image": "IMAGE_CLASSIFICATION", "causal": "CAUSAL_LM"}
_AUTO = {
    "sequence": "AutoModelForSequenceClassification",
    "image": "AutoModelForImageClassification",
    "causal": "AutoModelForCausalLM",
}
_WHOLE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


@dataclass(frozen=True)
class HuggingFace:
    """A model of a folder; called, it builds it.

    Attributes:
        folder: where its ``config.json`` is, and its weights, if it has any.
        kind: what it is for.
        config: the library's, with what the task decides put in.
        about: what of it comes from where.
        limit: the most tokens that it takes; None where there is no such number.
    """

    folder: Path
    kind: Kind
    config: Any = field(repr=False)
    about: str = ""
    limit: int | None = None

    def __call__(self) -> nn.Module:
        """The model; what is not in the folder is drawn from the global random state.

        Raises:
            ValueError: if it cannot be built.
        """
        return self.built()[0]

    def built(self) -> tuple[nn.Module, list[str]]:
        """The model, and the names of what begins at random though the folder has weights."""
        with quietly(), _understood(self.folder, self.kind):
            config, auto = copy.deepcopy(self.config), _auto(self.kind)
            if not has_weights(self.folder):
                return auto.from_config(config, dtype=torch.float32), []
            model, said = auto.from_pretrained(
                self.folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # what begins at random is said, or refused
                output_loading_info=True,
            )
        reshaped = [name for name, *_ in said["mismatched_keys"]]
        return model, sorted({*said["missing_keys"], *reshaped})


def local_folder(name: str, *, download: bool = False) -> Path:
    """The folder that a model's name stands for; nothing is downloaded unless asked for.

    Args:
        name: a folder, or with ``download`` a name on the hub. ``hf:`` before it is left out.
        download: whether to get it from the hub: config, tokenizer and safetensors, into the library's cache.

    Raises:
        FileNotFoundError: if there is no such folder, or no ``config.json`` in it.
        ValueError: if it cannot be downloaded, or the library is not installed.
    """
    name = name.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if not name or not (folder.is_dir() or download):
        raise FileNotFoundError(
            f"there is no folder {name!r}, and nothing is downloaded unless asked for; bring the model into a folder "
            f"(hf download {name or 'NAME'} --local-dir FOLDER) and name it: hf:FOLDER"
        )
    if not folder.is_dir():
        with extra("hf", "models of the hub"):
            from transformers.utils.hub import snapshot_download  # type: ignore[attr-defined]
        try:
            folder = Path(snapshot_download(name, allow_patterns=_FILES))
        except Exception as error:  # of the network, in many types
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{name!r} cannot be downloaded ({reason}); name a folder with the model") from None
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"there is no config.json in {folder}; save a model there with its save_pretrained")
    return folder


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights beside its config.

    Raises:
        ValueError: if all it has are pickles, which are not read.
    """
    if any((folder / name).is_file() for name in _WHOLE):
        return True
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"{folder} has its weights in {pickled[0]}, a pickle, which could run code when loaded; convert it where "
            "you trust it: from_pretrained, then save_pretrained, writes model.safetensors"
        )
    return False


def from_folder(
    path: str | Path,
    *,
    kind: Kind,
    outputs: int | None = None,
    words: int | None = None,
    pad: int | None = None,
    end: int | None = None,
    shape: tuple[int, int, int] | None = None,
) -> HuggingFace:
    """A sequence or image classifier, or a causal language model, from its folder; with weights where it has them.

    Weights are read from safetensors alone. Without them the config alone decides the model, and it may be fitted to
    the task: to its number of words, and to the size of its images.

    Args:
        path: a folder with ``config.json``.
        kind: ``"sequence"``, ``"image"`` or ``"causal"``.
        outputs: classes, or 1 for a regression; a head for another number begins at random, and ``about`` says so.
        words: of the tokenizer; the model must have as many.
        pad: the number of the padding.
        end: the number of the token that ends every text, which a model with an encoder and a decoder reads; that of
            its config when left out.
        shape: of the images, channels, height and width.

    Raises:
        FileNotFoundError: if there is no such folder, or no config in it.
        ValueError: if it is of another kind, its weights are pickled or few of the model's, or it does not take the
            words or images of the task.
    """
    folder = local_folder(str(path))
    with extra("hf", "models of transformers"):
        import transformers
    with quietly(), _understood(folder, kind):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    _require_kind(config, kind, folder=folder)
    known = has_weights(folder)
    config.architectures = config.architectures or []  # where a config has several, the library takes the first then
    if outputs is not None:
        config.num_labels = outputs
    if pad is not None:
        config.pad_token_id = pad
    if kind == "causal":
        config.use_cache = False
    if getattr(config, "is_encoder_decoder", False) and kind == "sequence":
        if getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = config.pad_token_id
        if end is not None and not known:
            config.eos_token_id = end
    if words is not None and not known:
        config.vocab_size = words
    if shape is not None:
        _fit_images(config, shape, folder=folder, known=known)
    made = HuggingFace(folder, kind, config)
    with torch.random.fork_rng([]):
        model, random = made.built()
    if words is not None:
        _require_words(model, words, folder=folder)
    if kind == "causal":
        _require_causal(model, folder=folder)
    about = _origin(model, random, folder=folder) if known else f"untrained, from the config of {folder} alone"
    return replace(made, about=about, limit=_limit(model, config))


def _origin(model: nn.Module, random: list[str], *, folder: Path) -> str:
    """What of a model comes from the folder."""
    named = dict(model.named_parameters())
    shown = ", ".join(random[:4]) + (f" and {len(random) - 4} more" if len(random) > 4 else "")
    if 2 * sum(named[name].numel() for name in random if name in named) > sum(p.numel() for p in named.values()):
        raise ValueError(f"{folder} has few of the weights of a {type(model).__name__}: it lacks {shown}")
    return f"weights of {folder}" + (f"; {shown} begin at random" if random else "")


def _limit(model: nn.Module, config: Any) -> int | None:
    """The most tokens that a model takes."""
    for name, part in model.named_modules():  # RoBERTa numbers places from its padding on
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return int(part.num_embeddings - part.padding_idx - 1)
    most = getattr(config, "max_position_embeddings", None)
    return None if most is None or most < 1 else int(most)  # XLNet's is -1


def _require_kind(config: Any, kind: Kind, *, folder: Path) -> None:
    import transformers

    mappings = {other: getattr(transformers, f"MODEL_FOR_{name}_MAPPING") for other, name in _MAPPINGS.items()}
    there = [_WORDS[other] for other, mapping in mappings.items() if type(config) in mapping]
    if _WORDS[kind] not in there:
        raise ValueError(
            f"the task takes {_WORDS[kind]}, and there are none of the type {config.model_type!r}, which {folder} has. "
            f"Of the kinds that are taken, {', '.join(_WORDS.values())}, there are {' and '.join(there) or 'none'}"
        )


def _require_words(model: Any, words: int, *, folder: Path) -> None:
    there = model.get_input_embeddings().num_embeddings
    if there < words:
        raise ValueError(
            f"the tokenizer has {words} words, and the model of {folder} {there}; name its own with tokenizer=FOLDER"
        )


def _require_causal(model: nn.Module, *, folder: Path) -> None:
    """Refuse a model that sees what it is to tell, as BERT does unless its config says is_decoder."""
    with torch.no_grad(), _understood(folder, "causal"):
        model.eval()
        one, other = (
            model(input_ids=torch.tensor([[1, 1, last]], device=next(model.parameters()).device)).logits[:, :2]
            for last in (1, 2)
        )
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(one.abs().max())):
        raise ValueError(
            f"a {type(model).__name__} of {folder} sees later tokens than the one it is at; name a causal model, or "
            "set is_decoder to true in its config.json"
        )


def _fit_images(config: Any, shape: tuple[int, int, int], *, folder: Path, known: bool) -> None:
    """Let a config take the images of a task, or refuse one whose weights do not."""
    config = getattr(config, "vision_config", config)  # of a model of images and texts
    channels, height, width = shape
    size = height if height == width else (height, width)
    for name, value in (("num_channels", channels), ("image_size", size)):
        there = getattr(config, name, value)
        there = tuple(there) if isinstance(there, list) else there
        if there in (value, (height, width)) or (name == "image_size" and there == (value, value)):
            continue
        if known:
            raise ValueError(
                f"the model of {folder} has {name} {there}, and the images of the task {value}; choose another"
            )
        setattr(config, name, value)


@contextlib.contextmanager
def _understood(folder: Path, kind: Kind) -> Iterator[None]:
    """Errors of the library, of any type, in a sentence."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 200 else f"{reason[:200]}..."
        raise ValueError(
            f"{folder} is not a model for {_AUTO[kind]} ({type(error).__name__}: {reason}); save one there with its "
            "save_pretrained"
        ) from None


def _auto(kind: Kind) -> Any:
    with extra("hf", "models of transformers"):
        import transformers
    return getattr(transformers, _AUTO[kind])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The library's own reports and bars say what ``about`` says in a sentence."""
    with extra("hf", "models of transformers"):
        import transformers
    logging: Any = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
