"""Figures of the documentation, computed anew: `gaussequiv reproduce NAME`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gaussequiv.errors import InputError, integer
from gaussequiv.generators import certificate, check, gaussian_matrix, single_layer
from gaussequiv.maths.averages import Array
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.models.streams import Purpose, stream

Report = Callable[[str, float, float], Any]


@dataclass(frozen=True)
class Case:
    """A generator and weights whose fields become Gaussian as a power of N.

    Args:
        name: in the figure.
        activation: of the single layer.
        aligned: whether w = (1, ..., 1), and no random weights.
        law: the expected power.

    """

    name: str
    activation: str
    aligned: bool
    law: float


CASES = (
    Case("sign, random w", "sign", False, -1.0),
    Case("ReLU, random w", "relu", False, -1.0),
    Case("erf, random w", "erf", False, -1.0),
    Case("ReLU, w = ones", "relu", True, -0.5),
)


def reproduced(name: str, out: Path, workers: int, small: bool, report: Report) -> tuple[list[str], list[Path]]:
    """Compute a figure by its name; returns lines that say what came out, and the files.

    Raises:
        InputError: no such figure.

    """
    if name not in FIGURES:
        raise InputError(f"there is no figure {name!r}; expected one of {', '.join(FIGURES)}")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder")
    return FIGURES[name](out, integer("workers", workers), small, report)


def rate(out: Path, workers: int, small: bool, report: Report) -> tuple[list[str], list[Path]]:
    r"""Distance of the fields from a Gaussian against N for $x = \sigma(F c)$, D = N / 2, with the certificate's bound.

    Two student fields and one of a teacher; squared distances are averaged over draws of F and w, so that their noise leaves
    no bias.
    """
    from gaussequiv.report import figures

    sizes = (50, 100, 200) if small else (50, 100, 200, 400, 800, 1600)
    draws, samples = (4, 32_768) if small else (8, 131_072)
    kept = out / f"rate-{'small' if small else 'full'}.json"
    rows = _kept(kept)
    done = {(row["case"], row["N"]) for row in rows}
    total = len(CASES) * len(sizes) * draws
    for number, (case, N) in enumerate((case, N) for case in CASES for N in sizes):
        if (case.name, N) not in done:
            rows.append(_at(case, N, draws, samples, workers, lambda i, n=number: report("rate", n * draws + i, total)))  # type: ignore[misc]
            atomic_write_text(kept, json.dumps(rows, indent=1) + "\n")
    shown: list[dict[str, Any]] = []
    lines = []
    for case in CASES:
        mine = [row for row in rows if row["case"] == case.name]
        slope, error = _slope(mine)
        shown += [{**row, "slope": slope, "law": case.law} for row in mine]
        lines.append(f"{case.name}: distance falls as N^{slope:.2f} +- {error:.2f} (expected {case.law:g})")
    path = out / ("rate-small.png" if small else "rate.png")
    figures.save(figures.rate(shown), path)
    return lines, [kept, path]


def _kept(path: Path) -> list[dict[str, Any]]:
    """The rows that are there; a damaged file is made again."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [row for row in rows if {"case", "N", "distance", "distance_se", "sliced", "bound"} <= set(row)]
    except (OSError, ValueError, TypeError):
        return []


def _at(case: Case, N: int, draws: int, samples: int, workers: int, done: Callable[[int], Any]) -> dict[str, Any]:
    """Distances at one size, averaged over draws of the matrix and of the weights."""
    squares, sliced, bounds = [], [], []
    for draw in range(draws):
        F = gaussian_matrix(N, N // 2, seed=draw)
        rng = stream(draw, Purpose.WEIGHTS, chunk=N)
        student = np.ones((1, N)) if case.aligned else rng.standard_normal((2, N))
        teacher = rng.standard_normal((1, N // 2))
        generator = single_layer(F, case.activation)
        found = check(generator, None, student, teacher, samples=samples, seed=draw, workers=workers)
        squares.append(found.provenance["shape_squared"])
        sliced.append(found["sliced"].value)
        if draw == 0:
            bounds.append(certificate(generator, student, teacher, draws=400, seed=draw).w1)
        done(draw + 1)
    mean, error = float(np.mean(squares)), float(np.std(squares, ddof=1) / np.sqrt(draws))
    distance = float(np.sqrt(max(mean, 0.0)))
    return {
        "case": case.name,
        "N": N,
        "distance": distance,
        "distance_se": error / (2 * distance) if distance else float("nan"),
        "sliced": float(np.mean(sliced)),
        "bound": bounds[0],
    }


def _slope(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Of log distance against log N by weighted least squares, with its error."""
    rows = [row for row in rows if row["distance"] > 0]
    x, y = (np.log([row[name] for row in rows]) for name in ("N", "distance"))
    weights = np.array([(row["distance"] / max(row["distance_se"], 0.01 * row["distance"])) ** 2 for row in rows])
    centre = np.average(x, weights=weights)
    spread = float(np.sum(weights * (x - centre) ** 2))
    slope = float(np.sum(weights * (x - centre) * y) / spread)
    residual: Array = y - np.average(y, weights=weights) - slope * (x - centre)
    scale = max(1.0, float(np.sum(weights * residual**2) / max(len(rows) - 2, 1)))
    return slope, float(np.sqrt(scale / spread))


FIGURES: dict[str, Callable[[Path, int, bool, Report], tuple[list[str], list[Path]]]] = {"rate": rate}
