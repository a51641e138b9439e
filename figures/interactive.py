"""Surfaces to turn in a browser, as pieces of an HTML page that loads nothing. Needs the extra ``interactive``."""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np

from figures.heights import at_model, heights, interpolated, shows_rise
from figures.style import INK, SEQUENTIAL, SOFT, wrapped
from figures.surface import Vertical
from landscape.answers import PlaneSlice
from landscape.results import Array

_COLUMNS = 3  # surfaces beside one another
_DIGITS = 4  # of the numbers in the page
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
# Surfaces of one figure turn together: what is seen of one is seen of the others from the same side.
_TOGETHER = """
(function () {
  var figure = document.getElementById(%(identifier)s), turning = false;
  Plotly.newPlot(figure, %(data)s, %(layout)s, %(config)s).then(function () {
    figure.on("plotly_relayout", function (change) {
      var moved = Object.keys(change).filter(function (key) { return /^scene\\d*\\.camera/.test(key); })[0];
      if (!moved || turning) { return; }
      var from = moved.split(".")[0], camera = figure._fullLayout[from].camera, others = {};
      Object.keys(figure.layout).forEach(function (key) {
        if (/^scene\\d*$/.test(key) && key !== from) {
          others[key + ".camera"] = { eye: camera.eye, center: camera.center, up: camera.up };
        }
      });
      if (!Object.keys(others).length) { return; }
      turning = true;
      Plotly.relayout(figure, others).then(function () { turning = false; }, function () { turning = false; });
    });
  });
})();
"""


