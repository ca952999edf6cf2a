"""Speed as ratios in one run: ours beside a plain transcription of the same job. `make bench` prints the table.

The transcriptions are written for this purpose from the equations and update rules; they live in tests/oracles.py or here.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import cases
import gaussequiv as ge
import oracles
from gaussequiv import generators, simulation
from gaussequiv.generators.engines import Job, work
from gaussequiv.generators.estimation import Estimation
from gaussequiv.generators.moments import Accumulator
from gaussequiv.generators.plan import Plan
from gaussequiv.maths.losses import LOSSES
from gaussequiv.maths.threads import one_blas_thread
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.simulation.batch import minimised
from gaussequiv.simulation.blocks import Rule
from gaussequiv.simulation.samples import Source
from gaussequiv.simulation.training import Run
from gaussequiv.theory.modes import modes


def diagonal_problem(kind, N, units):
    """A problem whose eigenvectors are known: Omega is diagonal."""
    rng = np.random.default_rng(0)
    rho = cases.spectrum(kind, N, rng)
    Phi = 0.9 * np.sqrt(rho)[:, None] * np.linalg.qr(rng.standard_normal((N, 100)))[0]
    problem = cases.problem(ge.GaussianModel(np.diag(rho), Phi), K=units, M=units, lr=0.2)
    _ = problem.model.eigenmodes
    return problem


@pytest.mark.filterwarnings("ignore::gaussequiv.errors.FiniteSizeWarning")
@pytest.mark.parametrize(
    ("kind", "N", "units"), [("spread", 1000, 2), ("image", 784, 2), ("image", 3072, 2), ("image", 784, 8)]
)
class TestOnlineTheory:
    """A curve to t = 1000 at rtol 1e-6 once the eigenvectors are known, beside compiled forward Euler of step 0.01."""

    @pytest.fixture(autouse=True)
    def _group(self, benchmark, kind, N, units):
        benchmark.group = (
            f"online theory to t = 1000, {kind}, N = {N}, K = M = {units}; Euler: one time unit of the 1000"
        )

    @pytest.mark.parametrize("end", [1e3, 1e4], ids=["t=1e3", "t=1e4"])
    def test_ours(self, benchmark, kind, N, units, end):
        problem = diagonal_problem(kind, N, units)
        benchmark.pedantic(lambda: ge.predict(problem, times=ge.log_times(end, 60)), rounds=3, warmup_rounds=1)

    def test_a_thousandth_of_forward_euler(self, benchmark, kind, N, units):
        """100 steps of 0.01: the whole curve takes a thousand times this."""
        euler = pytest.importorskip("euler", reason="the compiled rival needs numba")
        problem = diagonal_problem(kind, N, units)
        found = modes(problem, longest=0.0, tolerance=1.0)
        w, b = found.w.T, found.b.T
        start = [w[:, :, None] * b[:, None], w[:, :, None] * w[:, None], b[:, :, None] * b[:, None]]
        v, a = problem.student.readout, problem.teacher.readout
        benchmark.pedantic(
            lambda r, q, tt: euler.integrate(found.rho, r, q, tt, problem.teacher_overlap, v, a, 0.2, 0.01, 100),
            setup=lambda: ([np.ascontiguousarray(x) for x in start], {}),
            rounds=2,
            warmup_rounds=1,
        )


SEEDS, STEPS = 20, 512


@pytest.mark.benchmark(group="one-pass SGD, N = 784, K = 2, 512 steps of 20 seeds, samples given")
class TestSimulation:
    """Numbers of one group are for the same steps; the kernel is compiled where numba is installed (the extra `fast`)."""

    problem = cases.problem(cases.correlated_model("spread", N=784, D=100), lr=0.2)

    def steps(self, problems, dtype=torch.float64):
        """512 steps of 20 seeds on the samples of their first chunk, again and again."""
        run = Run(problems, Source(self.problem, self.problem.model, 0, dtype, torch.device("cpu")), SEEDS)
        run._draw(0)
        run._draw = lambda chunk: None
        return lambda: run.advance(run.steps + STEPS, lambda: None)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_all_seeds_at_once(self, benchmark, dtype):
        benchmark.pedantic(self.steps([self.problem], dtype), rounds=5, warmup_rounds=1)

    def test_all_seeds_and_eight_learning_rates_at_once(self, benchmark):
        """Eight times the work of the others in its group."""
        problems = [dataclasses.replace(self.problem, lr=0.2 / (i + 1)) for i in range(8)]
        benchmark.pedantic(self.steps(problems), rounds=5, warmup_rounds=1)

    def test_all_seeds_at_once_in_torch(self, benchmark, monkeypatch):
        monkeypatch.setattr(Rule, "fastest", classmethod(lambda cls, *arguments: cls(*arguments, compiled=False)))
        benchmark.pedantic(self.steps([self.problem]), rounds=5, warmup_rounds=1)

    def start(self):
        source = Source(self.problem, self.problem.model, 0, torch.float64, torch.device("cpu"))
        x, y = source.draw(STEPS, Purpose.TRAIN, 0, 0)
        return x, y[:, 0], source.tensor(self.problem.student.weights), source.tensor(self.problem.student.readout)

    def test_plain_torch_loop_with_gradients_by_hand(self, benchmark):
        x, y, W, v = self.start()

        def go():
            w, u = W, v
            for _ in range(SEEDS):
                for i in range(STEPS):
                    field = w @ x[i] / 784**0.5
                    hidden = torch.erf(field / 2**0.5)
                    error = u @ hidden - y[i]
                    slope = (2 / torch.pi) ** 0.5 * torch.exp(-(field**2) / 2)
                    w = w - 0.2 / 784**0.5 * torch.outer(u * slope * error, x[i])
                    u = u - 0.2 / 784 * hidden * error

        benchmark.pedantic(go, rounds=2)

    def test_plain_torch_loop_with_autograd(self, benchmark):
        x, y, W, v = self.start()

        def go():
            w, u = W.clone().requires_grad_(), v.clone().requires_grad_()
            optimizer = torch.optim.SGD([{"params": [w]}, {"params": [u], "lr": 0.2 / 784}], lr=0.2)
            for _ in range(SEEDS):
                for i in range(STEPS):
                    optimizer.zero_grad()
                    loss = (u @ torch.erf(w @ x[i] / 784**0.5 / 2**0.5) - y[i]) ** 2 / 2
                    loss.backward()
                    optimizer.step()

        benchmark.pedantic(go, rounds=1)


class TestGeneration:
    """A whole simulation beside the drawing of as many samples: what training and measuring add."""

    @pytest.fixture(params=["sign layer", "dcgan"])
    def generator(self, request, benchmark):
        benchmark.group = f"512 training and 512 test samples of 5 seeds, {request.param}"
        if request.param == "dcgan":
            return generators.load("dcgan")
        return generators.single_layer(generators.gaussian_matrix(784, 100)).to(dtype=torch.float32)

    def test_simulation(self, benchmark, generator):
        problem = cases.problem(ge.GaussianModel(np.eye(784), np.zeros((784, 100))), lr=0.2)
        options = {"times": [512 / 784], "seeds": 5, "test_samples": 512}
        benchmark.pedantic(lambda: simulation.simulate(problem, generator, **options), rounds=3, warmup_rounds=1)

    def test_generation_alone(self, benchmark, generator):
        def go():
            for lane in range(10):
                latents = stream(0, Purpose.TRAIN, lane=lane).standard_normal((512, 100))
                generator.push(torch.from_numpy(latents))

        benchmark.pedantic(go, rounds=3, warmup_rounds=1)


CHUNKS = 4  # of 1,024 samples


@pytest.mark.parametrize("N", [784, 3072])
class TestMoments:
    """S_xx, S_xc, S_cc and means of 4,096 samples that are given, D = 100, beside the usual running update of float32 batches."""

    @pytest.fixture(autouse=True)
    def _samples(self, benchmark, N):
        benchmark.group = f"moments of 4,096 samples, N = {N}, D = 100"
        rng = np.random.default_rng(0)
        self.c, self.x = (rng.standard_normal((1024, size)).astype(np.float32) for size in (100, N))

    @pytest.mark.parametrize("products", ["float64", "float32"])
    def test_ours(self, benchmark, N, products):
        def go():
            sums = Accumulator(products, threads=torch.get_num_threads())
            with one_blas_thread:
                for _ in range(CHUNKS):
                    sums.add(self.c, self.x)

        benchmark.pedantic(go, rounds=3, warmup_rounds=1)

    def test_running_update_in_float32(self, benchmark, N):
        def go():
            x, c = torch.from_numpy(self.x), torch.from_numpy(self.c)
            mean, Omega, Phi = torch.zeros(N), torch.zeros(N, N), torch.zeros(N, 100)
            for step in range(1, CHUNKS + 1):
                mean += (x.mean(0) - mean) / step
                Omega += (x.T @ x / len(x) - Omega) / step
                Phi += (x.T @ c / len(x) - Phi) / step
            Omega -= torch.outer(mean, mean)

        benchmark.pedantic(go, rounds=3, warmup_rounds=1)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_the_whole_matrix_product_alone(self, benchmark, N, dtype):
        """The machine's rate: 2 N^2 flops a sample; the sums above need half of them."""
        x = self.x.astype(dtype)
        y = x.copy()

        def go():
            for _ in range(CHUNKS):
                x.T @ y

        benchmark.pedantic(go, rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="two blocks of 16 chunks of sign(F c), 32,768 samples, N = 3072, D = 100")
