r"""A generator's Gaussian model as products with seeded streams of samples: nothing of size N x N is ever held.

The latents are regressed out as in `moments`, $\Phi = S_{xc} S_{cc}^{-1}$ in one pass; then

    Omega X = Phi (Phi^T X) + f sum_chunks r^T (r X),        r = x - mean_x - (c - mean_c) Phi^T,

with $f = (1 - \mathrm{tr} S_{cc}^{-1}) / (P - D - 1)$, where every product draws the same P samples again. It is what `estimate`
would make of them, with its bias: at most P of the N eigenvalues of the residual are not zero, and those are
spread around the true ones. Four replicates, each without a quarter of the samples, measure bias and error as they reach a
curve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator

from gaussequiv.errors import InputError, integer
from gaussequiv.generators.conformance import require_a_map
from gaussequiv.generators.plan import CHUNK
from gaussequiv.maths.averages import Array
from gaussequiv.models.operator import OperatorModel
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream

PARTS = 4  # of the samples, left out one at a time


@dataclass(frozen=True, eq=False)
class Regression:
    """What one pass over some parts of the samples finds: means, Phi and the factor of the residual."""

    mean_x: Array
    mean_c: Array
    Phi: Array
    factor: float


@dataclass(frozen=True, eq=False)
class Stream:
    """The samples of a generator, drawn again whenever they are asked for.

    Args:
        generator: anything with `sample(n, rng)`, of standard normal latents.
        samples: P.
        seed: of the latents; chunk i is that of `estimate` with the same seed.

    """

    generator: Inputs
    samples: int
    seed: int

    def chunks(self, part: int) -> Any:
        """Latents and inputs of one of the four parts, chunk by chunk, in float64."""
        for index in range(part, -(-self.samples // CHUNK), PARTS):
            size = min(CHUNK, self.samples - index * CHUNK)
            c, x = self.generator.sample(size, stream(self.seed, Purpose.ESTIMATE, chunk=index))
            yield np.asarray(c, dtype=np.float64), np.asarray(x, dtype=np.float64)

    @cached_property
    def sums(self) -> list[tuple[int, Array, Array, Array, Array]]:
        """Of every part: the number of samples, sums of c and x, and of their products with c."""
        found = []
        for part in range(PARTS):
            count, c_sum, x_sum, cc, xc = 0, 0.0, 0.0, 0.0, 0.0
            for c, x in self.chunks(part):
                count, c_sum, x_sum = count + len(c), c_sum + c.sum(axis=0), x_sum + x.sum(axis=0)
                cc, xc = cc + c.T @ c, xc + x.T @ c
            found.append((count, np.asarray(c_sum), np.asarray(x_sum), np.asarray(cc), np.asarray(xc)))
        return found

    def regression(self, parts: tuple[int, ...]) -> Regression:
        """Of the samples of some parts."""
        P, c, x, cc, xc = (sum(values) for values in zip(*(self.sums[part] for part in parts), strict=True))
        mean_c, mean_x = c / P, x / P
        scatter = scipy.linalg.cho_factor(cc - P * np.outer(mean_c, mean_c))
        Phi = scipy.linalg.cho_solve(scatter, (xc - P * np.outer(mean_x, mean_c)).T).T
        noise = float(np.trace(scipy.linalg.cho_solve(scatter, np.eye(len(c)))))
        return Regression(mean_x - Phi @ mean_c, mean_c, Phi, (1 - noise) / (P - len(c) - 1))

    def product(self, fit: Regression, parts: tuple[int, ...], X: Array) -> Array:
        """Omega X."""
        columns = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
        total = np.zeros(columns.shape)
        seen = fit.Phi.T @ columns
        offset = fit.mean_x @ columns
        for part in parts:
            for c, x in self.chunks(part):
                residual = x @ columns - offset - c @ seen  # (n, columns), without a matrix of residuals
                total += x.T @ residual - np.outer(fit.mean_x, residual.sum(axis=0)) - fit.Phi @ (c.T @ residual)
        return (fit.Phi @ seen + fit.factor * total).reshape(X.shape)


def sampled_model(generator: Inputs, samples: int, seed: int = 0) -> OperatorModel:
    """The Gaussian model of a generator with too many inputs for a matrix, from P samples that every product draws again.

    Args:
        generator: anything with `sample(n, rng)`, of standard normal latents.
        samples: P, more than 8 (D + 2); memory is for a chunk of 1,024 of them.
        seed: of the latents.

    Returns:
        An `OperatorModel` with four `replicates`, so that what is predicted from it has a band and a bias.

    Raises:
        InputError: too few samples, unknown latents or such with a prior, or a generator that fails.

    """
    D, N, samples, seed = (
        generator.latent_dim,
        generator.input_dim,
        integer("samples", samples),
        integer("seed", seed, least=0),
    )
    if D == 0 or getattr(generator, "prior", None) is not None:
        raise InputError("a sampled model regresses on standard normal latents; use `estimate` where they are others")
    if samples <= 8 * (D + 2) or samples < PARTS * CHUNK:
        least = max(8 * (D + 2) + 1, PARTS * CHUNK)
        raise InputError(f"{samples} samples for D={D} latents; expected at least {least}")
    require_a_map(generator)
    source = Stream(generator, samples, seed)
    about = {
        "source": getattr(generator, "name", type(generator).__name__),
        "samples": samples,
        "seed": seed,
        "estimator": "regression on the latents, by products",
        "bias": f"the residual has at most {samples} eigenvalues that are not zero, spread around the true ones",
    }

    def made(parts: tuple[int, ...], without: Callable[[int], OperatorModel] | None) -> OperatorModel:
        fit = source.regression(parts)
        product = lambda X: source.product(fit, parts, X)  # noqa: E731
        Omega = LinearOperator((N, N), matvec=product, matmat=product, dtype=np.float64)
        return OperatorModel(
            Omega,
            fit.Phi,
            mean_x=fit.mean_x,
            provenance=about,
            tried=True,
            without=without,
            parts=PARTS if without else 0,
        )

    everything = tuple(range(PARTS))
    return made(everything, lambda index: made(everything[:index] + everything[index + 1 :], None))
