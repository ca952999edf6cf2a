"""The commands. Heavy libraries are imported by the command that needs them, so that `--help` is quick."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaussequiv.code import is_code
from gaussequiv.report.terminal import say, say_how, show_comparison, show_curves, show_model

if TYPE_CHECKING:
    from gaussequiv.report.batch_runs import BatchRun
    from gaussequiv.report.experiments import Run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(no_args_is_help=True, help="Train a generator on your own images.")
generators_app = typer.Typer(invoke_without_command=True, help="The generators of the zoo.")
app.add_typer(train_app, name="train")
app.add_typer(generators_app, name="generators")

FOLLOWED = 1e3  # how much longer than the experiment a student is followed to find where it ends
KINDS = ("online", "batch")

USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # an option or a command that there is not, and the like

Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="[online|batch]",
        show_default=False,
        help="One-pass SGD, or full batch; online if left out, or batch where the experiment has such a section.",
    ),
]
File = Annotated[
    Path | None, typer.Argument(metavar="[EXPERIMENT.toml]", help="Experiment file; defaults if left out.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value; may be repeated.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Run directory (default: gaussequiv-NAME here).")
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Let package.module:factory run, as generator or as teacher: it is your code."),
]
Name = Annotated[str | None, typer.Option("--generator", metavar="NAME", help="Short for --set generator.name=NAME.")]


def _version(wanted: bool) -> None:
    if wanted:
        from gaussequiv import __version__

        say(__version__)
        raise typer.Exit


@app.callback()
def everything(
    version: Annotated[
        bool, typer.Option("--version", help="Print it and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Learning curves of shallow neural networks on data from real generative models, by Gaussian equivalence."""


@app.command()
def demo(
    kind: Kind = None,
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
) -> None:
    """Estimate, predict, simulate and compare: the whole claim in one figure and one page."""
    with _run(kind, file, generator, settings, out, allow_code) as run:
        show_comparison(run)


@app.command()
def estimate(
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
    rtol: Annotated[
        float | None, typer.Option("--rtol", help="Short for --set estimate.rtol=X: samples until it is so accurate.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Do part I of N, on any machine; then `merge`.")
    ] = None,
) -> None:
    """Estimate the equivalent Gaussian model of a generator; the same command again goes on, more samples are added."""
    part = None if shard is None else _shard(shard)
    overrides = [*(settings or []), *([f"estimate.rtol={rtol}"] if rtol is not None else [])]
    with _run(None, file, generator, overrides, out, allow_code) as run:
        if part is not None:
            say(str(run.estimate_shard(part)))
            return
        show_model(run, run.model)


@app.command()
def merge(
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
) -> None:
    """Put the shards of an estimate together: the experiment and --out are those of `estimate --shard`."""
    with _run(None, file, generator, settings, out, allow_code) as run:
        show_model(run, run.merged)


def _shard(text: str) -> tuple[int, int]:
    from gaussequiv.errors import InputError

    number, slash, shards = text.partition("/")
    if not (slash and number.isdecimal() and shards.isdecimal() and 1 <= int(number) <= int(shards)):
        raise InputError(f"--shard {text}: expected I/N with I from 1 to N, such as 3/8")
    return int(number), int(shards)


@app.command()
def predict(
    kind: Kind = None,
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
) -> None:
    """Predict the learning curve from the Gaussian model."""
    with _run(kind, file, generator, settings, out, allow_code) as run:
        from gaussequiv.models.curves import Curve

        theory, written = run.theory, [run.folder / f"theory{run.suffix}.nc", *run.draw_theory()]
        show_curves(theory, "theory", ("test_error",))
        if isinstance(theory, Curve) and "classification_error" in theory.data:
            say(f"classification error at t = {theory.times[-1]:g}: {theory.data.classification_error.values[-1]:.4g}")
        for line in run.remarks:
            say(line)
        say_how(theory)
        say("written: " + ", ".join(map(str, written)))


