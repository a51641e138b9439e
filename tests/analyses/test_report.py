from __future__ import annotations

import copy
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import analyses.report
from analyses import words
from analyses.report import training_settings, write_report
from analyses.results import MEASURES, Picture

NOTE = "Nothing was tuned on the test images."
PICTURES = [
    Picture("Spectra", "What is <drawn> & how.", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    Picture("A line", "Along a line.", b"<svg id='2'/>"),
]


class Page(HTMLParser):
    """Tags with their attributes, the cells of every table, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.tables, self.text, self.open = [], [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture
def write(table, subjects, protocol, tmp_path):
    def written(**changes):
        given = {"table": table, "subjects": subjects, "protocol": protocol, "pictures": PICTURES, "note": NOTE}
        path = write_report(tmp_path / "report.html", **given | changes)
        return path.read_text(encoding="utf-8")

    return written


def first_rows(table, number):
    """The table of the first runs alone."""
    arrays = {entry.name: getattr(table, entry.name) for entry in dataclasses.fields(table)}
    fewer = {name: value[:number] for name, value in arrays.items() if name not in ("measures", "manifest")}
    fewer["accuracy_covariance"] = table.accuracy_covariance[:number, :number]
    return dataclasses.replace(table, **fewer)


def table_of_runs(page: Page) -> list[list[str]]:
    (found,) = [rows for rows in page.tables if rows[0][:3] == ["run", "training", "seed"]]
    return found


def test_the_file_needs_nothing_from_outside(write):
    html = write()
    assert "http://" not in html
    assert "{'" not in Page(html).text  # nor anything in Python's own words
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    links = [value for _, attrs in Page(html).tags for name, value in attrs.items() if name in ("src", "href")]
    assert len(links) == len(PICTURES)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in Page(html).tags}


def test_every_tag_is_closed_and_every_picture_has_a_name(write):
    page = Page(write())
    assert page.open == []
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == [picture.title for picture in PICTURES]
    assert [image["src"] for image in images] == [picture.uri for picture in PICTURES]


def test_every_run_has_every_measure_with_its_uncertainty(write, table):
    rows = table_of_runs(Page(write()))
    assert rows[0][3:] == [measure.label for measure in MEASURES.values()]
    assert len(rows) == 1 + len(table.names)
    for i, row in enumerate(rows[1:]):
        expected = [words.with_error(m, table.column(m)[i], table.error(m)[i]) for m in MEASURES]
        assert row == [table.names[i], table.groups[i], str(table.seeds[i]), *expected]


def test_a_number_in_the_file_is_the_number_in_the_table(write, table):
    for i, row in enumerate(table_of_runs(Page(write()))[1:]):
        for (measure, settings), cell in zip(MEASURES.items(), row[3:], strict=True):
            number = float(re.match(r"[−\d.]+", cell).group().replace("−", "-")) / settings.scale
            half_a_digit = 0.5 * 10.0**-settings.digits / settings.scale
            assert number == pytest.approx(table.column(measure)[i], abs=1.01 * half_a_digit)


def test_means_over_seeds_are_shown_by_group(write, table):
    (rows,) = [rows for rows in Page(write()).tables if rows[0][0] == "training"]
    assert [[cell.replace("\n", " ") for cell in row] for row in rows[1:]] == words.cells(table)[1]


def test_a_table_of_single_runs_has_no_means_over_seeds(write, make_table, table, subjects):
    single = make_table({"SGD": {"trace": [1.0]}, "SAM": {"trace": [2.0]}})
    single = dataclasses.replace(single, manifest=table.manifest)
    assert "Means over seeds" not in write(table=single, subjects=subjects[:2])


def test_what_it_shows_and_what_not_and_the_note_stand_in_it(write, table):
    text = Page(write()).text
    for sentence in (*words.what_it_shows(table), *words.what_it_does_not_show(table), NOTE):
        assert sentence in text
    assert "6 checkpoints, one protocol" in text
    assert "scikit-learn's digits: 60 training and 797 test images" in text


def test_the_protocol_stands_in_it(write):
    text = Page(write()).text
    for phrase in (
        "on 60 examples of the train split",
        "Krylov deflation and random sign vectors, 6 products",
        "2 probes of 8 steps",
        "shards of 16 examples",
        "length 0.05",
        "≤ 0.001 |λ|",
        "from -1 to 1",
        "610 weights (float32)",
    ):
        assert phrase in text


def test_every_training_setting_stands_in_it_with_all_its_values(write, subjects):
    settings = training_settings([subject.run for subject in subjects])
    assert settings["num microbatches"] == "1, 2"
    assert settings["perturbation"] == "none, sam"
    assert settings["seed"] == "0, 1"
    assert settings["train examples"] == "60"
    assert settings["hidden"] == "8"
    assert "patch" not in settings  # which the models do not have
    rows = [row for table in Page(write()).tables for row in table]
    for name, value in settings.items():
        assert [name, value] in rows


def test_it_says_which_weights_were_measured_where_not_all_were(write, table):
    objective = table.manifest["objective"] | {"parameters": "3.*", "dim": 90}
    manifest = {**table.manifest, "objective": objective}
    assert "90 weights (float32, 3.* alone)" in Page(write(table=dataclasses.replace(table, manifest=manifest))).text


def test_what_others_named_is_text_and_not_markup(write, table):
    evil = "<script>alert('1 & 2')</script>"
    names = np.array([evil, *table.names[1:]])
    groups = np.array([evil if group == "SGD" else group for group in table.groups])
    page = Page(html := write(table=dataclasses.replace(table, names=names, groups=groups), note=evil))
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in page.tags}
    assert table_of_runs(page)[1][:2] == [evil, evil]
    assert page.text.count(evil) >= 3


def test_eigenvalues_that_did_not_converge_are_marked(write, table):
    late = dataclasses.replace(table, converged=np.array([False, *table.converged[1:]]))
    rows = table_of_runs(Page(write(table=late)))
    assert [any("not converged" in cell for cell in row) for row in rows[1:]] == [True, *[False] * 5]


def test_the_same_report_is_the_same_bytes(write):
    assert write() == write()


def test_a_report_that_cannot_be_written_leaves_the_old_one_and_nothing_else(write, tmp_path, monkeypatch):
    before = write()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("landscape.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(note="another")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_a_report_that_cannot_be_rendered_writes_nothing(write, tmp_path, monkeypatch):
    monkeypatch.setattr(analyses.report, "training_settings", lambda runs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def changed():
    """(subject, config entries) -> the subject of a run with these settings."""

    def of(subject, **entries):
        other = copy.copy(subject)
        other.run = copy.copy(subject.run)
        other.run.config = dataclasses.replace(subject.run.config, **entries)
        return other

    return of


def test_it_claims_the_same_number_of_steps_only_where_that_is_so(write, subjects, changed, tmp_path):
    same, other = "All took the same number of steps.", "They differ in epochs or batch size"
    page = Page(write()).text
    assert same in page
    assert other not in page
    larger = changed(subjects[0], batch_size=30)
    earlier = changed(subjects[0])
    earlier.run._chosen = tmp_path / "epoch-0001.safetensors"
    for differing in (larger, earlier):
        page = Page(write(subjects=[differing, *subjects[1:]])).text
        assert other in page
        assert same not in page


def test_what_is_said_of_several_runs_is_not_said_of_one(write, table, subjects):
    text = " ".join(Page(write(table=first_rows(table, 1), subjects=subjects[:1])).text.split())
    assert "There is one run in this table" in text
    assert "1 checkpoint, one protocol" in text
    for phrase in (
        "All runs",
        "Runs of one seed",
        "same number of steps",
        "every run",
        "Means over seeds",
        "two gradients",
    ):
        assert phrase not in text


def test_runs_of_one_seed_are_spoken_of_only_where_there_are_some(write, table, subjects):
    said = "Runs of one seed start from the same weights"
    assert said in Page(write()).text
    assert said not in Page(write(table=first_rows(table, 2), subjects=subjects[:2])).text


def test_the_gradients_of_a_step_are_counted_for_the_methods_that_there_are(write, subjects, changed):
    assert "In each step SAM and mSAM compute two gradients" in Page(write()).text
    alone = [changed(subject, perturbation="asam", num_microbatches=1) for subject in subjects]
    assert "In each step ASAM computes two gradients" in Page(write(subjects=alone)).text
    none = [changed(subject, perturbation="none") for subject in subjects]
    assert "two gradients" not in Page(write(subjects=none)).text


def test_every_number_is_said_to_have_an_uncertainty_or_to_be_exact(write):
    text = " ".join(Page(write()).text.split())
    assert "test loss: standard error over test examples;" in text
    assert "The training loss is that of the very examples that were trained on" in text
    for measure in MEASURES.values():
        assert f"{measure.label}: {measure.error}" in text or measure.label == "training loss"


def test_the_shards_are_stated_as_large_as_they_were_and_not_as_they_were_asked_for(write, protocol):
    text = Page(write(protocol=dataclasses.replace(protocol, microbatch_size=10_000))).text
    assert "shards of 16 examples" in text
    assert "10000" not in text


def test_means_are_shown_where_only_one_group_has_several_runs(write, make_table, table, subjects):
    mixed = make_table({"SGD": {"trace": [1.0]}, "SAM": {"trace": [2.0, 3.0]}})
    page = write(table=dataclasses.replace(mixed, manifest=table.manifest), subjects=subjects[:3])
    assert "Means over seeds" in page
    assert "a number without brackets is of a single run" in page
    assert "a number without brackets" not in write()


def test_the_report_says_which_runs_were_trained_on_other_data(write, subjects):
    marked = [*subjects[:1], copy.copy(subjects[1]), *subjects[2:]]
    marked[1].trained_on = "run-02 was trained on other data: its test data were 3 examples, and are 4"
    assert f"{subjects[0].about}; {marked[1].trained_on}. 6 checkpoints" in Page(write(subjects=marked)).text
