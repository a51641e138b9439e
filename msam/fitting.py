"""Which of the tensors in a file are a model's, and by what names."""

from __future__ import annotations

import difflib
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# What wrappers put into names: torch.compile, FullyShardedDataParallel, checkpointing; then DistributedDataParallel.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
ALL_WRAPPERS = (*WRAPPERS, "module")
DEEPEST = 8  # levels of nested mappings that are looked into
_LIKE = 50  # names for which the nearest match is looked up


class NamesDifferError(ValueError):
    """The tensors of a file are not those of the model; the file is of another architecture.

    Attributes:
        missing: names that the model has and the file lacks.
        unexpected: names that the file has and the model lacks.
        reshaped: what differs in shape or kind, a sentence each.
        lines: all of these, with the nearest matches, in lines that a terminal holds.
        says_less_than_lines: whether the first line of the error leaves some of it out.
    """

    def __init__(
        self, source: str, *, missing: Sequence[str], unexpected: Mapping[str, str], reshaped: Sequence[str]
    ) -> None:
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.reshaped = tuple(reshaped)
        parts = [
            *([f"it lacks {len(missing)} names ({_some(self.missing)})"] if missing else []),
            *([f"it has {len(unexpected)} others ({_some([*self.unexpected])})"] if unexpected else []),
            *([f"{len(reshaped)} differ in shape or kind ({_some(self.reshaped)})"] if reshaped else []),
        ]
        near = [f"{name} (perhaps {other})" if other else name for name, other in unexpected.items()]
        self.says_less_than_lines = any(unexpected.values()) or any(
            len(names) > 3 for names in (missing, unexpected, reshaped)
        )
        self.lines = [
            *_wrapped("missing in the file", self.missing),
            *_wrapped("not in the model", near),
            *_wrapped("other shape or kind", self.reshaped),
        ]
        sentence = f"{source} is of another architecture than the model: {'; '.join(parts)}"
        super().__init__("\n".join([sentence, *self.lines]))


@dataclass(frozen=True)
class Fit:
    """Tensors of a file by the names of the model.

    Attributes:
        tensors: name in the model -> tensor.
        unexpected: names that the model does not have, with their tensors.
        entry: the mapping in the file that they lie in, ``"state_dict"``; empty for the outermost.
        stripped: what was taken out of names -> of how many.
        left_out: entries of the file that were not looked at.
    """

    tensors: Mapping[str, Tensor]
    unexpected: Mapping[str, Tensor]
    entry: str
    stripped: Mapping[str, int]
    left_out: Sequence[str]


@dataclass
class _Flat:
    """A nested mapping, by dotted names."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)  # name of any entry -> the mapping that it lies in
    levels: set[str] = field(default_factory=set)  # the names of all mappings

    def take(self, content: Mapping[Any, Any], folder: str = "", depth: int = 0) -> None:
        """Add a mapping and what is below it."""
        self.levels.add(folder)
        for key, value in content.items():
            name = f"{folder}.{key}" if folder else str(key)
            if not isinstance(key, str) or not isinstance(value, Tensor | Mapping) or depth > DEEPEST:
                self.folders[name] = folder
            elif isinstance(value, Mapping):
                self.take(value, name, depth + 1)
            elif name in self.tensors:
                raise ValueError(f"two entries of the file are both called {name}; save model.state_dict() alone")
            else:
                self.tensors[name], self.folders[name] = value, folder


def fitted(content: Mapping[str, Any], own: Mapping[str, Tensor], *, source: str, key: str = "") -> Fit:
    """Find the tensors of a model among nested mappings, whatever their names begin with.

    Names are those of the model when a beginning that many share, and the parts that wrappers put in, are left away;
    where they fit as they are, nothing is.

    Args:
        content: names to tensors, mappings and other things.
        own: the model's names and tensors.
        source: the file, for errors.
        key: the entry to look in, or what names must begin with, ``"ema"``; all of it when empty.

    Raises:
        ValueError: if there are no tensors, several entries could be the model's, or there is no such key.
    """
    flat = _Flat()
    flat.take(content)
    if not flat.tensors:
        raise ValueError(f"{source} holds no named tensors; save model.state_dict()")
    inside = {name: tensor for name, tensor in flat.tensors.items() if not key or name.startswith(f"{key}.")}
    if not inside:
        there = dict.fromkeys(flat.folders[name] or name.split(".")[0] for name in flat.tensors)
        raise ValueError(f"{source} has no entry {key!r} with tensors in it; there are: {', '.join(there)}")
    start = _beginning(inside, own, source=source, folders=flat.folders, levels=flat.levels)
    entry = _entry(start, flat.levels)
    base = f"{entry}." if entry else ""
    fitting = {flat.folders[name] for name in inside if _final(name, start, base, own) in own}
    is_nested = bool(fitting - {entry})  # or else what lies in mappings beside the weights is something else
    tensors: dict[str, Tensor] = {}
    unexpected: dict[str, Tensor] = {}
    stripped: Counter[str] = Counter()
    used = set()
    for name, tensor in inside.items():
        if not name.startswith(base) or not (flat.folders[name] == entry or is_nested):
            continue
        used.add(name)
        final = _final(name, start, base, own)
        if final in tensors:
            raise ValueError(
                f"{source} has two tensors for {final}, one of them {name[len(base) :]}; save model.state_dict() alone"
            )
        (tensors if final in own else unexpected)[final] = tensor
        for part in _taken(name[len(base) :], final):
            stripped[part] += 1
    rest = [_upper(name, folder, entry, flat.levels) for name, folder in flat.folders.items() if name not in used]
    return Fit(tensors, unexpected, entry, stripped, [*dict.fromkeys(rest)])


def nearest(unexpected: Mapping[str, Tensor], missing: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name that a model lacks the most similar one that it misses, of the same shape; empty if none is."""
    found = dict.fromkeys(unexpected, "")
    for name in [*unexpected][:_LIKE]:
        like = [other for other, tensor in missing.items() if tensor.shape == unexpected[name].shape]
        found[name] = next(iter(difflib.get_close_matches(name, like, n=1)), "")
    return found


