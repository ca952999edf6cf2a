"""The size of colour images, N = 3072: one digest for every engine and restart, and memory of workers. `make validate`."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import pytest

from gaussequiv import generators
from gaussequiv.generators import Generator

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
N, D, SAMPLES = 3072, 100, 40_001  # three chunks or two a group, and a last one of other size
GENERATOR = generators.single_layer(generators.gaussian_matrix(N, D), "relu")
GIGABYTE = 2**20  # in kB


def digest(model):
    return model.provenance["moments_sha256"]


@pytest.fixture(scope="module")
def serial():
    return digest(generators.estimate(GENERATOR, SAMPLES))


@dataclass(frozen=True)
class Deadly:
    """The generator, which kills the first process that samples it, other than the parent."""

    mark: str
    parent: int
    input_dim: int = N
    latent_dim: int = D

    def sample(self, n, rng):
        if os.getpid() != self.parent:
            with suppress(FileExistsError):
                Path(self.mark).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return GENERATOR.sample(n, rng)


def test_two_processes_of_which_one_dies(serial, tmp_path):
    deadly = Deadly(str(tmp_path / "mark"), os.getpid())
    assert digest(generators.estimate(deadly, SAMPLES, workers=2, engine="processes")) == serial
    assert Path(deadly.mark).exists()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_dask(serial, workers):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        assert digest(generators.estimate(GENERATOR, SAMPLES, engine=client)) == serial


CHILD = """
import sys
import gaussequiv.generators.collection as collection, gaussequiv.generators.engines as engines
from gaussequiv import generators
collection.EVERY = engines.EVERY = 0.0
generator = generators.single_layer(generators.gaussian_matrix(3072, 100), "relu")
shard = eval(sys.argv[2])
if shard:
    generators.estimate_shard(generator, 40_001, shard, sys.argv[1])
else:
    print(generators.estimate(generator, 40_001, folder=sys.argv[1]).provenance["moments_sha256"])
"""


def child(folder, shard=None):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), repr(shard)], stdout=subprocess.PIPE, text=True)


def killed(process, folder, files):
    """Kill a process as soon as there are so many files."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob("group-*"))) < files and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()


def test_a_parent_that_is_killed_three_times_and_goes_on(serial, tmp_path):
    for files in (1, 3, 7):
        killed(child(tmp_path), tmp_path, files)
    assert child(tmp_path).communicate()[0].strip() == serial


def test_five_shards_of_which_two_are_killed_and_redone_by_three(serial, tmp_path):
    for i, files in ((1, None), (2, 5), (3, None), (4, 11), (5, None)):
        process = child(tmp_path, (i, 5))
        if files is None:
            process.communicate()
        else:
            killed(process, tmp_path, files)
    for i in (1, 2, 3):
        child(tmp_path, (i, 3)).communicate()
    assert digest(generators.merge(tmp_path)) == serial


def peaks(pids):
    """Largest resident memory so far of processes and their children, kB by number."""
    found, waiting = {}, list(pids)
    while waiting:
        pid = waiting.pop()
        with suppress(OSError, StopIteration):
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            found[pid] = int(next(line for line in status if line.startswith("VmHWM")).split()[1])
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of processes from /proc")
def test_a_check_of_ten_million_samples_needs_less_than_a_gigabyte():
    code = (
        "import numpy as np\n"
        "from gaussequiv import generators\n"
        "generator = generators.single_layer(generators.gaussian_matrix(64, 32), 'tanh')\n"
        "student, teacher = (np.random.default_rng(0).standard_normal((8, size)) for size in (64, 32))\n"
        "found = generators.check(generator, None, student, teacher, samples=10_000_000, workers=2)\n"
        "assert found.samples >= 10_000_000\n"
        "status = open('/proc/self/status').read().splitlines()\n"  # getrusage counts the parent before exec as well
        "print(next(line for line in status if line.startswith('VmHWM')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < GIGABYTE


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of processes from /proc")
@pytest.mark.parametrize("shards", [False, True])
def test_a_worker_of_a_dcgan_of_colour_images_needs_less_than_a_gigabyte(tmp_path, shards):
    """Of two worker processes, and of one that does a shard."""
    seen, ended, me = {}, threading.Event(), os.getpid()

    def watch():
        while not ended.wait(0.1):
            seen.update({pid: max(kB, seen.get(pid, 0)) for pid, kB in peaks([me]).items()})

    threading.Thread(target=watch).start()
    try:
        if shards:
            code = (
                "import sys; from gaussequiv import generators\n"
                "generator = generators.load('dcgan-random-32')\n"
                "generators.estimate_shard(generator, 20_480, (1, 2), sys.argv[1])"
            )
            subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        else:
            generator = generators.load("dcgan-random-32")
            assert isinstance(generator, Generator)
            assert generator.input_dim == N
            generators.estimate(generator, 20_480, workers=2, engine="processes", folder=tmp_path)
    finally:
        ended.set()
    workers = [kB for pid, kB in seen.items() if pid != me]
    assert max(workers) > GIGABYTE // 8  # they were seen
    assert max(workers) < GIGABYTE
