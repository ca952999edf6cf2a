"""`Curve`: a learning curve with its order parameters, standard errors, status and provenance (xarray inside)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussequiv.errors import InputError
from gaussequiv.maths.averages import Array
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
    """A learning curve against time t = steps / N.

    `data` is an `xarray.Dataset` with the coordinate `time` and the variables `test_error`, `Q`, `R`, `T`, `v` and `status`;
    a simulation adds `classification_error`, `*_se`, the standard errors over its seeds, and `test_errors` with the axis
    `seed`. Where inputs are not centred there are `means`, those of the student's fields.
    """

    data: "xr.Dataset"

    @classmethod
    def from_arrays(
        cls, times: Array, variables: Mapping[str, Array], status: tuple[Status, ...], provenance: Mapping[str, Any]
    ) -> "Curve":
        """A curve from arrays whose first axis is time (T: none; variables that end in `s`: time, seed)."""
        import xarray as xr

        entries = {name: (_axes(name)[: np.ndim(array)], array) for name, array in variables.items()}
        entries["status"] = (("time",), np.array([str(s) for s in status]))
        data = xr.Dataset(
            entries, coords={"time": times}, attrs={"provenance": json.dumps(dict(provenance), sort_keys=True)}
        )
        return cls(data)

    @property
    def times(self) -> Array:
        """T = steps / N, shape (times,)."""
        return np.asarray(self.data["time"].values)

    @property
    def test_error(self) -> Array:
        r"""$\\frac12 E(\\hat y - y)^2$ against the noiseless teacher, shape (times,)."""
        return np.asarray(self.data["test_error"].values)

    @property
    def status(self) -> np.ndarray[Any, np.dtype[Any]]:
        """How each point ended: an array of `Status`."""
        return np.array([Status(str(s)) for s in self.data["status"].values], dtype=object)

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
    def message(self) -> str:
        """One sentence: all points are good, or the first one that is not and what to do."""
        for t, status in zip(self.times, self.status, strict=True):
            if status is not Status.OK:
                why = self.provenance.get("divergence") if status is Status.DIVERGED else None
                return f"first at t = {t:.4g}: {status}: {status.sentence}" + (f" ({why})" if why else "")
        return f"all {len(self.times)} points: {Status.OK.sentence}"

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a time; matrices become columns such as Q_0_1."""
        import pandas as pd

        columns: dict[str, Any] = {"time": self.times}
        for name, variable in self.data.data_vars.items():
            if variable.dims[:1] != ("time",):
                continue
            values = variable.values.reshape(len(self.times), -1)
            labels = ["_".join(map(str, (name, *index))) for index in np.ndindex(variable.shape[1:])]
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
        return f"Curve({kind}, {len(self.times)} times to t = {self.times[-1]:g}, {self.message}{notes})"


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
