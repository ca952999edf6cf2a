"""Full batch: z-scores of test errors and training losses, the sentence, learning curves, heat maps, and the page."""

import json
import re

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv import report
from gaussequiv.errors import InputError
from gaussequiv.maths.solvers import Status
from gaussequiv.models.curves import Curve
from gaussequiv.report import figures, page
from gaussequiv.report.batches import QUANTITIES
from gaussequiv.report.comparison import LEVEL

MODEL = cases.correlated_model()
ALPHA = np.array([0.2, 0.5, 1.0, 2.0, 3.5])
PENALTIES = [0.0, 0.01, 0.1, 1.0, 10.0]


def problem(loss="square", output="linear"):
    weights = np.random.default_rng(3).standard_normal(MODEL.latent_dim)
    return ge.FullBatch(MODEL, ge.Perceptron(weights, output, 0.5), loss)


def pretend(theory, rng, seeds=10, shift=0.0, common=0.5, spread=0.02):
    """A simulation whose seeds scatter around the theory, times (1 + shift), with errors shared by the points of a seed."""
    variables = {}
    for name, plural in (("test_error", "test_errors"), ("train_loss", "train_losses")):
        values = theory.data[name].values[..., None]
        noise = np.sqrt(1 - common) * rng.standard_normal((*values.shape[:-1], seeds))
        noise += np.sqrt(common) * rng.standard_normal(seeds)
        variables[plural] = values * (1 + shift + spread * noise)
        variables[name] = variables[plural].mean(axis=-1)
        variables[f"{name}_se"] = variables[plural].std(axis=-1, ddof=min(1, seeds - 1)) / np.sqrt(seeds)
    axes = {name: theory.data[name].values for name in theory.data.coords}
    if "penalty" in theory.data.data_vars:
        variables["penalty"] = theory.penalty
    provenance = {"kind": "simulation", "inputs": "</script><b>pretended</b>", "problem": theory.provenance["problem"]}
    return Curve.on_grid(axes, variables, np.full(theory.test_error.shape, Status.OK, dtype=object), provenance)


def changed(curve, **changes):
    """A curve with single values of variables replaced: name=(index, value)."""
    data = curve.data.copy(deep=True)
    data["status"] = data["status"].astype("U16")
    for name, (index, value) in changes.items():
        data[name].values[index] = value
    return Curve(data)


def some_rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def theory():
    return ge.predict(problem(), alpha=ALPHA, penalty=[0.01, 0.1, 1.0])


@pytest.fixture(scope="module")
def ridgeless():
    """With a penalty 0: zero training losses, and nothing at all at the interpolation threshold."""
    return ge.predict(problem(), alpha=ALPHA, penalty=PENALTIES)


@pytest.fixture(scope="module")
def best():
    return ge.predict(problem("logistic", "sign"), alpha=ALPHA, penalty="optimal")


# --- the comparison ---


def test_z_is_the_difference_in_standard_errors_of_both_quantities(theory):
    practice = pretend(theory, some_rng())
    comparison = report.compare(theory, practice)
    expected = []
    for name, plural in (("test_error", "test_errors"), ("train_loss", "train_losses")):
        seeds = practice.data[plural].values
        z = (seeds.mean(axis=-1) - theory.data[name].values) / (seeds.std(axis=-1, ddof=1) / np.sqrt(10))
        np.testing.assert_allclose(comparison.z(name), z, rtol=1e-11)
        expected.append(z)
    assert comparison.rms_z == pytest.approx(np.sqrt(np.mean(np.square(expected))))
    assert comparison.count == 30
    name, index = comparison.worst
    assert abs(comparison.z(name)[index]) == pytest.approx(np.abs(expected).max())


