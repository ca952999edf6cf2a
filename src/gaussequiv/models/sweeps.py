"""`Sweep`: one problem over a grid of learning rates, noises, sizes; `Curves`: the learning curves of its points."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv.errors import InputError, a_kind, integer, number
from gaussequiv.maths.averages import Array
from gaussequiv.maths.solvers import Status
from gaussequiv.models.curves import FORMAT, GRID, Curve, load_dataset, save_dataset
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Point = Mapping[str, float | int]

OPTIONS: dict[str, Callable[[str, Any], float | int]] = {  # of OnlineSGD
    "lr": lambda name, value: number(name, value, positive=True),
    "lr_readout": number,
    "noise": number,
    "batch_size": integer,
    "weight_decay": number,
}
STUDENTS: dict[str, Callable[[str, Any], float | int]] = {  # arguments of the function that draws the student
    "units": integer,
    "student_seed": lambda name, value: integer(name, value, least=0),
}
AXES = OPTIONS | STUDENTS
CLOSE = 1e-9  # relative difference below which two values of an axis are the same
PADDED = ("unit", "unit_")


@dataclass(frozen=True, eq=False, init=False)
class Sweep:
    """A problem over a grid: one `OnlineSGD` for every combination of the values of its axes, the last axis fastest.

        Sweep(problem, lr=[0.1, 0.2], noise=[0.0, 0.5])
        Sweep(problem, units=[2, 4], student=lambda units: TwoLayer.random(units, N))

    Args:
        base: the problem that the axes vary.
        student: the function that draws a student from the values of `units` and `student_seed`, in this order, those of
            them that are axes; such as `{2: small, 4: large}.get` where the networks are given.
        axes: sequences of numbers by name: lr, lr_readout, noise, batch_size, weight_decay, units, student_seed.

    Raises:
        InputError: an unknown axis, an axis that is empty or repeats a value, an impossible value, or `student` missing,
            given for nothing, or returning a network that does not fit.

    """

    base: OnlineSGD
    axes: Mapping[str, tuple[float | int, ...]]
    problems: tuple[OnlineSGD, ...]

    def __init__(
        self, base: OnlineSGD, *, student: Callable[..., TwoLayer] | None = None, **axes: Sequence[float]
    ) -> None:
        if not isinstance(base, OnlineSGD):
            raise InputError(f"the base of a sweep is {a_kind(base)}; expected an OnlineSGD")
        if not axes:
            raise InputError(f"a sweep without an axis; expected one or more of {', '.join(AXES)}")
        checked = {name: _axis(name, values) for name, values in axes.items()}
        put = object.__setattr__
        put(self, "base", base)
        put(self, "axes", checked)
        put(self, "problems", _problems(base, checked, student))

    @property
    def points(self) -> tuple[Point, ...]:
        """The values of the axes at every point, in the order of `problems`."""
        return _points(self.axes)

    def __len__(self) -> int:
        return len(self.problems)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={list(values)}" for name, values in self.axes.items())
        return f"Sweep({len(self)} problems: {axes})"


@dataclass(frozen=True, eq=False)
class Curves:
    """The learning curves of a sweep.

    `data` is an `xarray.Dataset` with the variables of a `Curve`, each with the axes of the sweep in front; the axes are
    its coordinates: `curves.data.test_error.sel(lr=0.2)`. Where `units` is an axis, overlaps of smaller students are
    padded with NaN.
    """

    data: "xr.Dataset"

    @classmethod
    def of(cls, sweep: Sweep, curves: Sequence[Curve]) -> "Curves":
        """Put one curve a point, in the order of `sweep.problems`, into one dataset.

        Raises:
            InputError: another number of curves than points, or curves at different times.

        """
        import xarray as xr

        if len(curves) != len(sweep):
            raise InputError(f"{len(curves)} curves for a sweep of {len(sweep)} points; expected one a point")
        if any(not np.array_equal(curve.times, curves[0].times) for curve in curves):
            raise InputError("the curves of a sweep have different times; compute all of them at the same ones")
        names = dict.fromkeys(str(name) for curve in curves for name in curve.data.data_vars)
        shape = tuple(len(values) for values in sweep.axes.values())
        entries = {}
        for name in names:
            dims, stacked = _stacked([curve.data.get(name) for curve in curves])
            entries[name] = ((*sweep.axes, *dims), stacked.reshape(*shape, *stacked.shape[1:]))
        provenance = {
            "kind": curves[0].provenance.get("kind", "curve"),
            "axes": {name: list(values) for name, values in sweep.axes.items()},
            "points": [curve.provenance for curve in curves],
        }
        coordinates = {**{name: list(values) for name, values in sweep.axes.items()}, "time": curves[0].times}
        return cls(
            xr.Dataset(entries, coords=coordinates, attrs={"provenance": json.dumps(provenance, sort_keys=True)})
        )

    @property
    def axes(self) -> dict[str, tuple[float | int, ...]]:
        """The values of every axis, by name, in the order of the sweep."""
        return {name: tuple(self.data[name].values.tolist()) for name in self.provenance["axes"]}

    @property
    def points(self) -> tuple[Point, ...]:
        """The values of the axes at every point, the last axis fastest."""
        return _points(self.axes)

    @property
    def times(self) -> Array:
        """T = steps / N, shape (times,)."""
        return np.asarray(self.data["time"].values)

    @property
    def test_error(self) -> Array:
        """Test errors, shape (axes..., times)."""
        return np.asarray(self.data["test_error"].values)

    @property
    def status(self) -> np.ndarray[Any, np.dtype[Any]]:
        """How each point ended: an array of `Status`, shape (axes..., times)."""
        words = self.data["status"].values
        return np.array([Status(str(word)) for word in words.ravel()], dtype=object).reshape(words.shape)

    @property
    def provenance(self) -> dict[str, Any]:
        """What was computed: `kind`, the `axes`, and the provenance of every point in `points`."""
        found: dict[str, Any] = json.loads(self.data.attrs["provenance"])
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all points, each beginning with its point."""
        found = zip(self.points, self.provenance["points"], strict=True)
        return tuple(f"{label(point)}: {text}" for point, origin in found for text in origin.get("warnings", ()))

    @property
    def message(self) -> str:
        """One sentence: all points are good, or the first one that is not and what to do."""
        for point in self.points:
            curve = self.curve(**point)
            if (curve.status != Status.OK).any():
                return f"{label(point)}: {curve.message}"
        return f"all {len(self.points)} curves of {len(self.times)} points: {Status.OK.sentence}"

    def curve(self, **point: float) -> Curve:
        """The curve of one point, such as `curve(lr=0.2, noise=0)`; axes with one value may be left out.

        Raises:
            InputError: a name that is no axis, an axis left out, or a value that is not on it.

        """
        axes = self.axes
        foreign = [name for name in point if name not in axes]
        if foreign:
            raise InputError(f"{foreign[0]} is no axis of these curves; expected {', '.join(axes)}")
        at = {name: _position(name, values, point) for name, values in axes.items()}
        data = self.data.isel(at).drop_vars(list(axes))
        if "units" in axes:
            units = int(axes["units"][at["units"]])
            data = data.isel({dim: slice(0, units) for dim in PADDED if dim in data.dims})
        index = int(np.ravel_multi_index(tuple(at.values()), [len(values) for values in axes.values()]))
        provenance = self.provenance["points"][index]
        data.attrs = {"provenance": json.dumps(provenance, sort_keys=True)}
        return Curve(data)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point of the grid and time, with test_error, status and, of a simulation, test_error_se."""
        names = [name for name in ("test_error", "test_error_se", "status") if name in self.data]
        return self.data[names].to_dataframe().reset_index()

    def save(self, path: str | Path) -> None:
        """Save as netCDF 4 with a checksum in every block, atomically."""
        text = np.frombuffer(self.data.attrs["provenance"].encode(), dtype=np.uint8)
        data = self.data.assign(provenance=(("byte",), text))  # an attribute holds no more than 64 kB
        data.attrs = {name: value for name, value in self.data.attrs.items() if name != "provenance"}
        save_dataset(path, data, GRID)

    @classmethod
    def load(cls, path: str | Path) -> "Curves":
        """Load what `save` saved; refuses missing, foreign, damaged and newer files in one sentence."""
        return cls(_with_provenance(load_dataset(path, GRID)))

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={list(values)}" for name, values in self.axes.items())
        kind, notes = self.provenance["kind"], "".join(f"; warning: {w}" for w in self.warnings)
        return f"Curves({kind}, {axes}, {len(self.times)} times to t = {self.times[-1]:g}, {self.message}{notes})"


def load(path: str | Path) -> Curve | Curves:
    """Load one curve or the curves of a sweep, whichever `path` holds; refuses as `Curve.load` does."""
    data = load_dataset(path, FORMAT, GRID)
    return Curve(data) if data.attrs["format"] == FORMAT else Curves(_with_provenance(data))


def refused(problem: OnlineSGD, times: Array, kind: str, sentence: str) -> Curve:
    """The curve of a point of a sweep that was refused: undefined at all times, with the refusal as its warning."""
    provenance = {"kind": kind, "problem": problem.describe(), "warnings": [f"refused: {sentence}"]}
    undefined = (Status.UNDEFINED,) * len(times)
    return Curve.from_arrays(times, {"test_error": np.full(len(times), np.nan)}, undefined, provenance)


def label(point: Point) -> str:
    """A point of a sweep in words: "lr=0.1, noise=0"."""
    return ", ".join(f"{name}={value:g}" for name, value in point.items())


def _axis(name: str, values: Any) -> tuple[float | int, ...]:
    if name not in AXES:
        raise InputError(f"{name} is no axis of a sweep; expected one of {', '.join(AXES)}")
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise InputError(f"{name}={values!r}; an axis of a sweep is a sequence of numbers, such as [0.1, 0.2]")
    plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if not isinstance(plain, list) or not plain:
        raise InputError(f"the axis {name} is empty; expected at least one number")
    checked = tuple(AXES[name](name, value) for value in plain)
    for i, value in enumerate(checked):
        if any(_same(value, other) for other in checked[:i]):
            raise InputError(f"the axis {name} has {value:g} twice; expected different values")
    return checked


def _problems(
    base: OnlineSGD, axes: Mapping[str, tuple[float | int, ...]], student: Callable[..., TwoLayer] | None
) -> tuple[OnlineSGD, ...]:
    drawn = [name for name in STUDENTS if name in axes]
    if bool(drawn) != (student is not None):
        raise InputError(
            f"the axis {drawn[0]} needs student=, the function of ({', '.join(drawn)}) that draws the network"
            if drawn
            else "student= is the function of the axes units and student_seed; pass one of them"
        )
    choices = itertools.product(*(axes[name] for name in drawn))
    students = {choice: _drawn(student, choice, drawn) for choice in choices} if student is not None else {}
    problems = []
    for point in _points(axes):
        options: dict[str, Any] = {name: value for name, value in point.items() if name in OPTIONS}
        if drawn:
            options["student"] = students[tuple(point[name] for name in drawn)]
        problems.append(replace(base, **options))
    return tuple(problems)


def _drawn(student: Callable[..., TwoLayer], choice: tuple[float | int, ...], names: list[str]) -> TwoLayer:
    network, call = student(*choice), ", ".join(f"{name}={value}" for name, value in zip(names, choice, strict=True))
    if not isinstance(network, TwoLayer):
        raise InputError(f"student({call}) returned a {type(network).__name__}; expected a TwoLayer")
    if names[0] == "units" and network.units != choice[0]:
        raise InputError(f"student({call}) returned a network of {network.units} units; expected {choice[0]}")
    return network


def _points(axes: Mapping[str, tuple[float | int, ...]]) -> tuple[Point, ...]:
    return tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(abs(one), abs(other))


def _position(name: str, values: tuple[float | int, ...], point: Mapping[str, float]) -> int:
    """The index on an axis of the value that a point has there."""
    if name not in point and len(values) == 1:
        return 0
    found = [i for i, value in enumerate(values) if name in point and _same(value, number(name, point[name]))]
    if not found:
        given = f"{name}={point[name]!r} is not on the grid" if name in point else f"{name} was left out"
        raise InputError(f"{given}; expected one of {', '.join(f'{value:g}' for value in values)}")
    return found[0]


def _stacked(arrays: "Sequence[xr.DataArray | None]") -> tuple[tuple[str, ...], Array]:
    """Arrays of the same axes as one with a first axis in front, padded with NaN; a missing one is NaN throughout."""
    present = [array for array in arrays if array is not None]
    dims = tuple(str(dim) for dim in present[0].dims)
    shape = tuple(max(array.shape[i] for array in present) for i in range(len(dims)))
    if all(array is not None and array.shape == shape for array in arrays):
        return dims, np.stack([array.values for array in present])
    stacked = np.full((len(arrays), *shape), np.nan)
    for row, array in zip(stacked, arrays, strict=True):
        if array is not None:
            row[tuple(slice(0, size) for size in array.shape)] = array.values
    return dims, stacked


def _with_provenance(data: "xr.Dataset") -> "xr.Dataset":
    text = data["provenance"].values.tobytes().decode()
    return data.drop_vars("provenance").assign_attrs(provenance=text)
