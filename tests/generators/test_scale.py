"""One result for any engine, any number of workers, any restart: an estimate is a function of generator, samples and seed."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError, StorageError
from gaussequiv.generators import collection, engines, estimation
from gaussequiv.models.streams import Purpose, stream

cloudpickle.register_pickle_by_value(sys.modules[__name__])
F = generators.gaussian_matrix(12, 5)
GENERATOR = generators.single_layer(F, "relu")
SAMPLES = 300_001  # a block and a half in every group, and a chunk of one sample


def digest(model: ge.GaussianModel) -> str:
    return model.provenance["moments_sha256"]


@pytest.fixture(scope="module")
def serial() -> ge.GaussianModel:
    return generators.estimate(GENERATOR, SAMPLES)


def same(model: ge.GaussianModel, expected: ge.GaussianModel) -> bool:
    arrays = all(np.array_equal(getattr(model, a), getattr(expected, a)) for a in ("Omega", "Phi", "mean_x"))
    errors = all(np.array_equal(model.standard_errors[a], e) for a, e in expected.standard_errors.items())
    return digest(model) == digest(expected) and arrays and errors


# --- engines ---


@pytest.mark.parametrize("workers", [2, 5])
def test_threads_do_not_change_it(serial, workers):
    assert same(generators.estimate(GENERATOR, SAMPLES, workers=workers), serial)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_do_not_change_it(serial, workers):
    assert same(generators.estimate(GENERATOR, SAMPLES, workers=workers, engine="processes"), serial)


DIGESTS = """
import sys
import torch
from gaussequiv import generators
torch.set_num_threads(int(sys.argv[1]))
layer = generators.single_layer(generators.gaussian_matrix(1333, 37), "relu")
for generator, options in (
    (layer, {}), (layer, {"workers": 2}), (layer, {"products": "float32"}), (generators.load("dcgan"), {})
):
    model = generators.estimate(generator, 8_000, **options)
    print(model.provenance["moments_sha256"], hash(model.Omega.tobytes()), hash(model.Phi.tobytes()))
