"""The motion of the modes and the linear solves of `motion`, written out and compiled by numba where it is installed.

Shapes and letters are those of `motion`: the mode axis is the last one, and the state is flat, (r, q, v).
"""

import numpy as np

from gaussequiv.maths.averages import Array
from gaussequiv.maths.compiled import compiled


@compiled(reordered=True)
def total(x: Array) -> float:
    """The sum of the entries."""
    found = 0.0
    for i in range(len(x)):
        found += x[i]
    return found


@compiled(reordered=True)
def dot(x: Array, y: Array) -> float:
    """The product x . y."""
    found = 0.0
    for i in range(len(x)):
        found += x[i] * y[i]
    return found


@compiled()
def overlaps(y: Array, rho: Array, K: int, M: int, outputs: int) -> tuple[Array, Array, Array]:
    """Q = sum rho q, R = sum r, and v."""
    n, Q, R, v = len(rho), np.empty((K, K)), np.empty((K, M)), np.empty((K, outputs))
    first = 0
    for k in range(K):
        for m in range(M):
            R[k, m] = total(y[first : first + n])
            first += n
    for k in range(K):
        for j in range(K):
            Q[k, j] = dot(rho, y[first : first + n])
            first += n
    for k in range(K):
        for o in range(outputs):
            v[k, o] = y[first]
            first += 1
    return Q, R, v


@compiled()
def velocity(
    y: Array,
    c: tuple[Array, Array, Array, Array],
    modes: tuple[Array, Array, Array],
    lr: float,
    lr_readout: float,
    batch_size: int,
    decay: float,
) -> Array:
    """The time derivative of the state for given coefficients c = (A, B, G, f) on modes (rho, source, tt)."""
    (A, B, G, f), (rho, source, tt) = c, modes
    (K, M), n, outputs = B.shape, len(rho), f.shape[1]
    of_q, of_v = K * M * n, K * (K + M) * n
    r, q, dy = y[:of_q].reshape(K, M, n), y[of_q:of_v].reshape(K, K, n), np.empty_like(y)
    dr, dq = dy[:of_q].reshape(K, M, n), dy[of_q:of_v].reshape(K, K, n)
    half, noise = np.empty((K, K, n)), lr * lr / batch_size
    for k in range(K):
        for m in range(M):
            for i in range(n):
                dr[k, m, i] = -lr * decay * r[k, m, i]
            for j in range(K):
                for i in range(n):
                    dr[k, m, i] -= lr * A[k, j] * rho[i] * r[j, m, i]
            for j in range(M):
                for i in range(n):
                    dr[k, m, i] -= lr * B[k, j] * tt[j, m, i]
        for j in range(K):
            for i in range(n):
                half[k, j, i] = decay * q[k, j, i]
            for l in range(K):  # noqa: E741
                for i in range(n):
                    half[k, j, i] += A[k, l] * rho[i] * q[l, j, i]
            for m in range(M):
                for i in range(n):
                    half[k, j, i] += B[k, m] * r[j, m, i]
    for k in range(K):
        for j in range(K):
            for i in range(n):
                dq[k, j, i] = -lr * (half[k, j, i] + half[j, k, i]) + noise * G[k, j] * source[i]
    for k in range(K):
        for o in range(outputs):
            at = of_v + k * outputs + o
            dy[at] = -lr_readout * (f[k, o] + decay * y[at])
    return dy


@compiled()
def turn(V: Array, r: Array, q: Array) -> tuple[Array, Array]:
    """V r and V q V^T for every mode."""
    (K, M, n), turned = r.shape, np.zeros(r.shape)
    half, both = np.zeros((K, K, n)), np.zeros((K, K, n))
    for k in range(K):
        for j in range(K):
            for m in range(M):
                for i in range(n):
                    turned[k, m, i] += V[k, j] * r[j, m, i]
            for l in range(K):  # noqa: E741
                for i in range(n):
                    half[k, l, i] += V[k, j] * q[j, l, i]
    for l in range(K):  # noqa: E741
        for j in range(K):
            for k in range(K):
                for i in range(n):
                    both[k, l, i] += V[l, j] * half[k, j, i]
    return turned, both


