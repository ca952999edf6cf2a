"""Full sizes, measured: writes docs/validation.md. Run by `make validate`; takes about an hour on two cores."""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cases
import gaussequiv as ge
import test_agreement
from gaussequiv import generators, report, simulation
from gaussequiv.report.batches import QUANTITIES
from gaussequiv.report.checks import Checks
from gaussequiv.report.experiments import Run, versions
from gaussequiv.report.reproduce import reproduced
from gaussequiv.report.settings import Experiment

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data" / "online"
RELAXED = 0.1  # lr rho_max / N at most: the equations take it to zero
INPUTS = {"gaussian": "Gaussian", "sign": "sign(F c)"}


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def distance(estimate, exact):
    return np.linalg.norm(estimate - exact) / np.linalg.norm(exact)


def references():
    """Converged reference curves at several tolerances."""
    rows = []
    for name in ("ident", "a", "a_fixed_v"):
        z = np.load(DATA / f"{name}.npz")
        root = np.linalg.cholesky(z["T"])
        Phi = (z["b_rot"] / np.sqrt(float(z["D"]))).T @ np.linalg.inv(root).T
        model = ge.GaussianModel(np.diag(z["rhos"]), Phi)
        teacher, student = ge.TwoLayer(np.sqrt(len(root)) * root, z["A"]), ge.TwoLayer(z["w_rot"], z["v0"])
        problem = ge.OnlineSGD(model, teacher, student, float(z["lr"]), train_readout=bool(z["both"]))
        for rtol in (1e-4, 1e-6, 1e-8, 1e-10):
            start = time.process_time()
            curve = ge.predict(problem, times=z["t"], rtol=rtol)
            seconds = time.process_time() - start
            error = np.abs(curve.test_error - z["eg"])
            relative = (error / np.maximum(z["eg"], 1e-2 * z["eg"][0])).max()
            cells = (f"{relative:.1e}", f"{error.max():.1e}", f"{np.abs(curve.data.Q.values - z['Q']).max():.1e}")
            rows.append((name, len(z["rhos"]), f"{rtol:.0e}", *cells, curve.provenance["steps"], f"{seconds:.2f}"))
    head = ("case", "N", "rtol", "relative error of eg", "absolute error of eg", "error of Q", "steps", "cpu s")
    return table(head, rows)


def agreements():
    """Theory and simulation at full size."""
    F = generators.gaussian_matrix(1000, 500)
    rows, sentences = [], []

    def add(label, model, inputs, lr, times):
        teacher = ge.TwoLayer.random(2, model.latent_dim, seed=1)
        student = ge.TwoLayer.random(2, model.input_dim, seed=2, readout="gaussian")
        problem = ge.OnlineSGD(model, teacher, student, lr=lr)
        theory = ge.predict(problem, times=times)
        start = time.time()
        practice = simulation.simulate(problem, inputs, times=times, seeds=10, test_samples=1_000)
        seconds = time.time() - start
        comparison = report.compare(theory, practice)
        largest = comparison.largest_departure
        verdict = "agree" if comparison.agrees else "depart"
        cells = (
            f"{comparison.rms_z:.2f}",
            f"{comparison.z[comparison.worst]:+.2f}",
            f"{largest[1]:.1%} at t = {times[largest[0]]:.2g}",
        )
        rows.append((label, lr, *cells, verdict, f"{seconds:.0f}"))
        sentences.append(f"- **{label}, lr {lr}.** {comparison.sentence} {comparison.overlaps_sentence}")
        print(rows[-1], flush=True)

    for sigma in ("sign", "erf", "relu", "tanh"):
        model = ge.GaussianModel.single_layer(F, sigma)
        add(
            f"single layer, {sigma}",
            model,
            generators.single_layer(F, sigma).to(dtype=torch.float32),
            0.2,
            ge.log_times(100, 20),
        )
    for name in ("deep-random", "dcgan-random", "dcgan"):
        generator = generators.load(name).to(dtype=torch.float32)
        model = generators.estimate(generator, samples=200_000)
        for lr in (0.2, 0.02) if name == "dcgan" else (0.2,):
            add(name, model, generator, lr, ge.log_times(30, 15))
            if name == "dcgan":
                add(f"{name}, Gaussian twin", model, model, lr, ge.log_times(30, 15))
    head = ("inputs", "lr", "rms z", "worst z", "largest relative difference", "verdict", "simulation, s")
    return table(head, rows) + "\n\n" + "\n".join(sentences)


@dataclasses.dataclass(frozen=True)
class OtherResiduals:
    """The Gaussian twin with the latents of its own samples and residuals of another stream: a null of a paired run."""

    model: ge.GaussianModel
    draw: int
    name: str = "the Gaussian twin, other residuals"

    @property
    def input_dim(self):
        """N."""
        return self.model.input_dim

    @property
    def latent_dim(self):
        """D."""
        return self.model.latent_dim

    def sample(self, n, rng):
        """Latents (n, D) as `model.sample` draws them, and inputs (n, N)."""
        root, regression, residual = self.model.factors
        c = rng.standard_normal((n, self.latent_dim))
        others = np.random.Generator(rng.bit_generator.jumped(10_000 * self.draw))
        x = c @ root @ regression + others.standard_normal((n, self.input_dim)) @ residual + self.model.mean_x
        return c @ root + self.model.mean_c, x


