"""Full-batch learning, theory beside simulation: z-scores over sample complexities and penalties, and a sentence."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.models.curves import Curve
from gaussequiv.models.storage import atomic_write_text
from gaussequiv.report.comparison import LEVEL, UNDECIDED, beside, model_error

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = {"test_error": "test error", "train_loss": "training loss"}
RARE = 30.0  # training loss, summed over all samples, below which it is that of a few rare ones
NOTHING = 1e-10  # of the largest value of a quantity, or test error: below it both curves are zero up to rounding


@dataclass(frozen=True, eq=False)
class BatchComparison:
    r"""A theory and a simulation at the same sample complexities and penalties.

    $z = (\text{simulation} - \text{theory}) / \text{standard error}$, over seeds and of an estimated model, of the test error
    and of the training loss, at every point. With S seeds z follows Student's law with S - 1 degrees of freedom. The bound on all
    n scores together is Student's quantile at 1 - level / (2 n), which holds however they are correlated: the points of one
    seed share samples.
    """

    theory: Curve
    practice: Curve
    level: float = LEVEL

    @classmethod
    def of(cls, theory: Curve, practice: Curve, level: float = LEVEL) -> "BatchComparison":
        """Compare two curves, at `level`: the chance that a correct theory is said to depart.

        Raises:
            InputError: other sample complexities or penalties, no common finite point, or a simulation of one seed.

        """
        if theory.axes != practice.axes:
            axes = " and ".join(f"({', '.join(curve.axes)})" for curve in (theory, practice))
            raise InputError(f"the curves have the axes {axes}; predict and simulate over the same ones")
        for name in (theory.axes[0], "penalty"):
            if name not in theory.data.variables or name not in practice.data.variables:
                continue
            one, other = (curve.data[name].values for curve in (theory, practice))
            if one.shape != other.shape or not np.allclose(one, other, rtol=1e-9, atol=0):
                raise InputError(f"the curves have other values of {name}; predict and simulate at the same ones")
        if "test_error_se" not in practice.data or practice.data.sizes.get("seed", 0) < 2:
            raise InputError("the second curve has no standard errors; simulate at least two seeds")
        comparison = cls(beside(theory, practice), practice, level)
        if not comparison.count:
            doubts = [*theory.doubts, *practice.doubts]
            why = f": {doubts[0]}" if doubts else ""
            raise InputError(f"the curves have no finite point in common{why}")
        return comparison

    # --- numbers ---

    @property
    def x(self) -> Array:
        """Sample complexities n / N (numbers of samples, for a kernel)."""
        return np.asarray(self.theory.data[self.theory.axes[0]].values)

    @property
    def seeds(self) -> int:
        """Number of independent runs."""
        return int(self.practice.data.sizes["seed"])

    def values(self, name: str) -> tuple[Array, Array, Array]:
        """Theory, simulation and its standard error of "test_error" or "train_loss", on the grid of the curves."""
        theory, practice = (np.asarray(curve.data[name].values) for curve in (self.theory, self.practice))
        return theory, practice, np.hypot(self.practice.data[f"{name}_se"].values, model_error(self.theory, name))

    def z(self, name: str = "test_error") -> Array:
        """(simulation - theory) / standard error; NaN where either is not finite or zero, or the seeds do not differ.

        A training loss of which theory expects less than a few units over all samples of all seeds is NaN, too: it is the sum
        of a few rare samples, and has no standard error. (Of the square loss all samples have their part.)
        """
        theory, practice, error = self.values(name)
        finite = np.isfinite(theory) & np.isfinite(practice)
        usual = np.concatenate([theory[finite], self.values("test_error")[0][finite]])
        floor = NOTHING * np.nanmax(np.abs(usual), initial=0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (practice - theory) / error
            there = finite & (error > 0) & (np.maximum(np.abs(theory), np.abs(practice)) > floor)
        if name == "train_loss" and self.theory.provenance.get("problem", {}).get("loss") != "square":
            there &= np.abs(theory) * self.training_samples > RARE
        return np.where(there & np.isfinite(z), z, np.nan)

    @property
    def training_samples(self) -> Array:
        """Training samples of all seeds at every point, on the grid of the curves."""
        x = self.theory.data[self.theory.axes[0]].values
        samples = x * self.theory.provenance.get("problem", {}).get("N", 1) * self.seeds
        return np.asarray(samples.reshape(-1, *([1] * (len(self.theory.axes) - 1))))

    def rms_of(self, name: str) -> float:
        """Root mean square of the finite z of one quantity; NaN where there is none."""
        z = self.z(name)
        z = z[np.isfinite(z)]
        return float(np.sqrt(np.mean(z**2))) if len(z) else float("nan")

    @property
    def rms_z(self) -> float:
        """Root mean square of all finite z, of test errors and training losses; about 1 where they agree."""
        z = np.stack([self.z(name) for name in QUANTITIES])
        return float(np.sqrt(np.nanmean(z**2)))

    @property
    def count(self) -> int:
        """Number of finite z, of both quantities."""
        return sum(int(np.isfinite(self.z(name)).sum()) for name in QUANTITIES)

    @property
    def worst(self) -> tuple[str, tuple[int, ...]]:
        """The quantity and the index of the point with the largest |z|."""
        z = np.abs(np.stack([self.z(name) for name in QUANTITIES]))
        which, *index = np.unravel_index(np.nanargmax(z), z.shape)
        return list(QUANTITIES)[int(which)], tuple(int(i) for i in index)

    @property
    def bound(self) -> float:
        """The largest |z| that chance explains over all points of both quantities, at the level."""
        return float(scipy.stats.t.ppf(1 - self.level / (2 * self.count), self.seeds - 1))

    @property
    def resolution(self) -> float:
        """The relative departure of the test error that would be found at a typical point."""
        theory, _, error = self.values("test_error")
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = error / theory
        relative = relative[np.isfinite(relative)]
        return self.bound * float(np.median(relative)) if len(relative) else float("nan")

    @property
    def agrees(self) -> bool:
        """Whether every finite z is within `bound`, and the simulation is finite wherever theory is."""
        name, index = self.worst
        return abs(float(self.z(name)[index])) <= self.bound and not self._missing

    @property
    def undecided(self) -> bool:
        """Whether the curves agree only because the seeds are too few to tell them apart."""
        return self.agrees and not self.resolution <= UNDECIDED

    @property
    def largest_departure(self) -> tuple[tuple[int, ...], float]:
        """Index and size of the largest relative difference |simulation / theory - 1| of the test error."""
        return self._departure("test_error")

    def _departure(self, name: str) -> tuple[tuple[int, ...], float]:
        """The same of either quantity, over the points that have a z."""
        theory, practice, _ = self.values(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.abs(practice / theory - 1)
        relative = np.where(np.isfinite(relative) & np.isfinite(self.z(name)), relative, -1.0)
        index = tuple(int(i) for i in np.unravel_index(np.argmax(relative), relative.shape))
        return index, max(0.0, float(relative[index]))

    # --- words ---

    def place(self, index: tuple[int, ...]) -> str:
        """A point in words: "alpha = 0.5, penalty = 0.01"."""
        axis = self.theory.axes[0]
        return f"{'n' if axis == 'samples' else axis} = {self.x[index[0]]:.3g}" + (
            f", penalty = {float(self._penalties[index]):.3g}" if "penalty" in self.theory.data.variables else ""
        )

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        name, index = self.worst
        theory, practice, error = (values[index] for values in self.values(name))
        verdict = "agree within error bars" if self.agrees else "depart from each other"
        if self.undecided:
            verdict = "are not told apart, but the seeds are too few to call it agreement"
        scores = [
            f"{self.rms_of(key):.2f} over {np.isfinite(self.z(key)).sum()} {words}"
            for key, words in (("test_error", "test errors"), ("train_loss", "training losses"))
            if np.isfinite(self.z(key)).any()
        ]
        few = f"{self.seeds} seeds resolve departures of {self.resolution:.1%} of the test error at a point"
        if not self.resolution <= 1:
            few = f"{self.seeds} seeds tell nothing apart; take 10 or more"
        departures = [
            f"of a {QUANTITIES[key]} is {size:.1%}, at {self.place(at)}"
            for key in QUANTITIES
            for at, size in [self._departure(key)]
            if np.isfinite(self.z(key)).any()
        ]
        return (
            f"The test errors and training losses of theory and simulation {verdict}: rms z = {' and '.join(scores)}, "
            f"worst z = {self.z(name)[index]:+.2f}, of the {QUANTITIES[name]} at {self.place(index)} "
            f"(theory {theory:.4g}, simulation {practice:.4g} ± {error:.2g}; chance explains |z| up to {self.bound:.1f}, so "
            f"{few}); the largest relative difference {', and '.join(departures)}. "
            "The points of one seed share samples, so their errors are correlated."
        )

    @property
    def lost_sentence(self) -> str:
        """Where there is nothing to compare, and why; nothing where every point has both values."""
        lost = ~(np.isfinite(self.theory.test_error) & np.isfinite(self.practice.test_error))
        if not lost.any():
            return ""
        index = tuple(int(i) for i in np.argwhere(lost)[0])
        predicted = np.isfinite(self.theory.test_error[index])
        curve, name = (self.practice, "simulation") if predicted else (self.theory, "theory")
        why = curve.reasons.get(index, curve.status[index].sentence)
        return (
            f"At {lost.sum()} of {lost.size} points a curve has no finite value; the first is {self.place(index)}, "
            f"{name}: {why}."
        )

    @property
    def doubts(self) -> list[str]:
        """The points of either curve that are not good, and why."""
        curves = (("theory", self.theory), ("simulation", self.practice))
        return [f"{name} at {doubt}" for name, curve in curves for doubt in curve.doubts]

    @property
    def summary(self) -> str:
        """All sentences."""
        return f"{self.sentence} {self.lost_sentence}".rstrip()

    @property
    def subject(self) -> str:
        """What the model was trained on."""
        return str(self.practice.provenance.get("inputs", "samples"))

    @property
    def caption(self) -> str:
        """What the panels of its figure are."""
        return (
            "Test error and training loss against the sample complexity, and z below; grey is |z| < 2, and dotted lines, where "
            "in view, are the largest |z| that chance explains."
        )

    # --- tables ---

    @property
    def head(self) -> list[str]:
        """Titles of the columns of `rows`."""
        return [*self._columns, "theory", "simulation", "standard error", "z"]

    @property
    def rows(self) -> list[list[str]]:
        """One row a point with its test errors, as text."""
        return self.table("test_error")

    def table(self, name: str) -> list[list[str]]:
        """One row a point with the values of "test_error" or "train_loss", as text."""
        values = zip(*self._columns.values(), *(v.ravel() for v in (*self.values(name), self.z(name))), strict=True)
        forms = [*[".4g"] * len(self._columns), ".5g", ".5g", ".2g", "+.2f"]
        texts = [[f"{value:{form}}" for value, form in zip(row, forms, strict=True)] for row in values]
        return [[*row[:-1], "–" if row[-1] == "+nan" else row[-1]] for row in texts]

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point: alpha, penalty, theory, simulation, standard_error, z, and train_loss_theory, ... likewise."""
        import pandas as pd

        columns = dict(self._columns)
        for name, mark in (("test_error", ""), ("train_loss", "train_loss_")):
            words = ("theory", "simulation", "standard_error", "z")
            for word, values in zip(words, (*self.values(name), self.z(name)), strict=True):
                columns[mark + word] = values.ravel()
        return pd.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """The comparison in plain values; numbers that are not finite become None."""
        name, index = self.worst
        table = self.to_dataframe().to_dict(orient="list")
        return {
            "sentence": self.sentence,
            "lost": self.lost_sentence,
            "agrees": self.agrees,
            "undecided": self.undecided,
            "rms_z": self.rms_z,
            "bound": self.bound,
            "worst": QUANTITIES[name],
            "worst_point": self.place(index),
            "worst_z": float(self.z(name)[index]),
            "table": {key: [float(x) if np.isfinite(x) else None for x in column] for key, column in table.items()},
        }

    def save(self, path: str | Path) -> None:
        """Save the table and the sentence as JSON, atomically."""
        atomic_write_text(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | Path, twin: "BatchComparison | None" = None) -> None:
        """Draw both curves and the z-scores into a PNG, PDF or SVG file, with a Gaussian twin beside."""
        from gaussequiv.report import figures

        figures.save(figures.compared(self, twin), path)

    def __str__(self) -> str:
        return self.sentence

    # --- parts ---

    @property
    def _penalties(self) -> Array:
        """The penalty of every point, on the grid of the curves."""
        return np.broadcast_to(self.theory.penalty, self.theory.test_error.shape)

    @property
    def _columns(self) -> dict[str, Array]:
        """Where every point is: alpha and, where there is one, the penalty, (points,) each."""
        shape = self.theory.test_error.shape
        x = np.broadcast_to(self.x.reshape(-1, *[1] * (len(shape) - 1)), shape)
        columns = {self.theory.axes[0]: x.ravel()}
        if "penalty" in self.theory.data.variables:
            columns["penalty"] = self._penalties.ravel()
        return columns

    @property
    def _missing(self) -> bool:
        """Whether theory has a test error somewhere where the simulation has none."""
        return bool((np.isfinite(self.theory.test_error) & ~np.isfinite(self.practice.test_error)).any())