def _beginning(
    inside: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    source: str,
    folders: Mapping[str, str],
    levels: set[str],
) -> str:
    """What the names of the model's tensors begin with, up to a dot.

    Raises:
        ValueError: if several could be meant.
    """
    hits: dict[str, dict[str, str]] = {}  # beginning -> name in the model -> name in the file
    for name in inside:
        for start in _starts(name):
            final = _unwrapped(name[len(start) :], own)
            if final in own:
                hits.setdefault(start, {}).setdefault(final, name)

    def score(start: str) -> tuple[int, int]:
        shaped = sum(inside[name].shape == own[final].shape for final, name in hits[start].items())
        return shaped, len(hits[start])

    scores = {start: score(start) for start in hits}
    # Of several that fit equally, the innermost mapping, and the least that is taken from names.
    best = max(scores, key=lambda start: (*scores[start], len(_entry(start, levels)), -len(start)), default="")
    shaped, named = scores.get(best, (0, 0))
    if named * (2 if shaped else 1) < len(own):  # of another architecture: the largest mapping shows which
        largest = Counter(folders[name] for name in inside).most_common(1)[0][0]
        return f"{largest}." if largest else ""
    decides = 0 if shaped else 1
    taken = set(hits[best].values())
    rivals = [
        start
        for start in hits
        if 2 * scores[start][decides] >= scores[best][decides] and taken.isdisjoint(hits[start].values())
    ]
    if rivals:
        shown = [start.rstrip(".") or _first(hits[start].values()) for start in (best, *rivals)]
        shown = [name for name in dict.fromkeys(shown) if name]
        raise ValueError(several(source, shown))
    return best


def several(source: str, entries: Sequence[str]) -> str:
    """What is said where several entries of a file could be meant."""
    return (
        f"{source} holds several entries that could be the weights: {', '.join(entries)}. Choose one, as "
        f"{source}:{entries[0]}"
    )


def _entry(start: str, levels: set[str]) -> str:
    """The innermost mapping whose name a beginning holds."""
    return max((level for level in levels if not level or start.startswith(f"{level}.")), key=len)


def _first(names: Iterable[str]) -> str:
    """The part that all names begin with; empty if there is none."""
    firsts = {name.split(".")[0] for name in names}
    return firsts.pop() if len(firsts) == 1 else ""


def _starts(name: str) -> Iterator[str]:
    yield ""
    place = name.find(".")
    while place >= 0:
        yield name[: place + 1]
        place = name.find(".", place + 1)


def _unwrapped(name: str, own: Mapping[str, Tensor]) -> str:
    """The name without the parts of wrappers, where that is one of the model's and the name is not."""
    if name in own:
        return name
    for wrappers in (WRAPPERS, ALL_WRAPPERS):
        found = ".".join(part for part in name.split(".") if part not in wrappers)
        if found in own:
            return found
    return name


def _final(name: str, start: str, base: str, own: Mapping[str, Tensor]) -> str:
    return _unwrapped(name[len(start) :] if name.startswith(start) else name[len(base) :], own)


def _taken(before: str, after: str) -> Iterator[str]:
    """What was taken out of a name: its beginning, and each part of a wrapper."""
    left, kept = before.split("."), after.split(".")
    removed = []
    while left:
        if kept and left[-1] == kept[-1]:
            kept.pop()
            left.pop()
        else:
            removed.append(left.pop())
    if removed:
        yield ".".join(reversed(removed)) + "."


def _upper(name: str, folder: str, entry: str, levels: set[str]) -> str:
    """The outermost entry that a name lies in and that the chosen one does not."""
    apart = [level for level in levels if level and (folder == level or folder.startswith(f"{level}."))]
    apart = [level for level in apart if not (entry == level or entry.startswith(f"{level}."))]
    return min(apart, key=len, default=name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _wrapped(what: str, names: Sequence[str]) -> list[str]:
    """All names, in lines that a terminal holds."""
    if not names:
        return []
    text = f"{what} ({len(names)}): {', '.join(names)}"
    return textwrap.wrap(text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
