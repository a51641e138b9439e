from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

import figures
from figures import draw, drawing, save
from figures.lines import draw_lines
from figures.style import render
from landscape.results import Result

KINDS = (
    "eigenvalues",
    "trace",
    "density",
    "diagonal",
    "norm",
    "course",
    "sharpness",
    "relative flatness",
    "curve",
    "sizes",
    "sigma",
    "audit",
    "line",
    "plane",
    "path",
    "micro-batches",
    "groups",
)
DRAWN_ALIKE = ("worst case", "average case", "low pass", "Keskar", "Fisher-Rao")  # as sharpness is
LABELS = ["SGD", "SAM", "mSAM, 2 micro-batches"]


@pytest.mark.parametrize("labels", [LABELS[:1], LABELS])
@pytest.mark.parametrize("kind", [*KINDS, *DRAWN_ALIKE])
def test_there_is_a_picture_of_every_kind_for_one_label_and_for_several(kind, labels, make):
    assert isinstance(draw(make(kind, labels)), Figure)


def test_every_kind_of_result_of_this_package_has_a_picture():
    from landscape.answers import Certificate, Forecast, Sampled, Slice, UnderNoise

    homes = ("landscape.answers", "analyses.results")
    ours = {kind for kind in Result.kinds.values() if kind.__module__.startswith(homes)}
    ours -= {Certificate, Forecast}  # they are read as tables
    ours -= {Sampled, Slice, UnderNoise}  # what several kinds have in common
    assert ours <= set(drawing._PICTURES)


def test_tables_on_a_terminal_do_not_wait_for_matplotlib():
    program = "import sys, figures.terminal; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert dir(figures) == ["draw", "draw_surface", "save"]
    with pytest.raises(AttributeError, match="module 'figures' has no attribute 'nothing'"):
        _ = figures.nothing


def test_no_result_is_refused():
    with pytest.raises(ValueError, match="results of one kind; got none"):
        draw({})


def test_results_of_several_kinds_are_refused_by_name(make):
    with pytest.raises(ValueError, match="one kind; got LineSlice, TraceEstimate"):
        draw({"a": make("trace", ["x"])["x"], "b": make("line", ["x"])["x"]})


def test_a_kind_without_a_picture_is_refused_by_name():
    with pytest.raises(ValueError, match="no picture of a Result"):
        draw({"a": Result()})


def test_two_tables_are_refused(make):
    (table,) = make("groups", LABELS).values()
    with pytest.raises(ValueError, match="one comparison at a time"):
        draw({"a": table, "b": table})


def test_a_table_told_apart_by_micro_batches_is_drawn_against_their_number_and_others_by_group(make, texts):
    label = "number of micro-batches per batch at training"
    assert label in [text for text, _ in texts(draw(make("micro-batches", LABELS)))]
    assert label not in [text for text, _ in texts(draw(make("groups", LABELS)))]


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_changes_neither_the_settings_of_matplotlib_nor_pyplots_figures(kind, make, tmp_path):
    settings, numbers, backend = dict(mpl.rcParams), plt.get_fignums(), mpl.get_backend()
    save(draw(make(kind, LABELS)), tmp_path / "figure.png")
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == numbers
    assert mpl.get_backend() == backend


def test_drawing_that_fails_puts_the_settings_back(make):
    settings = dict(mpl.rcParams)
    with pytest.raises(AttributeError):
        draw_lines({"a": None})
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize("mine", [{"lines.linewidth": 9.0, "font.size": 30.0}, {"axes.grid": False}])
def test_a_figure_does_not_depend_on_the_callers_settings(mine, make):
    plain = render(draw(make("line", LABELS)), "png")
    with mpl.rc_context(mine):
        assert render(draw(make("line", LABELS)), "png") == plain


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_figure_is_the_same_bytes(kind, make):
    figure, again = draw(make(kind, LABELS)), draw(make(kind, LABELS))
    first = {ending: render(figure, ending) for ending in ("svg", "png", "pdf")}
    assert render(figure, "svg") == first["svg"]
    assert {ending: render(again, ending) for ending in ("pdf", "png", "svg")} == first


@pytest.mark.parametrize(
    ("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF"), ("a", b"\x89PNG")]
)
def test_the_ending_of_a_name_decides_the_format_and_png_is_what_none_means(name, magic, make, tmp_path):
    path = save(draw(make("line", LABELS)), tmp_path / "new folder" / name)
    assert path == tmp_path / "new folder" / name
    assert path.read_bytes().startswith(magic)


def test_an_unknown_format_is_refused_with_the_known_ones(make, tmp_path):
    with pytest.raises(ValueError, match=r"as 'docx'; choose one of .*pdf.*png.*svg"):
        save(draw(make("line", LABELS)), tmp_path / "a.docx")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written_leaves_the_old_one_and_nothing_else(make, tmp_path, monkeypatch):
    path = save(draw(make("line", LABELS)), tmp_path / "a.png")
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("landscape.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(draw(make("trace", LABELS)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_that_cannot_be_rendered_leaves_the_old_one(make, tmp_path, monkeypatch):
    path = save(draw(make("line", LABELS)), tmp_path / "a.png")
    before = path.read_bytes()
    monkeypatch.setattr(Figure, "savefig", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(draw(make("trace", LABELS)), path)
    assert path.read_bytes() == before
