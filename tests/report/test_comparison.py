"""The comparison: z-scores, the bound that chance explains, the sentence, the figures and the page."""

import json

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv import report
from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.report import figures, page
from gaussequiv.report.comparison import LEVEL

TIMES = ge.log_times(10, 15)


@pytest.fixture(scope="module")
def theory():
    return ge.predict(cases.problem(), times=TIMES)


def test_z_is_the_difference_in_standard_errors(theory):
    practice = cases.pretend(theory, np.random.default_rng(0))
    comparison = report.compare(theory, practice)
    errors = practice.data["test_errors"].values
    expected = (errors.mean(axis=1) - theory.test_error) / (errors.std(axis=1, ddof=1) / np.sqrt(10))
    np.testing.assert_allclose(comparison.z, expected, rtol=1e-12)
    assert comparison.rms_z == pytest.approx(np.sqrt(np.mean(expected**2)))
    assert comparison.worst == np.argmax(np.abs(expected))


def estimated(theory):
    """A prediction from an estimated model: errors of 2 %, and 3 % of bias."""
    eg = theory.data["test_error"]
    parts = {"test_error_se": 0.02 * eg, "test_error_bias": 0.03 * eg}
    return Curve(theory.data.assign(parts).assign_attrs(parts=16))


@pytest.mark.parametrize("twin", [False, True])
def test_an_estimate_counts_on_the_generator_and_not_on_its_twin(theory, twin):
    """The twin has the law of the model as it is; the generator that of the model without bias, up to its error."""
    practice = cases.pretend(theory, np.random.default_rng(0))
    practice = Curve(practice.data.assign_attrs(provenance=json.dumps(practice.provenance | {"twin": twin})))
    comparison = report.compare(estimated(theory), practice)
    errors = practice.data["test_errors"].values
    spread, eg = errors.std(axis=1, ddof=1) / np.sqrt(10), theory.test_error
    expected, deviation = (eg, spread) if twin else (0.97 * eg, np.hypot(spread, 0.02 * eg))
    np.testing.assert_allclose(comparison.z, (errors.mean(axis=1) - expected) / deviation, rtol=1e-12)
    for first, last, mean, score in comparison.stretches:
        part = (theory.times >= first) & (theory.times <= last)
        by_seed = (errors[part] / expected[part, None] - 1).mean(axis=0)
        error = np.hypot(by_seed.std(ddof=1) / np.sqrt(10), 0.0 if twin else 0.02 / 0.97)
        assert (mean, score) == pytest.approx((by_seed.mean(), by_seed.mean() / error))
    assert len(figures.learning_curve(comparison).axes[0].collections) == (1 if twin else 2)  # error bars, and the band


@pytest.mark.slow
@pytest.mark.parametrize("correlated", [0.0, 0.9])
@pytest.mark.parametrize("seeds", [4, 10])
def test_a_true_theory_is_said_to_depart_no_more_often_than_the_level(theory, correlated, seeds):
    rng = np.random.default_rng(seeds)
    wrong = sum(
        not report.compare(theory, cases.pretend(theory, rng, seeds, correlated=correlated)).agrees for _ in range(600)
    )
    assert wrong <= 600 * LEVEL + 3 * np.sqrt(600 * LEVEL)


@pytest.mark.parametrize(("shift", "words"), [(-0.02, "below theory (z = -"), (0.02, "above theory (z = +")])
def test_a_departure_of_three_standard_errors_everywhere_is_found_by_the_stretches(theory, shift, words):
    """Each point alone is within the bound; together they are not."""
    rng = np.random.default_rng(1)
    found = [report.compare(theory, cases.pretend(theory, rng, shift=shift)) for _ in range(40)]
    assert sum(not c.agrees for c in found) > 36
    assert words in found[0].sentence
    assert "depart from each other" in found[0].sentence


@pytest.mark.parametrize("which", ["theory", "practice"])
def test_a_curve_that_ends_does_not_agree(theory, which):
    practice = cases.pretend(theory, np.random.default_rng(0))
    cut = {"theory": theory, "practice": practice}[which].data.copy(deep=True)
    cut["test_error"][9:] = np.nan
    comparison = report.compare(*((Curve(cut), practice) if which == "theory" else (theory, Curve(cut))))
    assert not comparison.agrees
    assert "over 9 times" in comparison.sentence
    assert f"From t = {TIMES[9]:.3g} on a curve has no finite value" in comparison.sentence


def test_the_largest_departure_is_the_largest_relative_difference(theory):
    practice = cases.pretend(theory, np.random.default_rng(0))
    index, size = report.compare(theory, practice).largest_departure
    relative = np.abs(practice.test_error - theory.test_error) / theory.test_error
    assert (index, size) == (np.argmax(relative), pytest.approx(relative.max()))


