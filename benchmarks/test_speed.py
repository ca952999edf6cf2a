"""Speed as ratios in one run: ours beside a plain transcription of the same job. `make bench` prints the table.

The transcriptions are written for this purpose from the equations and update rules; they live in tests/oracles.py or here.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cases
import gaussequiv as ge
import oracles
from gaussequiv import generators
from gaussequiv.generators.estimation import Moments
from gaussequiv.models.streams import Purpose, stream
from gaussequiv.simulation.online import _Run, _Source


@pytest.mark.benchmark(group="online theory, image-like spectrum, N = 784, t = 1000")
class TestOnlineTheory:
    problem = cases.problem(cases.correlated_model("image", N=784, D=100), lr=0.2)

    def test_rosenbrock_on_all_modes(self, benchmark):
        _ = self.problem.model.eigenmodes
        times = ge.log_times(1000, 30)
        benchmark.pedantic(lambda: ge.predict(self.problem, times=times), rounds=3, warmup_rounds=1)

    def test_one_thousandth_of_forward_euler_by_pairs(self, benchmark):
        """One step of dt = 0.01 of the paper's form for one mode in a thousand: times N / 0.784 x 100,000 for the whole."""
        rng = np.random.default_rng(0)
        C = oracles.random_covariance(rng, 4)
        r, q, t = rng.standard_normal((2, 2)), np.eye(2), np.eye(2)
        benchmark(lambda: oracles.pairwise_drift(1.0, r, q, t, C, np.ones(2), np.ones(2), 0.2))


@pytest.mark.benchmark(group="one-pass SGD, N = 784, K = 2, 2048 steps of 10 seeds, samples given")
class TestSimulation:
    problem = cases.problem(cases.correlated_model("spread", N=784, D=100), lr=0.2)

    def run(self):
        source = _Source(self.problem, self.problem.model, 0, torch.float64, torch.device("cpu"))
        run = _Run(self.problem, source, 10)
        run.advance(1, lambda done: None)
        x, y = run._samples
        return run, x, y

    def test_blocks_of_all_seeds(self, benchmark):
        run, x, y = self.run()

        def go():
            for _ in range(2):
                for start in range(0, 1024, 64):
                    run._block(x[:, start : start + 64], y[:, start : start + 64], 64)

        benchmark.pedantic(go, rounds=3, warmup_rounds=1)

    def test_plain_torch_loop(self, benchmark):
        run, x, y = self.run()
        W, v, N = run.weights[0].clone(), run.readout[0].clone(), 784

        def go():
            w, u = W, v
            for _ in range(20):
                for i in range(1024):
                    field = w @ x[0, i] / N**0.5
                    hidden = torch.erf(field / 2**0.5)
                    error = u @ hidden - y[0, i]
                    slope = (2 / torch.pi) ** 0.5 * torch.exp(-(field**2) / 2)
                    w = w - 0.2 / N**0.5 * torch.outer(u * slope * error, x[0, i])
                    u = u - 0.2 / N * hidden * error

        benchmark.pedantic(go, rounds=2)


@pytest.mark.benchmark(group="moments of 16,384 samples, N = 784, D = 100")
class TestMoments:
    rng = np.random.default_rng(0)
    c, x = rng.standard_normal((1024, 100)).astype(np.float32), rng.standard_normal((1024, 784)).astype(np.float32)

    def test_centred_chunks_in_float64(self, benchmark):
        def go():
            total = Moments.of(self.c, self.x)
            for _ in range(15):
                total = total.merge(Moments.of(self.c, self.x))

        benchmark.pedantic(go, rounds=3, warmup_rounds=1)

    def test_running_update_sample_by_sample_in_float32(self, benchmark):
        """A sixteenth of the samples."""

        def go():
            Omega, Phi = np.zeros((784, 784), np.float32), np.zeros((784, 100), np.float32)
            for c, x in zip(self.c, self.x, strict=True):
                Omega += np.outer(x, x)
                Phi += np.outer(x, c)

        benchmark.pedantic(go, rounds=2)


@pytest.mark.benchmark(group="samples of the trained DCGAN, 4096")
def test_dcgan_forward(benchmark):
    generator = generators.load("dcgan")
    latents = torch.from_numpy(stream(0, Purpose.SAMPLE).standard_normal((4096, 100)))
    benchmark.pedantic(lambda: generator.push(latents), rounds=3, warmup_rounds=1)
