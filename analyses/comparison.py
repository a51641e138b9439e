"""Several runs under one protocol, in one table; what cannot be compared is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.curvature import eigenvalues, trace
from analyses.measures import ask
from analyses.results import ALL_MEASURES, UNKNOWN, RunTable, differ_in_microbatches_alone
from analyses.subject import Subject
from analyses.surroundings import sharpness
from landscape.manifest import protocol, require_comparable
from landscape.results import Array
from msam.adopted import Adopted
from msam.config import TrainConfig
from msam.tasks.registry import complete_settings

_IN_THE_NAME = {"seed", "perturbation", "num_microbatches", "optimizer"}


def compare(subjects: Sequence[Subject]) -> RunTable:
    """Measure what the table needs, and put it side by side.

    Args:
        subjects: two or more checkpoints, or one.

    Raises:
        OSError: if the answers of one cannot be kept.
        ValueError: if there is no subject, or their measurements are not comparable: other data, another loss,
            another architecture; or if a checkpoint is named twice.
    """
    if not subjects:
        raise ValueError("there is nothing to compare; name at least one run")
    _require_once([subject.run.checkpoint for subject in subjects])
    groups = _groups(subjects)
    names = _names(subjects)
    require_comparable({name: {"data": subject.data} for name, subject in zip(names, subjects, strict=True)})
    for subject in subjects:
        subject.require_writable()
    rows = [_row(subject) for subject in subjects]
    measures = [name for name in ALL_MEASURES if name in rows[0]]  # all have a validation set, or none has
    manifest = _common_manifest(dict(zip(names, subjects, strict=True)))
    configs = [subject.run.config for subject in subjects]
    return RunTable(
        names=np.array(names),
        groups=np.array(groups),
        seeds=np.array([UNKNOWN if isinstance(config, Adopted) else config.seed for config in configs]),
        num_microbatches=np.array([_number(config) for config in configs]),
        measures=np.array(measures),
        values=np.array([[row[name][0] for name in measures] for row in rows]),
        errors=np.array([[row[name][1] for name in measures] for row in rows]),
        converged=np.array([bool(eigenvalues(subject).result.converged[0]) for subject in subjects]),
        accuracy_covariance=_accuracy_covariance(subjects),
        manifest=manifest,
    )


def group_names(configs: Sequence[TrainConfig | Adopted]) -> list[str]:
    """A name for each config that tells it from the others in everything but the seed.

    Weights from elsewhere are each a group, named by their files.
    """
    flat = [_flat(config) for config in configs]
    varying = [
        key
        for key in sorted(set().union(*flat))
        if key not in _IN_THE_NAME and len({repr(entry[key]) for entry in flat if key in entry}) > 1
    ]
    names = []
    for config, entry in zip(configs, flat, strict=True):
        if isinstance(config, Adopted):
            parts = [f"weights from {_label(config, configs)}"]
        else:
            parts = [config.method]
            if config.num_microbatches > 1:
                parts.append(f"{config.num_microbatches} micro-batches")
        parts += [f"{key} {entry[key]}" for key in varying if key in entry]
        names.append(", ".join(parts))
    return names


def _label(config: Adopted, configs: Sequence[TrainConfig | Adopted]) -> str:
    """The name of a file, with its folder and its hash where another file shares it."""
    others = [other for other in configs if isinstance(other, Adopted) and other is not config]
    if all(other.label != config.label for other in others):
        return config.label
    path = f"{config.file}:{config.key}" if config.key else config.file
    if all(other.file != config.file or other.key != config.key for other in others):
        return path
    return f"{path} ({config.sha256[:12]})"


def require_microbatches_alone(configs: Sequence[TrainConfig], *, of: Path) -> None:
    """Configs must differ in their number of micro-batches and their seeds, and in nothing else.

    Args:
        configs: of all runs.
        of: where they are, for the error.

    Raises:
        ValueError: if they differ in something else, or not in that; it says what there is.
    """
    names = group_names(configs)
    if not differ_in_microbatches_alone(names, [_number(config) for config in configs]):
        raise ValueError(
            f"the runs of {of} do not differ in the number of micro-batches alone; there are: "
            f"{'; '.join(dict.fromkeys(names))}. Compare them with msam compare."
        )


def _number(config: TrainConfig | Adopted) -> int:
    """Of micro-batches; 0 for the base optimizer, which has none."""
    if isinstance(config, Adopted):
        return UNKNOWN
    return 0 if unperturbed(config) else config.num_microbatches


def unperturbed(config: TrainConfig) -> bool:
    """Whether the base optimizer trains alone."""
    return config.ascent() is None or config.rho == 0


def _require_once(checkpoints: Sequence[Path]) -> None:
    """A checkpoint that counted twice would look like two seeds."""
    resolved = [path.resolve() for path in checkpoints]
    for path in checkpoints:
        if resolved.count(path.resolve()) > 1:
            raise ValueError(f"{path} is named twice; name each run once")


def _groups(subjects: Sequence[Subject]) -> list[str]:
    """The name of each subject's group, with the epoch where several epochs are compared.

    Raises:
        ValueError: if two subjects are of one group and one seed; they would look like two seeds.
    """
    groups = group_names([subject.run.config for subject in subjects])
    trained = {
        i: (subject.run.checkpoint.stem, subject.run.training)
        for i, subject in enumerate(subjects)
        if not isinstance(subject.run.config, Adopted)
    }
    several = len({checkpoint for checkpoint, _ in trained.values()}) > 1
    if several and any(  # the last ones are told apart by their configs
        checkpoint != subjects[i].run.weights_path(config.epochs).stem for i, (checkpoint, config) in trained.items()
    ):
        groups = [f"{group}, {trained[i][0]}" if i in trained else group for i, group in enumerate(groups)]
    seen: dict[tuple[str, int], Subject] = {}
    for i, (_, config) in trained.items():
        subject = subjects[i]
        other = seen.setdefault((groups[i], config.seed), subject)
        if other is not subject:
            raise ValueError(
                f"{other.run.checkpoint} and {subject.run.checkpoint} are of one way of training ({groups[i]}) and one "
                f"seed ({config.seed}); two of them are not two seeds. Name one of them."
            )
    return groups


def _names(subjects: Sequence[Subject]) -> list[str]:
    """What the table calls the runs: with their folder where two of them have one name."""
    names = [subject.run.name for subject in subjects]
    if len(set(names)) == len(names):
        return names
    return [str(subject.run.path.parent / subject.run.name) for subject in subjects]


def _flat(config: TrainConfig | Adopted) -> dict[str, Any]:
    """The entries that act and that the method does not say; the radius of no perturbation does not act."""
    if isinstance(config, Adopted):
        return {"task": config.task} | _without_place(complete_settings(config.task, config.settings))
    entries = config.to_dict()
    settings: Mapping[str, Any] = entries.pop("settings")
    for name in ("checkpoint_every", "execution", "device_batch_size", "deterministic"):  # they change no result
        entries.pop(name)
    if unperturbed(config):
        for name in ("rho", "rho_schedule", "ball", "ascent_steps", "perturbed", "dropout", "optimizer"):
            entries.pop(name)
    return entries | _without_place(complete_settings(config.task, settings))


def _without_place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings but for where the data lie; the data themselves are compared."""
    return {name: value for name, value in settings.items() if name != "data"}