@pytest.mark.parametrize("common", [0.0, 0.95])
@pytest.mark.parametrize("seeds", [4, 10])
def test_a_true_theory_is_said_to_depart_no_more_often_than_the_level(theory, common, seeds):
    rng = np.random.default_rng(seeds)
    wrong = sum(not report.compare(theory, pretend(theory, rng, seeds, common=common)).agrees for _ in range(300))
    assert wrong <= 300 * LEVEL + 3 * np.sqrt(300 * LEVEL)


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_departure_of_one_point_of_one_quantity_is_found_and_named(theory, name):
    practice = pretend(theory, some_rng())
    far = float(theory.data[name].values[3, 1]) + 20 * float(practice.data[f"{name}_se"].values[3, 1])
    comparison = report.compare(theory, changed(practice, **{name: ((3, 1), far)}))
    assert not comparison.agrees
    assert comparison.worst == (name, (3, 1))
    assert "depart from each other" in comparison.sentence
    assert f"worst z = +20.00, of the {QUANTITIES[name]} at alpha = 2, penalty = 0.1" in comparison.sentence
    assert "The points of one seed share samples, so their errors are correlated." in comparison.sentence


def test_few_seeds_are_not_called_agreement(theory):
    few, many = (report.compare(theory, pretend(theory, some_rng(), seeds)) for seeds in (2, 30))
    assert (few.agrees, few.undecided) == (True, True)
    assert "the seeds are too few to call it agreement" in few.sentence
    assert (many.agrees, many.undecided) == (True, False)
    assert "agree within error bars" in many.sentence


def test_what_is_zero_or_not_there_is_not_compared(ridgeless):
    comparison = report.compare(ridgeless, pretend(ridgeless, some_rng()))
    below = ALPHA < 1
    assert np.isnan(comparison.z("train_loss")[below, 0]).all()
    assert np.isfinite(comparison.z("test_error")[below]).all()
    assert np.isnan(comparison.z("test_error")[2, 0])
    assert comparison.agrees
    assert "At 1 of 25 points a curve has no finite value; the first is alpha = 1, penalty = 0, theory: " in (
        comparison.lost_sentence
    )
    assert "interpolation threshold" in comparison.summary


def test_training_losses_that_are_zero_up_to_rounding_are_not_compared():
    """All points interpolate: theory says 0, the simulation 1e-30."""
    theory = ge.predict(problem("square", "linear"), alpha=[0.25, 0.5], penalty=0)
    practice = pretend(theory, some_rng())
    tiny = np.full(theory.test_error.shape, 1e-30)
    practice.data["train_loss"].values[...], practice.data["train_loss_se"].values[...] = tiny, tiny / 10
    comparison = report.compare(theory, practice)
    assert np.isnan(comparison.z("train_loss")).all()
    assert comparison.agrees


def test_training_losses_of_a_few_rare_samples_are_not_compared():
    theory = ge.predict(problem("logistic", "sign"), alpha=ALPHA, penalty=[1e-4, 1.0])
    z = report.compare(theory, pretend(theory, some_rng())).z("train_loss")
    assert np.isnan(z[0, 0])
    assert np.isfinite(z[-1]).all()


def test_a_simulation_that_fails_where_theory_has_a_number_does_not_agree(theory):
    practice = changed(pretend(theory, some_rng()), test_error=((1, 2), np.nan), status=((1, 2), "not-converged"))
    comparison = report.compare(theory, practice)
    assert not comparison.agrees
    assert "alpha = 0.5, penalty = 1, simulation: " in comparison.summary


def test_seeds_that_do_not_differ_have_no_z(theory):
    comparison = report.compare(theory, changed(pretend(theory, some_rng()), test_error_se=((0, 0), 0.0)))
    assert np.isnan(comparison.z()[0, 0])


def test_one_penalty_and_best_penalties_are_compared_too(best):
    comparison = report.compare(best, pretend(best, some_rng()))
    assert comparison.head[:3] == ["alpha", "penalty", "theory"]
    assert [row[1] for row in comparison.rows] == [f"{penalty:.4g}" for penalty in best.penalty]
    single = ge.predict(problem(), alpha=ALPHA, penalty=0.3)
    assert {row[1] for row in report.compare(single, pretend(single, some_rng())).rows} == {"0.3"}


