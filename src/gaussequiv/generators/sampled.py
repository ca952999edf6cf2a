r"""A generator's Gaussian model as products with seeded streams of samples: nothing of size N x N is ever held.

The latents are regressed out as in `moments`, $\Phi = S_{xc} S_{cc}^{-1}$ in one pass; then

    Omega X = Phi (Phi^T X) + f sum_chunks r^T (r X),        r = x - mean_x - (c - mean_c) Phi^T,

with $f = (1 - \mathrm{tr} S_{cc}^{-1}) / (P - D - 1)$, where every product draws the same P samples again. It is what `estimate`
would make of them, with its bias: at most P of the N eigenvalues of the residual are not zero, and those are
spread around the true ones. Its size is measured: with residual covariances $R_p$ of four parts of the samples,

    v = N tr R^2 / (tr R)^2 - 1,

the relative variance of the eigenvalues, is that of the sample for $R = \bar R_p$, and that of the generator for the unbiased
$\mathrm{tr}\, R_p R_q$, p and q different. Where the first is much larger than the second, `low_rank_plus_diagonal` takes the
residual's diagonal, which has no such bias. Four replicates, each without a quarter of the samples, measure bias and error as
they reach a curve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator

from gaussequiv.errors import InputError, integer
from gaussequiv.generators.conformance import checked_sample, require_a_map
from gaussequiv.generators.plan import CHUNK
from gaussequiv.maths.averages import Array
from gaussequiv.maths.jackknife import jackknife
from gaussequiv.models.operator import OperatorModel
from gaussequiv.models.problems import Inputs
from gaussequiv.models.streams import Purpose, stream

PARTS = 4  # of the samples, left out one at a time
PROBES = 8  # random vectors for the spread of eigenvalues


@dataclass(frozen=True, eq=False)
class Regression:
    """What one pass over some parts of the samples finds: means, Phi, the factor of the residual, and Omega's diagonal."""

    mean_x: Array
    mean_c: Array
    Phi: Array
    factor: float
    diagonal: Array


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
            c, x = checked_sample(self.generator, size, stream(self.seed, Purpose.ESTIMATE, chunk=index))
            yield np.asarray(c, dtype=np.float64), np.asarray(x, dtype=np.float64)

    @cached_property
    def sums(self) -> list[tuple[int, Array, Array, Array, Array, Array]]:
        """Of every part: the number of samples, sums of c and x, of their products with c, and of squares of x."""
        found = []
        for part in range(PARTS):
            count, total = 0, [np.zeros(()) for _ in range(5)]
            for c, x in self.chunks(part):
                count += len(c)
                sums = (c.sum(axis=0), x.sum(axis=0), c.T @ c, x.T @ c, np.einsum("ij,ij->j", x, x))
                total = [done + more for done, more in zip(total, sums, strict=True)]
            found.append((count, total[0], total[1], total[2], total[3], total[4]))
        return found

    def regression(self, parts: tuple[int, ...]) -> Regression:
        """Of the samples of some parts."""
        P, c, x, cc, xc, squares = (sum(values) for values in zip(*(self.sums[part] for part in parts), strict=True))
        mean_c, mean_x = c / P, x / P
        scatter, cross = scipy.linalg.cho_factor(cc - P * np.outer(mean_c, mean_c)), xc - P * np.outer(mean_x, mean_c)
        Phi = scipy.linalg.cho_solve(scatter, cross.T).T
        noise = float(np.trace(scipy.linalg.cho_solve(scatter, np.eye(len(c)))))
        factor = (1 - noise) / (P - len(c) - 1)
        residual = factor * (squares - P * mean_x**2 - np.einsum("ij,ij->i", Phi, cross))
        diagonal = np.einsum("ij,ij->i", Phi, Phi) + residual.clip(0.0)
        return Regression(mean_x - Phi @ mean_c, mean_c, Phi, factor, diagonal)

    def residual(self, fit: Regression, part: int, X: Array) -> Array:
        """r^T (r X) summed over the samples of a part, X (N, columns)."""
        total, seen, offset = np.zeros(X.shape), fit.Phi.T @ X, fit.mean_x @ X
        for c, x in self.chunks(part):
            along = x @ X - offset - c @ seen  # (n, columns), without a matrix of residuals
            total += x.T @ along - np.outer(fit.mean_x, along.sum(axis=0)) - fit.Phi @ (c.T @ along)
        return total

    def product(self, fit: Regression, parts: tuple[int, ...], X: Array) -> Array:
        """Omega X."""
        columns = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
        total = sum(self.residual(fit, part, columns) for part in parts)
        return np.asarray(fit.Phi @ (fit.Phi.T @ columns) + fit.factor * total).reshape(X.shape)

    def spread(self, fit: Regression) -> dict[str, float]:
        """The relative variance of the eigenvalues of the residual: of the sample, of the generator, and an error of that."""
        N = len(fit.mean_x)
        V = stream(self.seed, Purpose.CHECK, lane=5).standard_normal((N, PROBES))
        shares = np.array([self.sums[part][0] for part in range(PARTS)])
        Y = np.stack([self.residual(fit, part, V) / shares[part] for part in range(PARTS)])  # R_p V
        mean = np.einsum("p,pij->ij", shares / shares.sum(), Y)
        trace = np.einsum("ij,ij->j", V, mean)  # of R, for every probe
        if trace.sum() <= 0.0:
            return {"sample": 0.0, "generator": 0.0, "error": 0.0}
        products = np.einsum("pij,qij->pqj", Y, Y)
        pairs = products[~np.eye(PARTS, dtype=bool)].mean(axis=0)  # tr R_p R_q

        def variance(squares: Array, probes: Any) -> float:
            return float(N * squares[probes].mean() / trace[probes].mean() ** 2 - 1)

        every = np.arange(PROBES)
        left_out = np.array([variance(pairs, np.delete(every, i)) for i in every])
        return {
            "sample": variance(np.einsum("ij,ij->j", mean, mean), every),
            "generator": variance(pairs, every),
            "error": float(jackknife(np.asarray(0.0), left_out).error),
        }


def sampled_model(generator: Inputs, samples: int, seed: int = 0) -> OperatorModel:
    """The Gaussian model of a generator with too many inputs for a matrix, from P samples that every product draws again.

    Args:
        generator: anything with `sample(n, rng)`, of standard normal latents.
        samples: P, more than 8 (D + 2); memory is for a chunk of 1,024 of them.
        seed: of the latents.

    Returns:
        An `OperatorModel` with four replicates, so that what is predicted from it has a band and a bias; its provenance says
        how much wider the spectrum of the residual is than that of the generator.

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
    }
    everything = tuple(range(PARTS))
    spread = source.spread(source.regression(everything))
    about["spread"] = spread
    about["bias"] = (
        f"of {N} eigenvalues of the residual at most {samples} are not zero: their relative variance is {spread['sample']:.3g} "
        f"instead of {spread['generator']:.3g} ± {spread['error']:.1g}"
    )

    def made(parts: tuple[int, ...], without: Callable[[int], OperatorModel] | None) -> OperatorModel:
        fit = source.regression(parts)
        product = lambda X: source.product(fit, parts, X)  # noqa: E731
        Omega = LinearOperator((N, N), matvec=product, matmat=product, dtype=np.float64)
        return OperatorModel(
            Omega,
            fit.Phi,
            mean_x=fit.mean_x,
            provenance=about,
            diagonal=fit.diagonal,
            tried=True,
            without=without,
            parts=PARTS if without else 0,
        )

    return made(everything, lambda index: made(everything[:index] + everything[index + 1 :], None))
