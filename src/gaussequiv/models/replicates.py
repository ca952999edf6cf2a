r"""`Replicates`: the models that leave out one part of the samples at a time; their spread is that of an estimate.

Error and bias are those of `maths.jackknife`. The bias is that of order 1 / P: what a finite number of samples P adds to
smooth functions of their moments, as the spread of the eigenvalues of $\Omega$ does. It is exact for quadratic ones, such as
$\mathrm{tr}\, \Omega^2$.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array

SYMMETRIC = ("Omega", "Psi", "residual")  # of which a triangle is stored


@dataclass(frozen=True, eq=False)
class Replicates:
    r"""Differences of the arrays of G models from those of the model of all samples, in float32.

    Args:
        changes: by names of arrays, (G, ...); of symmetric matrices (n, n) the upper triangle, (G, n (n + 1) / 2). Where
            Psi = I there is `residual` in the place of Omega: $\Omega - \Phi \Phi^T$, so that rounding cannot make
            latents explain more than all of the inputs.

    """

    changes: Mapping[str, Array]

    def __post_init__(self) -> None:
        if len({len(change) for change in self.changes.values()}) != 1:
            raise InputError("replicates of different numbers; expected one change of every array for each")

    def __len__(self) -> int:
        return len(next(iter(self.changes.values())))

    def change(self, name: str, index: int, size: int) -> Array | float:
        """The difference of an array of one of the models, where it has any; `size` is the n of a symmetric matrix."""
        if name not in self.changes:
            return 0.0
        change: Array = self.changes[name][index]
        if name not in SYMMETRIC:
            return change
        full = np.empty((size, size))
        upper = np.triu_indices(size)
        full[upper] = change
        full.T[upper] = change
        return full