def test_wrong_comparisons_are_refused_in_a_sentence(theory, best):
    practice = pretend(theory, some_rng())
    shorter = ge.predict(problem(), alpha=ALPHA[1:], penalty=[0.01, 0.1, 1.0])
    others = ge.predict(problem(), alpha=ALPHA, penalty=[0.01, 0.1, 2.0])
    with pytest.raises(InputError, match="other values of alpha; predict and simulate at the same ones"):
        report.compare(shorter, practice)
    with pytest.raises(InputError, match="other values of penalty"):
        report.compare(others, practice)
    with pytest.raises(InputError, match=r"the axes \(alpha\) and \(alpha, penalty\)"):
        report.compare(best, practice)
    elsewhere = changed(best, penalty=(2, 7.0))
    with pytest.raises(InputError, match="other values of penalty"):
        report.compare(elsewhere, pretend(best, some_rng()))
    with pytest.raises(InputError, match="no standard errors; simulate at least two seeds"):
        report.compare(theory, theory)
    with pytest.raises(InputError, match="no standard errors"):
        report.compare(theory, pretend(theory, some_rng(), seeds=1))
    online = ge.predict(cases.problem(), times=[0, 1])
    for pair in ((online, practice), (theory, cases.pretend(online, some_rng()))):
        with pytest.raises(InputError, match="an online curve and a full-batch one cannot be compared"):
            report.compare(*pair)
    nothing = Curve(practice.data.copy(deep=True))
    for name in QUANTITIES:
        nothing.data[name][:] = np.nan
    with pytest.raises(InputError, match=r"no finite point in common$"):
        report.compare(theory, nothing)
    ridge = ge.predict(problem(), alpha=[1.0], penalty=0)
    with pytest.raises(
        InputError, match="no finite point in common: alpha = 1: diverged: alpha = 1 is the interpolation"
    ):
        report.compare(ridge, pretend(ridge, some_rng()))


def test_the_comparison_is_saved_as_strict_json(ridgeless, tmp_path):
    comparison = report.compare(ridgeless, pretend(ridgeless, some_rng()))
    comparison.save(tmp_path / "comparison.json")
    read = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert read["sentence"] == comparison.sentence == str(comparison)
    table = comparison.to_dataframe()
    assert list(table.columns[:6]) == ["alpha", "penalty", "theory", "simulation", "standard_error", "z"]
    assert list(table.columns[6:]) == [f"train_loss_{name}" for name in table.columns[2:6]]
    assert len(table) == len(comparison.rows) == 25
    np.testing.assert_allclose(np.array(read["table"]["z"], float), comparison.z().ravel())
    row = table[(table.alpha == 2.0) & (table.penalty == 0.1)].iloc[0]
    assert row.theory == ridgeless.test_error[3, 2]


# --- figures ---


def drawn_lines(panel):
    return [line for line in panel.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == len(ALPHA)]


def test_the_figure_shows_the_numbers_of_both_quantities(theory):
    practice, twin = pretend(theory, some_rng()), pretend(theory, np.random.default_rng(1))
    comparison = report.compare(theory, practice)
    figure = figures.compared(comparison, report.compare(theory, twin))
    errors, errors_z, losses, losses_z = figure.axes
    for panel, name in ((errors, "test_error"), (losses, "train_loss")):
        curves = drawn_lines(panel)
        np.testing.assert_array_equal([c.get_ydata() for c in curves], theory.data[name].values.T)
        bars = [container.lines[0].get_ydata() for container in panel.containers]
        np.testing.assert_array_equal(bars[:3], practice.data[name].values.T)
        np.testing.assert_array_equal(bars[3:], twin.data[name].values.T)
        assert panel.get_xscale() == "log"
    for panel, name in ((errors_z, "test_error"), (losses_z, "train_loss")):
        shown = [line.get_ydata() for line in panel.lines if len(line.get_xdata()) == len(ALPHA)]
        np.testing.assert_array_equal(shown[3:], comparison.z(name).T)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:3] == ["theory", "simulation, 10 seeds", "Gaussian twin"]
    assert len(words) == 6


