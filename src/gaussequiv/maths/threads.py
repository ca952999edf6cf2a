"""One thread for linear algebra, where results must not depend on how many there are, or where we share out the work."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import scipy.linalg.blas  # noqa: F401 (it has a BLAS of its own, which must be there to be found)
import threadpoolctl


class _OneBlasThread:
    """A context in which BLAS has one thread in this process, whichever thread enters it.

    The first that enters sets it, and the last that leaves restores what the first one found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    @cached_property
    def _libraries(self) -> threadpoolctl.ThreadpoolController:
        return threadpoolctl.ThreadpoolController()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _in_control(lambda: self._libraries.limit(limits=1, user_api="blas"))
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _in_control(self._limit.restore_original_limits)


def _in_control(change: Callable[[], Any]) -> Any:
    """Change limits from this thread, although threadpoolctl (from 3.7 on) listens to the first one only."""
    controller = getattr(threadpoolctl, "OpenBLASController", None)
    release = getattr(controller, "clear_controlling_thread", lambda force: None)
    release(force=True)
    try:
        return change()
    finally:
        release(force=True)


one_blas_thread = _OneBlasThread()
