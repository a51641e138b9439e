"""The comparison report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from analyses import words
from analyses.measures import Subject
from analyses.protocol import Protocol
from analyses.results import MEASURES, Picture, RunTable
from landscape.files import atomic_write
from msam.run import Run


def write_report(
    path: str | Path,
    *,
    table: RunTable,
    subjects: Sequence[Subject],
    protocol: Protocol,
    pictures: Sequence[Picture],
    note: str = "",
) -> Path:
    """Write the report, whole or not at all.

    Args:
        path: of the HTML file.
        table: what was measured.
        subjects: what was trained, in the order of the table.
        protocol: how it was measured.
        pictures: figures, in order.
        note: how the training settings were chosen.

    Raises:
        OSError: if the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analyses", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("report.html.jinja").render(
        about=subjects[0].about,
        note=note,
        shows=words.what_it_shows(table),
        limits=words.what_it_does_not_show(table),
        measures=MEASURES,
        groups=words.cells(table)[1] if table.has_repeats else [],
        rows=[
            [name, table.groups[i], str(table.seeds[i]), *words.run_cells(table, i)]
            for i, name in enumerate(table.names.tolist())
        ],
        same_steps=len({(s.run.config.epochs, s.run.config.batch_size) for s in subjects}) == 1,
        training=training_settings([subject.run for subject in subjects]),
        protocol=_protocol_rows(protocol, table),
        machine=table.manifest["machine"],
        pictures=pictures,
    )
    with atomic_write(path) as stream:
        stream.write(html.encode())
    return Path(path)


def training_settings(runs: Sequence[Run]) -> dict[str, str]:
    """Every setting of the configs; where the runs differ, all its values."""
    flat = []
    for run in runs:
        entries = run.config.to_dict()
        settings = entries.pop("settings")
        flat.append(entries | settings)
    names = list(dict.fromkeys(name for entry in flat for name in entry))
    return {
        name.replace("_", " "): ", ".join(dict.fromkeys(str(entry.get(name, "default")) for entry in flat))
        for name in names
    }


def _protocol_rows(protocol: Protocol, table: RunTable) -> dict[str, str]:
    objective = table.manifest["objective"]
    return {
        "landscape of": f"{objective['loss']}, {objective['reduction']}, on {objective['num_examples']} examples of "
        f"the {objective['split']} split; no augmentation, no weight decay",
        "model": f"{objective['mode']} mode, batch norm with {objective['batch_norm']}, {objective['dim']} weights "
        f"({objective['dtype']})",
        "data": f"fingerprint {objective['data']}",
        "eigenvalues": f"Lanczos with full reorthogonalisation; converged when ‖Hv − λv‖ ≤ {protocol.tol:g} |λ|",
        "trace": f"Hutchinson, {protocol.trace_probes} random sign vectors",
        "spectral density": f"stochastic Lanczos quadrature, {protocol.density_probes} probes of "
        f"{protocol.density_steps} steps",
        "m-sharpness": f"mean rise of the loss over shards of {table.manifest['sharpness']['microbatch_size']} "
        f"examples, each after its own gradient ascent step of length {protocol.rho:g}",
        "slices": f"filter-normalised random directions, from {-protocol.reach:g} to {protocol.reach:g}; "
        "the same random numbers for every run",
        "seed": str(protocol.seed),
    }
