"""Schedules: their formulas, their jumps, how they print, and what they refuse."""

import dataclasses
import pickle

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv.errors import InputError
from gaussequiv.models.schedules import Exponential, Power, Step

ALL = [Step((0.5, 0.1, 0.0), (10, 20)), Power(0.5, 0.5, 10.0), Exponential(0.5, 0.1)]


def test_schedules_are_their_formulas():
    step, power, exponential = ALL
    assert [step(t) for t in (0, 9.99, 10, 19, 20, 1e6)] == [0.5, 0.5, 0.1, 0.1, 0.0, 0.0]
    assert power(30) == pytest.approx(0.5 / np.sqrt(1 + 30 / 10))
    assert exponential(7) == pytest.approx(0.5 * np.exp(-0.7))


def test_jumps_are_where_the_values_change():
    for schedule in ALL:
        grid = np.linspace(0, 30, 3001)
        changes = np.abs(np.diff([schedule(t) for t in grid]))
        np.testing.assert_allclose(grid[1:][changes > 0.05], schedule.jumps)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_schedules_are_values_that_describe_themselves(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert dataclasses.replace(schedule) == schedule
    p = cases.problem(lr=schedule)
    assert p.describe()["lr"] == repr(schedule)
    assert p.rates(12.0)[0] == schedule(12.0)
    assert p.scheduled


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Step((0.1,), (1.0,)), "has 1 values and 1 times; expected one value more than times"),
        (lambda: Step((0.1, 0.2, 0.3), (2.0, 1.0)), r"jumps at \[2.0, 1.0\]; expected positive, increasing times"),
        (lambda: Step((0.1, 0.2), (0.0,)), "expected positive, increasing times"),
        (lambda: Step((0.1, -0.2), (1.0,)), "values=-0.2; expected a non-negative"),
        (lambda: Step("ab", (1.0,)), "values='ab'; expected a sequence of numbers"),
        (lambda: Step(0.1, ()), "values=0.1; expected a sequence of numbers"),
        (lambda: Power(0.0, 1.0), "start=0.0; expected a positive"),
        (lambda: Power(0.1, -1.0), "exponent=-1.0; expected a non-negative"),
        (lambda: Power(0.1, 1.0, 0.0), "scale=0.0; expected a positive"),
        (lambda: Exponential(0.1, np.inf), "rate=inf"),
        (lambda: Exponential(-0.1, 1.0), "start=-0.1"),
    ],
)
def test_impossible_schedules_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_schedules_are_reached_by_the_short_name():
    assert ge.schedules.Power is Power