@app.command()
def phases(
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
) -> None:
    """Say what happens along the predicted curve: stable learning rates, plateaus, when units part, where it ends."""
    with _run("online", file, generator, settings, out, allow_code) as run:
        from gaussequiv.errors import InputError
        from gaussequiv.models.problems import OnlineSGD
        from gaussequiv.report.experiments import Run
        from gaussequiv.theory.online import stability
        from gaussequiv.theory.phases import asymptote
        from gaussequiv.theory.phases import phases as phases_of

        problem, rtol = run.problem, run.experiment.theory.rtol
        if not isinstance(run, Run) or not isinstance(problem, OnlineSGD):
            raise InputError("phases are those of one curve; give one value where the experiment has a list")
        say(f"learning rate: {stability(problem)}")
        say(f"up to t = {run.times[-1]:g}: {phases_of(problem, float(run.times[-1]), rtol=rtol)}")
        longest = FOLLOWED * float(run.times[-1])
        end = asymptote(
            problem, max(rtol, 1e-5), longest=longest, progress=lambda t: run.progress("the end", t, longest)
        )
        say(f"in the end: {end}")


@app.command()
def simulate(
    kind: Kind = None,
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
) -> None:
    """Train for real: the network by one-pass SGD, or a generalised linear model to the end on a full batch."""
    with _run(kind, file, generator, settings, out, allow_code) as run:
        practice, written = run.practice, [run.folder / f"simulation{run.suffix}.nc", *run.draw_practice()]
        show_curves(practice, "simulation", ("test_error", "test_error_se"))
        if (practice.status != "ok").any():
            say_how(practice)
        say("written: " + ", ".join(map(str, written)))


@app.command()
def compare(
    kind: Kind = None,
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
) -> None:
    """Compare theory and simulation; computes what is not in the run directory yet."""
    with _run(kind, file, generator, settings, out, allow_code) as run:
        show_comparison(run)


@app.command()
def check(
    kind: Kind = None,
    file: File = None,
    generator: Name = None,
    settings: Settings = None,
    out: Out = None,
    allow_code: AllowCode = False,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Short for --set check.samples=N; more go on from there.")
    ] = None,
) -> None:
    """Say whether the Gaussian equivalence holds for the student as it begins and as it is trained; exit code 1 if violated."""
    overrides = [*(settings or []), *([f"check.samples={samples}"] if samples is not None else [])]
    with _run(kind, file, generator, overrides, out, allow_code) as run:
        from gaussequiv.report.checks import Checks

        checks = Checks.of(run)
        for line in checks.lines:
            say(line)
        say("written: " + ", ".join(map(str, checks.write())))
        violated = checks.violated
    if violated:
        raise typer.Exit(1)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="rate: how fast fields become Gaussian as N grows.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Its folder (default: gaussequiv-NAME).")
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads.")] = 1,
    small: Annotated[bool, typer.Option("--small", help="Smaller sizes, in a minute.")] = False,
) -> None:
    """Compute a figure of the documentation anew; the same command again goes on."""
    from gaussequiv.report.reproduce import reproduced

    with _progress() as report:
        lines, written = reproduced(name, out or Path(f"gaussequiv-{name}"), workers, small, report)
    for line in lines:
        say(line)
    say("written: " + ", ".join(map(str, written)))


@generators_app.callback()
def generators_default(context: typer.Context) -> None:
    """List the zoo, or show one generator."""
    if context.invoked_subcommand is None:
        generators_list()


@generators_app.command("list")
def generators_list() -> None:
    """List the generators by name, with their sizes, and say what else can be named."""
    from gaussequiv.generators import zoo

    width = max(map(len, zoo.NAMES))
    say(f"{'name':{width}}    D     N  what it is")
    for name, (latents, inputs) in zoo.SIZES.items():
        say(f"{name:{width}}  {latents:3d}  {inputs:4d}  {zoo.DESCRIPTIONS[name]}")
    say("")
    say(
        "In place of a name: FILE.safetensors, weights that `gaussequiv train` wrote; MODEL.onnx; package.module:factory, your"
    )
    say(
        "own code (--allow-code; its weights by --set generator.weights=FILE); or a data set, whose teacher looks at the inputs:"
    )
    say(
        "a folder of PNG, JPEG or IDX images, an IDX file (gzipped or not), or an array (n, ...) in .npy, .npz, .safetensors."
    )


