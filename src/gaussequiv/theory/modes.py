r"""The modes of a problem as the equations of motion see them: eigenmodes of Omega, or quadrature nodes in their place."""

from dataclasses import dataclass

import numpy as np

from gaussequiv.errors import number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.lanczos import Density, Krylov, relaxation_rule
from gaussequiv.maths.spectra import relaxation_times
from gaussequiv.models.operator import OperatorModel
from gaussequiv.models.problems import OnlineSGD


@dataclass(frozen=True)
class Modes:
    r"""Modes with $Q = \sum \rho\, w w^T$, $R = \sum w b^T$ and the noise of SGD entering as $\omega \rho\, G$.

    Args:
        rho: eigenvalues or nodes, (n,).
        w: the student's weights along the modes, $W e / \sqrt N$, (K, n).
        b: the teacher's, $e^T E[x \nu^T]$, (M, n), and, if inputs are not centred, one more row $e^T E x$.
        omega: density of states, (n,), of sum one.
        error: the largest relative difference of sums over w and b from those over twice as many nodes, and 0 for
            eigenmodes; above the tolerance where it was not reached.
        noise_error: standard error of $\sum \omega \rho f(\rho)$ relative to $\sum \omega \rho$, the largest over relaxation
            functions f; 0 where all eigenvalues were computed.

    """

    rho: Array
    w: Array
    b: Array
    omega: Array
    error: float = 0.0
    noise_error: float = 0.0


def modes(
    problem: OnlineSGD,
    *,
    longest: float,
    tolerance: float,
    probes: int | None = None,
    seed: int = 0,
    spaces: "dict[str, dict[str, Krylov]] | None" = None,
) -> Modes:
    r"""The eigenmodes of a `GaussianModel`; for an `OperatorModel` nodes that stand for them in relaxation up to `longest`.

    The nodes are those of two rules: block Gauss quadrature for the block of student weights and teacher covariances, with
    omega = 0, and a density of states, with w = b = 0.

    Args:
        problem: student, teacher and model.
        longest: longest relaxation time s of the functions $e^{-\rho s}$, $\rho s\, e^{-\rho s}$, $(1 - e^{-\rho s}) / (\rho s)$.
        tolerance: relative accuracy of sums of such functions over the nodes, against twice as many.
        probes: random vectors of the density of states; all N eigenvalues where left out and N is at most 4096, else 16.
        seed: of these vectors.
        spaces: where the Krylov spaces of an operator are kept for another call for the same problem.

    Raises:
        InputError: Omega has negative eigenvalues, or products that are not finite.

    """
    number("longest", longest)
    number("tolerance", tolerance, positive=True)
    N, K, model = problem.model.input_dim, problem.student.units, problem.model
    student = problem.student.weights.T / np.sqrt(N)
    teacher = problem.covariance_with_teacher
    if not problem.center:
        teacher = np.column_stack([teacher, problem.input_mean])
    if not isinstance(model, OperatorModel):
        rho, E = model.eigenmodes
        seen = np.concatenate([student.T, teacher.T]) @ E
        return Modes(rho, seen[:K], seen[K:], np.full(N, 1 / N))
    kept = spaces if spaces is not None else {}
    loud, silent = kept.setdefault("loud", {}), kept.setdefault("silent", {})
    rule = relaxation_rule(model.Omega, student, teacher, longest=longest, tolerance=tolerance, spaces=loud)
    density = model.states(longest=longest, tolerance=tolerance, probes=probes, seed=seed, spaces=silent)
    nothing = np.zeros((len(rule.vectors), len(density.rho)))  # its nodes have no part in student and teacher
    seen = np.column_stack([rule.vectors, nothing])
    return Modes(
        rho=np.concatenate([rule.rho, density.rho]),
        w=seen[:K],
        b=seen[K:],
        omega=np.concatenate([np.zeros(len(rule.rho)), density.omega]),
        error=rule.error,
        noise_error=_noise_error(density, longest),
    )


def _noise_error(density: Density, longest: float) -> float:
    r"""The largest standard error of $\sum \omega \rho e^{-\rho s}$ over times s, relative to the sum at s = 0."""
    rho, trace = density.rho, float(density.omega @ density.rho)
    if trace == 0:
        return 0.0
    times = np.concatenate([[0.0], relaxation_times(float(rho.max()), longest)])
    return float(density.standard_error(rho * np.exp(-np.outer(times, rho))).max()) / trace