PAIRED = ("dcgan-random", "dcgan", "realnvp-random", "realnvp", "realnvp-pixels", "vae-random", "vae")
NULLS = 8


def paired(names=PAIRED, samples=100_000, end=10.0, seeds=12, test_samples=2_000, nulls=NULLS):
    """Generators beside their Gaussian twins: the same initial weights, latents and labels, seed by seed."""
    rows, times = [], ge.log_times(end, 6)
    for name in names:
        generator = generators.load(name).to(dtype=torch.float32, batch_size=1024)
        model = generators.estimate(generator, samples=samples)
        lr = min(0.2, RELAXED * model.input_dim / model.spectrum[-1])
        teacher = ge.TwoLayer.random(2, model.latent_dim, seed=1)
        student = ge.TwoLayer.random(2, model.input_dim, seed=2, readout="gaussian")
        problem = ge.OnlineSGD(model, teacher, student, lr=lr)
        theory = ge.predict(problem, times=times).test_error

        def errors(inputs, problem=problem):
            options = {"times": times, "seeds": seeds, "test_samples": test_samples, "dtype": torch.float32}
            return simulation.simulate(problem, inputs, **options).data["test_errors"].values[1:]

        found, twin = errors(generator), errors(model)
        gap, z = log_ratio(found, twin)
        noise = sorted(np.abs(log_ratio(errors(OtherResiduals(model, 1 + i)), twin)[0]).mean() for i in range(nulls))
        size, of_theory = np.abs(gap).mean(), np.log(found.mean(axis=1) / theory[1:])
        cells = (
            f"{size:.4f}",
            f"{noise[0]:.4f} to {noise[-1]:.4f}",
            "no" if size <= noise[-1] else f"yes (p = {1 / (1 + nulls):.2f})",
            f"{z[np.abs(z).argmax()]:+.2f}",
            f"{gap.mean():+.4f}",
            f"{np.abs(of_theory).mean():.4f}",
        )
        rows.append((name, f"{lr:.2g}", *cells, excess_kurtosis(generator, model)))
        print(rows[-1], flush=True)
    head = (
        "inputs",
        "lr",
        "mean abs log ratio",
        "that of its nulls",
        "beyond all of them",
        "worst z",
        "mean log ratio",
    )
    return table((*head, "generator to theory", "excess kurtosis of fields"), rows)


def replicas(
    names=("dcgan", "realnvp-random", "realnvp", "realnvp-pixels"), samples=300_000, end=10.0, seeds=24, draws=3
):
    """Generators beside their twins again, with other teachers, students and seeds: is there a departure in the mean?"""
    rows, times = [], ge.log_times(end, 6)
    for name in names:
        generator = generators.load(name).to(dtype=torch.float32, batch_size=1024)
        model = generators.estimate(generator, samples=samples, seed=1)
        lr = min(0.2, RELAXED / 4 * model.input_dim / model.spectrum[-1])  # slow for the largest mode of any readout
        for draw in range(draws):
            teacher = ge.TwoLayer.random(2, model.latent_dim, seed=101 + 2 * draw)
            student = ge.TwoLayer.random(2, model.input_dim, seed=102 + 2 * draw, readout="gaussian")
            problem = ge.OnlineSGD(model, teacher, student, lr=lr)
            options = {"times": times, "seeds": seeds, "test_samples": 2_000, "dtype": torch.float32, "seed": 1 + draw}
            found, twin, other = (
                simulation.simulate(problem, inputs, **options).data["test_errors"].values[1:]
                for inputs in (generator, model, OtherResiduals(model, 1))
            )
            cells = [f"{np.abs(log_ratio(a, b)[0]).mean():.4f}" for a, b in ((found, twin), (other, twin))]
            for a, b in ((found, twin), (other, twin)):
                mean, error = mean_log_ratio(a, b)
                cells.append(f"{mean:+.4f} ± {error:.4f}")
            cells.append(f"{mean_log_ratio(twin, None)[1] * np.sqrt(seeds):.4f}")
            rows.append((name, draw, f"{lr:.2g}", *cells))
            print(rows[-1], flush=True)
    head = ("mean abs log ratio", "of its null", "mean log ratio", "of its null", "spread of one seed")
    return table(("inputs", "draw", "lr", *head), rows)


def mean_log_ratio(errors, others):
    """Mean over times of the logarithm of the ratio of mean errors, and its standard error over seeds (pairs)."""
    by_seed = errors / errors.mean(axis=1)[:, None]
    ratio = np.log(errors.mean(axis=1))
    if others is not None:
        by_seed = by_seed - others / others.mean(axis=1)[:, None]
        ratio = ratio - np.log(others.mean(axis=1))
    return ratio.mean(), by_seed.mean(axis=0).std(ddof=1) / np.sqrt(errors.shape[1])


