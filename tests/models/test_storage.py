"""Files are written whole or not at all."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gaussequiv.errors import StorageError
from gaussequiv.models.storage import atomic_write, atomic_write_text, load_arrays, save_arrays


def test_a_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file.txt"
    atomic_write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(StorageError, match=r"could not write .*file.txt: the disk is full"):
        atomic_write(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_size_limit_is_a_storage_error(tmp_path):
    code = (
        "import resource, signal, numpy as np\n"
        "from gaussequiv.models.storage import save_arrays\n"
        "from gaussequiv.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n    save_arrays('a.safetensors', 'model', {'x': np.zeros(100_000)}, {})\n"
        "except StorageError as error:\n    print('stored not')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "stored not", done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(path, "model", {"x": np.zeros(2_000_000)}, {"n": -1})
    code = (
        "import itertools, numpy as np\nfrom gaussequiv.models.storage import save_arrays\n"
        "print('ready', flush=True)\n"
        "for n in itertools.count():\n    save_arrays('a.safetensors', 'model', {'x': np.full(2_000_000, n)}, {'n': n})\n"
    )
    rng = np.random.default_rng(0)
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        arrays, metadata = load_arrays(path, "model")
        assert (arrays["x"] == max(metadata["n"], 0)).all()
