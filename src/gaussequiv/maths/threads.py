"""Settings of a process that its threads share, such as one thread for linear algebra, whose number must change no result."""

import abc
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import scipy.linalg.blas  # noqa: F401 (it has a BLAS of its own, which must be there to be found)
import threadpoolctl


class Shared(abc.ABC):
    """A setting of the whole process while anybody is inside, whichever thread enters.

    The first that enters sets it, and the last that leaves restores what the first one found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore: Callable[[], Any] = lambda: None

    @abc.abstractmethod
    def _set(self) -> Callable[[], Any]:
        """Set it; returns what restores it."""

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore = self._set()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore()


class _OneBlasThread(Shared):
    """BLAS has one thread in this process."""

    @cached_property
    def _libraries(self) -> threadpoolctl.ThreadpoolController:
        return threadpoolctl.ThreadpoolController()

    def _set(self) -> Callable[[], Any]:
        limit = _in_control(lambda: self._libraries.limit(limits=1, user_api="blas"))
        return lambda: _in_control(limit.restore_original_limits)


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
