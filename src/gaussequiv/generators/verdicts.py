"""What a check of the equivalence says: statistics with intervals and tolerances, and the verdict that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths import sliced
from gaussequiv.maths.averages import Array

LEVEL = 0.05
SMALLEST = 1e-300  # of a p-value
DECIDED = 1e9  # samples that nobody draws


class Word(StrEnum):
    """What a check says."""

    CONSISTENT = "consistent"
    VIOLATED = "violated"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """One statistic of the battery.

    Args:
        name: of the statistic.
        value: its estimate: a distance, or a relative change.
        low: lower end of its 95 % interval.
        high: upper end.
        tolerance: that it is held against; None for those that only inform.
        p: of the hypothesis that the fields are Gaussian, NaN if it is no test.
        p_holm: the same, adjusted for the number of tests (Holm).
        decides: "both", "violated" if it can only say that, or "nothing".

    """

    name: str
    value: float
    low: float
    high: float
    tolerance: float | None
    p: float
    p_holm: float = np.nan
    decides: str = "both"

    @property
    def word(self) -> Word:
        """What it says on its own."""
        if self.tolerance is None:
            return Word.INCONCLUSIVE
        if np.isnan(self.low) or np.isnan(self.high):
            return Word.INCONCLUSIVE
        low, high = (abs(self.low), abs(self.high)) if self.low * self.high > 0 else (0.0, max(-self.low, self.high))
        if max(low, high) < self.tolerance:
            return Word.CONSISTENT
        return Word.VIOLATED if min(low, high) > self.tolerance else Word.INCONCLUSIVE

    @property
    def said(self) -> str:
        """The word of a statistic with a tolerance; "not violated" of one that can say no more."""
        within = self.decides == "violated" and self.word is not Word.VIOLATED
        return "not violated" if within else self.word.value

    @property
    def relative(self) -> bool:
        """Whether it is a change relative to the error, and no distance."""
        return self.name in ("error", "moved", "drift", "kurtosis")

    @property
    def p_values(self) -> tuple[str, str]:
        """Its p-value and the adjusted one in two digits, nothing where there is none."""
        return _digits(self.p), _digits(self.p_holm)

    def __str__(self) -> str:
        scale, unit = (100, " %") if self.relative else (1, "")
        text = f"{self.name:9} {scale * self.value:9.3g}{unit}  [{scale * self.low:.3g}, {scale * self.high:.3g}]{unit}"
        if self.tolerance is not None:
            text += f"  tolerance {scale * self.tolerance:g}{unit}: {self.said}"
        p, p_holm = self.p_values
        if p:
            text += f"  p {p}" if p.startswith("<") else f"  p = {p}"
            text += f" (Holm {p_holm})" if p_holm else ""
        return text


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether the Gaussian equivalence holds, how far it is off, and what that does to the error.

    Args:
        name: of the weights.
        source: of the generator.
        findings: the battery.
        samples: n.
        error_name: of the error, "" if there is none.
        error: of the student, in its own units; NaN if there is none.
        projections: whitened fields in the worst direction, of the first samples, for pictures.
        marginals: standardised fields of the first samples, (n, L), of the student and then of the teacher.
        units: K, how many of them are those of the student.
        needed: samples that would decide, where it is inconclusive.
        provenance: plain JSON values.

    """

    name: str
    source: str
    findings: tuple[Finding, ...]
    samples: int
    error_name: str
    error: float
    projections: Array
    marginals: Array
    units: int
    needed: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> Word:
        """Consistent, violated or inconclusive."""
        return word(self.findings)

    @property
    def violated(self) -> bool:
        """Whether the equivalence does not hold."""
        return self.word is Word.VIOLATED

    @property
    def measurable(self) -> bool:
        """Whether the fields are measurably not Gaussian (Holm, 5 %)."""
        tests = [f for f in self.findings if f.name in ("shape", "kurtosis", "sliced")]
        return any(finding.p_holm < LEVEL for finding in tests)

    def __getitem__(self, name: str) -> Finding:
        """A statistic of the battery by its name."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise InputError(f"no statistic {name!r}; there are {', '.join(finding.name for finding in self.findings)}")

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        far = max((f for f in self.findings if not f.relative), key=lambda f: f.value)
        distance = f"{far.name} {far.value:.3g} [{far.low:.3g}, {far.high:.3g}] of a field's standard deviation"
        effect = ""
        if self.error_name:
            e = self["error"]
            effect = (
                f"; the {self.error_name} is {100 * e.value:.2g} % [{100 * e.low:.2g}, {100 * e.high:.2g}] off that of "
                "Gaussian fields"
            )
        match self.word:
            case Word.CONSISTENT:
                harm = "no departure from a Gaussian is seen"
                if self.measurable:
                    harm = f"measurably non-Gaussian, {'harmless' if self.error_name else 'within the tolerance'}"
            case Word.VIOLATED:
                bad = [f.name for f in self.findings if f.decides != "nothing" and f.word is Word.VIOLATED]
                harm = f"beyond tolerance: {', '.join(bad)}"
                if self.error_name and self["error"].word is Word.CONSISTENT and not {"error", "moved"} & set(bad):
                    harm += f", which the {self.error_name} does not feel"
            case _:
                names = [f.name for f in self.findings if f.decides == "both" and f.word is Word.INCONCLUSIVE]
                if self.needed < DECIDED:
                    more = f"roughly {_rounded(self.needed)} samples would decide"
                elif "sliced" in names:
                    more = f"sliced sees {sliced.MOST:,} samples at most, which may not decide"
                else:
                    more = "it is at the tolerance, and no number of samples decides"
                harm = f"{', '.join(names)} may be on either side of the tolerance; {more}"
        return f"{self.word.value}: {harm} ({distance}{effect}; {self.samples} samples)"

    def __str__(self) -> str:
        head = f"{self.sentence}\n  {self.source}, weights: {self.name}"
        return "\n".join([head, *(f"  {finding}" for finding in self.findings)])

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw marginals, the worst direction, its quantiles, and distances against tolerances; returns the figure.

        `report` draws, as it does everything: it is looked up when it is asked to.
        """
        return import_module("gaussequiv.report").draw_verdict(self, path)