def log_ratio(errors, others):
    """Logarithm of the ratio of mean errors at every time, and its z over seeds, which are pairs: arrays (times, seeds)."""
    means = errors.mean(axis=1), others.mean(axis=1)
    by_seed = errors / means[0][:, None] - others / means[1][:, None]
    ratio = np.log(means[0] / means[1])
    return ratio, ratio / (by_seed.std(axis=1, ddof=1) / np.sqrt(errors.shape[1]))


def excess_kurtosis(generator, model, samples=20_000, fields=200):
    """Mean and standard deviation over random fields w . x / sqrt(N)."""
    _, x = generator.sample(samples, 7)
    w = np.random.default_rng(7).standard_normal((fields, model.input_dim))
    field = (x - model.mean_x) @ w.T
    kurtosis = (field**4).mean(axis=0) / (field**2).mean(axis=0) ** 2 - 3
    return f"{kurtosis.mean():+.2f} ± {kurtosis.std(ddof=1):.2f}"


SHORTER = ["times.end=10", "simulation.test_samples=500"]
DEMOS = {
    "single-layer": [],
    "dcgan": [],
    "deep-random": SHORTER,
    "dcgan-random": SHORTER,
    "dcgan-random-32": ["times.end=1", "simulation.seeds=4", "simulation.test_samples=250"],
    "realnvp-random": SHORTER,
    "realnvp": SHORTER,
    "realnvp-pixels": SHORTER,
    "vae-random": SHORTER,
    "vae": SHORTER,
}