"""


@pytest.mark.slow
def test_threads_of_linear_algebra_do_not_change_it():
    """Of BLAS and of torch, for matrices that they share out: 1,333 inputs are three bands."""
    found = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", DIGESTS, threads]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert len(done.stdout.split()) == 12, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_any_executor_will_do(serial):
    with ThreadPoolExecutor(3) as pool:
        assert same(generators.estimate(GENERATOR, SAMPLES, workers=3, engine=pool), serial)


@pytest.mark.slow
def test_a_standard_pool_of_processes_will_do(serial):
    with ProcessPoolExecutor(2) as pool:
        assert same(generators.estimate(GENERATOR, SAMPLES, workers=2, engine=pool), serial)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.filterwarnings("ignore")
def test_dask_does_not_change_it(serial, workers):
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            assert same(generators.estimate(GENERATOR, SAMPLES, engine=client), serial)
        assert same(generators.estimate(GENERATOR, SAMPLES, engine=cluster.scheduler_address), serial)


@dataclass(frozen=True)
class Deadly:
    """The generator, which kills the process that samples it for the first time, as long as a file is not there."""

    mark: str
    parent: int
    deaths: int = 1
    input_dim: int = 12
    latent_dim: int = 5

    def sample(self, n, rng):
        if os.getpid() != self.parent:
            with suppress(FileExistsError):
                Path(f"{self.mark}-{len(list(Path(self.mark).parent.glob('mark-*')))}").touch(exist_ok=False)
            if len(list(Path(self.mark).parent.glob("mark-*"))) <= self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return GENERATOR.sample(n, rng)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_blocks_only(serial, tmp_path):
    deadly = Deadly(str(tmp_path / "mark"), os.getpid())
    assert same(generators.estimate(deadly, SAMPLES, workers=2, engine="processes"), serial)
    assert len(list(tmp_path.glob("mark-*"))) > 1


@pytest.mark.slow
def test_workers_that_always_die_end_it(tmp_path):
    deadly = Deadly(str(tmp_path / "mark"), os.getpid(), deaths=10**9)
    with pytest.raises(StorageError, match="workers died 3 times in a row"):
        generators.estimate(deadly, SAMPLES, workers=2, engine="processes")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_of_dask_that_dies_is_replaced(serial, tmp_path):
    from distributed import Client, LocalCluster

    deadly = Deadly(str(tmp_path / "mark"), os.getpid())
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        assert same(generators.estimate(deadly, SAMPLES, engine=client), serial)
    assert len(list(tmp_path.glob("mark-*"))) > 1


# --- folders ---


def test_a_folder_is_gone_on_with_and_extended(serial, tmp_path):
    for samples in (20_000, 200_000, 262_144, SAMPLES):
        model = generators.estimate(GENERATOR, samples, folder=tmp_path / "f")
        assert same(model, generators.estimate(GENERATOR, samples))
    assert same(model, serial)
    calls = []
    again = generators.estimate(GENERATOR, SAMPLES, folder=tmp_path / "f", progress=lambda *done: calls.append(done))
    assert same(again, serial)
    assert calls == [(SAMPLES, SAMPLES)]  # nothing was left to do
    assert same(generators.merge(tmp_path / "f"), serial)
    fewer = generators.estimate(GENERATOR, 100_000, folder=tmp_path / "f")
    assert same(fewer, generators.estimate(GENERATOR, 100_000))


@pytest.fixture
def large(monkeypatch):
    """Moments of a few inputs are treated as those of thousands."""
    monkeypatch.setattr(collection, "LARGE", 10)
    monkeypatch.setattr(estimation, "LARGE", 10)
    monkeypatch.setattr(collection, "MOST", 300)


def held(found):
    return sum(moments is not None for moments in found._nodes.values())


def test_large_moments_are_in_files_and_not_in_memory(serial, tmp_path, large):
    started = estimation.Estimation.of(GENERATOR, SAMPLES, 0, "float64", tmp_path)
    counts = []
    put = started.collection.put

    def counted(block, moments):
        put(block, moments)
        counts.append(held(started.collection))

    started.collection.put = counted
    started.run(1, "threads", None)
    assert max(counts) <= 2  # 144 numbers each, and 300 may wait
    assert same(started.model(), serial)


def test_large_moments_without_a_folder_are_in_a_temporary_one_that_goes(serial, tmp_path, large, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    model = generators.estimate(
        GENERATOR, SAMPLES, progress=lambda *done: seen.append(list(tmp_path.glob("*/group-*")))
    )
    assert same(model, serial)
    assert any(seen)
    assert not list(tmp_path.iterdir())

    def stops(done, of):
        raise StopError

    monkeypatch.setattr(engines, "EVERY", 0.0)
    with ThreadPoolExecutor(2) as pool, pytest.raises(StopError):  # whose threads go on for a while
        generators.estimate(GENERATOR, SAMPLES, engine=pool, workers=2, progress=stops)
    assert not list(tmp_path.iterdir())


def test_a_merge_holds_one_group_at_a_time(serial, tmp_path, large):
    samples = 2 * 16 * 16 * 1024  # two blocks a group, which different shards did
    for i in range(1, 33):
        generators.estimate_shard(GENERATOR, samples, (i, 32), tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    merged = collection.Collection(collection.Folder(tmp_path, estimation._about(tmp_path)["key"], kept=True))
    assert held(merged) == 0
    assert same(generators.merge(tmp_path), generators.estimate(GENERATOR, samples))
    assert {file.name for file in tmp_path.iterdir()} == names


def test_a_folder_holds_few_files(tmp_path):
    generators.estimate(GENERATOR, 2_000_000, folder=tmp_path)
    names = [file.name for file in tmp_path.glob("group-*")]
    assert len(names) <= 16 * 4 + 1  # 122 chunks: 64 + 32 + 16 and an unfinished block
    assert not list(tmp_path.glob(".*"))


class StopError(KeyboardInterrupt):
    """What interrupts a test."""


@pytest.mark.parametrize("after", [1, 40_000, 150_000, 299_000])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_interruption_loses_no_block_that_was_done(serial, tmp_path, after, workers):
    seen = []

    def stops(done, of):
        seen.append(done)
        if done >= after:
            raise StopError

    with pytest.raises(StopError):
        generators.estimate(GENERATOR, SAMPLES, workers=workers, folder=tmp_path, progress=stops)
    calls = []
    model = generators.estimate(GENERATOR, SAMPLES, folder=tmp_path, progress=lambda *done: calls.append(done))
    assert same(model, serial)
    assert calls[0][0] >= max(seen) - (1 + 2 * workers) * 16 * 1024


def test_long_blocks_are_kept_in_pieces(serial, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "EVERY", 0.0)
    calls = []

    class Breaks(Deadly):
        def sample(self, n, rng):
            calls.append(n)
            if len(calls) == 30:
                raise StopError
            return GENERATOR.sample(n, rng)

    with pytest.raises(StopError):
        generators.estimate(Breaks("", 0), SAMPLES, folder=tmp_path)
    before = len(calls)
    assert same(generators.estimate(Breaks("", 0), SAMPLES, folder=tmp_path), serial)
    assert len(calls) - before < 296 - 23 + 6  # a few samples are for the fingerprint and the check of the generator


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other"])
def test_damaged_files_are_computed_again(serial, tmp_path, damage):
    generators.estimate(GENERATOR, SAMPLES, folder=tmp_path)
    file = sorted(tmp_path.glob("group-*"))[3]
    raw = bytearray(file.read_bytes())
    raw[-20] ^= 1
    contents = {"flip": bytes(raw), "truncate": bytes(raw[:-5]), "empty": b"", "other": b"hello"}
    file.write_bytes(contents[damage])
    with pytest.raises(InputError, match="blocks of 300001 samples are missing"):
        generators.merge(tmp_path)
    file.write_bytes(contents[damage])
    assert same(generators.estimate(GENERATOR, SAMPLES, folder=tmp_path), serial)


def test_what_was_left_half_written_is_swept(serial, tmp_path):
    old, new = (tmp_path / f".group-0{i}-chunk-0000000-of-1024-unfinished.0a1b2c3d.safetensors" for i in (1, 2))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert same(generators.estimate(GENERATOR, SAMPLES, folder=tmp_path), serial)
    assert not old.exists()
    assert new.exists()  # it may be that of another process, at work


OTHERS = {
    "weights": (generators.single_layer(1.0001 * F, "relu"), {}),
    "seed": (GENERATOR, {"seed": 1}),
    "precision": (GENERATOR, {"products": "float32"}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_folder_of_another_estimate_is_refused(tmp_path, other):
    generators.estimate(GENERATOR, 20_000, folder=tmp_path)
    generator, options = OTHERS[other]
    with pytest.raises(InputError, match="holds the moments of another estimate"):
        generators.estimate(generator, 20_000, folder=tmp_path, **options)


def test_files_of_somebody_else_stay_where_they_are(tmp_path):
    for name in ("group-norm.safetensors", ".group-theory.txt", "group-00-chunk-0000000.safetensors"):
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    generators.estimate(GENERATOR, 20_000, folder=tmp_path)
    generators.merge(tmp_path)
    assert (tmp_path / "group-norm.safetensors").read_text() == "mine"
    assert (tmp_path / ".group-theory.txt").exists()
    assert (tmp_path / "group-00-chunk-0000000.safetensors").exists()


@pytest.mark.parametrize("kind", ["prior", "stochastic", "stochastic in NumPy"])
def test_threads_share_global_random_numbers_without_repeating_one(kind):
    """Distributions, and modules that draw noise, use the one state that a process has."""
    seen, normal = [], torch.distributions.Normal(torch.zeros(8), torch.ones(8))

    def kept(z):
        noise = {
            "prior": lambda: torch.zeros_like(z),
            "stochastic": lambda: torch.randn_like(z),
            "stochastic in NumPy": lambda: torch.from_numpy(np.random.randn(*z.shape)).to(z),
        }[kind]()
        seen.append((z + noise)[:, 0].clone())
        return z + noise

    options = {"prior": normal} if kind == "prior" else {"stochastic": True}
    generator = generators.Generator(kept, 8, **options)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    digests = set()
    for workers in (1, 4, 4):
        seen.clear()
        digests.add(digest(generators.estimate(generator, 30_000, workers=workers)))
        drawn = torch.cat(seen)
        assert len(drawn.unique()) > 0.99 * len(drawn)
    assert len(digests) == 1
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@dataclass(frozen=True)
class Wrong:
    """An object whose samples are not what it says."""

    found: object
    latent_dim: int = 3
    input_dim: int = 4

    def sample(self, n, rng):
        return self.found(n)


@pytest.mark.parametrize(
    "found",
    [
        lambda n: None,
        lambda n: (np.zeros((n, 3)), np.zeros((n, 5))),
        lambda n: (np.zeros((n, 2)), np.zeros((n, 4))),
        lambda n: (np.zeros((n - 1, 3)), np.zeros((n - 1, 4))),
        lambda n: (np.zeros((n, 3)), np.full((n, 4), np.nan)),
        lambda n: (np.zeros((n, 3)), np.zeros((n, 4), complex)),
    ],
)
def test_samples_that_are_none_name_their_chunk(found):
    with pytest.raises(InputError, match=r"chunk 0 of the estimate \(seed 0\): sample returned"):
        generators.estimate(Wrong(found), 5_000)


def test_infinities_of_the_generators_own_precision_are_refused():
    generator = generators.Generator(lambda z: z.double() * 1e39, 3)
    with pytest.raises(InputError, match="returned a NaN or an infinity"):
        generator.sample(2, 0)


def test_what_happens_to_a_module_later_does_not_reach_its_generator():
    net = torch.nn.Linear(5, 4, bias=False)
    generator = generators.Generator(net, 5)
    before = generator.sample(3, 0)[1]
    with torch.no_grad():
        net.weight.mul_(7)
    for other in (generator, generator.to(batch_size=2), generator.then(torch.nn.Identity())):
        np.testing.assert_allclose(other.sample(3, 0)[1], before, rtol=1e-4, atol=1e-6)


# --- shards ---


def test_shards_of_one_number_are_done_again_by_another(serial, tmp_path):
    for i in (1, 3, 4):  # two of five never ran
        done = generators.estimate_shard(GENERATOR, SAMPLES, (i, 5), tmp_path)
        assert str(done).startswith(f"shard {i} of 5: {done.blocks} blocks done in ")
    with pytest.raises(InputError, match="are missing"):
        generators.merge(tmp_path)
    for i in (3, 1, 2):
        generators.estimate_shard(GENERATOR, SAMPLES, (i, 3), tmp_path)
    assert same(generators.merge(tmp_path), serial)
    assert same(generators.merge(tmp_path), serial)


def test_a_shard_of_other_samples_is_told_from_the_others(tmp_path):
    for shard in ((1, 2), (2, 2)):
        generators.estimate_shard(GENERATOR, 30_000, shard, tmp_path)
    generators.estimate_shard(GENERATOR, 40_000, (1, 3), tmp_path)
    with pytest.raises(InputError, match="blocks of 40000 samples are missing"):
        generators.merge(tmp_path)
    with pytest.raises(
        InputError, match="blocks of 30000 samples are missing"
    ):  # longer blocks have replaced shorter ones
        generators.merge(tmp_path, 30_000)
    for shard in ((1, 2), (2, 2)):
        generators.estimate_shard(GENERATOR, 30_000, shard, tmp_path)
    assert same(generators.merge(tmp_path, 30_000), generators.estimate(GENERATOR, 30_000))


def test_shards_at_the_same_time_do_not_disturb_each_other(serial, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "EVERY", 0.0)
    failures = []

    def run(i):
        try:
            generators.estimate_shard(GENERATOR, SAMPLES, (i, 3), tmp_path)
        except Exception as error:
            failures.append(error)

    generators.estimate_shard(GENERATOR, SAMPLES, (2, 5), tmp_path)
    threads = [threading.Thread(target=run, args=(i,)) for i in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert same(generators.merge(tmp_path), serial)


CHILD = """
import sys
from gaussequiv import generators
import gaussequiv.generators.collection as collection
collection.EVERY = 0.0
generator = generators.single_layer(generators.gaussian_matrix(12, 5), "relu")
arguments = eval(sys.argv[2])
if __name__ == "__main__":
    if "shard" in arguments:
        generators.estimate_shard(generator, 300_001, folder=sys.argv[1], **arguments)
    else:
        print(generators.estimate(generator, 300_001, folder=sys.argv[1], **arguments).provenance["moments_sha256"])
