"""The curves of a sweep, theory beside simulation: one comparison a point, and a sentence over all of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.models.sweeps import Curves, Point, label
from gaussequiv.report.batches import BatchComparison
from gaussequiv.report.comparison import LEVEL, Comparison

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class GridComparison:
    """Theory and simulation of a sweep, with a `Comparison` at every point; None where they have no finite time in common.

    The points share the chance of 1 % that a correct theory is said to depart somewhere: each of n is tested at 0.01 / n.
    """

    theory: Curves
    practice: Curves
    comparisons: tuple[Comparison | None, ...]

    @classmethod
    def of(cls, theory: Curves, practice: Curves) -> "GridComparison":
        """Compare point by point.

        Raises:
            InputError: other axes or times, a simulation of one seed, or no point with a finite time in common.

        """
        if theory.axes != practice.axes:
            raise InputError("the sweeps have other axes; predict and simulate the same one")
        level = LEVEL / len(theory.points)
        comparisons = []
        for point in theory.points:
            one, other = theory.curve(**point), practice.curve(**point)
            lost = not (np.isfinite(one.test_error) & np.isfinite(other.test_error)).any()
            comparisons.append(None if lost else Comparison.of(one, other, level))
        if not any(comparisons):
            raise InputError("the curves have no finite point in common")
        return cls(theory, practice, tuple(comparisons))

    @property
    def points(self) -> tuple[Point, ...]:
        """The values of the axes at every point."""
        return self.theory.points

    @property
    def final_z(self) -> Array:
        """(simulation - theory) / standard error at the last time, one a point; NaN where there is none."""
        return np.array([np.nan if one is None else one.z[-1] for one in self.comparisons])

    @property
    def agrees(self) -> bool:
        """Whether theory and simulation agree at every point and all their curves are finite."""
        return all(one is not None and one.agrees for one in self.comparisons)

    @property
    def worst(self) -> int:
        """Index of the point with the largest |z|, over all times."""
        return int(np.argmax([-1.0 if one is None else abs(one.z[one.worst]) for one in self.comparisons]))

    @property
    def subject(self) -> str:
        """What the networks were trained on."""
        return str(self.practice.provenance["points"][0].get("inputs", "samples"))

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        agreeing = sum(one is not None and one.agrees for one in self.comparisons)
        worst = self.comparisons[self.worst]
        compared = [one for one in self.comparisons if one is not None]
        z = np.concatenate([one.z[np.isfinite(one.z)] for one in compared])
        text = (
            f"The test errors of theory and simulation agree within error bars at {agreeing} of {len(self.points)} points "
            f"of the grid: rms z = {np.sqrt(np.mean(z**2)):.2f} over {len(z)} values."
        )
        undecided = sum(one.undecided for one in compared)
        if undecided:
            text += f" At {undecided} of them the seeds are too few to call it agreement."
        if worst is not None:
            text += f" The largest |z| is at {label(self.points[self.worst])}: {worst.sentence}"
        lost = [label(p) for p, one in zip(self.points, self.comparisons, strict=True) if one is None]
        return text + (f" Without a finite value in common: {'; '.join(lost)}." if lost else "")

    @property
    def summary(self) -> str:
        """The sentence of a page or a terminal."""
        return self.sentence

    @property
    def caption(self) -> str:
        """What the panels of its figure are."""
        first, *others = self.theory.axes
        styles = f", line styles are values of {others[0]}" if others else ""
        return f"Left: test error against t; colours are values of {first}{styles}. Right: test error at the last time."

    @property
    def head(self) -> list[str]:
        """Titles of the columns of `rows`; the errors are those at the last time."""
        return [*self.theory.axes, "theory", "simulation", "standard error", "z"]

    @property
    def rows(self) -> list[list[str]]:
        """One row a point of the grid, as text, with the errors at the last time."""
        columns = ("theory", "simulation", "standard_error", "z")
        formats = [*(["g"] * len(self.theory.axes)), ".5g", ".5g", ".2g", "+.2f"]
        values = self.to_dataframe()[[*self.theory.axes, *columns]].to_numpy()
        return [[f"{value:{form}}" for value, form in zip(row, formats, strict=True)] for row in values]

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point: its axes, theory, simulation, standard_error and z at the last time, agrees."""
        import pandas as pd

        table = pd.DataFrame([dict(point) for point in self.points])
        table["theory"] = self.theory.test_error[..., -1].ravel()
        table["simulation"] = self.practice.test_error[..., -1].ravel()
        table["standard_error"] = self.practice.data["test_error_se"].values[..., -1].ravel()
        table["z"] = self.final_z
        table["agrees"] = [one is not None and one.agrees for one in self.comparisons]
        return table

    def to_dict(self) -> dict[str, Any]:
        """The comparison in plain values, with that of every point; numbers that are not finite become None."""
        points = zip(self.points, self.comparisons, strict=True)
        return {
            "sentence": self.sentence,
            "agrees": self.agrees,
            "axes": {name: list(values) for name, values in self.theory.axes.items()},
            "points": [{"point": dict(p), "comparison": None if c is None else c.to_dict()} for p, c in points],
        }

    def save(self, path: str | Path) -> None:
        """Save the sentences and the tables of all points as JSON, atomically."""
        atomic_write_text(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | Path, twin: "GridComparison | None" = None) -> None:
        """Draw the curves, and the errors at the last time, into a PNG, PDF or SVG file, with a Gaussian twin beside."""
        from gaussequiv.report import figures

        figures.save(figures.sweep(self.theory, self.practice, None if twin is None else twin.practice), path)

    def __str__(self) -> str:
        return self.sentence


Compared = Comparison | GridComparison | BatchComparison


def table(
    comparison: Compared, twin: Compared | None, quantity: str = "test_error"
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a comparison as text, with the simulation on the Gaussian twin in three further columns.

    `quantity` may be "train_loss" for full-batch learning.
    """
    mine, others = (_rows(one, quantity) for one in (comparison, twin))
    if twin is None:
        return comparison.head, mine
    rows = [[*row, *other[-3:]] for row, other in zip(mine, others, strict=True)]
    return [*comparison.head, "twin", *twin.head[-2:]], rows


def _rows(comparison: Compared | None, quantity: str) -> list[list[str]]:
    match comparison:
        case None:
            return []
        case BatchComparison():
            return comparison.table(quantity)
    return comparison.rows
