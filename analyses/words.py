"""What a table of runs shows, and what it does not, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.correlation import kendall_tau
from analyses.results import ALL_MEASURES, MEASURES, RunTable
from landscape.results import Array

if TYPE_CHECKING:
    from analyses.subject import Subject

HEADLINES = ("test_accuracy", "validation_accuracy", "gap", "largest_eigenvalue", "trace", "sharpness")
NONE = "-"  # in place of an accuracy, where targets are no classes
LIKE_LOSSES = 1.5  # mean training losses within this factor pass as equal
FLATNESS = [name for name, measure in MEASURES.items() if measure.flatness]


def number(measure: str, value: float) -> str:
    """A value as the table writes it."""
    settings = ALL_MEASURES[measure]
    if settings.of_classes and np.isnan(value):
        return NONE
    rounded = round(value * settings.scale, settings.digits) + 0.0  # without the sign of a negative zero
    return f"{rounded:.{settings.digits}f}".replace("-", "−")


def with_error(measure: str, value: float, error: float) -> str:
    """A value and its uncertainty as the table writes them: ``91.2 ± 1.0``; a value that is exact stands alone."""
    if not ALL_MEASURES[measure].error or (ALL_MEASURES[measure].of_classes and np.isnan(value)):
        return number(measure, value)
    if not np.isfinite(error):
        return f"{number(measure, value)} (error unknown)"
    return f"{number(measure, value)} ± {_error(measure, error)}"


def _error(measure: str, error: float) -> str:
    """An uncertainty in the digits of its value, or in as few as it takes to be more than nothing."""
    settings = ALL_MEASURES[measure]
    scaled = error * settings.scale
    smallest = 10.0**-settings.digits
    return f"{scaled:.{settings.digits}f}" if scaled >= smallest / 2 or scaled == 0 else f"{scaled:.0e}"


def over_seeds(measure: str, values: Array) -> str:
    """The mean over seeds with the lowest and the highest: ``2.13 (2.06–2.20)``."""
    mean = number(measure, float(values.mean()))
    if len(values) == 1 or mean == NONE:
        return mean
    dash = "–" if values.min() >= 0 else " to "
    return f"{mean} ({number(measure, float(values.min()))}{dash}{number(measure, float(values.max()))})"


def headlines(table: RunTable) -> list[str]:
    """The measures that a terminal shows: the test loss beside them where there is no accuracy."""
    names = table.measures.tolist()
    return [name for name in names if name in HEADLINES or (name == "test_loss" and not table.tells_classes)]


def cells(table: RunTable, measures: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """The table as headings and cells: groups with means over seeds, or runs with their uncertainties."""
    measures = table.measures.tolist() if measures is None else measures
    headings = ["training", *(ALL_MEASURES[name].label for name in measures)]
    if table.has_repeats:
        rows = [
            [group, *(over_seeds(name, table.column(name)[table.of_group(group)]) for name in measures)]
            for group in table.group_names
        ]
    else:
        rows = [
            [f"{name}: {table.groups[i]}", *run_cells(table, i, measures)]
            for i, name in enumerate(table.names.tolist())
        ]
    return headings, rows


def run_cells(table: RunTable, row: int, measures: Sequence[str] | None = None) -> list[str]:
    """Every value of one run with its uncertainty."""
    return [
        with_error(name, float(table.column(name)[row]), float(table.error(name)[row]))
        + ("" if name != "largest_eigenvalue" or table.converged[row] else " not converged")
        for name in (table.measures.tolist() if measures is None else measures)
    ]


def about(subjects: Sequence[Subject]) -> str:
    """What a table of subjects is about, and which of them were trained on other data."""
    return "; ".join([subjects[0].about, *(subject.trained_on for subject in subjects[1:] if subject.trained_on)])


def machine(settings: Mapping[str, Any]) -> dict[str, str]:
    """What numbers were computed with and how, by name.

    >>> machine({"torch": "2.13", "shards": {"ways": {"one after another": 16}, "reasons": {"layer by layer": "odd"}}})
    {'torch': '2.13', 'shards': '16 one after another; not layer by layer: odd'}
    """
    found = {name: str(value) for name, value in settings.items()}
    if "shards" in settings:
        taken, reasons = settings["shards"]["ways"], settings["shards"].get("reasons", {})
        ways = [f"{count} {way}" for way, count in taken.items()]
        found["shards"] = "; ".join([", ".join(ways), *(f"not {way}: {reason}" for way, reason in reasons.items())])
    return found


def what_it_shows(table: RunTable) -> list[str]:
    """Sentences on flatness, on accuracy, and on how the two go together in this table."""
    if len(table.group_names) < 2:
        alone = "one run" if len(table.names) == 1 else "one way of training"
        return [f"There is {alone} in this table, so nothing is compared."]
    sentences = [_flattest(table), _most_accurate(table) if table.tells_classes else _least_loss(table)]
    if len(table.group_names) > 2:  # any two points lie in perfect order
        sentences.append(_together(table))
    return sentences


def what_it_does_not_show(table: RunTable) -> list[str]:
    """Sentences on the limits of this very table."""
    sentences = [
        _seeds(table),
        ("All runs share" if len(table.names) > 1 else "The run has")
        + " one training set, one test set and one architecture; nothing here speaks of others.",
        *_from_elsewhere(table),
        "The largest eigenvalue, the trace and m-sharpness change when a network is rescaled into another that "
        "computes the same function (Dinh et al. 2017); lower values are evidence of flatness between like networks.",
    ]
    if not table.tells_classes:
        sentences.append("There is no accuracy: the targets are not known to be classes.")
    if len(table.group_names) > 1:
        sentences.append(
            f"Where flatness and {'accuracy' if table.tells_classes else 'test loss'} go together in this table, they "
            "do so along the settings that were varied, which may drive both; that does not show that flatness causes "
            "generalization."
        )
    losses = _means(table, "train_loss").values()
    if max(losses) > LIKE_LOSSES * min(losses):
        sentences.append(
            f"Training losses differ, from {min(losses):.3g} to {max(losses):.3g}: flatness at unequal training loss "
            "compares points at different depths, and a network that was hardly trained is flat, too."
        )
    if not table.converged.all():
        late = ", ".join(table.names[~table.converged].tolist())
        sentences.append(f"The largest eigenvalue did not converge for {late}; its residual bounds its error.")
    if (table.column("gap") < 0).any():
        sentences.append(
            "Where the generalization gap is negative, training labels are harder to fit than test labels, "
            "as when some of the training labels are wrong, or the draw of the test examples outweighs it; it is then "
            "no measure of overfitting."
        )
    return sentences


def _seeds(table: RunTable) -> str:
    if len(table.names) == 1:
        return "There is one run; another seed would give other numbers."
    known = ~table.of_unknown_training[table.first_runs]
    numbers = [number for number, is_known in zip(table.seeds_of_groups, known, strict=True) if is_known]
    if not numbers:
        return "Of each way of training there is one checkpoint; what another seed would change is not known."
    fewest, most = min(numbers), max(numbers)
    count = _count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    which = f"{'Each' if len(numbers) > 1 else 'The'} way of training{'' if known.all() else ' that is known'}"
    sentences = [f"{which} was run with {count}."]
    if fewest == 1 and len(table.group_names) > 1:
        sentences.append(
            f"With one seed{' each' if most == 1 else ''}, differences between seeds cannot be told from differences "
            "between methods."
        )
    if table.has_repeats:
        sentences.append("The ranges are the lowest and the highest of the runs, not confidence intervals.")
    return " ".join(sentences)


def _from_elsewhere(table: RunTable) -> list[str]:
    """What is not known of weights that were trained elsewhere."""
    names = table.names[table.of_unknown_training].tolist()
    if not names:
        return []
    was, its = ("was", "Its") if len(names) == 1 else ("were", "Their")
    return [
        f"Nothing is known of how {', '.join(names)} {was} trained: whether on this training set, and whether the test "
        f"examples were kept apart. {its} training loss, test accuracy and generalization gap are what these names say "
        "only if both hold, and a difference from another row may come from anything in the training."
    ]


def _flattest(table: RunTable) -> str:
    return "Flatness: " + "; ".join(_flattest_by(table, measure) for measure in FLATNESS) + "."


def _flattest_by(table: RunTable, measure: str) -> str:
    label, means = ALL_MEASURES[measure].label, _means(table, measure)
    lost = [group for group, mean in means.items() if not np.isfinite(mean)]
    if lost:
        return f"{label} is not finite for {', '.join(lost)}, so nothing is ranked by it"
    low, high = _lowest_and_highest(means)
    if means[low] == means[high]:
        return f"{label} is the same for all, {number(measure, means[low])}"
    lower, higher = table.column(measure)[table.of_group(low)], table.column(measure)[table.of_group(high)]
    errors = [table.error(measure)[table.of_group(group)] for group in (low, high)]
    error = math.hypot(*(float(np.linalg.norm(own)) / len(own) for own in errors))  # of the difference of the means
    apart = ""
    if not lower.max() < higher.min():
        apart = ", though the seeds of the two overlap"
    elif not means[high] - means[low] > 2 * error:
        apart = ", though the two differ by no more than twice the error of their difference"
    return (
        f"{label} is lowest for {low}, {over_seeds(measure, lower)}, "
        f"and highest for {high}, {over_seeds(measure, higher)}{apart}"
    )


def _most_accurate(table: RunTable) -> str:
    means = _means(table, "test_accuracy")
    worst, best = _lowest_and_highest(means)
    if means[best] == means[worst]:
        return f"Test accuracy is the same for all, {number('test_accuracy', means[best])} %."
    column = table.column("test_accuracy")
    sentences = [
        f"Test accuracy: highest for {best}, {over_seeds('test_accuracy', column[table.of_group(best)])} %, and lowest "
        f"for {worst}, {over_seeds('test_accuracy', column[table.of_group(worst)])} %.",
        _against_chance(*table.accuracy_difference(best, worst), seeds=max(table.seeds_of_groups)),
    ]
    if len(means) > 2:
        sentences.append(
            f"The best and the worst of {len(means)}, chosen after the fact, differ by more than two fixed ones would."
        )
    return " ".join(sentences)


def _against_chance(difference: float, error: float, *, seeds: int) -> str:
    """A difference in accuracy beside its paired standard error over the test examples."""
    points = f"{number('test_accuracy', difference)} points"
    if np.isnan(error):
        return f"The difference is {points}; its standard error is not known."
    times = "more than twice" if difference > 2 * error else "one to two times" if difference > error else "less than"
    averaged = ", averaged over seeds" if seeds > 1 else ""
    return (
        f"The difference, {points}, is {times} its standard error of {_error('test_accuracy', error)} points over the "
        f"draw of the test examples (paired, as all were tested on the same ones{averaged}); what other seeds would "
        "change comes on top."
    )


def _least_loss(table: RunTable) -> str:
    means, column = _means(table, "test_loss"), table.column("test_loss")
    best, worst = _lowest_and_highest(means)
    if means[best] == means[worst]:
        return f"Test loss is the same for all, {number('test_loss', means[best])}."
    return (
        f"Test loss: lowest for {best}, {over_seeds('test_loss', column[table.of_group(best)])}, and highest for "
        f"{worst}, {over_seeds('test_loss', column[table.of_group(worst)])}."
    )


def _together(table: RunTable) -> str:
    goal = "test_accuracy" if table.tells_classes else "test_loss"
    accuracy = _means(table, goal)
    parts = []
    for measure in FLATNESS:
        means = _means(table, measure)
        tau = kendall_tau([means[group] for group in accuracy], list(accuracy.values()))
        parts.append(
            f"{'undefined' if np.isnan(tau) else f'{tau:+.2f}'.replace('-', '−')} for {ALL_MEASURES[measure].label}"
        )
    ends = "−1: flatter always went with more accurate" if table.tells_classes else "+1: flatter always had less loss"
    return (
        f"Together: Kendall's τ between {goal.replace('_', ' ')} and flatness over the {len(accuracy)} means is "
        f"{', '.join(parts)} ({ends}; {'+' if table.tells_classes else '−'}1: the reverse). "
        f"{len(accuracy)} points are few."
    )


def _means(table: RunTable, measure: str) -> dict[str, float]:
    column = table.column(measure)
    return {group: float(column[table.of_group(group)].mean()) for group in table.group_names}


def _lowest_and_highest(means: dict[str, float]) -> tuple[str, str]:
    return min(means, key=means.__getitem__), max(means, key=means.__getitem__)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
