"""What all figures share: colours, canvas, files, logarithmic axes with plain numbers, t = 0 on one of them."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array

FORMATS = (".png", ".pdf", ".svg")
THEORY, PRACTICE, TWIN = "#1f4e8c", "#c8553d", "#777777"
COLOURS = ("#1f4e8c", "#c8553d", "#3d8c5a", "#8c6d1f", "#6b3d8c", "#3d828c", "#8c3d66", "#555555")
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "gaussequiv"}
MOST_BOUND = 9.0  # beyond it the largest |z| that chance explains is left out of view: z would be flat


def canvas(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Save a figure as PNG, PDF or SVG, by the suffix of the path, atomically."""
    from gaussequiv.models.storage import atomic_write

    path = figure_path(path)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=150, metadata=_undated(path.suffix)))


def figure_path(path: str | Path) -> Path:
    """The path of a figure; refuses a suffix that figures are not saved with."""
    if not isinstance(path, str | Path):
        raise InputError(f"{path!r} is no path; expected that of a figure, such as figure.png")
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"a figure cannot be saved as {path.name!r}; expected the suffix {', '.join(FORMATS)}")
    return path


def svg(figure: Figure) -> str:
    """A figure as an SVG element, to be written into a page."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=_undated(".svg"))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _undated(suffix: str) -> dict[str, Any]:
    return {"Date": None} if suffix == ".svg" else {"CreationDate": None} if suffix == ".pdf" else {}


def band(panel: Any, x: Array, middle: Array, reach: Array | None, colour: Any = THEORY) -> None:
    """The 95 % band of a prediction, where it has errors from an estimated model."""
    if reach is not None:
        panel.fill_between(x, middle - reach, middle + reach, color=colour, alpha=0.2, lw=0)


def plain_numbers(axis: Any, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis: at every decade, within two of them also between."""
    decades = np.log10(high / low)
    if decades > 4:
        return
    axis.set_major_formatter("{x:g}")
    between = "235" if decades < 1 else "25" if decades < 2 else ""
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else "")


def on_log_axis(times: Array) -> Array:
    """Values, such as times, for a logarithmic axis: 0 is drawn half a decade before the first positive one."""
    positive = times[times > 0]
    return np.where(times > 0, times, positive[0] / 3 if len(positive) else 1.0)


def log_time(axis: Any, times: Array, *, named: bool = True) -> None:
    """A logarithmic axis of times, with a thin line where t = 0 is drawn."""
    axis.set_xscale("log")
    plain_numbers(axis.xaxis, on_log_axis(times)[0], on_log_axis(times)[-1])
    if times[0] == 0 and len(times) > 1:
        axis.axvline(on_log_axis(times)[0], color="#dddddd", lw=0.8, zorder=0)
        if not named:
            return
        axis.annotate(
            "t = 0", (on_log_axis(times)[0], 0.02), xycoords=("data", "axes fraction"), fontsize=7, color="#888888"
        )
