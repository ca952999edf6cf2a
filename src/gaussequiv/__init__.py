"""Learning curves of shallow neural networks on data from real generative models, by Gaussian equivalence.

    import gaussequiv as ge
    from gaussequiv import generators, simulation, report

Names are imported when they are first used: `import gaussequiv` loads neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaussequiv import generators as generators
    from gaussequiv import report as report
    from gaussequiv import simulation as simulation
    from gaussequiv.errors import FiniteSizeWarning as FiniteSizeWarning
    from gaussequiv.errors import InputError as InputError
    from gaussequiv.errors import StorageError as StorageError
    from gaussequiv.maths.activations import Activation as Activation
    from gaussequiv.maths.convex import Convex as Convex
    from gaussequiv.maths.kernels import sphere_kernel as sphere_kernel
    from gaussequiv.maths.losses import Loss as Loss
    from gaussequiv.maths.solvers import Status as Status
    from gaussequiv.models import schedules as schedules
    from gaussequiv.models.batch import FullBatch as FullBatch
    from gaussequiv.models.batch import Kernel as Kernel
    from gaussequiv.models.batch import log_grid as log_grid
    from gaussequiv.models.curves import Curve as Curve
    from gaussequiv.models.gaussian import GaussianModel as GaussianModel
    from gaussequiv.models.networks import OrderParameters as OrderParameters
    from gaussequiv.models.networks import TwoLayer as TwoLayer
    from gaussequiv.models.operator import OperatorModel as OperatorModel
    from gaussequiv.models.problems import OnlineSGD as OnlineSGD
    from gaussequiv.models.problems import log_times as log_times
    from gaussequiv.models.sweeps import Curves as Curves
    from gaussequiv.models.sweeps import Sweep as Sweep
    from gaussequiv.models.teachers import MeasuredTeacher as MeasuredTeacher
    from gaussequiv.models.teachers import Perceptron as Perceptron
    from gaussequiv.theory import predict as predict
    from gaussequiv.theory.batch import thresholds as thresholds
    from gaussequiv.theory.bayes import bayes_optimal as bayes_optimal
    from gaussequiv.theory.calibration import calibration as calibration
    from gaussequiv.theory.classification import classification_error as classification_error
    from gaussequiv.theory.ensembles import ensemble as ensemble
    from gaussequiv.theory.online import stability as stability
    from gaussequiv.theory.online import trajectory as trajectory
    from gaussequiv.theory.phases import asymptote as asymptote
    from gaussequiv.theory.phases import phases as phases
    from gaussequiv.theory.phases import plateau as plateau

__version__ = "0.1.0"

_HOMES = {
    "Activation": "maths.activations",
    "Curve": "models.curves",
    "Curves": "models.sweeps",
    "FiniteSizeWarning": "errors",
    "FullBatch": "models.batch",
    "GaussianModel": "models.gaussian",
    "InputError": "errors",
    "Kernel": "models.batch",
    "Convex": "maths.convex",
    "Loss": "maths.losses",
    "MeasuredTeacher": "models.teachers",
    "OnlineSGD": "models.problems",
    "OperatorModel": "models.operator",
    "OrderParameters": "models.networks",
    "Perceptron": "models.teachers",
    "Status": "maths.solvers",
    "StorageError": "errors",
    "Sweep": "models.sweeps",
    "TwoLayer": "models.networks",
    "asymptote": "theory.phases",
    "bayes_optimal": "theory.bayes",
    "calibration": "theory.calibration",
    "classification_error": "theory.classification",
    "ensemble": "theory.ensembles",
    "log_grid": "models.batch",
    "log_times": "models.problems",
    "phases": "theory.phases",
    "plateau": "theory.phases",
    "predict": "theory",
    "sphere_kernel": "maths.kernels",
    "stability": "theory.online",
    "thresholds": "theory.batch",
    "trajectory": "theory.online",
}
_MODULES = {
    "generators": "generators",
    "report": "report",
    "schedules": "models.schedules",
    "simulation": "simulation",
}

__all__ = [*_HOMES, *_MODULES]  # noqa: PLE0604 (names, all strings)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"gaussequiv.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"gaussequiv.{_MODULES[name]}")
    raise AttributeError(f"module 'gaussequiv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