class TestEstimate:
    """Latents, forward pass and moments beside a loop with a running update; then the sixteen replicates of an estimate."""

    generator = generators.single_layer(generators.gaussian_matrix(3072, 100)).to(dtype=torch.float32, batch_size=1024)

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("products", ["float64", "float32"])
    def test_ours(self, benchmark, workers, products):
        plan = [block for block in Plan(300_000).blocks if block.count == 16][:2]
        job = Job(self.generator, 0, products)

        def go():
            for _ in work(job, plan, lambda block: None, "threads", workers, lambda count: None):
                pass

        benchmark.pedantic(go, rounds=2, warmup_rounds=1)

    def test_errors_and_replicates(self, benchmark):
        """Once an estimate, however many samples it has."""
        estimation = Estimation.of(self.generator, 16_384, 0, "float64", None)
        estimation.run(2, "threads", None)
        benchmark.pedantic(estimation.model, rounds=1)
        estimation.close()

    def test_the_usual_loop(self, benchmark):
        def go():
            mean, Omega, Phi = torch.zeros(3072), torch.zeros(3072, 3072), torch.zeros(3072, 100)
            with torch.no_grad():
                for step in range(1, 33):
                    c = torch.randn(1024, 100)
                    x = self.generator.push(c)
                    mean += (x.mean(0) - mean) / step
                    Omega += (x.T @ x / len(x) - Omega) / step
                    Phi += (x.T @ c / len(x) - Phi) / step

        benchmark.pedantic(go, rounds=2, warmup_rounds=1)


