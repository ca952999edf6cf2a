"""Losses from values alone: the named ones again, kinks of any kind, averages by brute force, laws of minima, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gaussequiv as ge
from gaussequiv.maths.convex import Convex
from gaussequiv.maths.losses import LOSSES, LogitLabels, SignLabels
from gaussequiv.maths.pieces import FARTHEST, _meeting

PARTS = ("curvature", "square", "pull", "value", "spread")
V, SCALE = np.array([1e-3, 0.3, 5.0, 200.0, 1e5]), np.array([0.5, 0.7, 2.0, 4.0, 100.0])
STEEP = np.array([0.1, 0.5, 3.0, 20.0, 100.0])
SIGN = SignLabels(STEEP / np.sqrt(1 + STEEP**2), STEEP)
LOGIT = LogitLabels(np.array([0.2, 1.0, 2.0, 0.5, 1.5]), np.array([1.0, 0.3, 1.0, 2.0, 0.8]))
FUNCTIONS = {  # the named losses as anyone would write them
    "square": lambda r: r**2 / 2,
    "logistic": lambda x: np.logaddexp(0, -x),
    "hinge": lambda x: np.maximum(0, 1 - x),
    "squared-hinge": lambda x: np.maximum(0, 1 - x) ** 2 / 2,
    "huber": lambda r: np.where(np.abs(r) < 1, r**2 / 2, np.abs(r) - 0.5),
    "absolute": np.abs,
}
OTHERS = {  # function, slope, kinks
    "pinball": (lambda r: np.maximum(0.9 * r, -0.1 * r), lambda r: np.where(r > 0, 0.9, -0.1), [0.0]),
    "insensitive": (lambda r: np.maximum(0, np.abs(r) - 0.3), lambda r: np.sign(r) * (np.abs(r) > 0.3), [-0.3, 0.3]),
    "log-cosh": (lambda r: np.logaddexp(r, -r) - np.log(2), np.tanh, []),
    "quartic": (lambda r: r**4, lambda r: 4 * r**3, []),
    "exponential": (lambda x: np.exp(-x), lambda x: -np.exp(-x), []),
    "root": (lambda r: np.sqrt(1 + r**2) - 1, lambda r: r / np.sqrt(1 + r**2), []),
    "cubed hinge": (lambda x: np.maximum(0, 1 - x) ** 3, lambda x: -3 * np.maximum(0, 1 - x) ** 2, []),
    "perceptron": (lambda x: np.maximum(0, -x), lambda x: np.where(x < 0, -1.0, 0.0), [0.0]),
    "smooth hinge": (
        lambda x: np.where(x < 0, 0.5 - x, np.maximum(0, 1 - x) ** 2 / 2),
        lambda x: np.clip(x - 1, -1, 0),
        [],
    ),
    "hinge and ridge": (
        lambda x: np.maximum(0, 1 - x) + 0.1 * (x - 0.4) ** 2,
        lambda x: np.where(x < 1, -1.0, 0.0) + 0.2 * (x - 0.4),
        [1.0],
    ),
    "far": (lambda r: np.abs(r) + np.maximum(0, r - 300), lambda r: np.sign(r) + (r > 300), [0.0, 300.0]),
    "tiny": (lambda r: 1e-8 * np.abs(r - 0.7), lambda r: 1e-8 * np.sign(r - 0.7), [0.7]),
    "large": (lambda r: 1e8 * np.abs(r - 0.7), lambda r: 1e8 * np.sign(r - 0.7), [0.7]),
    "close": (
        lambda r: np.abs(r - 0.3) + np.abs(r - 0.31),
        lambda r: np.sign(r - 0.3) + np.sign(r - 0.31),
        [0.3, 0.31],
    ),
    "line": (lambda x: -x, lambda x: -np.ones_like(x), []),
}


def of(name):
    return LOSSES[name].of


# --- the named losses again ---


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("labels", [None, SIGN, LOGIT], ids=["residuals", "signs", "logits"])
def test_averages_from_values_are_those_of_the_named_loss(name, labels):
    """With very stiff and very soft proximal maps, and steep labels; values to rounding of the function itself."""
    named, found = LOSSES[name], Convex(FUNCTIONS[name], of(name))
    if labels is not None:
        named, found = named.margin(), found.margin()
    elif named.of == "margin":
        return
    expected, averages = named.averages(V, SCALE, labels, 2), found.averages(V, SCALE, labels, 2)
    for part in PARTS:
        np.testing.assert_allclose(
            getattr(averages, part), getattr(expected, part), rtol=1e-10, atol=3e-15, err_msg=part
        )
    if labels is not None:
        np.testing.assert_allclose(
            found.mistakes(V, SCALE, labels), named.mistakes(V, SCALE, labels), rtol=1e-10, atol=1e-15
        )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("output", ["linear", "sign", "logit"])
def test_curves_from_values_are_those_of_the_named_loss(name, output):
    if output == "linear" and of(name) == "margin":
        return
    alpha, penalty = [0.3, 1.0, 4.0], [1e-3, 0.1, 10.0]
    one = ge.predict(problem(output, Convex(FUNCTIONS[name], of(name))), alpha=alpha, penalty=penalty)
    other = ge.predict(problem(output, name), alpha=alpha, penalty=penalty)
    assert (one.status == "ok").all()
    for quantity in ("V", "q", "m", "norm", "test_error", "train_loss"):
        np.testing.assert_allclose(one.data[quantity], other.data[quantity], rtol=1e-9, atol=1e-14, err_msg=quantity)


@pytest.mark.parametrize(
    ("function", "rtol"),
    [
        (lambda x: np.log1p(np.exp(-x)), 1e-9),  # overflows at -710
        (lambda x: math.log(1 + math.exp(-x)), 1e-6),  # of one number; the sum 1 + exp(-x) has lost digits
        (lambda x: np.log(np.cosh(x / 2)) + np.log(2) - x / 2, 1e-6),  # a sum that cancels
    ],
)
def test_the_logistic_loss_as_anyone_might_write_it(function, rtol):
    alpha, penalty = [0.3, 1.0, 4.0], [1e-2, 0.1, 10.0]
    with np.errstate(all="ignore"):
        one = ge.predict(problem("sign", function), alpha=alpha, penalty=penalty)
    other = ge.predict(problem("sign", "logistic"), alpha=alpha, penalty=penalty)
    for quantity in ("V", "q", "m", "test_error", "train_loss"):
        np.testing.assert_allclose(one.data[quantity], other.data[quantity], rtol=rtol, err_msg=quantity)


@pytest.mark.parametrize("power", [1.5, 1.9])
def test_a_loss_without_a_second_derivative_at_a_point_is_one_all_the_same(power):
    """|r|^p: its Gaussian averages are those of its proximal map, found by bisection."""
    function = lambda r: np.abs(r) ** power
    found = Convex(function, "residual").averages(np.array([0.7]), np.array([1.3]), None, 4)
    expected = brute(lambda r: power * np.sign(r) * np.abs(r) ** (power - 1), [], 0.7, 1.3)
    for part, value in expected.items():
        np.testing.assert_allclose(getattr(found, part), value, rtol=1e-7, atol=1e-9, err_msg=part)


@pytest.mark.parametrize("name", ["square", "squared-hinge", "hinge", "huber", "absolute"])
@pytest.mark.parametrize(("factor", "shift"), [(1e-8, 0.0), (1e8, 0.0), (1.0, 0.37), (3.0, -200.25)])
def test_a_piecewise_quadratic_function_is_found_to_be_one(name, factor, shift):
    loss, named = Convex(lambda x: factor * FUNCTIONS[name](x - shift), of(name)), LOSSES[name]
    assert loss.quadratics is not None
    np.testing.assert_allclose(loss.quadratics.knots, np.array(named.knots) + shift, rtol=1e-12, atol=1e-12)
    bends = [c[2] for c in loss.quadratics.pieces]
    np.testing.assert_allclose(bends, [factor * c[2] for c in named.pieces], rtol=1e-9, atol=1e-12 * factor)
    x = np.linspace(-400, 400, 4001)
    np.testing.assert_allclose(loss(x), factor * named(x - shift), rtol=1e-11, atol=1e-11 * factor)


def problem(output, loss, penalty=None):
    omega = np.arange(1, 13) ** -1.0
    model = ge.GaussianModel(np.diag(omega), np.sqrt(0.8 * omega / 12)[:, None])
    return ge.FullBatch(model, ge.Perceptron([1.0], output, 0.4), loss, penalty)


# --- values, slopes, kinks ---


@pytest.mark.parametrize("name", OTHERS)
def test_values_slopes_and_kinks_are_found(name):
    function, slope, kinks = OTHERS[name]
    loss = Convex(function, "residual")
    x = np.concatenate([np.linspace(-9, 9, 3001) + 1e-4, np.sinh(np.linspace(-5, 5, 300)) * 10])
    if name == "exponential":
        x = x[x > -100]
    size = np.abs(function(x))
    np.testing.assert_allclose(
        loss(x), function(x), rtol=1e-12, atol=1e-13 * np.abs(function(np.array([-1.0, 1.0]))).max()
    )
    np.testing.assert_allclose(loss.slope(x), slope(x), rtol=1e-9, atol=1e-11 * np.median(size))
    np.testing.assert_allclose([kink.place for kink in loss.kinks], kinks, rtol=1e-12, atol=1e-12)
    for kink in loss.kinks:
        left, right = slope(np.array([kink.place - 1e-7, kink.place + 1e-7]))
        np.testing.assert_allclose([kink.left, kink.right], [left, right], rtol=1e-6, atol=1e-6 * abs(right - left))


@pytest.mark.parametrize("power", [2, 3])
@pytest.mark.parametrize("width", [0.3, 0.017, 2.5])
def test_a_tube_with_soft_walls_has_its_joints_where_they_are(power, width):
    loss = Convex(lambda r: np.maximum(0, np.abs(r) - width) ** power, "residual")
    x = np.array([-5.0, -1.0, 0.0, 1.0, 5.0])
    np.testing.assert_allclose(
        loss.slope(x), np.sign(x) * power * np.maximum(0, np.abs(x) - width) ** (power - 1), atol=1e-12
    )
    inner = loss.pieces.edges[np.abs(loss.pieces.edges) < 3]
    assert min(abs(inner - width)) < 1e-9
    assert min(abs(inner + width)) < 1e-9
    assert not loss.kinks


def test_the_slope_at_a_kink_is_that_from_the_left():
    loss = Convex(np.abs, "residual")
    np.testing.assert_allclose(loss.slope(np.array([-1e-12, 0.0, 1e-12])), [-1, -1, 1], rtol=1e-9)


def test_functions_of_one_number_are_functions():
    loss = Convex(lambda x: math.exp(-x) if x > -700 else math.inf)
    np.testing.assert_allclose(loss(np.array([-3.0, 0.0, 2.0])), np.exp([3.0, 0.0, -2.0]), rtol=1e-12)
    np.testing.assert_allclose(Convex(lambda x: math.exp(-x))(np.array([1.0])), np.exp(-1), rtol=1e-12)  # overflows
    branch = Convex(lambda x: 1 - x if x < 1 else 0.0, "margin", "mine")
    assert [kink.place for kink in branch.kinks] == pytest.approx([1.0])
    assert branch.name == "mine"
    assert repr(branch) == "Convex('mine')"


def test_the_margin_of_a_residual_loss_is_that_of_the_label():
    loss, x = Convex(lambda r: np.abs(r - 0.2), "residual"), np.linspace(-3, 3, 61)
    np.testing.assert_allclose(loss.margin()(x), np.abs(1 - x - 0.2), atol=1e-13)
    assert loss.margin().of == "margin"
    assert Convex(np.exp).margin().of == "margin"


def test_a_function_may_be_infinite_far_away():
    loss = Convex(lambda x: np.where(x > -5, x - 5 * np.log1p(np.maximum(x, -5 + 1e-12) / 5), np.inf), "residual")
    x = np.linspace(-4, 20, 101)
    np.testing.assert_allclose(loss(x), x - 5 * np.log1p(x / 5), rtol=1e-9, atol=1e-11)


def test_a_function_that_ends_is_a_wall():
    """w is held at the wall wherever the function would want to go on."""
    box = Convex(lambda x: np.where(np.abs(x) <= 1, x**2 / 2, np.inf), "residual")
    assert [(kink.place, kink.left == -np.inf, kink.right == np.inf) for kink in box.kinks] == [
        (pytest.approx(-1), True, False),
        (pytest.approx(1), False, True),
    ]
    xi = np.linspace(-10, 10, 2_000_001)
    weight = np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi) * (xi[1] - xi[0])
    x = np.clip(2.0 * xi / 1.5, -1, 1)
    found = box.averages(np.array([0.5]), np.array([2.0]), None)
    np.testing.assert_allclose(found.spread, weight @ x**2, rtol=1e-9)
    np.testing.assert_allclose(found.square, weight @ ((2.0 * xi - x) / 0.5) ** 2, rtol=1e-9)


@pytest.mark.parametrize("V", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", [n for n in OTHERS if n not in ("exponential", "line")])
def test_no_field_is_lost(name, V):
    """A multiple V of the loss moves w by V phi'(x): E w^2 = E (x + V phi')^2 and E (w - x) = V E phi' are identities."""
    loss, scale = Convex(OTHERS[name][0], "residual"), np.array([0.3, 3.0, 30.0])
    found = loss.averages(np.full(3, V), scale, None, 2)
    moved = scale**2 - found.spread - V**2 * found.square  # 2 V E x phi'(x), at least that of x = 0: V E phi' x >= 0
    inner = scale**2 * (1 - V * found.curvature) - found.spread  # V E x phi' by Stein's lemma: E w x = s^2 E x'
    np.testing.assert_allclose(moved / scale**2, 2 * inner / scale**2, rtol=1e-8, atol=1e-9)