def demos(names=tuple(DEMOS)):
    """The main job from the command line, for every generator of the zoo."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            options = [word for value in DEMOS[name] for word in ("--set", value)]
            command = [
                sys.executable,
                "-m",
                "gaussequiv.report.cli",
                "demo",
                "--generator",
                name,
                "--out",
                folder,
                *options,
            ]
            start = time.time()
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.time() - start
            found, twin = (json.loads((Path(folder) / f"comparison{x}.json").read_text()) for x in ("", "-twin"))
            drawn = all((Path(folder) / f"{x}").stat().st_size > 10_000 for x in ("curve.png", "index.html"))
        cells = [f"{c['rms_z']:.2f}, {'agree' if c['agrees'] else 'depart'}" for c in (found, twin)]
        rows.append((name, ", ".join(DEMOS[name]), *cells, "yes" if drawn else "NO", f"{seconds:.0f}"))
        print(rows[-1], flush=True)
    return table(("generator", "settings", "rms z, verdict", "its twin", "figure and page", "s"), rows)


def strangers():
    """Generators that this project did not write: (what, generator, samples of its estimate, seeds, test samples)."""
    import normflows
    import zuko

    torch.manual_seed(0)
    flow = zuko.flows.NSF(features=32, transforms=3, hidden_features=(64, 64))
    features = generators.random_features(32, 400, "erf", seed=1)
    zuko_flow = generators.from_flow(flow, batch_size=4096).then(features)
    yield "zuko NSF, 32 inputs, 400 erf features", zuko_flow, 50_000, 10, 1_000
    layers = []
    for _ in range(6):
        net = normflows.nets.MLP([16, 64, 32], init_zeros=False)
        layers += [
            normflows.flows.AffineCouplingBlock(net, scale_map="sigmoid"),
            normflows.flows.Permute(32, mode="swap"),
        ]
    flow = normflows.NormalizingFlow(normflows.distributions.base.DiagGaussian(32), layers)
    coupled = generators.from_flow(flow, batch_size=4096).then(features)
    yield "normflows RealNVP, 32 inputs, 400 erf features", coupled, 50_000, 10, 1_000
    net = torch.nn.Sequential(torch.nn.Linear(100, 400), torch.nn.ReLU(), torch.nn.Linear(400, 400), torch.nn.Tanh())
    yield "torch.nn.Sequential, two layers", generators.Generator(net, latent=100), 50_000, 10, 1_000
    try:
        import gan_face_generate
    except ImportError:
        print("gan_face_generate is not installed: pip install --no-deps gan_face_generate==1.1.1", flush=True)
        return
    faces = generators.from_code(
        "gan_face_generate.models:Generator",
        weights=Path(gan_face_generate.__file__).parent / "weights.tar",
        arguments={"ngpu": 0, "nc": 3, "nz": 100, "ngf": 64},
        latent=(100, 1, 1),
    )
    yield "gan_face_generate 1.1.1, its weights, pooled 4 x 4", faces.pool(4), 15_000, 4, 250


def elsewhere(end=10.0):
    """Check, estimate, predict and simulate generators that were made elsewhere."""
    rows, times = [], ge.log_times(end, 8)
    for what, generator, samples, seeds, test_samples in strangers():
        checked = generators.check_generator(generator, 1024)
        model = generators.estimate(generator, samples)
        teacher = ge.TwoLayer.random(2, model.latent_dim, seed=1)
        student = ge.TwoLayer.random(2, model.input_dim, seed=2, readout="gaussian")
        problem = ge.OnlineSGD(model, teacher, student, lr=0.1)
        theory = ge.predict(problem, times=times)
        cells = []
        for inputs in (generator, model):
            practice = simulation.simulate(problem, inputs, times=times, seeds=seeds, test_samples=test_samples)
            found = report.compare(theory, practice)
            cells.append(f"{found.rms_z:.2f}, {'agree' if found.agrees else 'depart'}")
        sizes = (model.latent_dim, model.input_dim, f"{model.spectrum[-1] / model.spectrum.sum():.0%}", samples, seeds)
        rows.append((what, *sizes, "holds" if checked.ok else "fails", *cells))
        print(rows[-1], flush=True)
    head = (
        "generator",
        "D",
        "N",
        "top eigenvalue",
        "samples",
        "seeds",
        "check_generator",
        "rms z, verdict",
        "its twin",
    )
    return table(head, rows)


def activations():
    """Every activation at full size: the test errors of 20 seeds, each with its own fresh test samples, in z-scores."""
    rows, times = [], ge.log_times(100, 20)
    for kind in ("gaussian", "sign"):
        model, inputs = test_agreement.inputs_of(kind)
        for teacher, students in test_agreement.STUDENTS.items():
            problems = [cases.problem(model, lr=lr, student=g, teacher=teacher) for g, lr in students.items()]
            samples = 8_000 if teacher == "quadratic" else 2_000
            found = simulation.simulate_many(problems, inputs, times=times, seeds=20, seed=1, test_samples=samples)
            for problem, practice in zip(problems, found, strict=True):
                start = time.process_time()
                comparison = report.compare(ge.predict(problem, times=times, rtol=1e-5), practice)
                seconds = time.process_time() - start
                name = problem.student.activation.name
                held = np.abs(comparison.z).max() < 4.5 and comparison.rms_z < 1.5
                cells = (f"{comparison.rms_z:.2f}", f"{comparison.z[comparison.worst]:+.2f}", "yes" if held else "NO")
                rows.append((name, teacher, INPUTS[kind], problem.lr, *cells, f"{seconds:.1f}"))
                print(rows[-1], flush=True)
    head = ("student", "teacher", "inputs", "lr", "rms z", "worst z", "|z| < 4.5, rms < 1.5", "theory, cpu s")
    return table(head, rows)


def finite_size():
    """Trace of Q and test error on an image-like spectrum, with and without the terms of finite size, against 400 runs."""
    base = cases.problem(cases.correlated_model("image", N=600, D=300, seed=5))
    student = ge.TwoLayer(2 * base.student.weights, np.ones(2))
    problems = [dataclasses.replace(base, lr=lr, student=student) for lr in (0.5, 1.0, 2.0)]
    times, rows = np.array([0.1, 0.3, 1.0]), []
    found = simulation.simulate_many(problems, base.model, times=times, seeds=400, test_samples=500)
    for problem, practice in zip(problems, found, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ge.FiniteSizeWarning)
            limit, mended = (ge.predict(problem, times=times, rtol=1e-5, finite_size=f) for f in (False, True))
        for i, t in enumerate(times):
            trace = np.trace(practice.data.Q.values[i])
            off = [f"{np.trace(c.data.Q.values[i]) / trace - 1:+.1%}" for c in (limit, mended)]
            errors = [f"{c.test_error[i] / practice.test_error[i] - 1:+.1%}" for c in (limit, mended)]
            noise = f"{practice.data.test_error_se.values[i] / practice.test_error[i]:.1%}"
            rows.append((problem.lr, t, f"{trace:.1f}", *off, *errors, noise))
    head = ("lr", "t", "tr Q, simulated", "limit", "finite size", "eg: limit", "finite size", "its standard error")
    return table(head, rows)


def moments():
    """Relative errors of the estimated covariances against the closed form, plain and by regression."""
    F = generators.gaussian_matrix(300, 100)
    rows = []
    for sigma in ("sign", "tanh", "relu"):
        exact, generator = ge.GaussianModel.single_layer(F, sigma), generators.single_layer(F, sigma)
        for samples in (2_000, 20_000, 200_000):
            c, x = generator.sample(samples, 1)
            x, c = x - x.mean(axis=0), c - c.mean(axis=0)
            model = generators.estimate(generator, samples=samples)
            plain = distance(x.T @ x / samples, exact.Omega), distance(x.T @ c / samples, exact.Phi)
            ours = distance(model.Omega, exact.Omega), distance(model.Phi, exact.Phi)
            claimed = model.provenance["relative_error"]
            cells = [
                f"{number:.4f}" for number in (plain[0], ours[0], claimed["Omega"], plain[1], ours[1], claimed["Phi"])
            ]
            rows.append((sigma, samples, *cells))
    head = (
        "generator",
        "samples",
        "Omega plain",
        "regression",
        "its standard error",
        "Phi plain",
        "regression",
        "its standard error",
    )
    return table(head, rows)


DEEP = ("sign", "erf", "tanh", "relu")
SAMPLES = 100_000


def deep_moments():
    """Closed-form moments of deep generators: z-scores of all entries, and the error against the width."""
    rows = []
    exact = {
        "one layer": ((100, 60), lambda g: [g]),
        "fields of the second layer": ((100, 100, 60), lambda g: [g, "linear"]),
        "linear layers around one": ((60, 100, 100, 60), lambda g: ["linear", g, "linear"]),
        "5 linear layers": ((100, 100, 100, 100, 100, 60), lambda _: ["linear"] * 5),
        "3 layers of width 400 (not exact)": ((400, 400, 400, 60), lambda g: [g] * 3),
    }
    for label, (widths, activations_of) in exact.items():
        for sigma in DEEP if "5" not in label else ("linear",):
            scores = deep_scores(generators.matrices(widths, seed=1), activations_of(sigma))
            cells = [f"{np.sqrt(np.mean(z**2)):.2f}, {np.abs(z).max():.1f}" for z in scores]
            held = "yes" if max(np.abs(z).max() for z in scores) < 5 else "NO"
            rows.append((label, sigma, *cells, held))
            print(rows[-1], flush=True)
    head = ("generator", "activation", "diagonal", "off-diagonal", "Phi", "means", "|z| < 5")
    first, rows = table(head, rows), []
    shapes = [(3, width) for width in (50, 100, 200, 400)] + [(2, 134), (4, 267)]
    for sigma in DEEP:
        for layers, width in shapes:
            closed, noise = deep_errors([*[width] * layers, 300], sigma)
            better = all(c < n for c, n in zip(closed, noise, strict=True))
            cells = [f"{100 * number:.2f} %" for pair in zip(closed, noise, strict=True) for number in pair]
            rows.append((sigma, layers, width, *cells, "closed form" if better else "samples"))
            print(rows[-1], flush=True)
    head = (
        "activation",
        "layers",
        "width",
        "Omega closed",
        "100,000 samples",
        "Phi closed",
        "100,000 samples",
        "better",
    )
    return first + "\n\n" + table(head, rows)


def deep_scores(matrices, activations, batches=100):
    """z-scores of the raw moments of samples about the closed means: diagonal, off-diagonal, Phi, means."""
    model, generator = ge.GaussianModel.deep(matrices, activations), generators.deep(matrices, activations)
    N = model.input_dim
    found = []
    for batch in range(batches):
        c, x = generator.sample(SAMPLES // batches, 1_000 + batch)
        x = x - model.mean_x
        found.append(np.concatenate([x.T @ x, x.T @ c, x.sum(axis=0)[:, None]], axis=1) / len(c))
    exact = np.concatenate([model.Omega, model.Phi, np.zeros((N, 1))], axis=1)
    error = np.std(found, axis=0, ddof=1) / np.sqrt(batches)
    z = (np.mean(found, axis=0) - exact) / np.maximum(error, 1e-12)  # the variance of a sign is known exactly
    off = ~np.eye(N, dtype=bool)
    return np.diag(z), z[:, :N][off], z[:, N:-1], z[:, -1]


def deep_errors(widths, sigma):
    """Relative errors of Omega and Phi, of the closed form (unbiased, from two estimates) and of the estimates."""
    matrices = generators.matrices(widths, seed=3)
    model = ge.GaussianModel.deep(matrices, sigma)
    generator = generators.deep(matrices, sigma).to(dtype=torch.float32, batch_size=1024)
    pair = [generators.estimate(generator, samples=SAMPLES, seed=seed) for seed in (0, 1)]
    closed, noise = [], []
    for letter in ("Omega", "Phi"):
        a, b, c = (getattr(m, letter) for m in (*pair, model))
        closed.append(np.sqrt(max(np.sum((a - c) * (b - c)), 0.0) / np.sum(a * b)))
        noise.append(np.sqrt(np.sum((a - b) ** 2) / 2 / np.sum(a * b)))
    return closed, noise


def costs():
    """Seconds of theory and samples per second of generators and simulation."""
    rows = []
    for kind in ("spread", "image"):
        problem = cases.problem(cases.correlated_model(kind, N=784, D=100), lr=0.2)
        _ = problem.model.eigenmodes
        for end in (1e2, 1e3, 1e4):
            start = time.process_time()
            curve = ge.predict(problem, times=ge.log_times(end, 30))
            rows.append(
                (
                    f"theory, {kind}, N = 784, t = {end:.0f}",
                    f"{time.process_time() - start:.2f} cpu s",
                    curve.provenance["steps"],
                )
            )
    for name in ("single-layer", "dcgan", "dcgan-random-32"):
        generator = generators.load(name).to(dtype=torch.float32)
        n = 1024 if "32" in name else 8192
        generator.sample(64, 0)
        start = time.time()
        generator.sample(n, 0)
        rows.append((f"samples of {name}", f"{n / (time.time() - start):,.0f} a second", ""))
    model = cases.correlated_model("spread", N=784, D=100)
    start = time.time()
    simulation.simulate(cases.problem(model), model, times=[10], seeds=10, test_samples=1)
    rows.append(
        (
            "training on the Gaussian twin, N = 784, K = 2, 10 seeds",
            f"{78_400 / (time.time() - start):,.0f} samples a second",
            "",
        )
    )
    return table(("what", "cost", "steps"), rows)


BATCH = {"square": "linear", "square on signs": "sign", "logistic": "sign", "hinge": "sign"}
ALPHAS, PENALTIES = (0.5, 1.0, 2.0, 4.0), (0.01, 1.0)


def batch_agreement(width, seeds=20, test_samples=20_000, losses=BATCH, alphas=ALPHAS, seed=0, model=None, inputs=None):
    """z and relative differences of every setting, on erf features of sign(F c) unless another model is given.

    Every loss and sample complexity has training and test sets of its own: only the two penalties share them.
    """
    if model is None:
        model, inputs = test_agreement.features_of_the_hidden_manifold(width)
    rng = np.random.default_rng(1)
    theta, found = rng.standard_normal(model.latent_dim), []
    for number, name in enumerate(losses):
        problem = ge.FullBatch(model, ge.Perceptron(theta, BATCH[name], noise=0.3), name.split()[0])
        start, rows, residual = time.time(), [], 0.0
        for i, alpha in enumerate(alphas):
            options = {
                "penalty": PENALTIES,
                "seeds": seeds,
                "seed": seed + 10 * number + i,
                "test_samples": test_samples,
            }
            practice = simulation.simulate(problem, inputs, alpha=[alpha], **options)
            theory = ge.predict(problem, alpha=practice.alpha, penalty=PENALTIES)
            comparison = report.compare(theory, practice)
            row = [comparison.z(quantity)[0] for quantity in QUANTITIES]
            row += [practice.data[q].values[0] / theory.data[q].values[0] - 1 for q in QUANTITIES]
            rows.append(row)
            residual = max(residual, float(practice.data.residual.max()))
        z_test, z_train, test, train = np.array(rows).swapaxes(0, 1)
        found.append((name, (z_test, z_train), (test, train), residual, time.time() - start))
        print(width, name, np.round(z_test, 1).tolist(), np.round(z_train, 1).tolist(), flush=True)
    return found


def worst_of(z):
    return f"{z.flat[np.nanargmax(np.abs(z))]:+.2f}"


def rms(x):
    return float(np.sqrt(np.nanmean(np.square(x))))


def full_batch():
    """Full-batch training to machine precision against theory, and how departures shrink with the size."""
    rows, every, far = [], [], []
    sizes = {width: batch_agreement(width, seeds) for width, seeds in ((600, 20), (300, 40))}
    for width, found in sizes.items():
        for name, scores, relatives, residual, seconds in found:
            for what, z, relative in zip(QUANTITIES.values(), scores, relatives, strict=True):
                known = np.where(np.isfinite(z), relative, np.nan)
                cells = (f"{rms(z):.2f}", worst_of(z), f"{rms(known):.2%}", f"{residual:.0e}", f"{seconds:.0f}")
                rows.append((width, name, what, *cells))
    for (name, scores, relatives, *_), (_, others, smaller, *_) in zip(sizes[600], sizes[300], strict=True):
        for k, what in enumerate(QUANTITIES.values()):
            z, relative = scores[k], relatives[k]
            every += list(z[np.isfinite(z)])
            for i, j in np.argwhere(np.abs(z) > 3):
                once_more = {"losses": {name: BATCH[name]}, "alphas": ALPHAS[i : i + 1], "seed": 1000}
                more_z, more = batch_agreement(600, 80, **once_more)[0][1:3]
                far.append(
                    f"- {name}, {what}, alpha = {ALPHAS[i]}, penalty {PENALTIES[j]}: {relative[i, j]:+.2%} "
                    f"(z = {z[i, j]:+.1f}) at p = 600, {smaller[k][i, j]:+.2%} (z = {others[k][i, j]:+.1f}) at p = 300; "
                    f"on 80 other seeds at p = 600 {more[k][0, j]:+.2%} (z = {more_z[k][0, j]:+.1f})"
                )
    head = ("p", "loss", "what", "rms z", "worst z", "rms relative difference", "residual", "s")
    text = (
        f"Over all {len(every)} values at p = 600: rms z = {rms(every):.2f}, largest |z| = {np.abs(every).max():.2f}."
    )
    return "\n\n".join([table(head, rows), text, "\n".join(far) or "No setting at p = 600 is beyond |z| = 3."])


def full_batch_dcgan():
    """ReLU features of the trained DCGAN, estimated, on the generator and on its Gaussian twin."""
    generator = generators.load("dcgan")
    features = generators.random_features(784, 600, "relu", seed=1)
    learned = generator.then(features)
    model = generators.estimate(learned, samples=200_000)
    rows = []
    for label, inputs in (("DCGAN", learned), ("Gaussian twin", model)):
        for name, (z, _), (relative, _), *_ in batch_agreement(600, 10, 10_000, model=model, inputs=inputs):
            rows.append((label, name, f"{rms(z):.2f}", worst_of(z), f"{rms(relative):.1%}", f"{relative.mean():+.1%}"))
    errors = model.provenance["relative_error"]
    text = (
        f"Relative standard errors of the estimated covariances (200,000 samples): Omega {errors['Omega']:.1%}, Phi "
        f"{errors['Phi']:.1%}."
    )
    head = ("inputs", "loss", "rms z", "worst z", "rms relative difference", "mean relative difference")
    return table(head, rows) + "\n\n" + text


PAGE = """# Validation

