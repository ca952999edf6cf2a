"""Moments with the generator on a GPU, beside the usual loop there: `python benchmarks/gpu.py`, two minutes, prints a table.

Samples a second of two blocks of 16 chunks, N = 3072, best of three. The usual loop draws latents on the device and keeps
running averages in float32; what it leaves out: seeds by chunk, centring, float64, errors.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from gaussequiv import generators
from gaussequiv.generators import Generator
from gaussequiv.generators.engines import Job, work
from gaussequiv.generators.plan import CHUNK, Plan
from gaussequiv.generators.precision import full_precision

N, CHUNKS = 3072, 64
BLOCKS = [block for block in Plan(600_000).blocks if block.count == 16][: CHUNKS // 16]


def rate(go: Callable[[], object], rounds: int = 3) -> float:
    """Samples a second, the best of some rounds after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        go()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return CHUNKS * CHUNK / min(times[1:])


def ours(generator: Generator, products: str, workers: int) -> None:
    """Blocks of an estimate."""
    for _ in work(Job(generator, 0, products), BLOCKS, lambda block: None, "threads", workers, lambda count: None):
        pass


def drawn(generator: Generator) -> None:
    """Latents and inputs alone, as an estimate draws them."""
    for block in BLOCKS:
        for chunk in block.chunks:
            generator.draw(CHUNK, chunk)


def usual(generator: Generator) -> None:
    """Running averages of float32 batches on the device."""
    mean = torch.zeros(N, device="cuda")
    Omega = torch.zeros(N, N, device="cuda")
    Phi = torch.zeros(N, generator.latent_dim, device="cuda")
    with torch.no_grad():
        for step in range(1, CHUNKS + 1):
            c = torch.randn(CHUNK, generator.latent_dim, device="cuda")
            x = generator.push(c).float()
            mean += (x.mean(0) - mean) / step
            Omega += (x.T @ x / len(x) - Omega) / step
            Phi += (x.T @ c / len(x) - Phi) / step


def product(dtype: torch.dtype) -> None:
    """The whole matrix product alone."""
    x = torch.randn(CHUNK, N, device="cuda", dtype=dtype)
    with full_precision:
        for _ in range(CHUNKS):
            x.T @ x


def main() -> None:
    """Print the table."""
    print(torch.cuda.get_device_name(), torch.__version__)
    for dtype in (torch.float64, torch.float32):
        print(f"x^T x alone, {dtype}: {rate(lambda dtype=dtype: product(dtype)):.3g} samples/s")
    single = generators.single_layer(generators.gaussian_matrix(N, 100)).to(dtype=torch.float32)
    for name, here in (("sign(F c)", single), ("dcgan-random-32", generators.load("dcgan-random-32"))):
        there = here.to(device="cuda", batch_size=CHUNK)
        print(f"{name}: latents and forward pass {rate(lambda there=there: drawn(there)):.3g} samples/s")
        for products in ("float64", "float32"):
            for workers in (1, 4):
                speed = rate(lambda there=there, p=products, w=workers: ours(there, p, w))
                print(f"{name}: ours, {products}, {workers} threads: {speed:.3g} samples/s")
        print(f"{name}: the usual loop {rate(lambda there=there: usual(there)):.3g} samples/s")
    student, teacher = (np.random.default_rng(0).standard_normal((8, size)) for size in (N, 100))
    for samples in (131_072, 1_048_576):
        start = time.perf_counter()
        found = generators.check(there, None, student, teacher, samples=samples, workers=4)
        seconds = time.perf_counter() - start
        print(f"dcgan-random-32: check of 16 fields, {samples} samples: {seconds:.1f} s, {found.sentence}")
    start = time.perf_counter()
    bound = generators.certificate(there, student[:2], teacher[:2], draws=1000)
    print(f"dcgan-random-32: {bound}: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    model = generators.estimate(there, 262_144, products="float32", workers=4)
    seconds = time.perf_counter() - start
    print(
        f"dcgan-random-32: estimate of 262,144 samples with errors {seconds:.1f} s, {model.provenance['relative_error']}"
    )


if __name__ == "__main__":
    main()