# --- averages and laws of functions without a name ---


def brute(slope, kinks, V, scale):
    """Averages of a residual loss by bisection of w = x + V phi'(x) on a fine grid of xi."""
    xi = np.linspace(-9, 9, 400_001)
    weight = np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi) * (xi[1] - xi[0])
    w = scale * xi
    low, high = w - (1 + V) * 1e4, w + (1 + V) * 1e4
    for _ in range(100):
        x = (low + high) / 2
        above = x + V * slope(x) > w
        low, high = np.where(above, low, x), np.where(above, x, high)
    g = (w - x) / V
    return {
        "square": weight @ g**2,
        "pull": -weight @ g,
        "curvature": weight @ (g * xi) / scale,
        "spread": weight @ x**2,
    }


@pytest.mark.parametrize(
    "name", ["pinball", "insensitive", "log-cosh", "root", "close", "hinge and ridge", "smooth hinge"]
)
@pytest.mark.parametrize(("V", "scale"), [(0.5, 1.0), (20.0, 6.0)])
def test_averages_are_those_of_the_proximal_map(name, V, scale):
    """The curvature by Stein's lemma: E g' = E g xi / s."""
    function, slope, kinks = OTHERS[name]
    found = Convex(function, "residual").averages(np.array([V]), np.array([scale]), None, 2)
    expected = brute(slope, kinks, V, scale)
    for part, value in expected.items():
        np.testing.assert_allclose(getattr(found, part), value, rtol=1e-7, atol=1e-9, err_msg=part)


STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


@pytest.mark.parametrize("name", ["pinball", "log-cosh", "insensitive"])
def test_a_multiple_of_a_loss_wants_that_multiple_of_the_penalty(name):
    function = OTHERS[name][0]
    one = ge.predict(problem("linear", function), alpha=[0.5, 2.0], penalty=0.1)
    other = ge.predict(problem("linear", lambda r: 25 * function(r)), alpha=[0.5, 2.0], penalty=2.5)
    np.testing.assert_allclose(other.test_error, one.test_error, rtol=1e-10)
    np.testing.assert_allclose(other.data["train_loss"], 25 * one.data["train_loss"], rtol=1e-10)
    np.testing.assert_allclose(25 * other.data["V"], one.data["V"], rtol=1e-10)


def test_quantiles_of_symmetric_labels_mirror_each_other_and_the_median_is_half_the_absolute_loss():
    def pinball(level):
        return lambda r: np.maximum(level * r, (level - 1) * r)

    low, high = (ge.predict(problem("linear", pinball(level)), alpha=[0.5, 2.0], penalty=0.1) for level in (0.2, 0.8))
    np.testing.assert_allclose(low.test_error, high.test_error, rtol=1e-10)
    median = ge.predict(problem("linear", pinball(0.5)), alpha=[0.5, 2.0], penalty=0.1)
    absolute = ge.predict(problem("linear", "absolute"), alpha=[0.5, 2.0], penalty=0.2)
    np.testing.assert_allclose(median.test_error, absolute.test_error, rtol=1e-10)