def test_a_wrong_overlap_is_named(theory):
    practice = cases.pretend(theory, np.random.default_rng(0))
    data = practice.data.copy(deep=True)
    data["R"][4, 1, 0] += 0.7
    sentence = report.compare(theory, Curve(data)).overlaps_sentence
    assert f"R_21, at t = {TIMES[4]:.3g}" in sentence


def test_a_wrong_classification_error_is_named(theory):
    practice = cases.pretend(theory, np.random.default_rng(0))
    assert report.compare(theory, practice).classification_sentence == ""
    rates = {"classification_error": (("time",), np.linspace(0.5, 0.1, len(TIMES)))}
    rates["classification_error_se"] = (("time",), np.full(len(TIMES), 0.003))
    one, other = Curve(theory.data.assign(rates)), practice.data.assign(rates).copy(deep=True)
    other["classification_error_se"][:] = 0.004
    other["classification_error"][5] += 0.02
    comparison = report.compare(one, Curve(other))
    assert f"differ most at t = {TIMES[5]:.3g}" in comparison.classification_sentence
    assert "(z = +4.00; " in comparison.classification_sentence
    assert comparison.classification_sentence in comparison.summary


def test_few_seeds_are_not_called_agreement(theory):
    """With three seeds chance explains almost any departure: Student's law has no second moment there."""
    few, many = (report.compare(theory, cases.pretend(theory, np.random.default_rng(1), seeds=s)) for s in (3, 30))
    assert (few.agrees, few.undecided) == (True, True)
    assert "the seeds are too few to call it agreement" in few.sentence
    assert (many.agrees, many.undecided) == (True, False)
    assert "agree within error bars" in many.sentence


def test_wrong_comparisons_are_refused_in_a_sentence(theory):
    practice = cases.pretend(theory, np.random.default_rng(0))
    with pytest.raises(InputError, match="other times"):
        report.compare(ge.predict(cases.problem(), times=[0, 1]), practice)
    with pytest.raises(InputError, match="no standard errors; simulate at least two seeds"):
        report.compare(theory, theory)
    with pytest.raises(InputError, match="no standard errors"):
        report.compare(theory, cases.pretend(theory, np.random.default_rng(0), seeds=1))


def test_the_comparison_is_saved_as_strict_json(theory, tmp_path):
    comparison = report.compare(theory, cases.pretend(theory, np.random.default_rng(0)))
    comparison.save(tmp_path / "comparison.json")
    read = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert read["sentence"] == comparison.sentence == str(comparison)
    np.testing.assert_allclose(read["table"]["z"], comparison.z)
    assert list(comparison.to_dataframe().columns) == ["time", "theory", "simulation", "standard_error", "z"]


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_figures_are_written_in_every_format(theory, tmp_path, suffix):
    path = tmp_path / f"curve{suffix}"
    comparison = report.compare(theory, cases.pretend(theory, np.random.default_rng(0)))
    comparison.plot(path, twin=comparison)
    assert path.stat().st_size > 10_000
    with pytest.raises(InputError, match=r"cannot be saved as 'curve.jpg'; expected the suffix .png, .pdf, .svg"):
        comparison.plot(tmp_path / "curve.jpg")


def test_the_figure_shows_the_numbers(theory):
    practice = cases.pretend(theory, np.random.default_rng(0))
    figure = figures.learning_curve(report.compare(theory, practice))
    errors = figure.axes[0]
    np.testing.assert_array_equal(errors.lines[0].get_ydata(), theory.test_error)
    np.testing.assert_array_equal(errors.containers[0].lines[0].get_ydata(), practice.test_error)
    assert errors.get_xscale() == errors.get_yscale() == "log"
    assert (errors.lines[0].get_xdata() > 0).all()


def test_a_spectrum_and_a_theory_can_be_drawn(theory, tmp_path):
    figures.save(figures.spectrum(cases.correlated_model("image")), tmp_path / "spectrum.png")
    figures.save(figures.theory_curve(theory), tmp_path / "theory.png")
    figures.save(figures.samples(np.zeros((5, 3, 4, 4))), tmp_path / "samples.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_the_page_is_whole_self_contained_and_escapes_every_string(theory, tmp_path):
    comparison = report.compare(theory, cases.pretend(theory, np.random.default_rng(0)))
    pictures = {"curve": (figures.svg(figures.learning_curve(comparison)), "a <caption>")}
    page.write(tmp_path / "index.html", comparison, pictures, {"name": "</pre><script>alert(1)</script>"}, comparison)
    text = (tmp_path / "index.html").read_text()
    parser = cases.Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.seen.count("tr") == len(TIMES) + 1
    assert "<script" not in text
    assert "<b>pretended" not in text
