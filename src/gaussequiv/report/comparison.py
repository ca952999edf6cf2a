"""Theory beside simulation: z-scores over seeds, the worst point, and a sentence."""

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

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = 0.25  # relative departure that must be resolved at a point for an agreement to be worth its name
LEVEL = 0.01  # chance that a correct theory is said to depart somewhere on the curve
STRETCHES = 4  # parts of the curve whose mean departure is tested as well: small but steady ones add up


def beside(theory: Curve, practice: Curve) -> Curve:
    """The prediction for what was simulated: a generator, without the bias of an estimate, or its twin, the model as it is."""
    return theory.of_model if practice.provenance.get("twin") else theory.corrected


def model_error(theory: Curve, name: str = "test_error") -> Array:
    """The standard error that a prediction has from an estimated model; zero where there is none."""
    if f"{name}_se" not in theory.data:
        return np.zeros(theory.data[name].shape)
    return np.nan_to_num(theory.data[f"{name}_se"].values)


@dataclass(frozen=True, eq=False)
class Comparison:
    r"""A theory and a simulation at the same times.

    $z = (\text{simulation} - \text{theory}) / \text{standard error}$, over seeds and, unless the simulation was one of the
    Gaussian twin, of the model that was estimated. With S seeds z follows Student's law with
    S - 1 degrees of freedom. Small departures of one sign add up: the mean relative departure over each quarter of the
    points is tested too, seed by seed, which is valid however the errors of neighbouring times are correlated. The bound
    on all n + 4 scores together is Student's quantile at 1 - level / (2 (n + 4)), with level 0.01 unless several
    comparisons share it.
    """

    theory: Curve
    practice: Curve
    level: float = LEVEL

    @classmethod
    def of(cls, theory: Curve, practice: Curve, level: float = LEVEL) -> "Comparison":
        """Compare two curves, at `level`: the chance that a correct theory is said to depart.

        Raises:
            InputError: other times, no common finite point, or a simulation of one seed (which has no standard error).

        """
        if theory.times.shape != practice.times.shape or not np.allclose(
            theory.times, practice.times, rtol=1e-9, atol=1e-12
        ):
            raise InputError("the curves have other times; predict and simulate at the same ones")
        if "test_error_se" not in practice.data or practice.data.sizes.get("seed", 0) < 2:
            raise InputError("the second curve has no standard errors; simulate at least two seeds")
        comparison = cls(beside(theory, practice), practice, level)
        if not np.isfinite(comparison.z).any():
            raise InputError("the curves have no finite point in common")
        return comparison

    @property
    def times(self) -> Array:
        """T = steps / N."""
        return self.theory.times

    @property
    def standard_error(self) -> Array:
        """Standard error of the simulated test error over seeds, and of what an estimated model adds to it."""
        return np.hypot(self.practice.data["test_error_se"].values, model_error(self.theory))

    @property
    def z(self) -> Array:
        """(simulation - theory) / standard error at every time; NaN where either is not finite."""
        difference = self.practice.test_error - self.theory.test_error
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(difference / self.standard_error)

    @property
    def rms_z(self) -> float:
        """Root mean square of z over the finite points; about 1 where they agree (Student's law: a little more)."""
        z = self.z[np.isfinite(self.z)]
        return float(np.sqrt(np.mean(z**2)))

    @property
    def worst(self) -> int:
        """Index of the point with the largest |z|."""
        return int(np.nanargmax(np.abs(np.where(np.isfinite(self.z), self.z, np.nan))))

    @property
    def stretches(self) -> list[tuple[float, float, float, float]]:
        """Quarters of the curve: first and last time, mean relative departure simulation / theory - 1, and its z-score."""
        finite = np.flatnonzero(np.isfinite(self.z) & (self.theory.test_error > 0))
        theory, errors = self.theory.test_error, self.practice.data["test_errors"].values
        found = []
        for part in np.array_split(finite, STRETCHES):
            if len(part) == 0:
                continue
            by_seed = (errors[part] / theory[part, None] - 1).mean(axis=0)
            deviation = by_seed.std(ddof=1) / np.sqrt(len(by_seed))
            deviation = np.hypot(
                deviation, (model_error(self.theory)[part] / theory[part]).mean()
            )  # errors of one sign
            score = by_seed.mean() / deviation if deviation > 0 else 0.0
            found.append((float(self.times[part[0]]), float(self.times[part[-1]]), float(by_seed.mean()), float(score)))
        return found

    @property
    def bound(self) -> float:
        """The largest |z| of a point or a stretch that chance explains over the whole curve, at the level."""
        seeds = self.practice.data.sizes["seed"]
        scores = np.isfinite(self.z).sum() + STRETCHES
        return float(scipy.stats.t.ppf(1 - self.level / (2 * scores), seeds - 1))

    @property
    def resolution(self) -> float:
        """The relative departure at a typical point that would be found: `bound` times the median standard error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = self.standard_error / self.theory.test_error
        return self.bound * float(np.median(relative[np.isfinite(relative)]))

    @property
    def agrees(self) -> bool:
        """Whether both curves are finite at all times, and every point and every stretch is within `bound`."""
        finite = self.z[np.isfinite(self.z)]
        largest = max(np.abs(finite).max(), *(abs(score) for *_, score in self.stretches))
        return bool(largest <= self.bound) and self.ended is None

    @property
    def ended(self) -> float | None:
        """The first time at which a curve has no finite test error (it diverged); None where there is none."""
        lost = ~(np.isfinite(self.theory.test_error) & np.isfinite(self.practice.test_error))
        return float(self.times[np.argmax(lost)]) if lost.any() else None

    @property
    def undecided(self) -> bool:
        """Whether the curves agree only because the seeds are too few to tell them apart."""
        return self.agrees and self.resolution > UNDECIDED

    @property
    def largest_departure(self) -> tuple[int, float]:
        """Index and size of the largest relative difference |simulation / theory - 1|."""
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.abs(self.practice.test_error / self.theory.test_error - 1)
        index = int(np.nanargmax(np.where(np.isfinite(relative), relative, np.nan)))
        return index, float(relative[index])

    @property
    def overlaps_sentence(self) -> str:
        """The largest difference of an overlap Q or R, in words: test errors may agree where overlaps do not."""
        found = []
        for name in ("Q", "R"):
            theory, practice, error = (c.data[n].values for c, n in self._sources(name))
            difference = np.where(np.isfinite(practice - theory), practice - theory, 0.0)
            at = np.unravel_index(np.argmax(np.abs(difference)), difference.shape)
            found.append(
                (abs(difference[at]), f"{name}_{at[1] + 1}{at[2] + 1}", at[0], theory[at], practice[at], error[at])
            )
        _, label, time, theory, practice, error = max(found)
        return (
            f"The largest difference of an overlap is that of {label}, at t = {self.times[time]:.3g}: "
            f"theory {theory:.3g}, simulation {practice:.3g} ± {error:.1g}."
        )

    @property
    def classification_sentence(self) -> str:
        """How far the classification errors are apart, in words; nothing where theory has none."""
        if "classification_error" not in self.theory.data:
            return ""
        theory, practice = (c.data["classification_error"].values for c in (self.theory, self.practice))
        errors = [c.data["classification_error_se"].values for c in (self.theory, self.practice)]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (practice - theory) / np.hypot(*errors)
        z = np.where(np.isfinite(z), z, 0.0)
        i = int(np.argmax(np.abs(z)))
        return (
            f"The classification errors differ most at t = {self.times[i]:.3g}: theory {theory[i]:.4g}, simulation "
            f"{practice[i]:.4g} ± {errors[1][i]:.2g} (z = {z[i]:+.2f}; rms z = {np.sqrt(np.mean(z**2)):.2f})."
        )

    def _sources(self, name: str) -> tuple[tuple[Curve, str], ...]:
        return (self.theory, name), (self.practice, name), (self.practice, f"{name}_se")

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        i, (j, relative) = self.worst, self.largest_departure
        verdict = "agree within error bars" if self.agrees else "depart from each other"
        if self.undecided:
            verdict = "are not told apart, but the seeds are too few to call it agreement"
        seeds = self.practice.data.sizes["seed"]
        where = (
            f"theory {self.theory.test_error[i]:.4g}, simulation {self.practice.test_error[i]:.4g} "
            f"± {self.standard_error[i]:.2g}"
        )
        steady = "" if self.ended is None else f" From t = {self.ended:.3g} on a curve has no finite value."
        for start, end, mean, score in self.stretches:
            if abs(score) > self.bound:
                side = "above" if mean > 0 else "below"
                steady += f" From t = {start:.3g} to {end:.3g} it is {abs(mean):.1%} {side} theory (z = {score:+.1f})."
        count = np.isfinite(self.z).sum()
        return (
            f"The test errors of theory and simulation {verdict}: rms z = {self.rms_z:.2f} over {count} times, "
            f"worst z = {self.z[i]:+.2f} at t = {self.times[i]:.3g} ({where}; chance explains |z| up to "
            f"{self.bound:.1f}, so {seeds} seeds resolve departures of {self.resolution:.1%} at a point); "
            f"the largest relative difference is {relative:.1%}, at t = {self.times[j]:.3g}.{steady}"
        )

    @property
    def summary(self) -> str:
        """All sentences: test errors, overlaps and, where theory has them, classification errors."""
        return f"{self.sentence} {self.overlaps_sentence} {self.classification_sentence}".rstrip()

    @property
    def subject(self) -> str:
        """What the network was trained on."""
        return str(self.practice.provenance.get("inputs", "samples"))

    @property
    def caption(self) -> str:
        """What the panels of its figure are."""
        shaded = " (shaded: its 95 % band from the samples of the estimate)" if self.theory.reach() is not None else ""
        return (
            f"Left: test error{shaded}, and z below; grey is |z| < 2, and dotted lines, where in view, are the largest |z| that "
            "chance explains. Right: overlaps Q (solid), R (dashed), and the readout v."
        )

    @property
    def head(self) -> list[str]:
        """Titles of the columns of `rows`."""
        return ["t", "theory", "simulation", "standard error", "z"]

    @property
    def rows(self) -> list[list[str]]:
        """One row a time, as text."""
        columns = (self.times, self.theory.test_error, self.practice.test_error, self.standard_error, self.z)
        return [
            [f"{t:.4g}", f"{theory:.5g}", f"{practice:.5g}", f"{error:.2g}", f"{z:+.2f}"]
            for t, theory, practice, error, z in zip(*columns, strict=True)
        ]

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a time: time, theory, simulation, standard_error, z."""
        import pandas as pd

        columns = ("time", "theory", "simulation", "standard_error", "z")
        values = (self.times, self.theory.test_error, self.practice.test_error, self.standard_error, self.z)
        return pd.DataFrame(dict(zip(columns, values, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """The comparison in plain values; numbers that are not finite become None."""
        table = self.to_dataframe().to_dict(orient="list")
        plain = {name: [float(x) if np.isfinite(x) else None for x in column] for name, column in table.items()}
        return {
            "sentence": self.sentence,
            "overlaps": self.overlaps_sentence,
            "classification": self.classification_sentence,
            "agrees": self.agrees,
            "undecided": self.undecided,
            "rms_z": self.rms_z,
            "bound": self.bound,
            "worst_time": float(self.times[self.worst]),
            "worst_z": float(self.z[self.worst]),
            "table": plain,
        }

    def save(self, path: str | Path) -> None:
        """Save the table and the sentence as JSON, atomically."""
        atomic_write_text(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def plot(self, path: str | Path, twin: "Comparison | None" = None) -> None:
        """Draw both curves, the overlaps and the z-scores into a PNG, PDF or SVG file, with a Gaussian twin beside."""
        from gaussequiv.report import figures

        figures.save(figures.learning_curve(self, twin), path)

    def __str__(self) -> str:
        return self.sentence
