"""Random streams: a pure function of seed, purpose, stream and chunk, whatever the number of workers.

Every stream is a counter-based Philox generator with key (seed, chunk) and the purpose in the top word of its counter,
so that one seed never repeats the latents of its estimate in its training or test sets.
"""

from enum import IntEnum

import numpy as np

from gaussequiv.errors import InputError, integer


class Purpose(IntEnum):
    """What random numbers are drawn for."""

    SAMPLE = 0
    ESTIMATE = 1
    TRAIN = 2
    TEST = 3
    CHECK = 4
    WEIGHTS = 5
    NETWORK = 6
    PRETRAIN = 7


def stream(seed: int, purpose: Purpose, *, chunk: int = 0, lane: int = 0) -> np.random.Generator:
    """Philox stream with key (seed, chunk) and counter (0, 0, lane, purpose).

    `lane` numbers independent streams of one purpose (the seeds of a simulation), `chunk` consecutive pieces of one
    stream. A piece may draw up to 2^128 blocks before it would meet the next lane.
    """
    for name, value in (("seed", seed), ("chunk", chunk), ("lane", lane)):
        if integer(name, value, least=0) >= 2**64:
            raise InputError(f"{name}={value}; expected less than 2^64")
    counter = np.array([0, 0, lane, purpose], dtype=np.uint64)
    key = np.array([seed, chunk], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def as_rng(rng: np.random.Generator | int, purpose: Purpose = Purpose.SAMPLE) -> np.random.Generator:
    """A NumPy generator as it is, or the stream of an integer seed."""
    return rng if isinstance(rng, np.random.Generator) else stream(integer("rng", rng, least=0), purpose)