Written by `make validate`: full sizes, measured in one run. Small versions of every law are in `make test`.

{environment}

## Theory against simulation

N = 1000, D = 500 for the single layers (closed-form moments, 20 log-spaced times and 0 to t = 100); widths 500-500-500-1000
for the deep one and N = 784, D = 100 for the DCGANs (200,000 samples, 15 times and 0 to t = 30). K = M = 2, erf, readouts of
ones (teacher) and N(0, 1) (student), both layers trained, 10 seeds from the same weights with 1,000 fresh test samples of their
own at every time. The verdict tests every point and the mean departure over each quarter of the curve, at level 0.01 together.

{agreements}

Where a generator departs and its Gaussian twin does not, its fields are not Gaussian enough. Where both depart, the limit of
large N is not reached: the equations want lr rho_max / N small, and the trained DCGAN has a top eigenvalue of 0.3 N.

## Does the equivalence hold?

`gaussequiv check` (docs/equivalence.md): 200,000 samples, K = M = 2, the demo's student as it begins, after one-pass SGD to t = 3
and t = 30, and other weights beside. Distances in standard deviations of a field, effects in percent of the error, 95 %
intervals; `moved` is relative to the prediction of the model (closed forms; for images and the deep one estimated from 100,000
samples). The last column is the certificate for the student as it begins, from 400 gradients.

