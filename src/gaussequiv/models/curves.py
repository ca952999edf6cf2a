"""`Curve`: a learning curve with its order parameters, standard errors, status and provenance (xarray inside).

Online curves have the axis `time`; full-batch ones `alpha` (or `samples`, of a kernel), and `penalty` where there are several.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
from gaussequiv.maths.jackknife import reach
from gaussequiv.maths.solvers import Status
from gaussequiv.models.storage import SCHEMA, atomic_write

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

AXES = {
    "Q": ("unit", "unit_"),
    "R": ("unit", "teacher"),
    "T": ("teacher", "teacher_"),
    "v": ("unit", "output"),
    "means": ("unit",),
}
_STATUSES = tuple(Status)
FORMAT, GRID = "gaussequiv-curve", "gaussequiv-curves"  # one curve, and those of a sweep


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve, or several for a grid of penalties.

    `data` is an `xarray.Dataset`. Online its coordinate is `time` = steps / N and it has the variables `test_error`, `Q`, `R`,
    `T`, `v` and `status`; a simulation adds `classification_error`, `*_se`, the standard errors over its seeds, and
    `test_errors` with the axis `seed`. Where inputs are not centred there are `means`, those of the student's fields.
    Full-batch curves have the coordinate `alpha` = n / N (`samples` for a kernel) and, with a grid of penalties, `penalty`;
    their variables are `test_error`, `train_loss`, `train_error`, `V`, `q`, `m`, `norm`, `residual`, `status` and
    `test_error_se`.

    What is predicted from an estimated model has the errors of the estimate: `*_se`, and `*_bias`, the part that a finite number
    of samples adds to a quantity; `corrected` is without it.
    """

    data: "xr.Dataset"

    @classmethod
    def from_arrays(
        cls, times: Array, variables: Mapping[str, Array], status: tuple[Status, ...], provenance: Mapping[str, Any]
    ) -> "Curve":
        """A curve from arrays whose first axis is time (T: none; variables that end in `s`: time, seed)."""
        entries = {name: (_axes(name)[: np.ndim(array)], array) for name, array in variables.items()}
        return cls._of(entries, {"time": times}, np.array([str(s) for s in status]), provenance)

    @classmethod
    def on_grid(
        cls,
        axes: Mapping[str, Array],
        variables: Mapping[str, Array],
        status: np.ndarray[Any, np.dtype[Any]],
        provenance: Mapping[str, Any],
    ) -> "Curve":
        """A full-batch curve from arrays (*axes), or (*axes, seeds) for variables in the plural such as `test_errors`."""
        dims = tuple(name for name, values in axes.items() if np.ndim(values))
        names = (*dims, "seed")
        entries = {name: (names[: np.ndim(array)], array) for name, array in variables.items()}
        words = np.vectorize(str, otypes=["U16"])(status)
        return cls._of(entries, axes, words, provenance)

    @classmethod
    def _of(
        cls, entries: dict[str, Any], axes: Mapping[str, Any], words: Any, provenance: Mapping[str, Any]
    ) -> "Curve":
        import xarray as xr

        dims = tuple(name for name, values in axes.items() if np.ndim(values))
        attributes = {"provenance": json.dumps(dict(provenance), sort_keys=True)}
        return cls(xr.Dataset({**entries, "status": (dims, words)}, coords=dict(axes), attrs=attributes))

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of `test_error`: ("time",), ("alpha",), ("alpha", "penalty"), ..."""
        return tuple(str(dim) for dim in self.data["test_error"].dims)

    @property
    def times(self) -> Array:
        """T = steps / N, shape (times,); of an online curve."""
        return self._axis("time")

    @property
    def alpha(self) -> Array:
        """Sample complexities n / N, shape (alphas,); of a full-batch curve."""
        return self._axis("alpha")

    @property
    def samples(self) -> Array:
        """Numbers of samples n; of a curve of a kernel."""
        return self._axis("samples")

    @property
    def penalty(self) -> Array:
        """The penalties of a full-batch curve: one number, the axis of that name, or the best one at every alpha."""
        return self._axis("penalty")

    def _axis(self, name: str) -> Array:
        if name not in self.data.variables:
            raise InputError(f"this curve has no {name}; its axes are {', '.join(self.axes)}")
        return np.asarray(self.data[name].values)

    @property
    def test_error(self) -> Array:
        r"""Online $\frac12 E(\hat y - y)^2$ against the noiseless teacher, (times,).

        Full batch: $E(y - \hat y)^2$ for real labels, $P(\mathrm{sign}\, \hat y \ne y)$ for labels +1 and -1, against the
        noisy label, (alphas,) or (alphas, penalties).
        """
        return np.asarray(self.data["test_error"].values)

    @property
    def status(self) -> np.ndarray[Any, np.dtype[Any]]:
        """How each point ended: an array of `Status`."""
        words = self.data["status"].values
        return np.array([Status(str(s)) for s in words.ravel()], dtype=object).reshape(words.shape)

    @property
    def provenance(self) -> dict[str, Any]:
        """What was computed, from what, and how."""
        found: dict[str, Any] = json.loads(self.data.attrs["provenance"])
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to keep in mind about these numbers, in sentences; empty where there is nothing."""
        return tuple(self.provenance.get("warnings", ()))

    @property
    def reasons(self) -> dict[tuple[int, ...], str]:
        """Why a point has no number, or a doubtful one, by its index; of full-batch curves."""
        found = self.provenance.get("reasons", {})
        return {tuple(int(i) for i in index.split(",")): text for index, text in found.items()}

    @property
    def message(self) -> str:
        """One sentence: all points are good, or the first one that is not and what to do."""
        doubts = self.doubts
        return f"first at {doubts[0]}" if doubts else f"all {self.status.size} points: {Status.OK.sentence}"

    @property
    def doubts(self) -> tuple[str, ...]:
        """Every point that is not good, and why: "alpha = 1, penalty = 0: diverged: ..."."""
        status, reasons, letter = self.status, self.reasons, {"time": "t", "samples": "n"}
        found = []
        for index in map(tuple, np.argwhere(status != Status.OK).tolist()):
            where = ", ".join(
                f"{letter.get(axis, axis)} = {self.data[axis].values[i]:.4g}"
                for axis, i in zip(self.axes, index, strict=True)
            )
            why = self.provenance.get("divergence") if status[index] is Status.DIVERGED else None
            sentence = status[index].sentence + (f" ({why})" if why else "")
            found.append(f"{where}: {status[index]}: {reasons.get(index, sentence)}")
        return tuple(found)

    @property
    def corrected(self) -> "Curve":
        """The prediction for the generator itself: without the bias that a model from a finite number of samples has."""
        names = [str(name) for name in self.data.data_vars if f"{name}_bias" in self.data]
        data = self.data.assign({name: self.data[name] - self.data[f"{name}_bias"] for name in names})
        return Curve(data.drop_vars([f"{name}_bias" for name in names]))

    @property
    def of_model(self) -> "Curve":
        """The prediction for the model as it is, the law of the Gaussian twin: without the errors of an estimate."""
        names = [str(name).removesuffix("_bias") for name in self.data.data_vars if str(name).endswith("_bias")]
        data = self.data.drop_vars([f"{name}_{part}" for name in names for part in ("se", "bias")])
        data.attrs = {name: value for name, value in data.attrs.items() if name != "parts"}
        return Curve(data)

    def reach(self, name: str = "test_error") -> Array | None:
        """Half of the width of the 95 % band of a quantity, by Student's law; None without errors of an estimate."""
        if "parts" not in self.data.attrs:
            return None
        return reach(self.data[f"{name}_se"].values, self.data.attrs["parts"])

    @property
    def band(self) -> tuple[Array, Array] | None:
        """Where the test error for the generator itself lies with a chance of 95 %: lower and upper ends; None without errors.

        Student's law has as many degrees of freedom as there are parts of the samples, less one.
        """
        reach, middle = self.reach(), self.corrected.test_error
        return None if reach is None else (middle - reach, middle + reach)

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a point; matrices become columns such as Q_0_1."""
        import pandas as pd

        dims, shape = self.axes, self.test_error.shape
        grid = np.meshgrid(*(self.data[axis].values for axis in dims), indexing="ij")
        columns: dict[str, Any] = {axis: values.ravel() for axis, values in zip(dims, grid, strict=True)}
        for name, variable in self.data.data_vars.items():
            if variable.dims[: len(dims)] != dims:
                continue
            values = variable.values.reshape(grid[0].size, -1)
            labels = ["_".join(map(str, (name, *index))) for index in np.ndindex(variable.shape[len(shape) :])]
            columns |= dict(zip(labels, values.T, strict=True))
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Save as netCDF 4 with a checksum in every block, atomically."""
        save_dataset(path, self.data, FORMAT)

    @classmethod
    def load(cls, path: str | Path) -> "Curve":
        """Load what `save` saved; refuses missing, foreign, damaged and newer files in one sentence."""
        return cls(load_dataset(path, FORMAT))

    def __repr__(self) -> str:
        kind, notes = self.provenance.get("kind", "curve"), "".join(f"; warning: {w}" for w in self.warnings)
        if self.axes == ("time",):
            points = f"{len(self.times)} times to t = {self.times[-1]:g}"
        else:
            points = " x ".join(f"{len(self.data[axis])} {axis}" for axis in self.axes)
        return f"Curve({kind}, {points}, {self.message}{notes})"