"""


def command(folder: Path, **arguments) -> list[str]:
    return [sys.executable, "-c", CHILD, str(folder), repr(arguments)]


def child(folder: Path, **arguments) -> subprocess.Popen:
    return subprocess.Popen(command(folder, **arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(process: subprocess.Popen, folder: Path, delay: float, how=signal.SIGKILL) -> None:
    """Kill a process some time after it has begun to write."""
    deadline = time.monotonic() + 60
    while not list(folder.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(how)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("arguments", [{}, {"workers": 2, "engine": "processes"}], ids=["serial", "processes"])
def test_a_process_that_is_killed_goes_on(serial, tmp_path, delay, arguments):
    for _ in range(3):
        killed(child(tmp_path, **arguments), tmp_path, delay)
    done = subprocess.run(command(tmp_path, **arguments), capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == digest(serial), done.stderr


@pytest.mark.slow
def test_shards_that_are_killed_are_redone_by_others(serial, tmp_path):
    for i, delay in ((1, None), (2, 0.01), (3, None), (4, 0.03), (5, None)):
        process = child(tmp_path, shard=(i, 5))
        if delay is None:
            assert process.wait() == 0
        else:
            killed(process, tmp_path, delay)
    for process in [child(tmp_path, shard=(i, 3)) for i in (1, 2, 3)]:
        assert process.wait() == 0
    assert same(generators.merge(tmp_path), serial)


def test_a_killed_process_has_left_what_it_did(tmp_path):
    """The files are there before the end: what the tests above go on from is not nothing."""
    process = child(tmp_path)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("group-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    done = []
    generators.estimate(GENERATOR, SAMPLES, folder=tmp_path, progress=lambda *counts: done.append(counts))
    assert done[0][0] >= 2 * 16 * 1024 or len(done) == 1


def test_what_a_worker_left_of_a_block_goes_with_the_block(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "EVERY", 0.0)
    generators.estimate(GENERATOR, SAMPLES, folder=tmp_path, workers=2)
    names = [file.name for file in tmp_path.glob("group-*-unfinished.safetensors")]
    assert all("chunk-0000000" not in name for name in names)  # all groups have one whole block, and begin another


@pytest.mark.slow
def test_functions_that_see_other_values_in_a_process_are_refused(tmp_path):
    """A function of a module is sent by its name; the module is another one there."""
    (tmp_path / "sees_other_values.py").write_text("gain = 1.0\n\n\ndef f(z):\n    return gain * z\n")
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import os; os.environ["PYTHONPATH"] = sys.argv[1]
import sees_other_values as module
from gaussequiv import generators
module.gain = float(sys.argv[2])
try:
    print(generators.estimate(generators.Generator(module.f, 3), 20_000, engine="processes", workers=2))
except generators.estimation.InputError as error:
    print(error)
"""
    for gain, expected in (("1", "GaussianModel(N=3"), ("5", "the generator gives other samples in another process")):
        command = [sys.executable, "-c", code, str(tmp_path), gain]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert expected in done.stdout, done.stderr