def test_axes_are_logarithmic_where_values_span_more_than_a_decade():
    steep = ge.predict(problem(), alpha=[0.9, 0.99, 1.1, 3.0], penalty=0)
    errors, losses = figures.full_batch(steep).axes
    assert (errors.get_yscale(), losses.get_yscale()) == ("log", "linear")


def test_at_most_eight_of_many_penalties_are_drawn():
    many = ge.predict(problem(), alpha=ALPHA, penalty=ge.log_grid(1e-3, 10, 30))
    panel = figures.full_batch(many).axes[0]
    curves = np.array([line.get_ydata() for line in drawn_lines(panel)])
    assert len(curves) == 8
    np.testing.assert_array_equal(curves[[0, -1]], many.test_error.T[[0, -1]])


def test_a_theory_between_points_without_a_value_is_drawn_as_a_mark(ridgeless, theory):
    data = ridgeless.data.copy(deep=True)
    data["test_error"].values[[0, 2, 4], 0] = np.nan
    marked = [line.get_markevery() for line in drawn_lines(figures.full_batch(Curve(data)).axes[0])]
    assert marked == [[1, 3], [], [], [], []]
    assert {tuple(line.get_markevery()) for line in drawn_lines(figures.full_batch(theory).axes[0])} == {()}


def test_thresholds_in_view_are_lines_with_names(ridgeless):
    labels = ge.predict(problem("logistic", "sign"), alpha=ALPHA, penalty=0.1)
    limits = labels.provenance["thresholds"]
    panel = figures.full_batch(labels).axes[0]
    upright = [line.get_xdata()[0] for line in panel.lines if len(set(line.get_xdata())) == 1]
    assert upright == [value for value in limits.values() if ALPHA[0] < value < ALPHA[-1]]
    assert {"interpolation", "← separable"} >= {text.get_text() for text in panel.texts} > set()
    outside = ge.predict(problem(), alpha=[2.0, 3.0], penalty=0.1)
    assert not [line for line in figures.full_batch(outside).axes[0].lines if len(set(line.get_xdata())) == 1]


