r"""The averages of `fields`, and their derivatives, written out and compiled by numba where it is installed.

For a student and a teacher with Gaussian slopes, $g'(x) = \alpha e^{-\beta x^2/2}$ (erf, linear). Shapes and letters are those
of `fields`; the flat index p of a derivative runs over (Q, R, v).
"""

import math

import numpy as np

from gaussequiv.maths.averages import Array
from gaussequiv.maths.compiled import compiled

Slope = tuple[float, float]  # alpha, beta


@compiled()
def product(x: Slope, y: Slope, a: float, b: float, c: float) -> float:
    """E g(x) h(y): an arcsine if both saturate; a linear one leaves the slope of the other."""
    if x[1] > 0 and y[1] > 0:
        r = c / math.sqrt((1 + a) * (1 + b))
        r = 1.0 if r > 1 else -1.0 if r < -1 else r  # what is not a number stays so
        return 2 / math.pi * math.asin(r)
    return c * x[0] / math.sqrt(1 + x[1] * a) * y[0] / math.sqrt(1 + y[1] * b)


@compiled()
def slopes(x: Slope, y: Slope, a: float, b: float, c: float) -> float:
    """E g'(x) h'(y)."""
    return x[0] * y[0] / math.sqrt((1 + x[1] * a) * (1 + y[1] * b) - x[1] * y[1] * c * c)


@compiled()
def bend(x: Slope, y: Slope, a: float, b: float, c: float) -> float:
    """E g''(x) h(y)."""
    return -x[1] * c / (1 + x[1] * a) * slopes(x, y, a, b, c)


@compiled()
def joined(Q: Array, R: Array, T: Array) -> Array:
    """C = [[Q, R], [R^T, T]]."""
    K, M = R.shape
    C = np.empty((K + M, K + M))
    for k in range(K):
        for j in range(K):
            C[k, j] = Q[k, j]
        for m in range(M):
            C[k, K + m] = C[K + m, k] = R[k, m]
    for m in range(M):
        for n in range(M):
            C[K + m, K + n] = T[m, n]
    return C


@compiled()
def signed(v: Array, a: Array) -> Array:
    """S = (v, -a), (K + M, outputs)."""
    K, M, outputs = len(v), len(a), v.shape[1]
    s = np.empty((K + M, outputs))
    for o in range(outputs):
        for k in range(K):
            s[k, o] = v[k, o]
        for m in range(M):
            s[K + m, o] = -a[m, o]
    return s


@compiled()
def weights(s: Array) -> Array:
    """S = s s^T."""
    L, outputs = s.shape
    S = np.zeros((L, L))
    for i in range(L):
        for j in range(L):
            for o in range(outputs):
                S[i, j] += s[i, o] * s[j, o]
    return S


@compiled()
def test_error(student: Slope, teacher: Slope, Q: Array, R: Array, v: Array, T: Array, a: Array) -> float:
    """Half the mean square of s^T h."""
    C, S, K = joined(Q, R, T), weights(signed(v, a)), len(v)
    total = 0.0
    for i in range(len(C)):
        g = student if i < K else teacher
        for j in range(i + 1):
            h = student if j < K else teacher
            total += (0.5 if i == j else 1.0) * S[i, j] * product(g, h, C[i, i], C[j, j], C[i, j])
    return total


@compiled()
def pull(C: Array, beta: float, k: int, other: int) -> tuple[float, float, float]:
    """The entries (kk, ll, kl) of N = beta (I + beta C_SS)^-1, S = (k, l)."""
    first, second, off = 1 + beta * C[k, k], 1 + beta * C[other, other], beta * C[k, other]
    scale = beta / (first * second - off * off)
    return second * scale, first * scale, -off * scale


@compiled()
def tilted(C: Array, N: tuple[float, float, float], k: int, other: int, a: int, b: int) -> float:
    """The entry (a, b) of C - C_:S N C_S:."""
    x, y = C[a, k], C[a, other]
    return C[a, b] - (x * N[0] + y * N[2]) * C[k, b] - (x * N[2] + y * N[1]) * C[other, b]


