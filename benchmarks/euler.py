"""The rival of the benchmarks: forward Euler on all modes, by pairs of fields, in compiled loops.

Written from the equations of arXiv:2006.14709 and the averages of Saad and Solla (1995), the way the published program
integrates them: a fixed step, the drift of every mode projected on pairs of fields, with its determinants.
"""

import math

import numba
import numpy as np


@numba.njit(cache=True)
def i2(C, a, b):
    return 2 / math.pi * math.asin(C[a, b] / math.sqrt((1 + C[a, a]) * (1 + C[b, b])))


@numba.njit(cache=True)
def i3(C, a, b, c):
    root = math.sqrt((1 + C[a, a]) * (1 + C[c, c]) - C[a, c] ** 2)
    return 2 / math.pi / root * (C[b, c] * (1 + C[a, a]) - C[a, b] * C[a, c]) / (1 + C[a, a])


@numba.njit(cache=True)
def i4(C, a, b, c, d):
    L4 = (1 + C[a, a]) * (1 + C[b, b]) - C[a, b] ** 2
    L0 = L4 * C[c, d] - C[b, c] * C[b, d] * (1 + C[a, a]) - C[a, c] * C[a, d] * (1 + C[b, b])
    L0 += C[a, b] * C[a, c] * C[b, d] + C[a, b] * C[a, d] * C[b, c]
    L1 = (
        L4 * (1 + C[c, c])
        - C[b, c] ** 2 * (1 + C[a, a])
        - C[a, c] ** 2 * (1 + C[b, b])
        + 2 * C[a, b] * C[a, c] * C[b, c]
    )
    L2 = (
        L4 * (1 + C[d, d])
        - C[b, d] ** 2 * (1 + C[a, a])
        - C[a, d] ** 2 * (1 + C[b, b])
        + 2 * C[a, b] * C[a, d] * C[b, d]
    )
    return 4 / math.pi**2 / math.sqrt(L4) * math.asin(L0 / math.sqrt(L1 * L2))


@numba.njit(cache=True)
def move(C, K, M, k, rho, v, a, student, teacher):
    """The drift of w_k times another coordinate with overlaps `student` (K,) and `teacher` (M,) in this mode."""
    total = -rho * student[k] * v[k] ** 2 * i3(C, k, k, k) / C[k, k]
    for j in range(K):
        if j != k:
            det = C[j, j] * C[k, k] - C[k, j] ** 2
            own, other = i3(C, k, k, j), i3(C, k, j, j)
            total -= rho * student[k] * v[k] * v[j] * (C[j, j] * own - C[k, j] * other) / det
            total -= rho * student[j] * v[k] * v[j] * (C[k, k] * other - C[k, j] * own) / det
    for n in range(M):
        x = K + n
        det = C[k, k] * C[x, x] - C[k, x] ** 2
        own, other = i3(C, k, k, x), i3(C, k, x, x)
        total += rho * student[k] * v[k] * a[n] * (C[x, x] * own - C[k, x] * other) / det
        total += teacher[n] * v[k] * a[n] * (C[k, k] * other - C[k, x] * own) / det
    return total


@numba.njit(cache=True)
def integrate(rho, r, q, tt, T, v, a, eta, dt, steps):
    """`steps` of forward Euler: modes first, r (N, K, M), q (N, K, K), tt (N, M, M), in units where R is the sum of r."""
    N, K, M = r.shape
    C = np.zeros((K + M, K + M))
    C[K:, K:] = T
    s = np.concatenate((v, -a))
    for _ in range(steps):
        C[:K, :K] = 0.0
        C[:K, K:] = 0.0
        for n in range(N):
            C[:K, :K] += rho[n] * q[n]
            C[:K, K:] += r[n]
        C[K:, :K] = C[:K, K:].T
        s[:K] = v
        G = np.zeros((K, K))
        for k in range(K):
            for m in range(K):
                for i in range(K + M):
                    for j in range(K + M):
                        G[k, m] += s[i] * s[j] * i4(C, k, m, i, j)
                G[k, m] *= v[k] * v[m]
        f = np.zeros(K)
        for k in range(K):
            for i in range(K + M):
                f[k] += s[i] * i2(C, k, i)
        dr, dq = np.empty((K, M)), np.empty((K, K))
        for n in range(N):
            for k in range(K):
                for m in range(M):
                    dr[k, m] = eta * move(C, K, M, k, rho[n], v, a, r[n, :, m], tt[n, :, m])
                for m in range(K):
                    dq[k, m] = eta * move(C, K, M, k, rho[n], v, a, q[n, :, m], r[n, m])
            r[n] += dt * dr
            q[n] += dt * (dq + dq.T + eta**2 * rho[n] / N * G)
        v = v - dt * eta * f
    return v
