"""Sweeps in the report: one comparison a point, the sentence over all of them, the figure and the page."""

import json

import numpy as np
import pytest

import cases
import gaussequiv as ge
from gaussequiv import report
from gaussequiv.errors import InputError
from gaussequiv.models.curves import Curve
from gaussequiv.models.sweeps import Curves
from gaussequiv.report import figures, page
from gaussequiv.report.comparison import LEVEL
from gaussequiv.report.grids import GridComparison, table

TIMES = ge.log_times(10, 15)
AXES = {"lr": [0.3, 0.1], "noise": [0.0, 0.2, 0.4]}


def grid(axes):
    return ge.Sweep(cases.problem(), **axes)


@pytest.fixture(scope="module")
def theory():
    return ge.predict(grid(AXES), times=TIMES)


def pretended(theory, axes=AXES, shift=0.0, only=None, seeds=10, rng=0):
    """A simulated sweep that scatters around the theory, shifted at the point `only` (or at all)."""
    rng = np.random.default_rng(rng)
    curves = [
        cases.pretend(theory.curve(**point), rng, seeds=seeds, shift=shift if only in (None, point) else 0.0)
        for point in theory.points
    ]
    return Curves.of(grid(axes), curves)


def test_a_grid_is_compared_point_by_point_at_a_shared_level(theory):
    practice = pretended(theory)
    found = report.compare(theory, practice)
    assert isinstance(found, GridComparison)
    for i, (point, one) in enumerate(zip(theory.points, found.comparisons, strict=True)):
        alone = report.compare(theory.curve(**point), practice.curve(**point))
        np.testing.assert_array_equal(one.z, alone.z)
        assert one.level == LEVEL / 6
        assert one.bound > alone.bound
        assert found.final_z[i] == alone.z[-1]
    z = np.concatenate([one.z for one in found.comparisons])
    assert f"at 6 of 6 points of the grid: rms z = {np.sqrt(np.mean(z**2)):.2f} over {z.size} values" in str(found)
    assert found.agrees
    assert np.abs(found.comparisons[found.worst].z).max() == np.abs(z).max()


@pytest.mark.slow
def test_a_true_grid_departs_somewhere_no_more_often_than_the_level():
    """Many points, one chance of 1 %: points tested at the full level would depart in one grid of twelve."""
    axes = {"lr": [0.3, 0.1], "noise": [0.0, 0.1, 0.2, 0.3]}
    theory = ge.predict(grid(axes), times=[0, 1, 5])
    wrong = sum(not report.compare(theory, pretended(theory, axes, rng=i)).agrees for i in range(150))
    assert wrong <= 150 * LEVEL + 3 * np.sqrt(150 * LEVEL)


def test_a_departure_at_one_point_is_found_and_named(theory):
    found = report.compare(theory, pretended(theory, shift=0.2, only={"lr": 0.1, "noise": 0.2}))
    assert not found.agrees
    assert [one.agrees for one in found.comparisons] == [True] * 4 + [False, True]
    assert found.worst == 4
    assert "agree within error bars at 5 of 6 points" in found.sentence
    assert "The largest |z| is at lr=0.1, noise=0.2: The test errors of theory and simulation depart" in found.sentence


def test_a_lost_point_does_not_lose_the_others(theory):
    data = theory.data.copy(deep=True)
    data["test_error"].loc[{"lr": 0.3, "noise": 0.4}] = np.nan
    found = report.compare(Curves(data), pretended(theory))
    assert [one is None for one in found.comparisons] == [False, False, True, False, False, False]
    assert not found.agrees
    assert "at 5 of 6 points" in found.sentence
    assert found.sentence.endswith("Without a finite value in common: lr=0.3, noise=0.4.")
    assert found.rows[2][:3] == ["0.3", "0.4", "nan"]
    figures.svg(figures.compared(found))
    data["test_error"][:] = np.nan
    with pytest.raises(InputError, match="no finite point in common"):
        report.compare(Curves(data), pretended(theory))
    figures.svg(figures.sweep(Curves(data)))


def test_wrong_grids_are_refused_in_a_sentence(theory):
    practice = pretended(theory)
    with pytest.raises(InputError, match="the sweeps have other axes"):
        report.compare(ge.predict(grid({"lr": [0.3, 0.1]}), times=TIMES), practice)
    with pytest.raises(InputError, match="a Curve and a Curves cannot be compared"):
        report.compare(theory.curve(lr=0.3, noise=0), practice)
    with pytest.raises(InputError, match="simulate at least two seeds"):
        report.compare(theory, pretended(theory, seeds=1))


