"""The roof: comparison, figures, the page, experiment files and the commands.

This module stays empty of imports: `gaussequiv --help` passes through it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaussequiv.models.curves import Curve
    from gaussequiv.report.comparison import Comparison


def compare(theory: "Curve", practice: "Curve") -> "Comparison":
    """Theory beside simulation, with a z-score at every time. See `comparison.Comparison`."""
    from gaussequiv.report.comparison import Comparison

    return Comparison.of(theory, practice)
