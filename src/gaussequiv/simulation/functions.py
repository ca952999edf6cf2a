"""The simulation's own torch form of each activation and of its slope; a test compares them with the theory's."""

from collections.abc import Callable

import torch
from torch import Tensor

from gaussequiv.errors import InputError
from gaussequiv.maths.activations import (
    GELU,
    Absolute,
    Activation,
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

Function = Callable[[Tensor], Tensor]
Pair = tuple[Function, Function]  # an activation and its slope

_ROOT_TWO = 2**0.5

FUNCTIONS: dict[type[Activation], Pair] = {
    Erf: (lambda z: torch.erf(z / _ROOT_TWO), lambda z: (2 / torch.pi) ** 0.5 * torch.exp(-0.5 * z * z)),
    Linear: (lambda z: z, torch.ones_like),
    ReLU: (torch.relu, lambda z: torch.heaviside(z, torch.tensor(0.5, dtype=z.dtype, device=z.device))),
    Absolute: (torch.abs, torch.sign),
    Tanh: (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    Sign: (torch.sign, torch.zeros_like),
    Sigmoid: (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    Softplus: (lambda z: torch.logaddexp(z, torch.zeros_like(z)), torch.sigmoid),
    GELU: (
        torch.nn.functional.gelu,
        lambda z: torch.special.ndtr(z) + z * torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5,
    ),
}


def functions(g: Activation, device: torch.device) -> Pair:
    """An activation and its slope on tensors of a device.

    A `Custom` activation acts through the attribute `torch` of its function where there is one, its slope being that of
    autograd; without it, through NumPy, on the CPU only.

    Raises:
        InputError: an activation of an unknown kind, or a NumPy function on another device than the CPU.

    """
    for kind, pair in FUNCTIONS.items():
        if isinstance(g, kind):
            return pair
    if isinstance(g, Polynomial):
        return _horner(g.coefficients), _horner(tuple(n * c for n, c in enumerate(g.coefficients))[1:])
    if isinstance(g, LeakyReLU):
        return _leaky(g.line - g.fold)
    if isinstance(g, Custom):
        own = getattr(g.function, "torch", None)
        if callable(own):
            return own, _autograd(own)
        if device.type != "cpu":
            raise InputError(
                f"{g} is a NumPy function and the simulation runs on {device}; wrap a torch function by "
                "generators.activation, or use device='cpu'"
            )
        return _through_numpy(g), _through_numpy(g.derivative)
    known = ", ".join(kind.name for kind in FUNCTIONS)
    raise InputError(
        f"the simulation has no torch form of the activation {g}; expected {known}, LeakyReLU, Polynomial or Custom"
    )


def _horner(coefficients: tuple[float, ...]) -> Function:
    """The polynomial $c_0 + z (c_1 + z (c_2 + ...))$."""

    def value(z: Tensor) -> Tensor:
        total = torch.zeros_like(z)
        for c in reversed(coefficients):
            total = total * z + c
        return total

    return value


def _leaky(below: float) -> Pair:
    """The function that is z above zero and `below` times z below it, and its slope."""
    return (
        lambda z: torch.nn.functional.leaky_relu(z, below),
        lambda z: below + (1 - below) * torch.heaviside(z, torch.tensor(0.5, dtype=z.dtype, device=z.device)),
    )


def _autograd(function: Function) -> Function:
    """The slope of a function that acts entry by entry; zero where autograd sees no dependence (a step function)."""

    def slope(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            total = function(z).sum()
            if not total.requires_grad:
                return torch.zeros_like(z).detach()
            (gradient,) = torch.autograd.grad(total, z)
        return gradient

    return slope


def _through_numpy(function: Callable[..., object]) -> Function:
    return lambda z: torch.as_tensor(function(z.numpy()), dtype=z.dtype)
