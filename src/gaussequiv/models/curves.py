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

AXES = {"Q": ("unit", "unit_"), "R": ("unit", "teacher"), "T": ("teacher", "teacher_"), "v": ("unit",)}
_STATUSES = tuple(Status)


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve against time t = steps / N.

    `data` is an `xarray.Dataset` with the coordinate `time` and the variables `test_error`, `Q`, `R`, `T`, `v` and `status`;
    a simulation adds `*_se`, the standard errors over its seeds, and `test_errors` with the axis `seed`.
    """

    data: "xr.Dataset"

    @classmethod
    def from_arrays(
        cls, times: Array, variables: Mapping[str, Array], status: tuple[Status, ...], provenance: Mapping[str, Any]
    ) -> "Curve":
        """A curve from arrays whose first axis is time (T: none; variables that end in `s`: time, seed)."""
        import xarray as xr

        entries = {name: (_axes(name), array) for name, array in variables.items()}
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
        codes = [_STATUSES.index(s) for s in self.status]
        data = self.data.assign(status=("time", np.array(codes, dtype=np.int8), {"meanings": " ".join(_STATUSES)}))
        data.attrs |= {"format": "gaussequiv-curve", "schema": SCHEMA}
        encoding = {
            str(name): {"fletcher32": True, "chunksizes": data[name].shape}
            for name in data.variables
            if data[name].ndim
        }
        atomic_write(Path(path), lambda temporary: data.to_netcdf(temporary, engine="h5netcdf", encoding=encoding))

    @classmethod
    def load(cls, path: str | Path) -> "Curve":
        """Load what `save` saved; refuses missing, foreign, damaged and newer files in one sentence."""
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
        if data.attrs.get("format") != "gaussequiv-curve":
            raise InputError(f"{path} is not a curve saved by gaussequiv")
        if data.attrs.get("schema") != SCHEMA:
            raise InputError(f"{path} has schema {data.attrs.get('schema')}; this version of gaussequiv reads {SCHEMA}")
        words = np.array([str(_STATUSES[int(code)]) for code in data["status"].values])
        return cls(data.assign(status=("time", words)))

    def __repr__(self) -> str:
        kind = self.provenance.get("kind", "curve")
        return f"Curve({kind}, {len(self.times)} times to t = {self.times[-1]:g}, {self.message})"


def _axes(name: str) -> tuple[str, ...]:
    """Axes of a variable by its name: `T` has no time, `..._se`, `..._sd` those of their quantity, `test_errors` one a seed."""
    if name == "T":
        return AXES["T"]
    if name == "test_errors":
        return ("time", "seed")
    return ("time", *AXES.get(name.removesuffix("_se").removesuffix("_sd"), ()))