@compiled()
def coefficients(
    student: Slope, teacher: Slope, Q: Array, R: Array, v: Array, T: Array, a: Array, noise: float
) -> tuple[Array, Array, Array, Array]:
    """A, B, G and f."""
    (K, M), s = R.shape, signed(v, a)
    C, S, L, outputs = joined(Q, R, T), weights(s), K + M, s.shape[1]
    A, B, G, f = np.empty((K, K)), np.empty((K, M)), np.empty((K, K)), np.zeros((K, outputs))
    variance = np.empty(L)
    for k in range(K):
        bent = 0.0
        for i in range(L):
            h = student if i < K else teacher
            J = slopes(student, h, C[k, k], C[i, i], C[k, i])
            bent -= S[k, i] * student[1] * C[k, i] / (1 + student[1] * C[k, k]) * J
            I2 = product(student, h, C[k, k], C[i, i], C[k, i])
            for o in range(outputs):
                f[k, o] += s[i, o] * I2
            if i < K:
                A[k, i] = S[k, i] * J
                G[k, i] = J
            else:
                B[k, i - K] = S[k, i] * J
        A[k, k] += bent
    for k in range(K):
        for other in range(k + 1):
            N = pull(C, student[1], k, other)
            for i in range(L):
                variance[i] = tilted(C, N, k, other, i, i)
            square = noise * noise * S[k, other]
            for i in range(L):
                g = student if i < K else teacher
                for j in range(i + 1):
                    h = student if j < K else teacher
                    c = variance[i] if i == j else tilted(C, N, k, other, i, j)
                    weight = S[k, i] * S[other, j] + S[k, j] * S[other, i]
                    square += (0.5 if i == j else 1.0) * weight * product(g, h, variance[i], variance[j], c)
            G[k, other] *= square
            G[other, k] = G[k, other]
    return A, B, G, f


@compiled()
def place(x: int, y: int, K: int, M: int) -> int:
    """The flat index of the entry (x, y) of C in (Q, R, v), and -1 for one of T, which does not move."""
    if x < K:
        return x * K + y if y < K else K * K + x * M + y - K
    return K * K + y * M + x - K if y < K else -1


@compiled()
def gradient(
    student: Slope, teacher: Slope, Q: Array, R: Array, v: Array, T: Array, a: Array, noise: float
) -> tuple[Array, Array, Array, Array]:
    """Derivatives of A, B, G and f with respect to (Q, R, v), as the last axis."""
    (K, M), s = R.shape, signed(v, a)
    C, S, L, outputs = joined(Q, R, T), weights(s), K + M, s.shape[1]
    P, of_v, beta = K * (L + outputs), K * L, student[1]
    A, B = np.zeros((K, K, P)), np.zeros((K, M, P))
    G, f = np.zeros((K, K, P)), np.zeros((K, outputs, P))
    for k in range(K):
        width = beta / (1 + beta * C[k, k])
        for i in range(L):
            h = student if i < K else teacher
            x, y, c = C[k, k], C[i, i], C[k, i]
            J, I2 = slopes(student, h, x, y, c), product(student, h, x, y, c)
            H = -width * c * J
            scale = J / ((1 + beta * x) * (1 + h[1] * y) - beta * h[1] * c * c)
            dJ = (-0.5 * beta * (1 + h[1] * y) * scale, -0.5 * h[1] * (1 + beta * x) * scale, beta * h[1] * c * scale)
            dH = (width * c * (width * J - dJ[0]), -width * c * dJ[1], -width * (J + c * dJ[2]))
            dI = (0.5 * H, 0.5 * bend(h, student, y, x, c), J)
            places = (place(k, k, K, M), place(i, i, K, M), place(k, i, K, M))
            for e in range(3):
                p = places[e]
                if p < 0:
                    continue
                A[k, k, p] += S[k, i] * dH[e]
                if i < K:
                    A[k, i, p] += S[k, i] * dJ[e]
                else:
                    B[k, i - K, p] += S[k, i] * dJ[e]
                for o in range(outputs):
                    f[k, o, p] += s[i, o] * dI[e]
            for o in range(outputs):
                p, q = of_v + k * outputs + o, of_v + i * outputs + o  # dS_ki = s_io dv_ko + s_ko dv_io
                A[k, k, p] += s[i, o] * H
                if i < K:
                    A[k, k, q] += s[k, o] * H
                    A[k, i, p] += s[i, o] * J
                    A[k, i, q] += s[k, o] * J
                    f[k, o, q] += I2
                else:
                    B[k, i - K, p] += s[i, o] * J
    d = np.empty(P)
    for k in range(K):
        for other in range(k + 1):
            J = slopes(student, student, C[k, k], C[other, other], C[k, other])
            square = squares_gradient(student, teacher, C, S, s, noise, K, k, other, d)
            for p in range(P):
                G[k, other, p] = J * d[p]
            scale = J**3 / student[0] ** 4 * square  # J = alpha^2 / root
            G[k, other, place(k, k, K, M)] -= 0.5 * beta * (1 + beta * C[other, other]) * scale
            G[k, other, place(other, other, K, M)] -= 0.5 * beta * (1 + beta * C[k, k]) * scale
            G[k, other, place(k, other, K, M)] += beta * beta * C[k, other] * scale
            for p in range(P):
                G[other, k, p] = G[k, other, p]
    return A, B, G, f