def _row(subject: Subject) -> dict[str, tuple[float, float]]:
    """Each measure with its uncertainty."""
    top, mass, rise = eigenvalues(subject).result, trace(subject).result, sharpness(subject).result
    train, test, validation = subject.train, subject.test, subject.validation
    validated = (
        {}
        if validation is None
        else {
            "validation_accuracy": (validation.accuracy, validation.accuracy_stderr),
            "validation_loss": (validation.loss, validation.loss_stderr),
        }
    )
    return validated | {
        "test_accuracy": (test.accuracy, test.accuracy_stderr),
        "gap": (train.accuracy - test.accuracy, test.accuracy_stderr),  # training accuracy is exact
        "train_loss": (train.loss, 0.0),  # of the very examples it is the loss of
        "test_loss": (test.loss, test.loss_stderr),
        "largest_eigenvalue": (float(top.eigenvalues[0]), float(top.residuals[0])),
        "trace": (mass.estimate, mass.stderr),
        "sharpness": (rise.value, rise.stderr),
    }


def _accuracy_covariance(subjects: Sequence[Subject]) -> Array | None:
    """Of the test accuracies, ``(n, n)``; the test examples and their order were found to be the same for all.

    On the diagonal are the squares of their standard errors. None where there are no accuracies.
    """
    found = [subject.test.deviations for subject in subjects]
    known = [deviations for deviations in found if deviations is not None]
    if len(known) < len(found):
        return None
    deviations = np.array(known)  # (n, examples)
    covariance: Array = deviations @ deviations.T / deviations.shape[1] ** 2
    return covariance


def _common_manifest(subjects: Mapping[str, Subject]) -> dict[str, Any]:
    """The protocol all subjects share, from the manifests of the answers themselves.

    Raises:
        ValueError: if they differ in anything that would make their numbers incomparable.
    """
    shared: dict[str, Any] = {}
    for question in ("eigenvalues", "trace", "sharpness"):
        manifests = {name: ask(subject, question).result.manifest for name, subject in subjects.items()}
        require_comparable(manifests)
        first = next(iter(manifests.values()))
        shared["objective"] = protocol(first)["objective"]
        shared[question] = protocol(first)["measurement"]
    return shared | {"machine": first["machine"]}