def test_best_penalties_have_a_panel_and_the_bayes_optimal_error_a_dashed_line(best):
    bayes = ge.bayes_optimal(MODEL, ALPHA, "sign", 0.5)
    errors, losses, penalties = figures.full_batch(best, bayes=bayes).axes
    (dashed,) = [line for line in errors.lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(dashed.get_ydata(), bayes.test_error)
    assert not [line for line in losses.lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(penalties.lines[0].get_ydata(), best.penalty)


def test_the_heat_map_shows_all_points_and_the_best_penalty(ridgeless):
    panel, bar = figures.heat_map(ridgeless).axes
    shown = panel.collections[0].get_array()
    np.testing.assert_array_equal(shown.mask, np.isnan(ridgeless.test_error.T))
    np.testing.assert_array_equal(shown.compressed(), ridgeless.test_error.T[np.isfinite(ridgeless.test_error.T)])
    assert panel.get_xscale() == panel.get_yscale() == "log"
    (best,) = [line for line in panel.lines if len(line.get_xdata()) == len(ALPHA)]
    expected = np.array(PENALTIES)[np.nanargmin(ridgeless.test_error, axis=1)]
    assert (expected > 0).all()
    np.testing.assert_allclose(best.get_ydata(), expected)
    assert bar.get_ylabel() == "test error"


def test_a_heat_map_of_no_finite_point_is_grey(ridgeless):
    data = ridgeless.data.copy(deep=True)
    data["test_error"][:] = np.nan
    assert len(figures.heat_map(Curve(data)).axes) == 1


def test_curves_without_penalties_enough_have_no_heat_map(best):
    two = ge.predict(problem(), alpha=ALPHA, penalty=[0.1, 1.0])
    for curve in (best, two, ge.predict(problem(), alpha=1.0, penalty=[0.1, 1.0, 2.0])):
        assert not figures.has_heat_map(curve)
        with pytest.raises(InputError, match="a heat map needs an axis of at least 3 positive penalties"):
            figures.heat_map(curve)
    with pytest.raises(InputError, match="there is nothing to draw"):
        figures.full_batch(None)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_figures_are_written_in_every_format(ridgeless, tmp_path, suffix):
    comparison = report.compare(ridgeless, pretend(ridgeless, some_rng()))
    comparison.plot(tmp_path / f"curve{suffix}", twin=comparison)
    figures.save(figures.heat_map(ridgeless), tmp_path / f"map{suffix}")
    assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())


# --- the page ---


def test_every_point_without_a_value_is_on_the_page_with_its_reason(tmp_path):
    theory = ge.predict(problem("logistic", "sign"), alpha=ALPHA, penalty=[0.0, 0.1])
    lost = np.isnan(theory.test_error)
    assert 1 < lost.sum() < 5
    comparison = report.compare(theory, pretend(theory, some_rng()))
    page.write(tmp_path / "index.html", comparison, {"curve": ("<svg></svg>", "")}, {}, comparison)
    text = (tmp_path / "index.html").read_text()
    items = re.findall("<li>(.*?)</li>", text)
    assert len(items) == len(comparison.doubts) == lost.sum()
    for (i, j), item in zip(np.argwhere(lost), items, strict=True):
        assert item.startswith(
            f"theory at alpha = {ALPHA[i]:.4g}, penalty = 0: diverged: alpha = {ALPHA[i]:.4g} is below"
        )
        assert theory.reasons[i, j] in item
    assert "Points without a value" not in (
        page.write(tmp_path / "good.html", comparison_of_good(), {"curve": ("<svg></svg>", "")}, {})
        or (tmp_path / "good.html").read_text()
    )


def comparison_of_good():
    good = ge.predict(problem(), alpha=ALPHA, penalty=0.1)
    return report.compare(good, pretend(good, some_rng()))


@pytest.mark.parametrize(("seeds", "kind"), [(2, " undecided"), (30, "")])
def test_the_page_shows_what_is_undecided_in_another_colour(theory, seeds, kind, tmp_path):
    comparison = report.compare(theory, pretend(theory, some_rng(), seeds))
    page.write(tmp_path / "index.html", comparison, {"curve": ("<svg></svg>", "")}, {})
    assert f'<p class="verdict{kind}">' in (tmp_path / "index.html").read_text()
    assert comparison.to_dict()["undecided"] is bool(kind)


def test_a_score_that_is_left_out_is_a_dash(ridgeless):
    comparison = report.compare(ridgeless, pretend(ridgeless, some_rng()))
    scores = [row[-1] for row in comparison.table("train_loss")]
    assert "–" in scores
    assert "+nan" not in scores


def test_the_page_is_whole_self_contained_and_escapes_every_string(ridgeless, tmp_path):
    comparison = report.compare(ridgeless, pretend(ridgeless, some_rng()))
    pictures = {
        "curve": (figures.svg(figures.compared(comparison)), "a <caption>"),
        "theory-map": (figures.svg(figures.heat_map(ridgeless)), "a map"),
    }
    page.write(tmp_path / "index.html", comparison, pictures, {"name": "</pre><script>alert(1)</script>"}, comparison)
    text = (tmp_path / "index.html").read_text()
    parser = cases.Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.seen.count("table") == 2
    assert parser.seen.count("tr") == 2 * (25 + 1)
    assert "<script" not in text
    assert "<b>pretended" not in text
    assert text.count('class="worst"') == 1
    name, index = comparison.worst
    worst = re.search(r'<tr class="worst">(.*?)</tr>', text)[1]
    assert f"<td>{comparison.z(name)[index]:+.2f}</td>" in worst
    assert "arXiv:2102.08127" in text
