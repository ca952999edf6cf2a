"""Float32 that is float32, and bits that repeat: what a GPU needs to be told."""

import threading
from contextlib import ExitStack

import torch


class _FullPrecision:
    """A context without TensorFloat-32, and without algorithms whose sums have no order.

    cuDNN computes convolutions with 11 bits unless it is told not to (a trained DCGAN is off by one percent then), and some
    of its algorithms add in another order each time. The first thread that enters sets it, and the last that leaves restores
    what the first one found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._set(torch.backends.cuda.matmul, "allow_tf32", False)
                for name, value in (("allow_tf32", False), ("deterministic", True), ("benchmark", False)):
                    self._set(torch.backends.cudnn, name, value)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()

    def _set(self, switches: object, name: str, value: bool) -> None:
        self._restore.callback(setattr, switches, name, getattr(switches, name))
        setattr(switches, name, value)


full_precision = _FullPrecision()