# --- any greatest of lines ---


@st.composite
def lines(draw):
    """Slopes, knots at odd places apart, and the height at the first knot."""
    count = draw(st.integers(1, 4))
    jumps = [draw(st.floats(0.1, 2.0)) for _ in range(count)]
    knots = np.cumsum([draw(st.floats(-3.0, 3.0)), *(draw(st.floats(0.1, 2.0)) for _ in range(count - 1))])
    knots = np.round(knots * 40) / 40 + 0.0107  # far from 0 and from halves of intervals
    return draw(st.floats(-3.0, -0.1)), np.array(jumps), knots, draw(st.floats(-1.0, 1.0))


@pytest.mark.parametrize("distance", [0.3, 0.0107, 1e-3, 1e-5, -1e-3, -0.0107])
@pytest.mark.parametrize("end", [-4.0, -1.0, 1.0, 4.0, 16.0])
def test_a_kink_next_to_the_end_of_a_range_is_found(end, distance):
    """Between the end of an interval and its first node."""
    (kink,) = Convex(lambda x: np.abs(x - (end + distance)), "residual").kinks
    np.testing.assert_allclose([kink.place, kink.right - kink.left], [end + distance, 2.0], rtol=1e-9)


def greatest(first, jumps, knots, height):
    return lambda x: height + first * x + np.maximum(0, np.asarray(x)[..., None] - knots) @ jumps


