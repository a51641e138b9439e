"""The data that a run was trained on: their fingerprints stand in its config, and are held against those of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msam.adopted import Adopted
from msam.configs import read_fingerprints, write_config
from msam.data.fingerprints import same_but_for_rounding
from msam.run import Run
from msam.tasks import Task


def fingerprints_of(task: Task) -> dict[str, dict[str, Any]]:
    """Of the data that are trained on and of those that are held out, by the names of their splits."""
    return {split: dict(examples.fingerprint) for split, examples in {"train": task.train, **task.held_out}.items()}


def record_data(run: Run, task: Task) -> None:
    """Write into the config of a run what it is trained on, as training begins.

    Raises:
        FileNotFoundError: if the run is gone.
        OSError: if it cannot be written.
    """
    run.require_present("trained")
    write_config(run.path / "config.json", run.config, data=fingerprints_of(task))


def other_data(run: Run, task: Task, *, ordered: bool = False) -> list[str]:
    """How the data of a task differ from those that the run was trained on, a phrase for each split that does.

    Data that are computed anew, as when they are scaled to a mean of zero, may differ by rounding: in another number of
    threads, which torchrun decides, on another machine, or under other versions. They are the same, then.
    Nothing is known of a run that an earlier version trained, or of weights from elsewhere: there are none then.

    Args:
        run: trained before.
        task: with its data as they are now.
        ordered: whether training examples in another order are other data, as they are to a training that goes on.
    """
    known = None if isinstance(run.config, Adopted) else read_fingerprints(run.path / "config.json")
    if known is None:
        return []
    now = fingerprints_of(task)
    found = []
    for split in dict.fromkeys([*known, *now]):
        before, after = known.get(split), now.get(split)
        if before is None:
            found.append(f"it had no {split} data")
        elif after is None:
            found.append(f"there are no {split} data any more")
        elif same_but_for_rounding(before, after):
            continue
        elif before["content"] != after["content"]:
            found.append(f"its {split} data were {_numbers(before, after)}")
        elif ordered and split == "train" and before["order"] != after["order"]:
            found.append("its train data were in another order")
    return found


def require_same_data(run: Run, task: Task, *, ordered: bool = False, way_out: str) -> None:
    """The data of a task must be those that the run was trained on; see :func:`other_data`.

    Args:
        run: trained before.
        task: with its data as they are now.
        ordered: whether training examples in another order are other data.
        way_out: what can be done besides putting the data back.

    Raises:
        ValueError: if they are not, with what differs.
    """
    unlike = other_data(run, task, ordered=ordered)
    if unlike:
        raise ValueError(
            f"{run.path} was trained on other data than the task {run.config.task} gives now: {'; '.join(unlike)}. "
            f"Put the data back as they were, {way_out}"
        )


def _numbers(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if before["examples"] == after["examples"]:
        return f"{before['examples']} other examples"
    return f"{before['examples']} examples, and are {after['examples']}"