def save_dataset(path: str | Path, data: "xr.Dataset", kind: str) -> None:
    """Save a dataset with a variable `status` as netCDF 4 with a checksum in every block, atomically."""
    status = data["status"]
    codes = np.vectorize(_STATUSES.index, otypes=[np.int8])(status.values)
    data = data.assign(status=(status.dims, codes, {"meanings": " ".join(_STATUSES)}))
    data.attrs |= {"format": kind, "schema": SCHEMA}
    encoding = {
        str(name): {"fletcher32": True, "chunksizes": data[name].shape} for name in data.variables if data[name].ndim
    }
    atomic_write(Path(path), lambda temporary: data.to_netcdf(temporary, engine="h5netcdf", encoding=encoding))


def load_dataset(path: str | Path, *kinds: str) -> "xr.Dataset":
    """Load what `save_dataset` saved as one of `kinds`; its attribute `format` says which.

    Raises:
        InputError: a file that is missing, foreign, damaged, of another kind, or of another schema.

    """
    import xarray as xr

    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; expected a curve saved by gaussequiv")
    try:
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as file:
            data = file.load()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path} is not a complete netCDF file ({str(error).splitlines()[0]}); make it again"
        ) from error
    found = data.attrs.get("format")
    if found not in (FORMAT, GRID):
        raise InputError(f"{path} is not a curve saved by gaussequiv")
    if found not in kinds:
        holds = {FORMAT: "one curve; load it with Curve.load", GRID: "the curves of a sweep; load it with Curves.load"}
        raise InputError(f"{path} holds {holds[found]}")
    if data.attrs.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {data.attrs.get('schema')}; this version of gaussequiv reads {SCHEMA}")
    words = np.vectorize(lambda code: str(_STATUSES[int(code)]), otypes=["U16"])(data["status"].values)
    return data.assign(status=(data["status"].dims, words))


def _axes(name: str) -> tuple[str, ...]:
    """Axes of a variable by its name: `T` has no time, `..._se`, `..._sd` those of their quantity, `test_errors` one a seed.

    The axis `output` of a readout is there only if the readout is a matrix.
    """
    if name == "T":
        return AXES["T"]
    if name == "test_errors":
        return ("time", "seed")
    return ("time", *AXES.get(name.removesuffix("_se").removesuffix("_sd"), ()))