Named = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A name of the list, a file of weights, an ONNX model, package.module:factory, or a data set.",
    ),
]


@generators_app.command("show")
def generators_show(
    name: Named,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="Where the picture goes.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Short for --set generator.key=KEY.")] = None,
    allow_code: AllowCode = False,
) -> None:
    """Show a generator or a data set: sizes, card, spectrum, and samples beside the spectrum as PNG."""
    from gaussequiv.generators import Generator, zoo
    from gaussequiv.report import figures
    from gaussequiv.report.portraits import portrait

    path = None if out is None else figures.figure_path(out)
    with _source(name, key, settings, allow_code) as source:
        carded = isinstance(source, Generator) and (name in zoo.SHIPPED or Path(name).suffix == ".safetensors")
        shown = portrait(source, zoo.card(name) if carded else {})
    for line in shown.lines:
        say(line)
    path = path or Path(f"{source.name}.png")
    figures.save(figures.portrait(shown), path)
    say(f"written: {path}")


@generators_app.command("check")
def generators_check(
    name: Named,
    settings: Settings = None,
    key: Annotated[str | None, typer.Option("--key", help="Short for --set generator.key=KEY.")] = None,
    allow_code: AllowCode = False,
) -> None:
    """Check that something is a generator as the theory wants one, law by law; exit code 1 if it is not."""
    from gaussequiv.errors import InputError
    from gaussequiv.generators import check_generator

    with _source(name, key, settings, allow_code) as source:
        found = check_generator(source)
        if len(found.findings) == 1:  # it does not run at all
            raise InputError(found.failures[0].sentence)
        say(str(found))
    if not found.ok:
        raise typer.Exit(1)


@contextmanager
def _source(name: str, key: str | None, settings: list[str] | None, allow_code: bool) -> "Iterator[Any]":
    """The generator or data set of a name, with the settings of the section `generator`."""
    from tempfile import TemporaryDirectory

    overrides = [f'generator.name="{name}"', *([f'generator.key="{key}"'] if key else []), *(settings or [])]
    with TemporaryDirectory() as folder, _run(None, None, None, overrides, Path(folder), allow_code) as run:
        yield run.source


def _label(name: str) -> str:
    """A generator's name as part of the name of a folder."""
    if is_code(name):
        return name.partition(":")[2]
    return Path(Path(name).resolve().name.removesuffix(".gz")).stem


Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="IDX files, or a folder of PNG or JPEG images.")]
Epochs = Annotated[int, typer.Option(help="Passes over the images.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, latents, noise and order.")]
Device = Annotated[str, typer.Option(help="Where to train.")]
Weights = Annotated[Path, typer.Option("--out", metavar="FILE", help="The weights file.")]


@train_app.command("dcgan")
def train_dcgan(
    data: Data, epochs: Epochs = 10, seed: Seed = 0, device: Device = "cpu", out: Weights = Path("dcgan.safetensors")
) -> None:
    """Train a DCGAN on image files and save its weights with a card."""
    _train("dcgan", data, epochs, seed, device, out)


@train_app.command("realnvp")
def train_realnvp(
    data: Data, epochs: Epochs = 6, seed: Seed = 0, device: Device = "cpu", out: Weights = Path("realnvp.safetensors")
) -> None:
    """Train a RealNVP, a flow of images in logit space, on image files and save its weights with a card."""
    _train("realnvp", data, epochs, seed, device, out)


@train_app.command("vae")
def train_vae(
    data: Data, epochs: Epochs = 15, seed: Seed = 0, device: Device = "cpu", out: Weights = Path("vae.safetensors")
) -> None:
    """Train a variational autoencoder on image files and save its decoder with a card."""
    _train("vae", data, epochs, seed, device, out)


