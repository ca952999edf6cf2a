r"""A rigorous bound on how far local fields are from Gaussian, computed from gradients: the Stein-Malliavin certificate.

For a field $F(c)$ of standard normal latents that is weakly differentiable, with variance $s^2$,

    T(c) = grad F(c) . int_0^1 E_c' grad F(a c + sqrt(1 - a^2) c') da,    E T = s^2,
    TV(F, N(0, s^2))       <= 2 sqrt(Var T) / s^2
    W1(F / s, N(0, 1))     <= sqrt(2 / pi) sqrt(Var T) / s^2                       (Nourdin and Peccati 2009)

Of several fields T is a matrix, $\theta^T T \theta$ that of the combination $\theta$; the bound is the largest over directions
of the whitened fields. Two independent averages over (a, c') that share c give Var T without bias, and the bound is that of
the upper end of its interval. It is as rigorous as this is: an event that is rarer than one in a tenth of the number of
gradients may not be seen. What gradients do not explain of the fields' changes is added to W1. It is not the theorem of
arXiv:2006.14709.

For a single layer $x = \sigma(F c)$ and smooth $\sigma$ the second-order Poincaré inequality (Chatterjee 2009) leaves norms only,

    TV <= 2 sqrt(5) ||F||^3 sup|sigma'| sup|sigma''| max|w| / sqrt(N) ||w|| / sqrt(N) / s^2,

of order $N^{-1/2}$ for delocalised w. For signs, which have no gradient, $\sigma_\epsilon = \mathrm{erf}(u / (\epsilon \sqrt 2))$
stands in, and what it changes is added.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gaussequiv.errors import InputError, callback, detached, integer
from gaussequiv.generators.generator import Generator
from gaussequiv.generators.learners import Learner, learner
from gaussequiv.generators.zoo import TORCH_ACTIVATIONS, Dense, single_layer
from gaussequiv.maths.activations import Activation, Homogeneous
from gaussequiv.maths.activations import activation as named
from gaussequiv.maths.averages import Array
from gaussequiv.maths.sphere import unit, uphill
from gaussequiv.maths.whitening import coordinates
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.streams import Purpose, stream

BATCH = 32  # draws whose gradients are found together
LANE = 11
STARTS = 16
EXPLAINED = 6.0  # standard errors that E T may be off the covariance of the fields
SMOOTHINGS = (0.02, 0.05, 0.1, 0.2, 0.4)
CERTAIN = 1.96
ANGLE, TOGETHER = 0.5, 512  # of ways between latents, and the gradients that are found together
PANELS, ENOUGH, FEW = (1, 3, 9, 27, 81), 9, 96  # of a way; those of all ways, and how many ways have more
SURE = 4.0  # standard errors
LEFT = 0.01  # the largest share unseen
SMALL, MUCH = 0.05, 0.5  # beside the bound, of which the one does not matter and the other does
ROUNDINGS = 100  # in units of rounding, below which a rest is none
W1 = float(np.sqrt(2 / np.pi))


@dataclass(frozen=True, eq=False)
class Certificate:
    r"""A bound for every combination of the fields.

    Args:
        variance: of T in the worst direction of the whitened fields, so that $s = 1$.
        error: its standard error.
        direction: the worst one, as a combination of the fields (L,), of variance one.
        single: Var T / s^4 of each field alone, (L,).
        covariance: E T, that of the fields, (L, L).
        joint: the sum over i and j of Var T_ij of the fields as they are, for the bound of all of them together.
        draws: how many gradients.
        smoothing: epsilon of the sign, 0 where nothing was smoothed.
        smoothed: what smoothing adds to W1.
        unseen: the share of the fields that gradients may not see, in standard deviations.
        jumps: whether there is such a share, so that nothing is known of the total variation.
        joint_error: standard error of the joint sum.

    """

    variance: float
    error: float
    direction: Array
    single: Array
    covariance: Array
    joint: float
    draws: int
    smoothing: float = 0.0
    smoothed: float = 0.0
    unseen: float = 0.0
    jumps: bool = False
    joint_error: float = 0.0

    @property
    def size(self) -> float:
        """The root of Var T / s^4 at the upper end of its 95 % interval."""
        return float(np.sqrt(max(self.variance + CERTAIN * self.error, 0.0)))

    @property
    def w1(self) -> float:
        """Bound on the Wasserstein-1 distance in the worst direction, in standard deviations."""
        return W1 * self.size + self.smoothed + (1 + W1) * self._beside

    @property
    def tv(self) -> float:
        """Bound on the distance in total variation in the worst direction; 1 where it says nothing."""
        return 1.0 if self.smoothing or self.jumps or self.unseen >= 1 else min(2 * self.size, 1.0)

    @property
    def w1_joint(self) -> float:
        r"""Bound on W1 of all fields, $\|C^{-1}\| \|C\|^{1/2} (\sum_{ij} \mathrm{Var}\, T_{ij})^{1/2}$ (constant from memory)."""
        values, joint = np.linalg.eigvalsh(self.covariance), self.joint + CERTAIN * self.joint_error
        beside = 2 * self._beside * np.sqrt(values.sum())
        return float(np.sqrt(values[-1] * max(joint, 0.0)) / values[0] + beside)

    @property
    def _beside(self) -> float:
        """The share that gradients may not see beside the one that they do."""
        return self.unseen / (1 - self.unseen) if self.unseen < 1 else np.inf

    def __str__(self) -> str:
        if not np.isfinite(self.w1):
            return f"certificate: it says nothing, as gradients change too fast to be summed ({self.draws} gradients)"
        how = f", sign smoothed by {self.smoothing:g}" if self.smoothing else ""
        how += f", {self.unseen:.2g} of a field jumps" if self.jumps else ""
        tv = "" if self.smoothing or self.jumps else f", total variation <= {self.tv:.3g}"
        return (
            f"certificate: W1 <= {self.w1:.3g} standard deviations{tv} in every direction (sqrt(Var T) = "
            f"{np.sqrt(max(self.variance, 0.0)):.3g}, {self.draws} gradients{how})"
        )


def certificate(
    generator: Generator,
    student: Any,
    teacher: Any = None,
    *,
    teacher_on: str = "latents",
    draws: int = 1_000,
    inner: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Certificate:
    r"""The Stein-Malliavin certificate of the fields of a student and a teacher.

    Args:
        generator: a `Generator` with standard normal latents and a gradient, or a single layer of signs, which are smoothed.
        student: weights (K, N), or whatever has them.
        teacher: weights (M, D).
        teacher_on: "latents" or "inputs".
        draws: of c.
        inner: of (a, c') for each of the two averages.
        seed: of all of them.
        progress: called with (draws done, draws in all).

    Raises:
        InputError: no `Generator`, latents with a prior, no gradient, or gradients that do not explain the fields' variance, as
            those of a map that jumps.

    """
    if not isinstance(generator, Generator):
        raise InputError("a certificate needs gradients; expected a Generator of a torch module")
    if generator.prior is not None:
        raise InputError(f"{generator.name} has latents with a prior; the certificate is for standard normal ones")
    draws, inner = integer("draws", draws, 50), integer("inner", inner)
    callback(progress)
    of = learner(student, teacher, generator.input_dim, generator.latent_dim, teacher_on)
    F = matrix_of_signs(generator)
    if F is not None:
        found = [bound for eps in SMOOTHINGS if (bound := _smoothed(F, eps, of, draws, inner, seed)) is not None]
        if not found:
            raise InputError(f"{draws} gradients are too few for the signs of {generator.name}; take more")
        return min(found, key=lambda bound: bound.w1)
    return _of_gradients(generator, of, draws, inner, seed, progress)


def _of_gradients(
    generator: Generator,
    of: Learner,
    draws: int,
    inner: int,
    seed: int,
    progress: Callable[[int, int], Any] | None = None,
    *,
    smooth: bool = False,
) -> Certificate:
    rng = stream(seed, Purpose.CHECK, lane=LANE)
    first: list[Array] = []
    second: list[Array] = []
    for start in range(0, draws, BATCH):
        n = min(BATCH, draws - start)
        c = rng.standard_normal((n, generator.latent_dim))
        J = _gradients(generator, of, c)
        for found in (first, second):
            a = (np.arange(inner) + rng.random((n, inner))) / inner
            other = rng.standard_normal((n, inner, c.shape[1]))
            moved = a[..., None] * c[:, None] + np.sqrt(1 - a[..., None] ** 2) * other
            average = _gradients(generator, of, moved.reshape(n * inner, -1))
            average = average.reshape(n, inner, *average.shape[1:]).mean(axis=1)
            T = J @ np.swapaxes(average, 1, 2)
            found.append((T + np.swapaxes(T, 1, 2)) / 2)
        if progress is not None:
            progress(start + n, draws)
    T1, T2 = np.concatenate(first), np.concatenate(second)
    C = (T1 + T2).mean(axis=0) / 2
    if not (np.diagonal(C) > 0).all():
        _require_explained(generator, of, (T1 + T2) / 2, seed)
        raise InputError(
            f"a field does not vary on {generator.name}, or {draws} gradients are too few to say how much; leave out the unit, "
            "or take more"
        )
    bound = _largest(T1, T2, C)
    unseen, jumps = (0.0, False) if smooth else _unseen(generator, of, C, bound.size, draws, seed)
    _require_explained(generator, of, (T1 + T2) / 2, seed)
    return replace(bound, unseen=unseen, jumps=jumps)


def _gradients(generator: Generator, of: Learner, c: Array) -> Array:
    """Those of all fields at latents (n, D): (n, L, D)."""
    latents = torch.tensor(c, dtype=generator.dtype, device=generator.device, requires_grad=True)
    x = generator.differentiable(latents.clone())  # a module may change what it is given
    rows, on_latents = of.scaled
    W = torch.tensor(np.concatenate(of.scaled) if of.on_inputs else rows, dtype=x.dtype, device=x.device)
    fields = x @ W.T
    found = [
        torch.autograd.grad(fields[:, k].sum(), latents, retain_graph=k + 1 < len(W))[0].double().cpu().numpy()
        for k in range(len(W))
    ]
    if not of.on_inputs:
        found += [np.broadcast_to(row, c.shape) for row in on_latents]
    return np.stack(found, axis=1)


def _unseen(generator: Generator, of: Learner, C: Array, least: float, paths: int, seed: int) -> tuple[float, bool]:
    r"""The share of the fields that gradients may not see, in standard deviations in the worst direction; whether there is one.

    Between latents of correlation $\rho$ the integral of the gradient along the way is the change of the part $F_1$ of
    $F = F_1 + J$ that it sees. What is left, the change of J, has $E (\Delta J)^2 \ge 2 (1 - \rho) \mathrm{Var}\, J$ (Mehler).
    Summed on panels of a third of the length an integral over kinks has a ninth of the squared error,

        E (Delta J)^2 = (9 E rest_fine^2 - E rest_coarse^2) / 8,

    which is zero for weakly differentiable maps, once panels are short. They are divided until what is left is small beside
    `least`; while the map seems to jump those of the ways on which most is left, and of some that stand for the others.

    Raises:
        InputError: more than a hundredth.

    """
    A, _ = coordinates(C)
    rng = stream(seed, Purpose.CHECK, lane=LANE + 3)
    start, other = rng.standard_normal((2, paths, generator.latent_dim))
    end = np.cos(ANGLE) * start + np.sin(ANGLE) * other
    change = _values(generator, of, end) - _values(generator, of, start)
    within = 2 * (1 - np.cos(ANGLE))
    rounding = ROUNDINGS * torch.finfo(generator.dtype or torch.float32).eps
    fine = np.full(change.shape, np.inf)
    some, weights = np.arange(paths), np.full(paths, 1 / paths)  # ways, and of how many each of them is one
    for panels in PANELS:
        coarse, fine = fine, (change[some] - _integrals(generator, of, start[some], end[some], panels)) @ A
        if panels == PANELS[0]:
            continue
        _, vectors = np.linalg.eigh(9 * (weights * fine.T) @ fine - (weights * coarse.T) @ coarse)
        squares = (9 * (fine @ vectors) ** 2 - (coarse @ vectors) ** 2) / 8 / within
        mean = weights @ squares
        error = np.sqrt(
            (weights @ squares**2 - mean**2) / paths + (weights**2 - weights / paths) @ (squares - mean) ** 2
        )
        share, seen, sure = (np.sqrt((mean + k * error).clip(0).max()) for k in (CERTAIN, -CERTAIN, -SURE))
        whole = np.sqrt(np.linalg.eigvalsh((weights * fine.T) @ fine)[-1] / within)
        if whole <= SMALL * least or (panels >= ENOUGH and seen <= LEFT):
            break
        if panels == ENOUGH and paths > 2 * FEW:
            order = np.argsort(np.sum(fine**2, axis=1))[::-1]
            some = np.concatenate([order[:FEW], rng.choice(order[FEW:], FEW, replace=False)])
            weights = np.repeat([1 / paths, (1 / FEW - 1 / paths)], FEW)
            fine = fine[some]
    if seen > LEFT:
        raise InputError(
            f"the gradients of {generator.name} do not add up to the change of its fields ({seen:.1%} is left), so it jumps "
            "somewhere, or hides a part from the gradient, and there is no certificate; is there a sign, a rounding or a detach "
            "in it?"
        )
    return float(min(share, whole)), bool(sure > rounding or share > MUCH * least + rounding)


def _integrals(generator: Generator, of: Learner, start: Array, end: Array, panels: int) -> Array:
    """Of the gradients of all fields along straight ways (n, D), by two nodes of Gauss on each panel: (n, L)."""
    nodes = (np.array([-1.0, 1.0]) / np.sqrt(3) + 1) / 2
    t = ((np.arange(panels)[:, None] + nodes) / panels).ravel()
    found = []
    step = max(TOGETHER // len(t), 1)
    for first in range(0, len(start), step):
        some, way = start[first : first + step], (end - start)[first : first + step]
        points = some[:, None] + t[:, None] * way[:, None]
        J = _gradients(generator, of, points.reshape(-1, some.shape[1]))
        found.append(np.einsum("ntkd,nd->nk", J.reshape(*points.shape[:2], *J.shape[1:]), way, optimize=True) / len(t))
    return np.concatenate(found)


def _values(generator: Generator, of: Learner, c: Array) -> Array:
    """The fields at latents (n, D), (n, L)."""
    return of.local_fields(c, generator.push(torch.from_numpy(c)).double().cpu().numpy())


def _require_explained(generator: Generator, of: Learner, T: Array, seed: int) -> None:
    """Refuse an E T that is not the covariance of the fields."""
    C = T.mean(axis=0)
    n = max(4 * len(T), 4096)
    latents, inputs = generator.sample(n, stream(seed, Purpose.CHECK, lane=LANE + 1))
    x = np.asarray(inputs, dtype=float)
    u = of.local_fields(np.asarray(latents, dtype=float), x - x.mean(axis=0))
    measured = u.T @ u / n
    squares = (u[:, :, None] * u[:, None, :]).reshape(n, *C.shape)
    error = np.sqrt(squares.var(axis=0) / n + T.var(axis=0) / len(T))
    scale = np.sqrt(np.outer(np.diag(measured), np.diag(measured)))
    off = np.abs(C - measured)
    if (off > EXPLAINED * error + 1e-6 * scale).any():
        i, j = np.unravel_index(np.argmax(off / scale), off.shape)
        raise InputError(
            f"the gradients of {generator.name} explain {C[i, j]:.3g} of a covariance of {measured[i, j]:.3g} of its fields, "
            "so it jumps somewhere, and there is no certificate; is there a sign or a rounding in it?"
        )


def _largest(T1: Array, T2: Array, C: Array) -> Certificate:
    """The direction of the whitened fields in which the upper end of Var T is largest."""
    root, fields = coordinates(
        C
    )  # theta of the fields = root @ that of the whitened ones; a row is a field's direction
    first, second = (np.einsum("ia,nij,jb->nab", root, T, root, optimize=True) for T in (T1, T2))
    n, L = len(T1), first.shape[1]

    def parts(e: Array) -> tuple[Array, Array]:
        return (first @ e) @ e - 1, (second @ e) @ e - 1

    def value(e: Array) -> float:
        a, b = parts(e)
        return float(np.mean(a * b) + CERTAIN * np.std(a * b) / np.sqrt(n))

    def gradient(e: Array) -> Array:
        a, b = parts(e)
        product, slopes = a * b, 2 * ((first @ e) * b[:, None] + (second @ e) * a[:, None])
        spread = np.std(product)
        weights = 1 + CERTAIN / np.sqrt(n) * (product - product.mean()) / (spread if spread > 0 else 1.0)
        return np.asarray(weights @ slopes / n)

    rng = np.random.default_rng(0)
    largest = np.linalg.eigh(np.einsum("nab,nbc->ac", first, second) + np.einsum("nab,nbc->ac", second, first))[1].T
    starts = unit(np.concatenate([unit(fields), largest, rng.standard_normal((STARTS, L))]))
    e, _ = max((uphill(value, gradient, start) for start in starts), key=lambda pair: pair[1])
    a, b = parts(e)
    own = np.diagonal(C)
    single = np.mean(
        (np.diagonal(T1, axis1=1, axis2=2) / own - 1) * (np.diagonal(T2, axis1=1, axis2=2) / own - 1), axis=0
    )
    joint = ((T1 - C) * (T2 - C)).sum(axis=(1, 2))
    errors = [float(np.std(one, ddof=1) / np.sqrt(n)) for one in (a * b, joint)]
    return Certificate(
        float(np.mean(a * b)), errors[0], root @ e, single, C, float(joint.mean()), n, joint_error=errors[1]
    )


def matrix_of_signs(generator: Generator) -> Array | None:
    """F of a single layer sign(F c)."""
    F, g = single_layer_of(generator)
    return F if F is not None and isinstance(g, Homogeneous) and bool(g.jump) and not (g.line or g.fold) else None


def single_layer_of(generator: Generator) -> tuple[Array | None, Activation | None]:
    r"""F and $\sigma$ of a generator of the zoo that is $\sigma(F c)$, else nothing."""
    module = generator.module
    if not isinstance(module, Dense) or len(module.layers) != 1 or generator.prior is not None:
        return None, None
    names = [name for name, function in TORCH_ACTIVATIONS.items() if function is module.activations[0]]
    if not names:
        return None, None
    return module.layers[0].detach().cpu().double().numpy(), named(names[0])


def _smoothed(F: Array, epsilon: float, of: Learner, draws: int, inner: int, seed: int) -> Certificate | None:
    """The certificate of sign(F c) by that of erf(F c / (eps sqrt 2)) with rows of length one, and what lies between them.

    None where it is refused.
    """
    length = np.linalg.norm(F, axis=1, keepdims=True)
    F = F / np.where(length > 0, length, 1.0)
    smooth = single_layer(F / epsilon, "erf")
    try:
        found = _of_gradients(smooth, of, draws, inner, seed, smooth=True)
    except InputError:
        return None  # its steep gradients are too rare
    c = stream(seed, Purpose.CHECK, lane=LANE + 2).standard_normal((max(4 * draws, 4096), F.shape[1]))
    smoothly = smooth.push(torch.from_numpy(c)).double().numpy()
    fields = [of.local_fields(c, x) for x in (np.sign(c @ F.T), smoothly)]
    C, own = (u.T @ u / len(u) for u in fields)
    A, _ = coordinates(C)
    change = (fields[0] - fields[1]) @ A
    between = np.sqrt(np.linalg.eigvalsh(change.T @ change / len(c))[-1])
    sizes = np.sqrt(np.maximum(np.linalg.eigvalsh(A.T @ own @ A), 0.0))
    added = float(between + W1 * np.abs(1 - sizes).max() + W1 * found.size * (max(sizes[-1], 1.0) - 1))
    return replace(found, covariance=C, smoothing=epsilon, smoothed=added)


@dataclass(frozen=True)
class NormBound:
    r"""The norm-only bound of one student field of $\sigma(F c)$, term by term.

    Args:
        operator: $\|F\|$, the largest singular value.
        slope: $\sup |\sigma'|$.
        curvature: $\sup |\sigma''|$, infinite at a kink.
        largest: $\max |w| / \sqrt N$.
        length: $\|w\| / \sqrt N$.
        variance: $s^2$ of the field.
        size: of the matrix, (N, D).

    """

    operator: float
    slope: float
    curvature: float
    largest: float
    length: float
    variance: float
    size: tuple[int, int]

    @property
    def tv(self) -> float:
        """The bound on total variation, which may be above 1 and then says nothing."""
        return float(
            2 * np.sqrt(5) * self.operator**3 * self.slope * self.curvature * self.largest * self.length / self.variance
        )

    @property
    def informative_from(self) -> float:
        r"""The N from which it is below 1: it falls as $N^{-1/2}$ while $\sqrt N \max |w| / \|w\|$ and the other norms stay."""
        return float(self.size[0] * self.tv**2)

    @property
    def excess(self) -> dict[str, float]:
        r"""By how much each term is above that of a dense random matrix and random weights: the largest one dominates.

        $\|F\|^3$ over $(1 + \sqrt{N / D})^3$; $\max |w| / \|w\|$ over $\sqrt{2 \log N / N}$; $\|w\|^2 / (N s^2)$, the variance
        that is missing.
        """
        N, D = self.size
        return {
            "operator norm of F": self.operator**3 / (1 + np.sqrt(N / D)) ** 3,
            "delocalisation of w": self.largest / self.length * np.sqrt(N / max(2 * np.log(N), 1.0)),
            "smoothness of sigma": self.slope * self.curvature,
            "variance of the field": self.length**2 / self.variance,
        }

    @property
    def dominant(self) -> str:
        """The term that is largest beside its ordinary value."""
        return max(self.excess, key=lambda name: self.excess[name])

    def __str__(self) -> str:
        if not np.isfinite(self.curvature):
            return "norm-only bound: none, as sigma has a kink, a jump or slopes without end"
        says = f", N^-1/2, says nothing below N = {self.informative_from:.2g}" if self.tv >= 1 else ", N^-1/2"
        return (
            f"norm-only bound: total variation <= {self.tv:.3g}{says}: ||F|| = {self.operator:.3g}, "
            f"sup|sigma'| = {self.slope:.3g}, sup|sigma''| = {self.curvature:.3g}, max|w|/sqrt(N) = {self.largest:.3g}, "
            f"||w||/sqrt(N) = {self.length:.3g}, s^2 = {self.variance:.3g}; largest beside its ordinary value: {self.dominant}"
        )


def norm_bound(F: Any, activation: "str | Activation", weights: Any) -> NormBound:
    r"""The norm-only bound for the field $w \cdot \sigma(F c) / \sqrt N$.

    Args:
        F: (N, D), rows as given.
        activation: of the generator.
        weights: w, (N,).

    Raises:
        InputError: other shapes.

    """
    try:
        F, w = (np.asarray(detached(given), dtype=float) for given in (F, weights))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"F and the weights are arrays of numbers ({error})") from error
    if F.ndim != 2 or w.shape != (len(F),):
        raise InputError(f"F has shape {F.shape} and the weights {w.shape}; expected (N, D) and (N,)")
    if not (np.isfinite(F).all() and np.isfinite(w).all() and w.any()):
        raise InputError("F and the weights have to be finite, and the weights not all zero")
    g, N = named(activation), len(w)
    slope, curvature = _suprema(g)
    variance = float(w @ GaussianModel.single_layer(F, g).Omega @ w) / N
    return NormBound(
        float(np.linalg.norm(F, 2)),
        slope,
        curvature,
        float(np.abs(w).max() / np.sqrt(N)),
        float(np.linalg.norm(w) / np.sqrt(N)),
        variance,
        (N, F.shape[1]),
    )


def _suprema(g: Activation) -> tuple[float, float]:
    """The largest absolute slope and curvature; infinite where there is a kink or a jump."""
    if g.kinks:
        return (np.inf, np.inf) if getattr(g, "jump", 0.0) else (_largest_slope(g), np.inf)
    z = np.linspace(-12, 12, 240_001)
    slope = np.asarray(g.derivative(z), dtype=float) * np.ones_like(z)
    far = np.abs(g.derivative(np.array([-1e4, -1e2, 1e2, 1e4])))
    if far.max() > 1.001 * np.abs(slope).max():
        return np.inf, np.inf  # it grows without end
    return float(np.abs(slope).max()), float(np.abs(np.gradient(slope, z)).max())


def _largest_slope(g: Activation) -> float:
    return float(np.abs(g.derivative(np.linspace(-12, 12, 24_001))).max())
