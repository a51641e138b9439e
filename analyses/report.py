"""The comparison report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from analyses import words
from analyses.comparison import unperturbed
from analyses.protocol import ESTIMATORS, Protocol
from analyses.results import ALL_MEASURES, UNKNOWN, Picture, RunTable
from analyses.subject import Subject
from landscape.files import atomic_write
from msam.adopted import Adopted
from msam.run import Run
from msam.tasks.registry import complete_settings


def write_report(
    path: str | Path,
    *,
    table: RunTable,
    subjects: Sequence[Subject],
    protocol: Protocol,
    pictures: Sequence[Picture],
    surfaces: str = "",
    note: str = "",
) -> Path:
    """Write the report, whole or not at all.

    Args:
        path: of the HTML file.
        table: what was measured.
        subjects: what was trained, in the order of the table.
        protocol: how it was measured.
        pictures: figures, in order.
        surfaces: HTML of surfaces to turn; none when empty.
        note: how the training settings were chosen.

    Raises:
        OSError: if the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analyses", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("report.html.jinja").render(
        about=words.about(subjects),
        note=note,
        shows=words.what_it_shows(table),
        limits=words.what_it_does_not_show(table),
        measures={name: ALL_MEASURES[name] for name in table.measures.tolist()},
        groups=words.cells(table)[1] if table.has_repeats else [],
        alone=1 in table.seeds_of_groups,
        all_known=not table.of_unknown_training.any(),
        rows=[
            [
                name,
                table.groups[i],
                "–" if table.seeds[i] == UNKNOWN else str(table.seeds[i]),
                *words.run_cells(table, i),
            ]
            for i, name in enumerate(table.names.tolist())
        ],
        how_trained=_how_trained([subject.run for subject in subjects]),
        training=training_settings([subject.run for subject in subjects]),
        protocol=_protocol_rows(protocol, table),
        machine=words.machine(table.manifest["machine"]),
        pictures=pictures,
        surfaces=surfaces,
    )
    with atomic_write(path) as stream:
        stream.write(html.encode())
    return Path(path)


def training_settings(runs: Sequence[Run]) -> dict[str, str]:
    """Every setting of the configs that is not none in all; where the runs differ, all its values."""
    flat = []
    for run in runs:
        entries = {"task": run.config.task} if isinstance(run.config, Adopted) else run.config.to_dict()
        entries.pop("settings", None)
        flat.append(entries | complete_settings(run.config.task, run.config.settings))
    names = dict.fromkeys(name for entry in flat for name in entry)
    return {
        name.replace("_", " "): ", ".join(dict.fromkeys(str(entry[name]) for entry in flat if name in entry))
        for name in names
        if any(entry.get(name) is not None for entry in flat)
    }


def _how_trained(runs: Sequence[Run]) -> list[str]:
    """Sentences on what the runs share, and on what a step costs."""
    elsewhere = [(run.name, run.config) for run in runs if isinstance(run.config, Adopted)]
    trained = [run for run in runs if not isinstance(run.config, Adopted)]
    configs = [run.training for run in trained]
    sentences = [
        f"Nothing is known of the training of {name}; its weights are those of {config.file}"
        f"{f', entry {config.key}' if config.key else ''} (SHA-256 {config.sha256}), as the task's model takes them"
        f"{''.join([': ', '; '.join(config.remarks)] if config.remarks else [])}."
        for name, config in elsewhere
    ]
    if elsewhere and trained:
        sentences.append(f"What follows is of {', '.join(run.name for run in trained)}.")
    if len(trained) > 1:
        sentences.append("All runs share every setting below but those that list several values.")
        if len({config.seed for config in configs}) < len(trained):
            sentences.append("Runs of one seed start from the same weights and see the data in the same order.")
        same_steps = len({(run.checkpoint.stem, run.training.batch_size) for run in trained}) == 1
        sentences.append(
            "All took the same number of steps."
            if same_steps
            else "They differ in epochs or batch size, and so in the number of steps."
        )
    perturbed = list(dict.fromkeys(config.method for config in configs if not unperturbed(config)))
    if perturbed:
        sentences.append(
            f"In each step {' and '.join(perturbed)} compute{'s' if len(perturbed) == 1 else ''} two gradients of "
            "every example where the base optimizer alone computes one."
        )
    return sentences


def _protocol_rows(protocol: Protocol, table: RunTable) -> dict[str, str]:
    objective = table.manifest["objective"]
    return {
        "landscape of": f"{objective['loss']}, {objective['reduction']}, on {objective['num_examples']} examples of "
        f"the {objective['split']} split; no augmentation, no weight decay",
        "model": f"{objective['mode']} mode, batch norm with {objective['batch_norm']}, {objective['dim']} weights "
        f"({objective['dtype']}{'' if objective['parameters'] == '*' else ', ' + objective['parameters'] + ' alone'})",
        "data": f"fingerprint {objective['data']}",
        "eigenvalues": f"Lanczos with full reorthogonalisation; converged when ‖Hv − λv‖ ≤ {protocol.tol:g} |λ|",
        "trace": f"{ESTIMATORS[protocol.estimator][1]}, {protocol.trace_probes} products",
        "spectral density": f"stochastic Lanczos quadrature beside the largest eigenvalues, "
        f"{protocol.density_probes} probes of "
        f"{protocol.density_steps} steps",
        "m-sharpness": f"mean rise of the loss over shards of {table.manifest['sharpness']['microbatch_size']} "
        f"examples, each after its own gradient ascent step of length {protocol.rho:g}",
        "slices": f"filter-normalised random directions, from {-protocol.reach:g} to {protocol.reach:g}"
        + ("; the same random numbers for every run" if len(table.names) > 1 else ""),
        "seed": str(protocol.seed),
    }
