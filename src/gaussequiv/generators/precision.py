"""Float32 that is float32, and bits that repeat: what a GPU needs to be told."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from gaussequiv.maths.threads import Shared

SETTINGS = (
    (torch.backends.cuda.matmul, "allow_tf32", False),
    (torch.backends.cudnn, "allow_tf32", False),
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)


class _FullPrecision(Shared):
    """No TensorFloat-32, and no algorithms whose sums have no order.

    cuDNN computes convolutions with 11 bits unless it is told not to (a trained DCGAN is off by one percent then), and some
    of its algorithms add in another order each time.
    """

    def _set(self) -> Callable[[], Any]:
        restore = ExitStack()
        for switches, name, value in SETTINGS:
            restore.callback(setattr, switches, name, getattr(switches, name))
            setattr(switches, name, value)
        return restore.close


full_precision = _FullPrecision()
