"""Naive twins: the same quantities from the definitions or from the literature, entry by entry.

Nothing here is imported from `gaussequiv`: agreement with it is evidence.
"""

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erf, expit, ndtr, roots_legendre


def g(z):
    return erf(np.asarray(z) / np.sqrt(2))


def dg(z):
    return np.sqrt(2 / np.pi) * np.exp(-(np.asarray(z) ** 2) / 2)


# --- averages of Saad and Solla (Phys. Rev. E 52, 4225 (1995)), written for g = erf(x / sqrt 2) ---


def I2(C, a, b):
    return 2 / np.pi * np.arcsin(C[a, b] / np.sqrt((1 + C[a, a]) * (1 + C[b, b])))


def I3(C, a, b, c):
    """E g'(u_a) u_b g(u_c)."""
    root = np.sqrt((1 + C[a, a]) * (1 + C[c, c]) - C[a, c] ** 2)
    return 2 / np.pi / root * (C[b, c] * (1 + C[a, a]) - C[a, b] * C[a, c]) / (1 + C[a, a])


def I4(C, a, b, c, d):
    """E g'(u_a) g'(u_b) g(u_c) g(u_d)."""
    L4 = (1 + C[a, a]) * (1 + C[b, b]) - C[a, b] ** 2
    L0 = L4 * C[c, d] - C[b, c] * C[b, d] * (1 + C[a, a]) - C[a, c] * C[a, d] * (1 + C[b, b])
    L0 += C[a, b] * C[a, c] * C[b, d] + C[a, b] * C[a, d] * C[b, c]
    lam = lambda x: (
        L4 * (1 + C[x, x])
        - C[b, x] ** 2 * (1 + C[a, a])
        - C[a, x] ** 2 * (1 + C[b, b])
        + 2 * C[a, b] * C[a, x] * C[b, x]
    )
    return 4 / np.pi**2 / np.sqrt(L4) * np.arcsin(L0 / np.sqrt(lam(c) * lam(d)))


def test_error(C, v, a):
    s = np.concatenate([v, -a])
    return sum(s[i] * s[j] * I2(C, i, j) for i in range(len(s)) for j in range(len(s))) / 2


# --- the paper's equations of motion (arXiv:2006.14709), by pairs of fields and with their determinants ---


def pairwise_drift(rho, r, q, tt, C, v, a, eta, weight=1.0, sigma=0.0):
    """dr/dt and dq/dt of one mode, and dv/dt: r (K, M), q (K, K), tt (M, M), in units where R is the sum of r.

    The noise term of dq carries the weight of the mode; label noise sigma adds to the squared error.
    """
    K, M = r.shape
    Q, R, T = C[:K, :K], C[:K, K:], C[K:, K:]

    def move(k, student, teacher):
        """Drift of w_k . e times another coordinate: `student` its overlaps (K,), `teacher` (M,)."""
        total = -rho * student[k] * v[k] ** 2 * I3(C, k, k, k) / Q[k, k]
        for j in range(K):
            if j == k:
                continue
            det = Q[j, j] * Q[k, k] - Q[k, j] ** 2
            total -= rho * student[k] * v[k] * v[j] * (Q[j, j] * I3(C, k, k, j) - Q[k, j] * I3(C, k, j, j)) / det
            total -= rho * student[j] * v[k] * v[j] * (Q[k, k] * I3(C, k, j, j) - Q[k, j] * I3(C, k, k, j)) / det
        for n in range(M):
            x = K + n
            det = Q[k, k] * T[n, n] - R[k, n] ** 2
            total += rho * student[k] * v[k] * a[n] * (T[n, n] * I3(C, k, k, x) - R[k, n] * I3(C, k, x, x)) / det
            total += teacher[n] * v[k] * a[n] * (Q[k, k] * I3(C, k, x, x) - R[k, n] * I3(C, k, k, x)) / det
        return eta * total

    def noise(k, m):
        total = 0.0
        s = np.concatenate([v, -a])
        for i in range(K + M):
            for j in range(K + M):
                total += s[i] * s[j] * I4(C, k, m, i, j)
        root = np.sqrt((1 + C[k, k]) * (1 + C[m, m]) - C[k, m] ** 2)
        return eta**2 * weight * rho * v[k] * v[m] * (total + sigma**2 * 2 / np.pi / root)

    dr = np.array([[move(k, r[:, m], tt[:, m]) for m in range(M)] for k in range(K)])
    half = np.array([[move(k, q[:, m], r[m]) for m in range(K)] for k in range(K)])
    dq = half + half.T + np.array([[noise(k, m) for m in range(K)] for k in range(K)])
    dv = np.array(
        [
            eta * (sum(a[n] * I2(C, i, K + n) for n in range(M)) - sum(v[k] * I2(C, i, k) for k in range(K)))
            for i in range(K)
        ]
    )
    return dr, dq, dv