@given(lines())
@settings(max_examples=25)
def test_the_greatest_of_any_lines_has_its_kinks(drawn):
    first, jumps, knots, height = drawn
    loss = Convex(greatest(first, jumps, knots, height), "residual")
    np.testing.assert_allclose([kink.place for kink in loss.kinks], knots, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose([kink.right - kink.left for kink in loss.kinks], jumps, rtol=1e-9)
    assert loss.quadratics is not None


@pytest.mark.parametrize("output", ["linear", "sign"])
@pytest.mark.parametrize("name", ["log-cosh", "root", "quartic", "cubed hinge", "hinge and ridge"])
def test_the_norm_is_the_slope_of_the_minimum_in_the_penalty(name, output):
    """The envelope theorem: d (min F / n) / d penalty = norm / (2 alpha)."""
    batch, at = (
        problem(output, Convex(OTHERS[name][0], "margin" if "hinge" in name and output == "sign" else "residual")),
        0.2,
    )
    step = 1e-3 * at
    penalties = [at + k * step for k, _ in STENCIL]
    minimum = {}
    for (k, _), penalty in zip(STENCIL, penalties, strict=True):
        curve = ge.predict(batch, alpha=[0.7, 2.0], penalty=penalty)
        minimum[k] = curve.data.train_loss.values + penalty * curve.data.norm.values / (2 * curve.alpha)
    slope = sum(weight * minimum[k] for k, weight in STENCIL) / step
    norm = ge.predict(batch, alpha=[0.7, 2.0], penalty=at).data.norm.values
    np.testing.assert_allclose(slope, norm / (2 * np.array([0.7, 2.0])), rtol=1e-7)


# --- refusals ---


def failing(x):
    raise KeyError("no")


REFUSED = {
    "a concave one": (lambda x: -(x**2), "is not convex: between .* it lies above its chord"),
    "a step": (np.tanh, "the loss tanh is not convex"),
    "a wave": (lambda x: x**2 + np.sin(5 * x), "is not convex"),
    "a dent": (lambda x: np.abs(x) - 0.01 * np.exp(-1e4 * (x - 0.5) ** 2), "is not convex"),
    "a constant": (lambda x: 0 * x + 3, "is constant; expected a convex function that prefers"),
    "NaN": (lambda x: x * np.nan, "is not finite near 0"),
    "a logarithm": (np.log, "the loss log is not finite near 0"),
    "one that fails": (failing, r"the loss failing fails \(KeyError: 'no'\); expected a function of one number"),
    "words": (lambda x: "much", "fails .*expected a function of one number"),
    "three numbers": (lambda x: np.zeros(3), "fails .*expected a function of one number"),
    "no function": (3, "the loss is an int; expected a convex function of one number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_convex_function_is_refused_in_one_sentence(case):
    function, sentence = REFUSED[case]
    with pytest.raises(ge.InputError, match=sentence) as caught:
        Convex(function, "residual")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bend", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("fall", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("place", [-0.7071, 0.503, 2.2])
def test_a_slope_that_falls_at_one_place_is_seen_between_all_points_of_the_chords(place, fall, bend):
    """A concave kink beside so much curvature that chords over a grid do not show it."""
    falling = lambda x: bend * x**2 / 2 + 5 * np.sqrt(1 + x**2) - fall / 2 * np.abs(x - place)
    rising = lambda x: bend * x**2 / 2 + 5 * np.sqrt(1 + x**2) + fall / 2 * np.abs(x - place)
    with pytest.raises(ge.InputError, match=r"is not convex: (its slope falls near|between)"):
        Convex(falling, "residual")
    (kink,) = Convex(rising, "residual").kinks
    np.testing.assert_allclose([kink.place, kink.right - kink.left], [place, fall], rtol=1e-6)


def test_a_concave_knot_between_two_parabolas_is_refused():
    with pytest.raises(ge.InputError, match=r"is not convex: its slope falls near 0\.503"):
        Convex(lambda x: 50 * x**2 - 0.01 * np.abs(x - 0.503), "residual")


def test_a_function_with_too_many_kinks_is_refused():
    knots = np.linspace(-3, 3, 301) + 0.001
    with pytest.raises(ge.InputError, match=r"not resolved near .* too many, or too sharp, kinks"):
        Convex(lambda x: np.abs(np.asarray(x)[..., None] - knots).sum(-1), "residual")


@pytest.mark.parametrize("off", [-0.01, 0.0, 0.02])
@pytest.mark.parametrize("place", [-2.3, 0.7])
def test_quadratic_functions_meet_where_they_cross_or_touch(place, off):
    """Of a first guess that is off by some: c_0 + c_1 x + c_2 x^2 / 2 on either side."""
    line, bent = (1 - place, 1.0, 0.0), (1 + place**2 / 2 - 2 * place, 2 - place, 1.0)  # both 1 there, slopes 1 and 2
    touching = (1 - place + place**2 / 2, 1 - place, 1.0)  # slope 1 there
    for other in (bent, touching):
        np.testing.assert_allclose(_meeting(line, other, place + off), place, rtol=1e-7)


def test_a_loss_has_no_averages_where_it_was_never_asked():
    loss, labels = Convex(lambda x: np.logaddexp(0, -x)), SignLabels(np.ones(2), np.ones(2))
    found = loss.averages(np.ones(2), np.array([1.0, FARTHEST]), labels)
    assert list(np.isfinite(found.curvature)) == [True, False]