{checks}

Distance against N for x = sigma(F c), D = N / 2, N = 50 to 1600, 8 draws of F and w each, two students and a teacher, one student
for w = ones (docs/rate.png):

{rates}

## Generators beside their twins

Paired runs: a generator and its Gaussian twin (100,000 samples) train the same student from the same weights on the same latents
and labels, 12 seeds to t = 10, with test sets of their own inputs (2,000 a seed and time). Mean over 6 times of the absolute
logarithm of the ratio of test errors (means over seeds). Its nulls are the same number between the twin and eight more twins,
with the same latents and other residuals: the least and the largest of them. Of generators that are their twins, one in nine is
further away than all of these. z is over the 12 pairs at one of 6 times, and chance explains |z| up to 4.1 in a row (Student's
law, level 0.01). The learning rate is 0.2, or less where lr rho_max / N would exceed 0.1. Then the mean absolute logarithm
against theory, where test samples are the noise, and the excess kurtosis of 200 random fields, mean and spread.

{paired}

Again with three other teachers, students and seeds, 24 pairs each, at a slower learning rate (lr rho_max / N at most 0.025) and
moments from 300,000 samples: the mean logarithm of the ratio over the six times, with its standard error, that of one null, and
the spread of this mean from seed to seed. DCGAN, the random flow and the trained flow in pixels are within their errors. The
trained flow in logit space is not: its two largest eigenvalues carry most of the variance and have an excess kurtosis of -1, as
the brightness of the images has, and a student whose fields they dominate sees it: 0.3 to 0.6 % (z about -2 to -3.5, half of the
spread of one seed) for two students, 6 % (z = -4.7) for the third.

