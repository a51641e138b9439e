from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from figures import draw, terminal
from landscape.answers import Audit


def markers(figure):
    """The markers of each axes: (x, row, hollow)."""
    drawn = [[line for line in ax.lines if line.get_linestyle() == "None"] for ax in figure.axes]
    return [
        [(line.get_xdata()[0], round(line.get_ydata()[0]), line.get_markerfacecolor() == "white") for line in lines]
        for lines in drawn
    ]


def test_every_factor_has_its_marker_and_the_one_that_is_not_known_is_hollow(make):
    results = make("audit", ["a"])
    (seen,) = markers(draw(results))
    ratios = results["a"].ratios
    expected = [(ratios[i, j], i, (i, j) == (2, 2)) for j in range(4) for i in range(4) if ratios[i, j] > 0]
    assert [row for _, row, _ in seen] == [row for _, row, _ in expected]
    assert [x for x, _, _ in seen] == pytest.approx([x for x, _, _ in expected])
    assert [hollow for _, _, hollow in seen] == [hollow for _, _, hollow in expected]


def test_what_has_no_factor_is_named(make, texts):
    shown = [text for text, _ in texts(draw(make("audit", ["a"])))]
    assert "between units: changes its sign" in shown


def test_a_kind_has_one_look_whatever_else_is_shown(make):
    (result,) = make("audit", ["a"]).values()
    last = dataclasses.replace(
        result,
        **{name: getattr(result, name)[..., 3:] for name in ("after", "after_stderrs", "change_stderrs", "slacks")},
        **{name: getattr(result, name)[3:] for name in ("rescalings", "layers", "differences", "tolerances")},
    )
    whole, part = (draw({"a": one}).legends[0].legend_handles for one in (result, last))
    assert [handle.get_label() for handle in whole] == list(Audit.known)
    assert [handle.get_label() for handle in part] == ["logits"]
    assert (whole[3].get_marker(), whole[3].get_color()) == (part[0].get_marker(), part[0].get_color())


def test_a_model_without_a_rescaling_is_drawn_with_a_sentence(make, texts):
    (result,) = make("audit", ["a"]).values()
    none = dataclasses.replace(
        result,
        **{name: getattr(result, name)[..., :0] for name in ("after", "after_stderrs", "change_stderrs", "slacks")},
        **{name: getattr(result, name)[:0] for name in ("rescalings", "layers", "differences", "tolerances")},
    )
    assert "no rescaling was found that leaves the function as it is" in [text for text, _ in texts(draw({"a": none}))]
    assert [column.header for column in terminal.audit_table(none).columns] == ["measure", "value", "± uncertainty"]


def test_the_table_has_the_factor_of_each_measure_under_each_rescaling(make, capsys):
    (result,) = make("audit", ["a"]).values()
    made = terminal.audit_table(result)
    assert [column.header for column in made.columns][3:] == list(Audit.known)
    cells = np.array([[*column.cells] for column in made.columns]).T
    assert cells[0].tolist() == ["largest Hessian eigenvalue", "12", "0.6", "× 2.6", "× 2", "× 0.44", "× 1.7"]
    assert cells[2, 3:].tolist() == ["× 1.3", "× -1.5", "× 1.4 (unknown)", "× 1e+04"]
    assert cells[3, 3:].tolist() == ["invariant", "invariant", "invariant", "× 1.9"]
    terminal.show(made, *result.remarks)
    assert "logits: 8. The outputs of 64 examples are multiplied by 2 to within 1.0e-15" in capsys.readouterr().out
    json.loads(terminal.to_json(result.summary()), parse_constant=pytest.fail)