def library_script() -> str:
    """The ``<script>`` with the library, some megabytes: once in a page, before all surfaces.

    Raises:
        ModuleNotFoundError: saying how to install it, if the extra ``interactive`` is not there.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != "plotly":
            raise
        raise ModuleNotFoundError(
            "surfaces to turn in a browser need plotly; install the extra: pip install 'msam-landscape[interactive]'",
            name="plotly",
        ) from None
    code = get_plotlyjs().replace("</script", "<\\/script")
    return f'<script charset="utf-8">{code}</script>'


def turning(results: Mapping[str, PlaneSlice]) -> str:
    """The library and the surfaces, for a page that has them once; empty where the extra is not there.

    Raises:
        ValueError: if there are no planes, or one has fewer than two points along an axis.
    """
    if importlib.util.find_spec("plotly") is None:
        return ""
    return library_script() + surface_html(results)


def surface_html(results: Mapping[str, PlaneSlice]) -> str:
    """Surfaces of the loss on one scale of heights and colours, as a ``<div>`` and a ``<script>`` for an HTML page.

    They turn together. Heights, colours and what is cut off are those of :func:`figures.surface.draw_surface`, but of
    any number of planes; there are holes where the loss is not finite. The page needs :func:`library_script` before.

    Raises:
        ValueError: if there are none, or if a plane has fewer than two points along an axis.
    """
    if not results:
        raise ValueError("there is no plane to draw a surface of")
    scale = Vertical.of(results)
    drawn, names = heights(results), wrapped(list(results), width=34)[0]
    columns = min(_COLUMNS, len(results))
    rows = -(-len(results) // columns)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": (520 if columns == 1 else 400) * rows + 44,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": SOFT, "activecolor": INK},
        "margin": {"l": 0, "r": 40, "t": 36, "b": 8},  # the tools are above, the name of the bar to the right
        "font": {"family": _FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "annotations": [],
        "hoverlabel": {"font": {"family": _FONT}},
        "coloraxis": _colours(scale),
    }
    for i, (label, result) in enumerate(results.items()):
        row, column = divmod(i, columns)
        scene = f"scene{i + 1 if i else ''}"
        left, right = (0.92 * (column + share) / columns for share in (0, 1))
        top, bottom = 1 - row / rows, 1 - (row + 1) / rows
        data += _surface(label, result, drawn[label], scale, scene, rise=shows_rise(results))
        layout[scene] = _scene(result, scale, alone=columns == 1) | {
            "domain": {"x": [left, right], "y": [bottom, top - 0.07 / rows]}
        }
        title = [names[i], *at_model(results, label)]
        layout["annotations"].append(
            {
                "text": html.escape("\n".join(title)).replace("\n", "<br>"),
                "x": left,
                "y": top,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "top",
                "align": "left",
                "showarrow": False,
            }
        )
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in (scale.cut, interpolated(results)) if note)
    script = {
        "data": _json(data),
        "layout": _json(layout),
        "config": _json({"displaylogo": False, "responsive": True, "showTips": False}),
    }
    identifier = f"surface-{hashlib.blake2b(''.join(script.values()).encode(), digest_size=6).hexdigest()}"
    body = _TOGETHER % (script | {"identifier": _json(identifier)})
    note = f'<p class="note">{html.escape(notes)}</p>' if notes else ""
    return f'<div id="{identifier}" class="surface" style="width: 100%"></div>{note}\n<script>{body}</script>'


def _surface(
    label: str, result: PlaneSlice, values: Array, scale: Vertical, scene: str, *, rise: bool
) -> list[dict[str, Any]]:
    """The surface, and the path of a training and the marked places on the floor under it."""
    if min(values.shape) < 2:
        raise ValueError(
            f"the plane of {label} has {len(result.x)} x {len(result.y)} points; a surface needs two along each axis"
        )
    across, up = np.argsort(result.x), np.argsort(result.y)
    exact = values[np.ix_(up, across)]
    placed = scale.place(exact)
    words = "rise" if rise else "loss"
    low, high = scale.place(np.array([scale.low, scale.high])).tolist()
    floor = _floor(low, high)
    on_floor = {"start": low, "end": high, "size": (high - low) / 12, "project": {"z": True}, "width": 1}
    found: list[dict[str, Any]] = [
        {
            "type": "surface",
            "scene": scene,
            "x": _rounded(result.x[across]),
            "y": _rounded(result.y[up]),
            "z": _rounded(placed),
            "coloraxis": "coloraxis",
            "connectgaps": False,
            "contours": {"z": {"show": True, "usecolormap": True} | on_floor},
            "lighting": {"ambient": 0.85, "diffuse": 0.35, "specular": 0.05},
            "name": "",
            "hovertemplate": "first %{x:.3g}<br>second %{y:.3g}<br>" + words + " %{text}<extra></extra>",
            "text": [[_said(value) for value in row] for row in exact.tolist()],
        }
    ]
    if result.path is not None:
        away = [
            f", {value:.3g} out of the plane"
            for value in ([] if result.path_distances is None else result.path_distances)
        ]
        away = away or [""] * len(result.path)
        found.append(
            {
                "type": "scatter3d",
                "scene": scene,
                "mode": "lines+markers",
                "x": _rounded(result.path[:, 0]),
                "y": _rounded(result.path[:, 1]),
                "z": [floor] * len(result.path),
                "line": {"color": INK, "width": 3},
                "marker": {"color": INK, "size": 2.5},
                "text": [f"checkpoint {i + 1} of {len(away)}{words}" for i, words in enumerate(away)],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    marks = np.zeros((1, 2)) if result.marks is None else np.concatenate([np.zeros((1, 2)), result.marks])
    called = ["the model, w", *([] if result.mark_names is None else result.mark_names.tolist())]
    found.append(
        {
            "type": "scatter3d",
            "scene": scene,
            "mode": "markers",
            "x": _rounded(marks[:, 0]),
            "y": _rounded(marks[:, 1]),
            "z": [floor] * len(marks),
            "marker": {"color": "#d01c1c", "size": 4, "symbol": ["cross", *["diamond"] * (len(marks) - 1)]},
            "text": [html.escape(name) for name in called],
            "hovertemplate": "%{text}<extra></extra>",
        }
    )
    return found


def _scene(result: PlaneSlice, scale: Vertical, *, alone: bool) -> dict[str, Any]:
    distance, word = (1.0, " direction") if alone else (1.7, "")  # or numbers at the edge are cut off
    low, high = scale.place(np.array([scale.low, scale.high])).tolist()
    plain = {"gridcolor": "#e3e7ec", "linecolor": SOFT, "showbackground": False, "zeroline": False, "showspikes": False}
    small = {"tickfont": {"size": 10}, "nticks": 5}
    ratio = float(np.clip(np.ptp(result.y) / np.ptp(result.x), 0.4, 2.5))
    return {
        "xaxis": plain | small | {"title": {"text": f"first{word}", "font": {"size": 11}}},
        "yaxis": plain | small | {"title": {"text": f"second{word}", "font": {"size": 11}}},
        "zaxis": plain
        | {"tickfont": {"size": 10}, "tickvals": scale.ticks, "ticktext": scale.labels}
        | {"range": [_floor(low, high), high + 0.02 * (high - low)], "title": {"text": ""}},
        "aspectmode": "manual",
        "aspectratio": {"x": 1.0 / max(1.0, ratio), "y": ratio / max(1.0, ratio), "z": 0.65},
        "camera": {
            "eye": {"x": 0.9 * distance, "y": -1.25 * distance, "z": 0.8 * distance},
            "center": {"x": 0, "y": 0, "z": -0.12},
        },
    }


def _floor(low: float, high: float) -> float:
    """Below all surfaces, with room for what lies there."""
    return float(f"{low - 0.35 * (high - low):.{_DIGITS}g}")


def _colours(scale: Vertical) -> dict[str, Any]:
    """The colours of all figures, light where the loss is low, with one bar."""
    low, high = scale.place(np.array([scale.low, scale.high])).tolist()
    steps = np.linspace(0, 1, 17)
    shades = [mpl.colors.to_hex(mpl.colormaps[SEQUENTIAL](step)) for step in steps]
    return {
        "cmin": low,
        "cmax": high,
        "colorscale": [[float(step), shade] for step, shade in zip(steps, shades, strict=True)],
        "colorbar": {
            "title": {"text": scale.name.replace("\n", "<br>"), "side": "top"},  # beside the bar it would be cut off
            "thickness": 12,
            "len": 0.7,
            "x": 0.94,
            "xanchor": "left",
            "tickvals": scale.ticks,
            "ticktext": scale.labels,
            "outlinewidth": 0,
        },
    }


def _rounded(values: Array) -> list[Any]:
    """Numbers with as many digits as can be seen, so that the page stays small; None where they are not finite."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in values.tolist()]


def _said(value: float) -> str:
    return f"{value:.{_DIGITS}g}"


def _json(value: Any) -> str:
    """JSON that may stand in a ``<script>``."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
