"""The families that the laws are stated over: a new member is added here, which is what gets it tested."""

from html.parser import HTMLParser

import numpy as np
import pytest

from gaussequiv.maths.activations import (
    GELU,
    Absolute,
    Custom,
    Erf,
    LeakyReLU,
    Linear,
    Polynomial,
    ReLU,
    Sigmoid,
    Sign,
    Softplus,
    Tanh,
)
from gaussequiv.maths.solvers import Status
from gaussequiv.models.curves import Curve
from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD


def half_square(z):
    return np.maximum(z, 0) ** 2 / 2


ACTIVATIONS = [
    Erf(),
    Linear(),
    Sign(),
    ReLU(),
    Tanh(),
    Sigmoid(),
    Softplus(),
    GELU(),
    Absolute(),
    LeakyReLU(0.2),
    Polynomial(0, 0, 1),
    Polynomial(0.3, -1, 0.5, 0.2),
    Custom(np.sin, np.cos),
    Custom(half_square, lambda z: np.maximum(z, 0)),
]
CLOSED = [Erf(), Linear(), Sign(), ReLU(), Absolute(), LeakyReLU(0.2)]  # with closed forms of their own
GAUSSIAN_SLOPES = [Erf(), Linear()]
NETWORKS = [(1, 1), (2, 2), (3, 1), (2, 4), (4, 3)]  # (K, M)


def name(case):
    return getattr(case, "name", None) or str(case)


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=name)


def spectrum(kind, N, rng):
    """Eigenvalues of mean one: white, spread over a decade, or image-like with a top eigenvalue of 0.3 N."""
    match kind:
        case "white":
            return np.ones(N)
        case "spread":
            rho = rng.uniform(0.2, 2.0, N)
        case "image":
            tail = np.arange(2, N + 1) ** -1.3
            rho = np.concatenate([[0.3 * N], 0.7 * N * tail / tail.sum()])
        case "singular":
            rho = np.where(np.arange(N) < N // 3, 0.0, 10.0 ** rng.uniform(-8, 1, N))
    return rho * N / rho.sum()


def correlated_model(kind="spread", N=60, D=20, seed=0):
    """A Gaussian model with a given spectrum, random eigenvectors and random Phi."""
    rng = np.random.default_rng(seed)
    rho = spectrum(kind, N, rng)
    E = np.linalg.qr(rng.standard_normal((N, N)))[0]
    mixing = np.linalg.qr(rng.standard_normal((N, N)))[0][:, : min(D, N)]
    Phi = (E * np.sqrt(rho)) @ mixing * 0.9
    return GaussianModel((E * rho) @ E.T, np.pad(Phi, ((0, 0), (0, D - Phi.shape[1]))))


def problem(model=None, K=2, M=2, lr=0.3, student="erf", teacher="erf", seed=1, outputs=None, **options):
    model = model or correlated_model()
    seen = model.input_dim if options.get("teacher_on") == "inputs" else model.latent_dim
    return OnlineSGD(
        model,
        TwoLayer.random(M, seen, teacher, seed, readout="gaussian" if outputs else "ones", outputs=outputs),
        TwoLayer.random(K, model.input_dim, student, seed + 1, readout="gaussian", outputs=outputs),
        lr,
        **options,
    )


def pretend(theory, rng, seeds=10, shift=0.0, correlated=0.0, spread=0.02):
    """A simulation whose seeds scatter around the theory, times (1 + shift), with errors correlated over times."""
    n = len(theory.times)
    noise = np.sqrt(1 - correlated) * rng.standard_normal((n, seeds)) + np.sqrt(correlated) * rng.standard_normal(seeds)
    errors = theory.test_error[:, None] * (1 + shift + spread * noise)
    variables = {"test_errors": errors, "test_error": errors.mean(axis=1), "T": theory.data["T"].values}
    variables["test_error_se"] = errors.std(axis=1, ddof=min(1, seeds - 1)) / np.sqrt(seeds)
    for name in "QRv":
        variables[name] = theory.data[name].values
        variables[f"{name}_se"] = 0 * theory.data[name].values + 0.01
    inputs = {"kind": "simulation", "inputs": "</script><b>pretended</b>"}
    return Curve.from_arrays(theory.times, variables, (Status.OK,) * n, inputs)


class Balanced(HTMLParser):
    """Every opened element is closed in order, and nothing is loaded from elsewhere."""

    VOID = {"meta", "br", "link", "img", "path", "use", "rect", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        assert tag not in ("script", "link")
        for key, value in attributes:
            if key in ("src", "href"):
                assert value.startswith(("#", "data:")), value
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