@pytest.mark.benchmark(group="check of 16 fields, 100,352 samples of relu(F c), N = 1000, D = 500")
class TestCheck:
    """The whole battery beside the samples alone, and beside one kernel statistic of a tenth of the fields."""

    generator = generators.single_layer(generators.gaussian_matrix(1000, 500), "relu")
    students, teachers = (np.random.default_rng(0).standard_normal((8, size)) for size in (1000, 500))

    def test_ours(self, benchmark):
        benchmark.pedantic(
            lambda: generators.check(self.generator, None, self.students, self.teachers), rounds=2, warmup_rounds=0
        )

    def test_samples_alone(self, benchmark):
        def go():
            for chunk in range(98):
                self.generator.draw(1024, chunk)

        benchmark.pedantic(go, rounds=2, warmup_rounds=0)

    def test_plain_energy_distance_of_ten_thousand(self, benchmark):
        """The usual O(n^2) statistic, beside Gaussian samples of as many."""
        y, z = np.random.default_rng(1).standard_normal((2, 10_000, 16))

        def mean_distance(a, b):
            squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
            return np.sqrt(np.maximum(squares, 0.0)).mean()

        def go():
            2 * mean_distance(y, z) - mean_distance(y, y) - mean_distance(z, z)

        benchmark.pedantic(go, rounds=1, warmup_rounds=0)


@pytest.mark.benchmark(group="samples of the trained DCGAN, 4096")
def test_dcgan_forward(benchmark):
    generator = generators.load("dcgan")
    latents = torch.from_numpy(stream(0, Purpose.SAMPLE).standard_normal((4096, 100)))
    benchmark.pedantic(lambda: generator.push(latents), rounds=3, warmup_rounds=1)


