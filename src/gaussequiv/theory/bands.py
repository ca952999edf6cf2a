r"""Errors of an estimated model, carried on to the curves that are predicted from it.

A model that `estimate` made has sixteen replicates, each without one part of the samples. The same prediction for each of them
gives, by the jackknife, the standard error of every point and the bias of order 1 / P that a finite number of samples P leaves
in it: the spread of the eigenvalues of $\Omega$, above all.

For many inputs the eigenvectors of all replicates are dear. Then student and teacher see each replicate through a block Krylov
space, to the accuracy of the curve, and the eigenvalues, which enter by their means over all modes, are those of
$\Omega_{-g} = \Omega + \delta$ to first order: $\rho_i + e_i^T \delta e_i$.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.jackknife import jackknife
from gaussequiv.models.batch import FullBatch
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.operator import OperatorModel
from gaussequiv.models.problems import OnlineSGD

DEAR = 1024  # inputs beyond which eigenvalues of replicates are those of first order
ONLINE = ("test_error", "Q", "R", "T", "v", "means")
BATCH = ("test_error", "train_loss", "train_error", "V", "q", "m", "norm")

P = TypeVar("P", OnlineSGD, FullBatch)


def has_replicates(problem: object) -> bool:
    """Whether a problem's model was estimated, so that its errors are known."""
    return bool(getattr(getattr(problem, "model", None), "count_of_replicates", 0))


def with_band(curve: Curve, problem: P, solve: Callable[[P], Curve], first_order: bool | None = None) -> Curve:
    """The curve with the standard errors `*_se` and the biases `*_bias` that its quantities have from the model.

    Args:
        curve: of the problem, to the accuracy that was asked for.
        problem: whose model has replicates.
        solve: a curve to an accuracy that is enough for differences.
        first_order: how replicates are solved; by default where there are more than 1,024 inputs.

    """
    model = problem.model
    if first_order is None:
        first_order = model.input_dim > DEAR
    first_order = first_order and isinstance(model, GaussianModel)
    make: Any = _first_order if first_order else type(model).replicate
    names = [name for name in (ONLINE if isinstance(problem, OnlineSGD) else BATCH) if name in curve.data]
    try:
        full = solve(replace(problem, model=make(model, -1)) if first_order else problem)
        curves = [solve(replace(problem, model=make(model, g))) for g in range(model.count_of_replicates)]
    except InputError as error:  # at the edge of what a model may be, as that of a linear generator
        return _noted(curve, f"no band: a model without one sixteenth of the samples is refused ({error})")
    found: dict[str, Any] = {}
    for name in names:
        left_out = np.stack([one.data[name].values for one in curves])
        spread = jackknife(full.data[name].values, left_out)
        found[f"{name}_se"] = (curve.data[name].dims, spread.error)
        found[f"{name}_bias"] = (curve.data[name].dims, spread.bias)
    return Curve(curve.data.assign(found).assign_attrs(parts=model.count_of_replicates))


def _first_order(model: GaussianModel, index: int) -> OperatorModel:
    """A replicate, or with index -1 the model itself, whose eigenvalues are those of first order."""
    rho, E = model.eigenmodes
    one = model if index < 0 else model.replicate(index)
    if index >= 0:
        change = one.Omega - model.Omega
        rho = np.maximum(rho + np.einsum("ij,ij->j", E, change @ E), 0.0)
    return OperatorModel(
        one.Omega, one.Phi, one.Psi, one.mean_x, one.mean_c, density=(rho, np.full(len(rho), 1 / len(rho)))
    )


def _noted(curve: Curve, sentence: str) -> Curve:
    import json

    provenance = {**curve.provenance, "warnings": [*curve.provenance.get("warnings", ()), sentence]}
    return Curve(curve.data.assign_attrs(provenance=json.dumps(provenance, sort_keys=True)))
