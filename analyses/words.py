"""What a table of runs shows, and what it does not, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyses.correlation import kendall_tau
from analyses.results import MEASURES, RunTable
from landscape.results import Array

HEADLINES = ("test_accuracy", "gap", "largest_eigenvalue", "trace", "sharpness")
LIKE_LOSSES = 1.5  # mean training losses within this factor pass as equal
FLATNESS = [name for name, measure in MEASURES.items() if measure.flatness]


def number(measure: str, value: float) -> str:
    """A value as the table writes it."""
    settings = MEASURES[measure]
    rounded = round(value * settings.scale, settings.digits) + 0.0  # without the sign of a negative zero
    return f"{rounded:.{settings.digits}f}".replace("-", "−")


def with_error(measure: str, value: float, error: float) -> str:
    """A value and its uncertainty as the table writes them: ``91.2 ± 1.0``."""
    if error == 0:
        return number(measure, value)
    if not np.isfinite(error):
        return f"{number(measure, value)} (error unknown)"
    settings = MEASURES[measure]
    scaled = error * settings.scale
    smallest = 10.0**-settings.digits
    shown = f"{scaled:.{settings.digits}f}" if scaled >= smallest / 2 or scaled == 0 else f"{scaled:.0e}"
    return f"{number(measure, value)} ± {shown}"


def over_seeds(measure: str, values: Array) -> str:
    """The mean over seeds with the lowest and the highest: ``2.13 (2.06–2.20)``."""
    mean = number(measure, float(values.mean()))
    if len(values) == 1:
        return mean
    dash = "–" if values.min() >= 0 else " to "
    return f"{mean} ({number(measure, float(values.min()))}{dash}{number(measure, float(values.max()))})"


def cells(table: RunTable, measures: Sequence[str] = tuple(MEASURES)) -> tuple[list[str], list[list[str]]]:
    """The table as headings and cells: groups with means over seeds, or runs with their uncertainties."""
    headings = ["training", *(MEASURES[name].label for name in measures)]
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


def run_cells(table: RunTable, row: int, measures: Sequence[str] = tuple(MEASURES)) -> list[str]:
    """Every value of one run with its uncertainty."""
    return [
        with_error(name, float(table.column(name)[row]), float(table.error(name)[row]))
        + ("" if name != "largest_eigenvalue" or table.converged[row] else " not converged")
        for name in measures
    ]


def what_it_shows(table: RunTable) -> list[str]:
    """Sentences on flatness, on accuracy, and on how the two go together in this table."""
    if len(table.group_names) < 2:
        return ["There is one way of training in this table, so nothing is compared."]
    sentences = [_flattest(table), _most_accurate(table)]
    if len(table.group_names) > 2:  # any two points lie in perfect order
        sentences.append(_together(table))
    return sentences


def what_it_does_not_show(table: RunTable) -> list[str]:
    """Sentences on the limits of this very table."""
    sentences = [
        _seeds(table),
        ("All runs share" if len(table.names) > 1 else "The run has")
        + " one training set, one test set and one architecture; nothing here speaks of others.",
        "The largest eigenvalue, the trace and m-sharpness change when a network is rescaled into another that "
        "computes the same function (Dinh et al. 2017); lower values are evidence of flatness between like networks.",
    ]
    if len(table.group_names) > 1:
        sentences.append(
            "A correlation in this table is along the settings that were varied, which may drive both sides; "
            "it does not show that flatness causes generalization."
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
            "as when some of the training labels are wrong; it is then no measure of overfitting."
        )
    return sentences


def _seeds(table: RunTable) -> str:
    if len(table.names) == 1:
        return "There is one run; another seed would give other numbers."
    fewest, most = min(table.seeds_of_groups), max(table.seeds_of_groups)
    count = _count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    sentences = [f"Each way of training was run with {count}."]
    if fewest == 1 and len(table.group_names) > 1:
        sentences.append(
            f"With one seed{' each' if most == 1 else ''}, differences between seeds cannot be told from differences "
            "between methods."
        )
    if table.has_repeats:
        sentences.append("The ranges are the lowest and the highest of the runs, not confidence intervals.")
    return " ".join(sentences)


def _flattest(table: RunTable) -> str:
    parts = []
    for measure in FLATNESS:
        means = _means(table, measure)
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        lower, higher = table.column(measure)[table.of_group(low)], table.column(measure)[table.of_group(high)]
        apart = "" if lower.max() < higher.min() else ", though the seeds of the two overlap"
        parts.append(
            f"{MEASURES[measure].label} is lowest for {low}, {over_seeds(measure, lower)}, "
            f"and highest for {high}, {over_seeds(measure, higher)}{apart}"
        )
    return "Flatness: " + "; ".join(parts) + "."


def _most_accurate(table: RunTable) -> str:
    means = _means(table, "test_accuracy")
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    column, error = table.column("test_accuracy"), table.error("test_accuracy")
    difference = (means[best] - means[worst]) * 100
    # Independent test sets would give this; the runs share one, which makes a difference surer than it says.
    noise = 100 * float(np.hypot(error[table.of_group(best)].mean(), error[table.of_group(worst)].mean()))
    verdict = (
        "more than twice"
        if difference > 2 * noise
        else "between one and two times"
        if difference > noise
        else "less than"
    )
    number_of_groups = len(means)
    chosen = (
        f" The best and the worst of {number_of_groups}, chosen after the fact, differ by more than two fixed ones "
        "would."
        if number_of_groups > 2
        else ""
    )
    return (
        f"Test accuracy: highest for {best}, {over_seeds('test_accuracy', column[table.of_group(best)])} %, and lowest "
        f"for {worst}, {over_seeds('test_accuracy', column[table.of_group(worst)])} %. The difference, "
        f"{difference:.1f} points, is {verdict} the {noise:.1f} points by which two accuracies on "
        f"independent test sets of this size differ by chance (one standard error; here both are on the same images)."
        f"{chosen}"
    )


def _together(table: RunTable) -> str:
    accuracy = _means(table, "test_accuracy")
    parts = []
    for measure in FLATNESS:
        means = _means(table, measure)
        tau = kendall_tau([means[group] for group in accuracy], list(accuracy.values()))
        parts.append(
            f"{'undefined' if np.isnan(tau) else f'{tau:+.2f}'.replace('-', '−')} for {MEASURES[measure].label}"
        )
    return (
        f"Together: Kendall's τ between test accuracy and flatness over the {len(accuracy)} means is "
        f"{', '.join(parts)} (−1: flatter always went with more accurate; +1: the reverse). "
        f"{len(accuracy)} points are few."
    )


def _means(table: RunTable, measure: str) -> dict[str, float]:
    column = table.column(measure)
    return {group: float(column[table.of_group(group)].mean()) for group in table.group_names}


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
