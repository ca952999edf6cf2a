"""The table of `maths/sliced_null.csv`: the largest sliced distance of Gaussian samples. `python benchmarks/sliced_null.py FILE`.

About an hour of one core; the rows are written as they come, and a file that is there is completed.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

from gaussequiv.maths import sliced

SIZES = (512, 2048, 8192, 32_768)
DIMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
DRAWS = {512: 2000, 2048: 2000, 8192: 600, 32_768: 240}
HEAD = "samples,dimensions,mean times n,standard deviation times n,skewness\n"


def row(n: int, d: int) -> str:
    """Mean, standard deviation and skewness of n W^2 over simulated samples."""
    rng = np.random.default_rng([n, d])
    values = [n * sliced.worst(sliced.whitened(rng.standard_normal((n, d)))[0], rng).value for _ in range(DRAWS[n])]
    return f"{n},{d},{np.mean(values):.6g},{np.std(values, ddof=1):.6g},{stats.skew(values, bias=False):.4g}\n"


def main() -> None:
    """Write what is missing."""
    path = Path(sys.argv[1])
    if not path.exists():
        path.write_text(HEAD)
    done = {tuple(line.split(",")[:2]) for line in path.read_text().splitlines()}
    for n in SIZES:
        for d in DIMS:
            if (str(n), str(d)) not in done:
                with path.open("a") as file:
                    file.write(row(n, d))


if __name__ == "__main__":
    main()