def test_moments_of_weights_that_first_samples_do_not_see_are_not_taken_for_each_other(tmp_path):
    class Rare(torch.nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = torch.nn.Parameter(torch.tensor(size))

        def forward(self, z):
            return z + self.size * (z[:, :1] > 3.7)

    generators.estimate(generators.Generator(Rare(1.0), 3), 20_000, folder=tmp_path)
    with pytest.raises(InputError, match="another estimate"):
        generators.estimate(generators.Generator(Rare(30.0), 3), 20_000, folder=tmp_path)


def test_inputs_that_no_matrix_holds_are_refused_before_anything_is_made():
    generator = generators.Generator(lambda z: z[:, :1].expand(-1, 2_000_000), 3)
    with pytest.raises(InputError, match=r"N=2000000 inputs need about .* GB for .*sampled_model"):
        generators.estimate(generator, 20_000)


# --- stopping by accuracy ---


def test_it_stops_when_the_quantities_are_accurate():
    model = generators.estimate(GENERATOR, 10_000_000, rtol=3e-3)
    found = model.provenance["convergence"]
    assert found["reached"]
    errors = [row["relative_error"] for row in found["rows"]]
    assert errors[-1] <= 3e-3 < min(errors[:-1], default=np.inf)
    exact = ge.GaussianModel.single_layer(F, "relu")
    quantities = generators.field_covariances(12, 5)
    scale = np.abs(quantities(exact)).max()
    assert np.abs(quantities(model) - quantities(exact)).max() < 5 * 3e-3 * scale
    assert same(model, generators.estimate(GENERATOR, found["rows"][-1]["samples"]))


def test_the_limit_of_samples_ends_it_as_well():
    model = generators.estimate(GENERATOR, 40_000, rtol=1e-6)
    found = model.provenance["convergence"]
    assert not found["reached"]
    assert [row["samples"] for row in found["rows"]] == [16_384, 40_000]


def test_ones_own_quantities_decide():
    model = generators.estimate(GENERATOR, 10**7, rtol=0.01, quantities=lambda m: np.trace(m.Omega))
    spread = model.jackknife(lambda m: np.trace(m.Omega))
    assert spread.error <= 0.01 * spread.value


WRONG = {
    "engine": ({"engine": "gpu"}, "engine: 'gpu'; expected 'threads', 'processes', an Executor, a Dask client"),
    "engine of another type": ({"engine": 3, "workers": 2}, "engine: an int"),
    "address": ({"engine": "tcp://127.0.0.1:1"}, "there is no Dask scheduler at tcp://127.0.0.1:1"),
    "products": ({"products": "float16"}, "products='float16'; expected 'float64' or 'float32'"),
    "rtol": ({"rtol": -1}, "rtol=-1; expected a positive finite number"),
    "seed": ({"seed": -1}, "seed=-1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_refused_in_one_sentence(wrong):
    options, sentence = WRONG[wrong]
    with pytest.raises(InputError, match=sentence):
        generators.estimate(GENERATOR, 20_000, **options)


@pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1.5, 3), 2, (1, 2, 3)])
def test_wrong_shards_are_refused(tmp_path, shard):
    with pytest.raises(InputError, match="shard"):
        generators.estimate_shard(GENERATOR, 20_000, shard, tmp_path)


