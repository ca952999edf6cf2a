"""One BLAS thread, whoever asks for it, and what was there afterwards."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import threadpoolctl

from gaussequiv.maths.threads import one_blas_thread


def counts():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def inside(_=None):
    with one_blas_thread:
        return counts()


@pytest.fixture
def two():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert counts() == {2}
        yield
        assert counts() == {2}


def test_in_this_thread_and_in_others(two):
    assert inside() == {1}
    assert counts() == {2}
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(inside, range(30))) == [{1}] * 30
    assert counts() == {2}


def test_the_last_who_leaves_restores(two):
    """The first who entered leaves first, and in another thread than the last."""
    entered, left = Barrier(2), Barrier(2)

    def first():
        with one_blas_thread:
            entered.wait()
        left.wait()

    def last():
        with one_blas_thread:
            entered.wait()
            left.wait()
            return counts()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        assert pool.submit(last).result() == {1}
    assert counts() == {2}


def test_it_may_be_entered_twice_and_left_by_an_exception(two):
    def fails():
        with one_blas_thread, one_blas_thread:
            assert counts() == {1}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert counts() == {2}