{replicas}

## The main job

`gaussequiv demo --generator NAME`, with its defaults but for what is in the second column (less time for the dear ones): one-pass
SGD to t = 100, 10 seeds, theory beside the samples of the generator and of its Gaussian twin.

{demos}

## Generators that were made elsewhere

Through the adapter, unchanged: the trained DCGAN of faces of the package `gan_face_generate` 1.1.1, with the weights that it
brings (3 x 64 x 64, pooled to 3 x 16 x 16; not part of this repository), a neural spline flow of `zuko` and a coupling flow of
`normflows` with random weights, and a `torch.nn.Sequential`. N is that of the inputs, or of random erf features of them; t up
to 10.

{elsewhere}

## Every activation

K = M = 2, N = 1000, D = 500, t <= 100, 20 log-spaced times, 20 seeds. Gaussian inputs have eigenvalues between 0.2 and 2 (before
their mean is set to one), the others are sign(F c).

{activations}

## Finite size

A top eigenvalue of 0.3 N, N = 600, 400 runs: how far theory is off in the trace of Q and in the test error. What the terms of
finite size leave are fluctuations of the largest mode from run to run.

{finite_size}

## Full batch

Erf features, p of them, of x = sign(F c) with N = 4 p, D = 2 p / 3, whose moments are known in closed form; a perceptron on the
latents with noise 0.3; n / p in {{0.5, 1, 2, 4}}, penalties 0.01 and 1; 20 seeds at p = 600 (40 at p = 300), 20,000 test samples
each, samples of their own for every loss and alpha; what is beyond |z| = 3 is measured again on 80 other seeds. Training losses
that are sums of a few rare samples have no z. The residual certifies the minimisation.