def test_what_cannot_be_sent_is_refused():
    lock = threading.Lock()
    generator = generators.Generator(lambda c: c * lock.locked(), latent=3)
    with pytest.raises(InputError, match="cannot be sent to other processes"):
        generators.estimate(generator, 20_000, workers=2, engine="processes")


def test_a_folder_that_holds_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"does not hold an estimate, as there is no plan\.json"):
        generators.merge(tmp_path)
    for text in ("", "[]", '{"samples": 40000, "key": "k"}'):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(InputError, match=r"plan\.json is damaged; run a shard again, which writes it"):
            generators.merge(tmp_path)
    with pytest.raises(InputError, match="a data set has no shards"):
        generators.estimate_shard(generators.dataset(np.zeros((20, 3)) + np.eye(20, 3)), 100, (1, 2), tmp_path)


class Reused(Deadly):
    """The generator, whose inputs are always in the same memory."""

    def sample(self, n, rng):
        latents, inputs = GENERATOR.sample(n, rng)
        np.copyto(MEMORY[:n], inputs)
        return latents, MEMORY[:n]


MEMORY = np.empty((1024, 12))


def test_an_object_may_return_the_same_memory_each_time(serial):
    assert same(generators.estimate(Reused("", 0), SAMPLES), serial)


def test_a_block_that_is_complete_in_its_file_is_done(tmp_path):
    job = engines.Job(GENERATOR, 0, folder=collection.Folder(tmp_path, "key"))
    block = engines.Block(0, 16, 3, 64)
    moments = job.moments(block)
    job.folder.save(engines.Node.of(block), moments)
    np.testing.assert_array_equal(job.moments(block).xx, moments.xx)