def _train(kind: str, data: Path, epochs: int, seed: int, device: str, out: Path) -> None:
    from gaussequiv.errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: expected a file name that ends in .safetensors")
    from gaussequiv.generators import training, training_likelihood, zoo
    from gaussequiv.generators.images import read_images

    train: Any = {
        "dcgan": training.train_dcgan,
        "realnvp": training_likelihood.train_realnvp,
        "vae": training_likelihood.train_vae,
    }[kind]
    images = read_images(data)
    say(f"{len(images)} images of shape {images.shape[1:]}")
    with _progress() as report:
        module, card = train(
            images, epochs=epochs, seed=seed, device=device, progress=lambda done, of: report("training", done, of)
        )
    zoo.save(module, out, card)
    for key, value in card.items():
        say(f"  {key}: {value}")
    say(f"written: {out}")


def main() -> None:
    """Run the command line; every failure is one sentence and an exit code."""
    from gaussequiv.errors import InputError, StorageError

    debug = bool(os.environ.get("GAUSSEQUIV_DEBUG"))
    # threads that spin while they wait make torch three times slower on a machine that does something else as well
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except USAGE as error:
        message = str(error).strip()  # empty where the help was printed in its place
        parameter = getattr(error, "param", None)
        named = "" if parameter is None or parameter.opts[-1] in message else f"{parameter.opts[-1]}: "
        sys.exit(_fail(named + _lowered(message), 2, debug, error) if message else 2)
    except typer.Abort:
        sys.exit(130)
    except InputError as error:
        sys.exit(_fail(str(error), 2, debug, error))
    except StorageError as error:
        sys.exit(_fail(str(error), 3, debug, error))
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        sys.exit(_fail(f"unexpected failure ({what}); set GAUSSEQUIV_DEBUG=1 to see where", 3, debug, error))


def _lowered(message: str) -> str:
    """A message as the rest of a sentence: "No such option: --x" becomes "no such option: --x; see --help"."""
    text = " ".join(message.split()).removesuffix(".")
    return f"{text[:1].lower()}{text[1:]}; see --help"


def _fail(sentence: str, code: int, debug: bool, error: BaseException) -> int:
    if debug:
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    return code


@contextmanager
def _run(
    kind: str | None,
    file: Path | None,
    generator: str | None,
    settings: list[str] | None,
    out: Path | None,
    allow_code: bool = False,
) -> "Iterator[Run | BatchRun]":
    """The run of a command in its directory, with a progress bar on the terminal.

    `kind` is the first word of the command, "online", "batch" or in their place the experiment file.
    """
    from gaussequiv.errors import InputError
    from gaussequiv.report.batch_runs import BatchRun
    from gaussequiv.report.experiments import Run
    from gaussequiv.report.settings import Experiment

    if kind is not None and kind not in KINDS:
        given, kind = Path(kind), None
        if file is not None and str(file) in KINDS:
            raise InputError(f"{file} comes after {given}; expected {file} before the experiment file: {file} {given}")
        if file is not None and given.is_file():
            raise InputError(f"there are two experiment files, {given} and {file}; expected one")
        file = given
    overrides = [*([f'generator.name="{generator}"'] if generator is not None else []), *(settings or [])]
    experiment = Experiment.read(file, overrides)
    label = file.stem if file is not None else _label(experiment.generator.name)
    folder = out or Path(f"gaussequiv-{label}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; expected a folder")
    with _progress() as report:
        batch = kind == "batch" or (kind is None and experiment.is_batch)
        run = (BatchRun if batch else Run)(experiment, folder, report, allow_code)
        yield run
        run.save_experiment()


@contextmanager
def _progress() -> Iterator[Any]:
    """A function (stage, done, in all) that moves one bar a stage on a terminal, and writes a line every 10 % elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.percentage:>4.0f} %"))
    console = Console(stderr=True)
    bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
    tasks: dict[str, Any] = {}
    tenths: dict[str, int] = {}

    def report(stage: str, done: float, total: float) -> None:
        if not console.is_terminal:
            tenth = int(10 * done / total) if total else 10
            if tenth > tenths.get(stage, -1):
                tenths[stage] = tenth
                print(f"{stage} {10 * tenth} %", file=sys.stderr, flush=True)
            return
        if not tasks:
            bars.start()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done)

    try:
        yield report
    except KeyboardInterrupt:
        print("error: interrupted; the same command again goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        if tasks:
            bars.stop()


if __name__ == "__main__":
    main()
