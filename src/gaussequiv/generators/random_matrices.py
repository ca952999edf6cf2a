r"""Random weight matrices of fully connected generators: Gaussian, orthogonal, Hadamard, spiked.

Rows of F, shape (rows, columns), have norm one, exactly or on average, so that the fields of $F c$ have unit variance.
All are pure functions of seed and layer, drawn from our own streams.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import scipy.linalg

from gaussequiv.errors import InputError, integer, number
from gaussequiv.models.streams import Purpose, stream

Matrix = np.ndarray[Any, np.dtype[np.float64]]
Kind = Literal["gaussian", "orthogonal", "hadamard", "spiked"]
ORTHOGONAL, HADAMARD, SPIKE = 11, 12, 13  # lanes of the stream of the weights
STRENGTH = 2.0


def gaussian_matrix(rows: int, columns: int, seed: int = 0, *, layer: int = 0) -> Matrix:
    r"""A matrix with entries $F_{ij} \sim N(0, 1/\text{columns})$: rows have norm one on average."""
    rows, columns = integer("rows", rows), integer("columns", columns)
    draws = stream(seed, Purpose.WEIGHTS, chunk=layer).standard_normal((rows, columns))
    return np.asarray(draws / np.sqrt(columns))


def matrix(kind: Kind, rows: int, columns: int, seed: int = 0, *, strength: float = STRENGTH, layer: int = 0) -> Matrix:
    r"""A random matrix F, (rows, columns), of one of four kinds.

    - "gaussian": $F_{ij} \sim N(0, 1/\text{columns})$, that of `gaussian_matrix`.
    - "orthogonal": rows orthonormal, uniformly distributed; where there are more rows than columns, independent blocks of
      orthonormal rows, so that $F^T F$ is rows / columns times the identity for whole blocks.
    - "hadamard": entries $\pm 1 / \sqrt{\text{columns}}$, rows of norm one: random rows of a Hadamard matrix with random
      signs of its columns; in blocks, as above. Rows of a block are orthonormal where `columns` is a power of two. For other
      sizes random columns of the next power of two are taken, and rows are orthogonal on average only.
    - "spiked": the Gaussian matrix plus $\theta\, u v^T$ with random unit vectors u, v and $\theta$ = `strength`. Rows have a
      mean square of $1 + \theta^2 / \text{rows}$. The spike stands out of the singular values of the Gaussian part
      where $\theta > (\text{rows} / \text{columns})^{1/4}$.

    Args:
        kind: which.
        rows: N.
        columns: D.
        seed: of the weights.
        strength: theta, at least 0; for "spiked" only.
        layer: its number in a deep generator, which has other weights in each layer.

    Raises:
        InputError: another kind, sizes that are not positive, or a strength below 0.

    """
    rows, columns = integer("rows", rows), integer("columns", columns)
    match kind:
        case "gaussian":
            return gaussian_matrix(rows, columns, seed, layer=layer)
        case "orthogonal":
            rng = stream(seed, Purpose.WEIGHTS, chunk=layer, lane=ORTHOGONAL)
            return np.concatenate([_orthogonal(columns, rng) for _ in range(-(-rows // columns))])[:rows]
        case "hadamard":
            rng = stream(seed, Purpose.WEIGHTS, chunk=layer, lane=HADAMARD)
            return np.concatenate([_hadamard(columns, rng) for _ in range(-(-rows // columns))])[:rows]
        case "spiked":
            theta = number("strength", strength)
            rng = stream(seed, Purpose.WEIGHTS, chunk=layer, lane=SPIKE)
            u, v = (x / np.linalg.norm(x) for x in (rng.standard_normal(rows), rng.standard_normal(columns)))
            return gaussian_matrix(rows, columns, seed, layer=layer) + theta * np.outer(u, v)
        case _:
            raise InputError(f"kind={kind!r}; expected one of {', '.join(get_args(Kind))}")


def matrices(
    widths: Sequence[int], kind: Kind = "gaussian", seed: int = 0, *, strength: float = STRENGTH
) -> list[Matrix]:
    """The matrices of all layers of a deep generator; `widths` are D, the widths of the hidden layers, and N."""
    if len(widths) < 2:
        raise InputError(f"widths={tuple(widths)}; expected at least (D, N)")
    pairs = enumerate(zip(widths[1:], widths[:-1], strict=True))
    return [matrix(kind, rows, columns, seed, strength=strength, layer=layer) for layer, (rows, columns) in pairs]


def _orthogonal(size: int, rng: np.random.Generator) -> Matrix:
    Q, R = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(Q * np.sign(np.diag(R)))  # uniform over the orthogonal group


def _hadamard(columns: int, rng: np.random.Generator) -> Matrix:
    """`columns` random rows of the Hadamard matrix of the next power of two, at random columns with random signs."""
    size = 1 << (columns - 1).bit_length()
    chosen, signs = rng.permutation(size)[:columns], rng.choice([-1.0, 1.0], size=columns)
    rows = rng.permutation(size)[:columns]
    return np.asarray(scipy.linalg.hadamard(size)[np.ix_(rows, chosen)] * signs / np.sqrt(columns))