def _digits(p: float) -> str:
    if np.isnan(p):
        return ""
    return f"{p:.2g}" if p > SMALLEST else f"< {SMALLEST:g}"


def adjusted(rows: list[Finding]) -> list[Finding]:
    """The same with p-values adjusted for the number of tests: (m - i) p_(i), not decreasing."""
    tests = sorted((row for row in rows if not np.isnan(row.p)), key=lambda row: row.p)
    p_holm, largest = {}, 0.0
    for i, row in enumerate(tests):
        largest = max(largest, min((len(tests) - i) * row.p, 1.0))
        p_holm[row.name] = largest
    return [replace(row, p_holm=p_holm.get(row.name, np.nan)) for row in rows]


def word(rows: Sequence[Finding]) -> Word:
    """Violated if one of them is, consistent if all are that decide both."""
    deciding = [row for row in rows if row.decides != "nothing"]
    if any(row.word is Word.VIOLATED for row in deciding):
        return Word.VIOLATED
    both = [row for row in deciding if row.decides == "both"]
    return Word.CONSISTENT if all(row.word is Word.CONSISTENT for row in both) else Word.INCONCLUSIVE


def enough(rows: Sequence[Finding], n: int) -> float:
    """Samples after which one of those that seem beyond their tolerances is; if none seems so, after which all are within."""
    if word(rows) is not Word.INCONCLUSIVE:
        return 0.0
    beyond = [
        row for row in rows if row.tolerance is not None and row.decides != "nothing" and abs(row.value) > row.tolerance
    ]
    if beyond:
        return min(needed(row, n) for row in beyond)
    return max(needed(row, n) for row in rows if row.decides == "both")


def needed(row: Finding, n: int) -> float:
    """Samples after which the interval, as narrow as 1 / sqrt(n), no longer holds the tolerance."""
    if row.word is not Word.INCONCLUSIVE or row.tolerance is None:
        return 0.0
    value = abs(row.value)
    cut = row.high - value if value < row.tolerance else value - row.low  # of a distance, whose interval ends at zero
    half = (row.high - row.low) / 2 if row.relative else cut
    room, most = abs(row.tolerance - value), DECIDED
    if row.name == "sliced":
        n, most = min(n, sliced.MOST), sliced.MOST  # it sees no more
    enough = n * (half / room) ** 2 if room > 0 else np.inf
    return enough if enough <= most else np.inf


def _rounded(n: float) -> str:
    """Two digits."""
    digits = 10 ** max(int(np.floor(np.log10(n))) - 1, 0)
    return f"{int(np.ceil(n / digits) * digits):,}"