# --- full batch ---


def batch_problem(N, loss, output="sign"):
    """A problem of full-batch learning with a power-law spectrum, already reduced to its spectrum."""
    rng = np.random.default_rng(0)
    eta = np.arange(1, N + 1.0) ** -1.2
    theta = np.sqrt(rng.dirichlet(np.ones(N)))
    return ge.Kernel(N * eta / eta.sum(), theta, np.full(N, 1 / N), loss, output=output, noise=0.3, rest=0.2)


ALPHAS, PENALTIES = np.geomspace(0.1, 10, 50), np.geomspace(1e-4, 1e2, 10)
GRIDS = [
    (800, "logistic"),
    (100_000, "logistic"),
    (800, "square"),
    (800, "hinge"),
    (800, "squared-hinge"),
    (800, "huber"),
]


@pytest.mark.benchmark(group="full-batch theory, 50 alphas x 10 penalties")
@pytest.mark.parametrize(("N", "loss"), GRIDS)
def test_grid(benchmark, N, loss):
    """The whole grid once the spectrum has been reduced: the first call has made the panels of the sums."""
    problem = batch_problem(N, loss)
    benchmark.pedantic(lambda: ge.predict(problem, samples=ALPHAS, penalty=PENALTIES), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="full-batch theory, 50 alphas x 10 penalties")
@pytest.mark.parametrize("N", [800, 100_000])
def test_spectral_reduction_and_one_point(benchmark, N):
    benchmark.pedantic(
        lambda: ge.predict(batch_problem(N, "square"), samples=ALPHAS, penalty=PENALTIES), rounds=3, warmup_rounds=1
    )


@pytest.mark.benchmark(group="full-batch theory, 50 alphas x 10 penalties")
def test_one_of_the_500_points_by_plain_iteration(benchmark):
    """One point of the 500, alpha = 1 and penalty 0.01, N = 800, by the map itself with scalar proximal maps and quad."""
    problem = batch_problem(800, "logistic")
    sums = problem.resolvents
    benchmark.pedantic(lambda: oracles.iterated_logistic(sums.omega, sums.parts, sums.total, 1.0, 0.01), rounds=1)


@pytest.mark.benchmark(group="full-batch theory, the best of all penalties at 25 alphas")
@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_best_penalty(benchmark, loss):
    problem = batch_problem(800, loss)
    benchmark.pedantic(
        lambda: ge.predict(problem, samples=np.geomspace(0.1, 10, 25), penalty="optimal"), rounds=3, warmup_rounds=1
    )


@pytest.mark.benchmark(group="full-batch training, n = 2000, N = 1000, one penalty (ridge: ten)")
class TestBatchTraining:
    """Our minimisers to machine precision beside scikit-learn's at tolerance 1e-10."""

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 1000)) / np.sqrt(1000)
    y = np.sign(x @ rng.standard_normal(1000) + 0.3 * rng.standard_normal(2000))

    @pytest.mark.parametrize("loss", ["square", "logistic", "squared-hinge", "hinge", "huber", "absolute"])
    def test_ours(self, benchmark, loss):
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        penalties = list(np.geomspace(1e-3, 1, 10)) if loss == "square" else [0.01]
        benchmark.pedantic(lambda: minimised(LOSSES[loss], x, y, penalties), rounds=2)

    def test_logistic_of_scikit_learn(self, benchmark):
        linear = pytest.importorskip("sklearn.linear_model")
        model = linear.LogisticRegression(
            C=100.0, fit_intercept=False, tol=1e-10, solver="newton-cholesky", max_iter=1000
        )
        benchmark.pedantic(lambda: model.fit(self.x, self.y), rounds=2)

    def test_hinge_of_scikit_learn(self, benchmark):
        svm = pytest.importorskip("sklearn.svm")
        model = svm.SVC(C=100.0, kernel="linear", tol=1e-6)
        benchmark.pedantic(lambda: model.fit(self.x, self.y), rounds=2)

    def test_ridge_of_scikit_learn(self, benchmark):
        linear = pytest.importorskip("sklearn.linear_model")

        def go():
            for penalty in np.geomspace(1e-3, 1, 10):
                linear.Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(self.x, self.y)

        benchmark.pedantic(go, rounds=2)
