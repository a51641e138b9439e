from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_slices import LONG, plane, plane_with_path

from figures.interactive import library_script, surface_html

go = pytest.importorskip("plotly.graph_objects")


def parts(fragment):
    """Data, layout and config as they are given to the library."""
    found = re.search(r"Plotly\.newPlot\(figure, (.*)\)\.then", fragment)[1]
    decoder, place, read = json.JSONDecoder(), 0, []
    while place < len(found):
        value, place = decoder.raw_decode(found, place)
        read.append(value)
        place += len(", ")
    return read


def surfaces(fragment):
    return [trace for trace in parts(fragment)[0] if trace["type"] == "surface"]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.opened, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.attributes += attrs


def test_every_key_is_one_that_the_library_knows():
    fragment = surface_html({"a": plane_with_path(), "b": plane(1, marks=np.eye(2), mark_names=np.array(["x", "y"]))})
    data, layout, _ = parts(fragment)
    go.Figure(data=data, layout=layout)  # raises at any that it does not know


def test_a_surface_has_the_heights_of_the_grid_and_says_them():
    given = plane()
    (trace,) = surfaces(surface_html({"a": given}))
    np.testing.assert_allclose(trace["x"], given.x)
    np.testing.assert_allclose(trace["y"], given.y)
    np.testing.assert_allclose(10 ** np.array(trace["z"]), given.losses, rtol=2e-3)  # by their logarithm
    np.testing.assert_allclose(np.array(trace["text"], dtype=float), given.losses, rtol=1e-3)
    assert "loss %{text}" in trace["hovertemplate"]


def test_several_surfaces_have_their_rises_on_one_scale():
    fragment = surface_html({"a": plane(), "b": plane(1)})
    first, second = surfaces(fragment)
    assert (np.max(first["z"]), np.max(second["z"])) == (44, 88)
    layout = parts(fragment)[1]
    assert layout["scene"]["zaxis"] == layout["scene2"]["zaxis"]
    assert first["coloraxis"] == second["coloraxis"] == "coloraxis"
    assert (layout["coloraxis"]["cmin"], layout["coloraxis"]["cmax"]) == (0, 88)
    assert "rise %{text}" in first["hovertemplate"]
    assert [note["text"] for note in layout["annotations"]] == ["a<br>L(w) = 0.100", "b<br>L(w) = 0.100"]


def test_where_the_loss_is_not_finite_there_is_a_hole():
    losses = plane().losses - 0.1
    losses[0, 0], losses[2, 4] = np.nan, np.inf
    (trace,) = surfaces(surface_html({"a": plane(losses=losses)}))
    assert trace["z"][0][0] is None
    assert trace["z"][2][4] is None
    assert sum(value is None for row in trace["z"] for value in row) == 2
    assert trace["connectgaps"] is False


def test_the_path_is_on_the_floor_and_says_how_far_each_checkpoint_is_from_the_plane():
    data, layout, _ = parts(surface_html({"a": plane_with_path()}))
    path = next(trace for trace in data if trace.get("mode") == "lines+markers")
    np.testing.assert_array_equal(np.stack([path["x"], path["y"]], axis=1), plane_with_path().path)
    assert set(path["z"]) == {layout["scene"]["zaxis"]["range"][0]}
    assert path["text"][1] == "checkpoint 2 of 4, 0.42 out of the plane"


def test_labels_and_names_cannot_break_the_page():
    nasty = "</script><b>&"
    given = plane(marks=np.eye(2), mark_names=np.array([nasty, "b"]))
    fragment = surface_html({nasty: given})
    tags = Tags()
    tags.feed(fragment)
    assert tags.opened == ["div", "script"]
    assert parts(fragment)[1]["annotations"][0]["text"] == "&lt;/script&gt;&lt;b&gt;&amp;"
    assert fragment.count("</script>") == 1
    assert "<br>" not in fragment  # written as \\u003c, like every other one in the script


def test_nothing_is_loaded_from_anywhere():
    fragment = surface_html({"a": plane_with_path()})
    tags = Tags()
    tags.feed(library_script() + fragment)
    assert [name for name, _ in tags.attributes if name in ("src", "href")] == []
    assert "http" not in fragment
    assert tags.opened == ["script", "div", "script"]


def test_a_plane_of_2500_points_takes_less_than_60_kilobytes():
    x = np.linspace(-1, 1, 50)
    losses = np.random.default_rng(0).uniform(1, 2, (50, 50))
    assert len(surface_html({"a": plane(x=x, y=x, losses=losses)})) < 60_000


def test_the_same_planes_are_the_same_bytes_and_others_have_another_place_in_the_page():
    once, again, other = (surface_html({"a": plane(i)}) for i in (0, 0, 1))
    assert once == again
    assert re.search(r'id="([^"]*)"', once)[1] != re.search(r'id="([^"]*)"', other)[1]


def test_what_is_cut_off_and_what_is_interpolated_is_said():
    losses = np.zeros((5, 9))
    losses[:, 1:] = 1
    losses[0, 0] = 1e6
    evaluated = np.arange(45).reshape(5, 9) % 2 == 0
    fragment = surface_html({LONG: plane(losses=losses, evaluated=evaluated, interpolation_error=1e4)})
    assert "Cut off above 10; the highest is 1e+06. 23 of 45 points evaluated" in fragment


def test_none_is_refused_and_a_single_row_by_name():
    with pytest.raises(ValueError, match="there is no plane"):
        surface_html({})
    with pytest.raises(ValueError, match="plane of thin has 9 x 1 points"):
        surface_html({"thin": plane(y=[0.0])})


def test_without_the_extra_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.offline", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'msam-landscape\[interactive\]'"):
        library_script()
