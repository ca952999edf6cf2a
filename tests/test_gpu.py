"""What a GPU gives is what the CPU gives, to rounding; run where there is one."""

import threading

import numpy as np
import pytest
import torch

import gaussequiv as ge
from gaussequiv import generators, simulation
from gaussequiv.generators import Generator
from gaussequiv.generators.moments import Accumulator, OnDevice
from gaussequiv.generators.precision import full_precision

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda", 0)
NAMES = ["single-layer", "dcgan", "dcgan-random-32", "realnvp", "vae"]


def generator(name):
    if name == "single-layer":
        return generators.single_layer(generators.gaussian_matrix(60, 20), "tanh")
    return generators.load(name)


def close(ours, others, tolerance):
    ours, others = (np.asarray(array, dtype=float) for array in (ours, others))
    assert np.abs(ours - others).max() <= tolerance * np.abs(others).max()


@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_samples(name):
    """Of the same latents; TensorFloat-32 would be off by a thousandth."""
    here = generator(name)
    there = here.to(device="cuda")
    for ours, others in zip(there.sample(300, 5), here.sample(300, 5), strict=True):
        close(ours, others, 2e-5 if here.dtype == torch.float32 else 1e-12)


@needs_gpu
@pytest.mark.parametrize("products", ["float64", "float32"])
def test_estimates(products):
    here = generator("single-layer")
    model = generators.estimate(here, 20_000, products=products)
    there = generators.estimate(here.to(device="cuda"), 20_000, products=products)
    for name in ("Omega", "Phi", "mean_x"):
        close(getattr(there, name), getattr(model, name), 1e-12 if products == "float64" else 1e-5)
        close(there.standard_errors[name], model.standard_errors[name], 1e-6 if products == "float64" else 1e-2)


@needs_gpu
def test_one_digest_for_threads_restarts_and_shards(tmp_path):
    there = generators.load("dcgan-random").to(device="cuda")

    def digest(model):
        return model.provenance["moments_sha256"]

    serial = digest(generators.estimate(there, 20_001))
    assert digest(generators.estimate(there, 20_001, workers=3)) == serial
    generators.estimate(there, 9_000, folder=tmp_path / "more")
    assert digest(generators.estimate(there, 20_001, folder=tmp_path / "more")) == serial
    for i in (1, 2, 3):
        generators.estimate_shard(there, 20_001, (i, 3), tmp_path / "shards")
    assert digest(generators.merge(tmp_path / "shards")) == serial


@needs_gpu
@pytest.mark.parametrize("products", ["float64", "float32"])
def test_sums_go_on_from_a_state(products):
    rng = np.random.default_rng(0)
    chunks = [(rng.standard_normal((50, 3)), rng.standard_normal((50, 7))) for _ in range(4)]
    whole, first, here = OnDevice(products, None, CUDA), OnDevice(products, None, CUDA), Accumulator()
    for number, (c, x) in enumerate(chunks):
        whole.add(c, torch.from_numpy(x).to(CUDA))
        here.add(c, x)
        if number == 2:
            first = OnDevice(products, first.moments, CUDA)
        first.add(c, torch.from_numpy(x).to(CUDA))
    for ours, others in zip(whole.moments.arrays().values(), first.moments.arrays().values(), strict=True):
        np.testing.assert_array_equal(ours, others)
    close(whole.moments.xx, here.moments.xx, 1e-13 if products == "float64" else 1e-6)


@needs_gpu
def test_noise_of_a_module_follows_the_seed_and_leaves_the_state_of_the_device_alone():
    class Noisy(torch.nn.Module):
        def forward(self, c):
            return c + torch.randn_like(c)

    there = Generator(Noisy(), latent=5, device="cuda", stochastic=True)
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    first, second = there.sample(10, 1)[1], there.sample(10, 1)[1]
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def online(model):
    teacher = ge.TwoLayer.random(units=2, dim=20, activation="erf", seed=1)
    student = ge.TwoLayer.random(units=2, dim=60, activation="erf", seed=2)
    return ge.OnlineSGD(model, teacher, student, lr=0.2)