def of_chunk(number):
    """The first latents of a chunk, by which it is known."""
    return stream(0, Purpose.ESTIMATE, chunk=number).standard_normal(5)


@pytest.mark.parametrize("chunk", [0, 16, 32, 112])
@pytest.mark.parametrize("own", [False, True])
def test_what_fails_names_the_chunk_also_where_it_was_drawn_ahead(chunk, own):
    """Chunks 0, 16, 32 are the first of group 0."""
    bad = of_chunk(chunk)

    def broken(c):
        if np.allclose(np.asarray(c)[0], bad):
            raise RuntimeError("no more of it\nin two lines")
        return c

    class Own(Deadly):
        def sample(self, n, rng):
            c, x = GENERATOR.sample(n, rng)
            broken(c)
            return c, x

    generator = Own("", 0) if own else generators.Generator(broken, 5, dtype=torch.float64, batch_size=1024)
    with pytest.raises(InputError, match=rf"chunk {chunk} of the estimate \(seed 0\): .*no more of it") as seen:
        generators.estimate(generator, 200_000)
    assert "\n" not in str(seen.value)


def test_the_thread_that_draws_ahead_has_the_callers_number_of_threads():
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(before + 1)
    try:
        generators.estimate(generators.Generator(lambda c: (seen.add(torch.get_num_threads()), c)[1], 3), 100_000)
    finally:
        torch.set_num_threads(before)
    assert seen == {before + 1}


def test_tensors_with_gradients_are_numbers_too(serial):
    class Tensors(Deadly):
        def sample(self, n, rng):
            c, x = map(torch.from_numpy, GENERATOR.sample(n, rng))
            return c, x.requires_grad_()

    assert same(generators.estimate(Tensors("", 0), SAMPLES), serial)


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_standard_errors_do_not_depend_on_where_inputs_are(mean):
    def at(offset):
        return generators.estimate(
            generators.Generator(
                lambda c: c @ torch.ones(5, 2).double() + c[:, :2] ** 2 + offset, 5, dtype=torch.float64
            ),
            60_000,
        )

    here, there = at(0.0), at(mean)
    for name in ("Omega", "Phi", "mean_x"):
        np.testing.assert_allclose(there.standard_errors[name], here.standard_errors[name], rtol=0.02)


def test_extra_state_of_a_module_is_not_taken_for_weights(tmp_path):
    class Stateful(torch.nn.Module):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass

        def forward(self, z):
            return z

    assert generators.estimate(generators.Generator(Stateful(), 3), 20_000, folder=tmp_path).input_dim == 3