def saad_solla(Q, R, T, v, a, eta):
    """dQ/dt and dR/dt of a soft committee with readouts v, a and white inputs."""
    K, M = R.shape
    C = np.block([[Q, R], [R.T, T]])
    s = np.concatenate([v, -a])
    fields = range(K + M)
    dR = np.array([[-eta * v[i] * sum(s[x] * I3(C, i, K + n, x) for x in fields) for n in range(M)] for i in range(K)])
    half = np.array([[-eta * v[i] * sum(s[x] * I3(C, i, k, x) for x in fields) for k in range(K)] for i in range(K)])
    noise = [
        [eta**2 * v[i] * v[k] * sum(s[x] * s[y] * I4(C, i, k, x, y) for x in fields for y in fields) for k in range(K)]
        for i in range(K)
    ]
    return half + half.T + np.array(noise), dR


# --- brute force ---


def plane_average(f, h, a, b, c, order=400, half_width=9.0, means=(0.0, 0.0)):
    """E f(x) h(y) by Gauss-Legendre on the four quadrants of the whitened plane, kinks at x = 0 and y = 0 being edges.

    x = mu + sqrt(a) z; the inner integral over y is split at y = 0 for every z.
    """
    mx, my = means
    nodes, weights = roots_legendre(order)
    r = c / np.sqrt(a * b)
    total = 0.0
    middle = np.clip(-mx / np.sqrt(a), -half_width, half_width)
    for low, high in ((-half_width, middle), (middle, half_width)):
        z = (low + high) / 2 + (high - low) / 2 * nodes
        wz = (high - low) / 2 * weights * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        edge = np.clip((-my / np.sqrt(b) - r * z) / np.sqrt(1 - r * r), -half_width, half_width)
        for left, right in ((np.full(order, -half_width), edge), (edge, np.full(order, half_width))):
            e = (left + right)[:, None] / 2 + (right - left)[:, None] / 2 * nodes
            we = (right - left)[:, None] / 2 * weights * np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi)
            y = my + np.sqrt(b) * (r * z[:, None] + np.sqrt(1 - r * r) * e)
            total += np.sum(wz * f(mx + np.sqrt(a) * z) * np.sum(we * h(y), axis=1))
    return total


def random_covariance(rng, size, scale=1.0):
    root = rng.standard_normal((size, size + 2)) * scale
    return root @ root.T / (size + 2)


# --- one step after the other ---


def sgd(W, v, x, y, lr, lr_readout, batch_size=1, weight_decay=0.0, act=g, slope=dg):
    """One-pass SGD on samples x (n, N) with labels y (n,) or (n, outputs), exactly as its update rule reads.

    Learning rates are numbers or functions of t, steps / N at the start of each step.
    """
    W, v, y = W.copy(), v.reshape(len(W), -1).copy(), y.reshape(len(x), -1)
    N = W.shape[1]
    for step, start in enumerate(range(0, len(x), batch_size)):
        eta, eta_v = (rate(step / N) if callable(rate) else rate for rate in (lr, lr_readout))
        dW, dv = np.zeros_like(W), np.zeros_like(v)
        for i in range(start, start + batch_size):
            field = W @ x[i] / np.sqrt(N)
            for o in range(v.shape[1]):
                error = v[:, o] @ act(field) - y[i, o]
                dW += eta / np.sqrt(N) * np.outer(v[:, o] * slope(field) * error, x[i]) / batch_size
                dv[:, o] += eta_v / N * act(field) * error / batch_size
        W = W - dW - eta * weight_decay / N * W
        v = v - dv - eta_v * weight_decay / N * v
    return W, v