@needs_gpu
@pytest.mark.parametrize("twin", [False, True])
def test_training(twin):
    here = generator("single-layer")
    model = ge.GaussianModel.single_layer(generators.gaussian_matrix(60, 20), "tanh")
    problem, times = online(model), ge.log_times(20, 8)
    curves = [
        simulation.simulate(
            problem,
            model if twin else here.to(device=device),
            times=times,
            seeds=2,
            test_samples=2_000,
            device=device,
        )
        for device in ("cpu", "cuda")
    ]
    close(curves[1].test_error, curves[0].test_error, 1e-8)


@needs_gpu
@pytest.mark.parametrize("loss", ["square", "logistic", "hinge"])
def test_full_batch(loss):
    model = ge.GaussianModel.single_layer(generators.gaussian_matrix(60, 20), "tanh")
    weights = np.random.default_rng(1).standard_normal(20)
    problem = ge.FullBatch(model, teacher=ge.Perceptron(weights, output="sign"), loss=loss, penalty=1e-2)
    curves = [
        simulation.simulate(
            problem, generator("single-layer").to(device=device), alpha=[1.0, 3.0], seeds=2, device=device
        )
        for device in ("cpu", "cuda")
    ]
    close(curves[1].test_error, curves[0].test_error, 1e-6)


@needs_gpu
@pytest.mark.parametrize("name", ["single-layer", "dcgan-random"])
def test_checks_and_certificates(name, tmp_path):
    """Sums are those of the CPU to rounding, and of the GPU to the last bit: a check goes on from its file."""
    here = generator(name)
    N, D = here.input_dim, here.latent_dim
    W, B = (np.random.default_rng(seed).standard_normal((2, size)) for seed, size in ((1, N), (2, D)))
    student, teacher = ge.TwoLayer(W, [1.0, -1.0], "erf"), ge.TwoLayer(B, [1.0, 1.0], "erf")
    found, bounds = [], []
    for device in ("cpu", "cuda"):
        there = here.to(device=device)
        found.append(generators.check(there, None, student, teacher, samples=20_480))
        bounds.append(generators.certificate(there, student, teacher, draws=100))
    for ours, others in zip(found[1].findings, found[0].findings, strict=True):
        assert ours.value == pytest.approx(others.value, abs=1e-4)
    assert bounds[1].variance == pytest.approx(bounds[0].variance, rel=1e-3)
    there = here.to(device="cuda")
    generators.check(there, None, student, teacher, samples=9_216 * 2, folder=tmp_path)
    again = generators.check(there, None, student, teacher, samples=20_480, folder=tmp_path, workers=3)
    for ours, others in zip(again.findings, found[1].findings, strict=True):
        assert ours.value == others.value


def test_full_precision_is_restored_by_the_last_thread_that_leaves():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    entered, leave = threading.Event(), threading.Event()

    def other():
        with full_precision:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        with full_precision:
            thread.start()
            entered.wait(10)
        assert not any(switch.allow_tf32 for switch in switches)
        leave.set()
        thread.join()
        assert [switch.allow_tf32 for switch in switches] == [before[0], True]
    finally:
        leave.set()
        torch.backends.cuda.matmul.allow_tf32 = before[1]


@pytest.mark.parametrize("name", ["push", "products"])
def test_nothing_of_a_generator_is_rounded_to_eleven_bits(name):
    """Inside of a generator's pass, and of products on a device, the switches are off."""
    seen = []

    class Seeing(torch.nn.Module):
        def forward(self, c):
            seen.append(torch.backends.cudnn.allow_tf32)
            return c

    if name == "push":
        Generator(Seeing(), latent=3).push(torch.zeros(2, 3))
        assert seen
        assert not any(seen)
    else:
        sums = OnDevice("float32", None, torch.device("cpu"))
        original = OnDevice._there

        def there(self, array, dtype=torch.float64):
            seen.append(torch.backends.cuda.matmul.allow_tf32)
            return original(self, array, dtype)

        before, OnDevice._there = torch.backends.cuda.matmul.allow_tf32, there
        try:
            torch.backends.cuda.matmul.allow_tf32 = True
            sums.add(np.zeros((4, 2)), torch.ones(4, 3))
        finally:
            OnDevice._there, torch.backends.cuda.matmul.allow_tf32 = original, before
        assert not seen[-1]