@compiled()
def settle(r: Array, q: Array, B: Array, eta: float, d1: Array, d2: Array) -> None:
    """The solve with frozen coefficients in the eigenbasis of A, in place."""
    K, M, n = r.shape
    for k in range(K):
        for m in range(M):
            for i in range(n):
                r[k, m, i] *= d1[k, i]
    for k in range(K):
        for j in range(K):
            for m in range(M):
                for i in range(n):
                    q[k, j, i] -= eta * (B[k, m] * r[j, m, i] + B[j, m] * r[k, m, i])
            for i in range(n):
                q[k, j, i] *= d2[k, j, i]


@compiled()
def solve(
    b: Array,
    g: float,
    rates: tuple[float, float, float],
    modes: tuple[Array, Array, Array],
    frame: tuple[Array, Array, Array, Array],
    d: tuple[Array, Array, Array, Array],
    damping: tuple[Array, Array, float],
    inverse: Array,
) -> Array:
    """The solution of (I - g J) x = b.

    Args:
        b: right-hand side.
        g: step times the diagonal coefficient of the method.
        rates: learning rate, that of the readout, and eta^2 / b of the noise.
        modes: rho, source and tt.
        frame: V, the eigenbasis of A; B, r and q in it.
        d: derivatives of A, B and G in it, and of f.
        damping: d1, d2 and d3 of the solve with frozen coefficients.
        inverse: of I minus the response of (Q, R, v).

    """
    (rho, source, tt), (V, B, r, q), (dA, dB, dG, df) = modes, frame, d
    (K, M, n), outputs, (lr, lr_readout, noise), (d1, d2, d3) = r.shape, df.shape[1], rates, damping
    of_q, of_v, P = K * M * n, K * (K + M) * n, len(inverse)
    turned = np.ascontiguousarray(V.T)
    br, bq = turn(turned, b[:of_q].reshape(K, M, n), b[of_q:of_v].reshape(K, K, n))
    xr, xq, xv = br.copy(), bq.copy(), b[of_v:] * d3
    settle(xr, xq, B, g * lr, d1, d2)

    seen = np.zeros(P)  # (Q, R, v) of the solve with frozen coefficients
    Q, R = np.empty((K, K)), np.empty((K, M))
    for k in range(K):
        for j in range(K):
            Q[k, j] = dot(rho, xq[k, j])
        for m in range(M):
            R[k, m] = total(xr[k, m])
    for k in range(K):
        for j in range(K):
            for x in range(K):
                for y in range(K):
                    seen[k * K + j] += V[k, x] * Q[x, y] * V[j, y]
            for m in range(M):
                seen[K * K + k * M + m] += V[k, j] * R[j, m]
    for i in range(K * outputs):
        seen[K * (K + M) + i] = xv[i]
    p = np.empty(P)
    for i in range(P):
        p[i] = dot(inverse[i], seen)

    half = np.zeros((K, K, n))
    for k in range(K):
        for l in range(K):  # noqa: E741
            a, e = dot(dA[k, l], p), dot(dG[k, l], p)
            for m in range(M):
                for i in range(n):
                    br[k, m, i] -= g * lr * a * rho[i] * r[l, m, i]
            for j in range(K):
                for i in range(n):
                    half[k, j, i] += a * rho[i] * q[l, j, i]
            for i in range(n):
                bq[k, l, i] += g * noise * e * source[i]
        for m in range(M):
            a = dot(dB[k, m], p)
            for j in range(M):
                for i in range(n):
                    br[k, j, i] -= g * lr * a * tt[m, j, i]
            for j in range(K):
                for i in range(n):
                    half[k, j, i] += a * r[j, m, i]
    for k in range(K):
        for j in range(K):
            for i in range(n):
                bq[k, j, i] -= g * lr * (half[k, j, i] + half[j, k, i])
        for o in range(outputs):
            xv[k * outputs + o] -= d3 * g * lr_readout * dot(df[k, o], p)
    settle(br, bq, B, g * lr, d1, d2)
    xr, xq = turn(V, br, bq)
    solution = np.empty_like(b)
    solution[:of_q] = xr.ravel()
    both = solution[of_q:of_v].reshape(K, K, n)
    for k in range(K):
        for j in range(K):
            for i in range(n):
                both[k, j, i] = 0.5 * (xq[k, j, i] + xq[j, k, i])
    solution[of_v:] = xv
    return solution