def iterated_logistic(omega, parts, rho, alpha, penalty, tolerance=1e-7, damping=0.0):
    """V, q, m of logistic regression on noisy signs, as theory.md 4.3 writes it: scalar proximal maps, `quad`, iteration."""
    V, q, m = 1.0, 0.5, 0.1
    N = len(omega)
    tau = N * omega * parts

    def prox(w, y, V):
        return brentq(lambda z: z - w - V * y * expit(-y * z), w - V - 1e-9, w + V + 1e-9, xtol=1e-12)

    for _ in range(2000):
        slope, spread = m / q, np.sqrt(rho - m**2 / q)

        def average(function, slope=slope, spread=spread, q=q):
            total = 0.0
            for y in (1.0, -1.0):
                integrand = lambda xi, y=y: function(xi, y, slope, spread, q)
                total += quad(integrand, -8, 8, epsabs=1e-10, limit=200)[0]
            return total

        def pieces(xi, y, slope, spread, q, V=V):
            w = np.sqrt(q) * xi
            z = prox(w, y, V)
            s = expit(y * z)
            density = np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi)
            t = slope * w / spread
            return (
                (z - w) / V,
                s * (1 - s) / (1 + V * s * (1 - s)),
                density * ndtr(y * t),
                density * y * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi) / spread,
            )

        def curvature(*point):
            _, c, weight, _ = pieces(*point)
            return weight * c

        def square(*point):
            g, _, weight, _ = pieces(*point)
            return weight * g**2

        def pull(*point):
            g, _, _, tilt = pieces(*point)
            return tilt * g

        V_hat, q_hat, m_hat = (alpha * average(f) for f in (curvature, square, pull))
        below = penalty + V_hat * omega
        new = (
            np.mean(omega / below),
            np.mean((q_hat * omega**2 + m_hat**2 * omega * tau) / below**2),
            m_hat * np.mean(tau / below),
        )
        change = max(abs(a - b) / abs(a) for a, b in zip(new, (V, q, m), strict=True))
        V, q, m = ((1 - damping) * a + damping * b for a, b in zip(new, (V, q, m), strict=True))
        if change < tolerance:
            return V, q, m
    raise AssertionError("the plain iteration did not converge")


def official_recursion(matrices):
    """Omega and Phi of sign units by the loops of the paper's code: unit row norms, correlations to first order only."""
    b, c = np.sqrt(2 / np.pi), 1.0
    F = matrices[0]
    Omega, Phi = b**2 * F @ F.T, b * F
    for F in matrices[1:]:
        Omega = b**2 * F @ ((c - b**2) * np.eye(len(Omega)) + Omega) @ F.T
        Phi = b * F @ Phi
    np.fill_diagonal(Omega, c)
    return Omega, Phi


def naive_recursion(matrices, f):
    """Mean and covariance of deep units, pair by pair over the plane; the variance by quadrature along a line."""
    mean, Omega = np.zeros(matrices[0].shape[1]), np.eye(matrices[0].shape[1])
    for F in matrices:
        mu, S = F @ mean, F @ Omega @ F.T
        mean, second = np.zeros(len(F)), np.zeros_like(S)
        for i in range(len(F)):
            one = S[i, i], 1.0, 0.0
            mean[i] = plane_average(f, np.ones_like, *one, means=(mu[i], 0.0))
            second[i, i] = plane_average(lambda x: f(x) ** 2, np.ones_like, *one, means=(mu[i], 0.0))
            for j in range(i):
                pair = plane_average(f, f, S[i, i], S[j, j], S[i, j], means=(mu[i], mu[j]))
                second[i, j] = second[j, i] = pair
        Omega = second - np.outer(mean, mean)
    return mean, Omega