@compiled()
def squares_gradient(
    student: Slope, teacher: Slope, C: Array, S: Array, s: Array, noise: float, K: int, k: int, other: int, d: Array
) -> float:
    """The square of the loss's derivative under the law tilted by units k and l, and its derivatives, put into d.

    Those with respect to the tilted covariance W C are pulled back as W^T D W, W = I - C_:S N on the columns S = (k, l).
    """
    (L, outputs), M = s.shape, len(s) - K
    D, Y, Z = np.zeros((L, L)), np.zeros((L, 2)), np.zeros((2, 2))
    half_k, half_l, variance = np.zeros(L), np.zeros(L), np.empty(L)  # sums over b of S_kb I2(a, b), S_lb I2(a, b)
    N, pair, of_v = pull(C, student[1], k, other), (k, other), K * L
    square = noise * noise * S[k, other]
    d[:] = 0.0
    for i in range(L):
        variance[i] = tilted(C, N, k, other, i, i)
    for i in range(L):
        g = student if i < K else teacher
        for j in range(i + 1):
            h = student if j < K else teacher
            x, y = variance[i], variance[j]
            c = x if i == j else tilted(C, N, k, other, i, j)
            weight, I2 = 0.5 * (S[k, i] * S[other, j] + S[k, j] * S[other, i]), product(g, h, x, y, c)
            steep = weight * slopes(g, h, x, y, c)
            half_k[i] += S[k, j] * I2
            half_l[i] += S[other, j] * I2
            D[i, i] += weight * bend(g, h, x, y, c)
            if i == j:
                D[i, i] += steep
                square += weight * I2
            else:
                D[i, j] = D[j, i] = steep
                D[j, j] += weight * bend(h, g, y, x, c)
                half_k[j] += S[k, i] * I2
                half_l[j] += S[other, i] * I2
                square += 2 * weight * I2
    full = ((N[0], N[2]), (N[2], N[1]))
    for e in range(2):
        for i in range(L):
            for j in range(L):
                Y[i, e] += D[i, j] * C[j, pair[e]]
    for e in range(2):
        for u in range(2):
            for i in range(L):
                Z[e, u] += C[i, pair[e]] * Y[i, u]
    for i in range(L):
        for j in range(L):
            p = place(i, j, K, M)
            if p >= 0:
                d[p] += D[i, j]
        for e in range(2):
            through = Y[i, 0] * full[0][e] + Y[i, 1] * full[1][e]
            d[place(i, pair[e], K, M)] -= through
            d[place(pair[e], i, K, M)] -= through
    for e in range(2):
        for u in range(2):
            both = 0.0
            for m in range(2):
                for n in range(2):
                    both += full[e][m] * Z[m, n] * full[n][u]
            d[place(pair[e], pair[u], K, M)] += both
    for o in range(outputs):
        on_k, on_l = noise * noise * s[other, o], noise * noise * s[k, o]
        for i in range(L):
            on_k += s[i, o] * half_l[i]
            on_l += s[i, o] * half_k[i]
        d[of_v + k * outputs + o] += on_k
        d[of_v + other * outputs + o] += on_l
        for j in range(K):
            d[of_v + j * outputs + o] += s[k, o] * half_l[j] + s[other, o] * half_k[j]
    return square