{full_batch}

ReLU features, p = 600, of the trained DCGAN:

{full_batch_dcgan}

## Converged reference curves

{references}

Relative errors are to the larger of eg and 1 % of its start.

## Moments

Relative error in the Frobenius norm against the closed form, N = 300, D = 100.

{moments}

## Moments of deep generators

`GaussianModel.deep`. First, root mean square and largest |z| of all entries of each family, 100,000 samples in 100 batches: where
the recursion is exact, and in one case where it is not but its error is below that of the samples.

Then relative errors in the Frobenius norm, D = width, N = 300, of the closed form (from the product of its distances from two
independent estimates) and of the regression estimator with 100,000 samples. The error of odd activations goes as layers / width;
134, 200 and 267 units in two, three and four layers are worth 100,000 samples, which is where experiments take the closed form by
default. ReLU has means, which the norms of hidden layers move all together: samples are better at these widths.

{deep_moments}

## Cost

{costs}
"""


CHECKED = {
    "single-layer": ["generator.input_dim=1000", "generator.latent_dim=500"],
    "single-layer, ReLU": ["generator.input_dim=1000", "generator.latent_dim=500", "generator.activation=relu"],
    "single-layer, D = 2": ["generator.input_dim=1000", "generator.latent_dim=2"],
    "deep-random": [],
    "dcgan-random": [],
    "dcgan": [],
    "realnvp-random": [],
    "realnvp-pixels": [],
    "realnvp": ["learning.lr=0.05"],
    "vae-random": [],
    "vae": [],
}


def checks(names=tuple(CHECKED)):
    """The verdicts for every generator of the zoo, for the student as it begins and as training leaves it."""
    rows = []
    for name in names:
        settings = [
            f'generator.name="{name.partition(",")[0]}"',
            "times.end=30",
            "check.trained=[0.1, 1.0]",
            *CHECKED[name],
        ]
        experiment = Experiment.read(None, [*settings, "check.samples=200000", "check.workers=2"])
        with tempfile.TemporaryDirectory() as folder:
            found = Checks.of(Run(experiment, Path(folder), lambda *_: None))
            bound = found.certificate if isinstance(found.certificate, str) else f"{found.certificate.w1:.2g}"
            for weights, verdict in found.verdicts.items():
                cells = [_interval(verdict[key], 1) for key in ("shape", "sliced")]
                cells += [_interval(verdict[key], 100) for key in ("error", "moved")]
                own = bound if weights == "student" else ""
                rows.append((name, weights, verdict.word.value, *cells, f"{100 * verdict['kurtosis'].value:.2g}", own))
                print(rows[-1], flush=True)
    head = ("generator", "weights", "verdict", "shape", "sliced", "error, %", "moved, %", "kurtosis, %", "W1 at most")
    return table(head, rows)


def _interval(finding, scale):
    return f"{scale * finding.value:.2g} [{scale * finding.low:.2g}, {scale * finding.high:.2g}]"


def rates():
    """How fast fields become Gaussian, and the figure of the documents."""
    with tempfile.TemporaryDirectory() as folder:
        lines, (_, picture) = reproduced("rate", Path(folder), 2, False, lambda *_: None)
        (ROOT / "docs" / "rate.png").write_bytes(picture.read_bytes())
    return "\n".join(f"- {line}" for line in lines)


SECTIONS = (
    checks,
    rates,
    references,
    agreements,
    paired,
    replicas,
    demos,
    elsewhere,
    activations,
    finite_size,
    full_batch,
    full_batch_dcgan,
    moments,
    deep_moments,
    costs,
)


def main():
    """Write the page; with names of sections, only those, keeping the others of the page that is there."""
    path = ROOT / "docs" / "validation.md"
    wanted = sys.argv[1:] or [section.__name__ for section in SECTIONS]
    unknown = set(wanted) - {section.__name__ for section in SECTIONS}
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: no section; expected {', '.join(s.__name__ for s in SECTIONS)}")
    parts = {}
    for section in SECTIONS:
        name = section.__name__
        before, after = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if name in wanted:
            parts[name] = f"{before}\n*{date.today()}*\n\n{section()}\n{after}"
        else:
            text = path.read_text()
            missing = f"{before}\nNot measured yet: `python benchmarks/validate.py {name}`.\n{after}"
            parts[name] = text[text.index(before) : text.index(after) + len(after)] if before in text else missing
    environment = f"{', '.join(f'{k} {v}' for k, v in versions().items())}; {torch.get_num_threads()} threads."
    path.write_text(PAGE.format(environment=environment, **parts))


if __name__ == "__main__":
    main()