def test_the_grid_is_saved_as_strict_json(theory, tmp_path):
    data = theory.data.copy(deep=True)
    data["test_error"].loc[{"lr": 0.3, "noise": 0.4}] = np.nan
    found = report.compare(Curves(data), pretended(theory))
    found.save(tmp_path / "comparison.json")
    read = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert read["axes"] == AXES
    assert read["points"][2] == {"point": {"lr": 0.3, "noise": 0.4}, "comparison": None}
    np.testing.assert_allclose(read["points"][5]["comparison"]["table"]["z"], found.comparisons[5].z)


def test_the_table_has_the_last_errors_and_the_twin_beside(theory):
    found, twin = (report.compare(theory, pretended(theory, rng=rng)) for rng in (0, 1))
    head, rows = table(found, twin)
    assert head == ["lr", "noise", "theory", "simulation", "standard error", "z", "twin", "standard error", "z"]
    last = theory.curve(lr=0.1, noise=0.4).test_error[-1]
    assert rows[5][:3] == ["0.1", "0.4", f"{last:.5g}"]
    assert rows[5][6] == f"{twin.practice.curve(lr=0.1, noise=0.4).test_error[-1]:.5g}"
    assert rows[5][5] == f"{found.comparisons[5].z[-1]:+.2f}"


def test_the_figure_shows_the_numbers_coloured_by_the_first_axis_and_styled_by_the_second(theory):
    practice = pretended(theory)
    figure = figures.sweep(theory, practice)
    left, right = figure.axes
    lines = {tuple(line.get_ydata()): line for line in left.lines}
    for point in theory.points:
        line = lines[tuple(theory.curve(**point).test_error)]
        assert line.get_color() == figures.COLOURS[AXES["lr"].index(point["lr"])]
        assert line.get_linestyle() == figures.LINES[AXES["noise"].index(point["noise"])]
        dots = lines[tuple(practice.curve(**point).test_error)]
        assert (dots.get_linestyle(), dots.get_marker()) == (
            "None",
            figures.MARKERS[AXES["noise"].index(point["noise"])],
        )
    finals = {tuple(line.get_ydata()): line for line in right.lines}
    for j, noise in enumerate(AXES["noise"]):
        line = finals[tuple(theory.data.test_error.sel(noise=noise).values[:, -1])]
        np.testing.assert_array_equal(line.get_xdata(), AXES["lr"])
        assert line.get_linestyle() == figures.LINES[j]
    words = [text.get_text() for text in left.get_legend().get_texts()]
    assert words == ["lr = 0.3", "lr = 0.1", "noise = 0", "noise = 0.2", "noise = 0.4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes",
    [
        {"noise": np.linspace(0, 1, 12)},
        {"lr": [0.01, 1.0], "noise": [0.1, 0.2], "weight_decay": [0, 0.1, 0.2, 0.3, 0.4, 0.5]},
        {"lr": [0.2], "lr_readout": [0.1], "noise": [0.1], "weight_decay": [0.0]},
    ],
    ids=["one long axis", "more rows than drawn", "one point"],
)
def test_sweeps_of_any_shape_can_be_drawn(axes):
    one = ge.predict(cases.problem(), times=[0, 1])
    sweep = grid(axes)
    theory = Curves.of(sweep, [one] * len(sweep))
    practice = Curves.of(sweep, [cases.pretend(one, np.random.default_rng(0), seeds=1)] * len(sweep))
    for given in ((theory,), (None, practice), (theory, practice, practice)):
        figure = figures.sweep(*given)
        assert len(figures.svg(figure)) > 10_000
        assert len(figure.axes) <= 2 * figures.MOST_ROWS


def test_the_page_of_a_grid_is_whole_and_shows_its_warnings(theory):
    data = theory.data.copy(deep=True)
    provenance = theory.provenance
    provenance["points"][1]["warnings"] = ["N is <small>"]
    warned = Curves(data.assign_attrs(provenance=json.dumps(provenance)))
    found = report.compare(warned, pretended(theory))
    pictures = {"curve": (figures.svg(figures.compared(found, found)), found.caption)}
    page.write("index.html", found, pictures, {}, found)
    with open("index.html") as file:
        text = file.read()
    parser = cases.Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.seen.count("tr") == 6 + 1
    assert text.count("Warning: lr=0.3, noise=0.2: N is &lt;small&gt;") == 1
    assert "Test error at t = 10" in text
    found.plot("grid.png", found)


def test_the_page_of_one_curve_shows_its_warnings(theory):
    one = theory.curve(lr=0.3, noise=0)
    practice = cases.pretend(one, np.random.default_rng(0))
    warned = Curve(one.data.assign_attrs(provenance=json.dumps({"warnings": ["beyond N"]})))
    page.write("index.html", report.compare(warned, practice), {}, {})
    with open("index.html") as file:
        assert '<p class="warning">Warning: beyond N</p>' in file.read()
