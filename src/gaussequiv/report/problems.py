"""The problem of online learning that an experiment describes: also that of the student whose first layer become features."""

from gaussequiv.models.gaussian import GaussianModel
from gaussequiv.models.networks import TwoLayer
from gaussequiv.models.problems import OnlineSGD
from gaussequiv.models.sweeps import STUDENTS, Sweep
from gaussequiv.report.settings import Experiment, first


def teacher_of(experiment: Experiment, dim: int, outputs: int | None = None) -> TwoLayer:
    """The two-layer teacher of an experiment, on `dim` latents or inputs."""
    t = experiment.teacher
    return TwoLayer.random(t.units, dim, t.activation, t.seed, readout=t.readout, scale=t.scale, outputs=outputs)


def online_problem(experiment: Experiment, model: GaussianModel) -> OnlineSGD | Sweep:
    """Student, teacher, model and learning rule; a sweep of them where a setting is a list."""
    e, axes = experiment, experiment.axes
    N, outputs = model.input_dim, e.student.outputs
    on = e.teacher_on("learning")
    teacher = teacher_of(e, model.latent_dim if on == "latents" else N, outputs)

    def student(*values: int) -> TwoLayer:
        """The student, with those of its units and seed that are axes."""
        drawn = {"units": first(e.student.units), "student_seed": first(e.student.seed)}
        drawn |= dict(zip([name for name in drawn if name in axes], values, strict=True))
        s = e.student
        return TwoLayer.random(
            drawn["units"], N, s.activation, drawn["student_seed"], readout=s.readout, scale=s.scale, outputs=outputs
        )

    options = {name: first(getattr(e.learning, name)) for name in type(e.learning).model_fields} | {"teacher_on": on}
    chosen = [first(values) for name, values in axes.items() if name in STUDENTS]
    base = OnlineSGD(model, teacher, student(*chosen), **options)
    return Sweep(base, student=student if chosen else None, **axes) if axes else base
