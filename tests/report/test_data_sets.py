"""Experiments on data sets and on composed images: the whole job from a path, and one sentence for every mistake."""

import gzip
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.generators import zoo
from gaussequiv.maths.spectra import power_law
from gaussequiv.report.batch_runs import BatchRun
from gaussequiv.report.experiments import Run
from gaussequiv.report.portraits import portrait
from gaussequiv.report.settings import Experiment

QUICK = ["times.end=0.5", "times.points=3", "simulation.seeds=2", "simulation.test_samples=20", "batch.alpha=[0.5, 2]"]


def call(*arguments):
    command = [sys.executable, "-m", "gaussequiv.report.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def settings(*values):
    return [word for value in values for word in ("--set", value)]


def images(n=60, size=8, seed=0):
    """Smooth random images, unsigned bytes."""
    rng = np.random.default_rng(seed)
    waves = np.cos(np.pi * np.outer(np.arange(4), np.arange(size) + 0.5) / size)
    fields = np.einsum("nab,ai,bj->nij", rng.standard_normal((n, 4, 4)), waves, waves)
    return (127 + 30 * fields).clip(0, 255).astype(np.uint8)


@pytest.fixture
def sources(tmp_path):
    """The same data set as a folder of PNGs, as an IDX file and as arrays."""
    pictures = images()
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i:03d}.png")
    head = struct.pack(">BBBBIII", 0, 0, 8, 3, *pictures.shape)
    (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pictures.tobytes()))
    np.save(tmp_path / "array.npy", pictures)
    np.savez(tmp_path / "arrays.npz", pictures=pictures, labels=np.arange(60))
    return tmp_path


def run(kind, folder, *values):
    return kind(Experiment.read(None, [*QUICK, *values]), folder / "run", lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["online", "batch"])
def test_a_folder_of_images_runs_the_whole_job(kind, sources):
    done = call("demo", kind, "--generator", "pictures", *settings(*QUICK))
    assert done.returncode == 0, done.stderr
    folder = sources / "gaussequiv-pictures"
    assert "On the Gaussian twin: " in done.stdout
    page = (folder / ("index.html" if kind == "online" else "index-batch.html")).read_text()
    assert "Samples of pictures." in page
    assert "exact moments of the data set" in page
    assert 'name = "pictures"' in (folder / "experiment.toml").read_text()
    again = call("demo", kind, "gaussequiv-pictures/experiment.toml", "--out", "gaussequiv-pictures")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout


@pytest.mark.parametrize("name", ["pictures", "images-idx3-ubyte.gz", "array.npy", "arrays.npz"])
def test_every_kind_of_source_gives_the_same_model(name, sources):
    key = ["generator.key=pictures"] if name == "arrays.npz" else []
    found = run(Run, sources, f"generator.name={name}", *key)
    exact = generators.estimate(generators.dataset(images()))
    np.testing.assert_array_equal(found.model.Omega, exact.Omega)
    assert found.problem.teacher_on == "inputs"
    assert found.model.latent_dim == 0


@pytest.mark.slow
def test_estimate_and_predict_take_a_data_set(sources):
    done = call("estimate", "--generator", "array.npy")
    assert done.returncode == 0, done.stderr
    assert "GaussianModel(N=64, D=0, source='array')" in done.stdout
    assert "written: gaussequiv-array/model.safetensors" in done.stdout
    assert call("predict", "--generator", "array.npy", *settings(*QUICK)).returncode == 0


@pytest.mark.parametrize("name", ["pictures", "array.npy"])
def test_results_are_those_of_the_data_that_are_there(name, sources):
    """A data set that changed under its name is estimated anew; the same one is found again."""
    before = run(Run, sources, f"generator.name={name}").model
    same = run(Run, sources, f"generator.name={name}").model
    assert same.provenance["key"] == before.provenance["key"]
    if name == "pictures":
        Image.fromarray(255 - images()[7]).save(sources / "pictures" / "007.png")
    else:
        np.save(sources / name, images(seed=1))
    after = run(Run, sources, f"generator.name={name}").model
    assert after.provenance["key"] != before.provenance["key"]
    assert not np.array_equal(after.Omega, before.Omega)


def test_a_folder_named_like_a_generator_does_not_hide_it(tmp_path):
    (tmp_path / "vae").mkdir()
    experiment = Experiment.read(None, ["generator.name=vae"])
    assert not experiment.generator.is_data
    assert experiment.teacher_on("learning") == "latents"
    assert isinstance(zoo.find("vae"), generators.Generator)
    assert isinstance(run(Run, tmp_path, "generator.name=vae").source, generators.Generator)


def test_features_of_a_data_set_with_a_teacher_below_them(sources):
    """Labels look at the images, the student at features of them: one teacher to theory and simulation."""
    values = ["generator.name=array.npy", "features.kind=gaussian", "features.width=20", "batch.penalty=1.0"]
    found = run(BatchRun, sources, *values)
    data, teacher = generators.dataset(images()), found.teacher
    x = data.rows - found.inputs_model.mean_x
    weights = found._drawn(64).weights
    labels = x @ weights / 8
    z = found.generator.rows - found.model.mean_x
    np.testing.assert_allclose(teacher.covariance, (z * labels[:, None]).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(teacher.function(np.zeros((60, 0)), found.generator.rows), labels, atol=1e-5)
    assert np.isfinite(found.practice.test_error).all()
    assert np.isfinite(found.twin.test_error).all()
    again = run(BatchRun, sources, *values)
    np.testing.assert_array_equal(again.teacher.covariance, teacher.covariance)


def test_features_are_trained_on_a_data_set(sources):
    found = run(BatchRun, sources, "generator.name=array.npy", "features.kind=trained", "batch.penalty=1.0")
    assert found.model.input_dim == 2
    assert np.isfinite(found.practice.test_error).all()


@pytest.mark.parametrize("name", ["array.npy", "vae"])
def test_images_are_cropped_pooled_and_standardised_by_settings(name, sources):
    values = ["generator.crop=6", "generator.pool=2", "generator.standardise=true", "generator.floor=0.001"]
    found = run(Run, sources, f"generator.name={name}", *values, "estimate.samples=500")
    whole = generators.dataset(sources / name) if name == "array.npy" else generators.load(name)
    expected = whole.crop(6).pool(2)
    expected = expected.standardise(generators.estimate(expected, samples=500), floor=0.001)
    np.testing.assert_array_equal(found.source.sample(5, 1)[1], expected.sample(5, 1)[1])
    np.testing.assert_allclose(np.diag(found.model.Omega), 1, rtol=2e-3)
    assert found._images().shape == (36, 1, 3, 3)
    assert found.source.name == f"{whole.name}, cropped to 6 x 6, pooled 2 x 2, standardised"


# --- generators list and show -------------------------------------------------------------------------------


def test_sizes_of_the_list_are_those_of_the_generators():
    assert set(zoo.SIZES) == set(zoo.NAMES) == set(zoo.DESCRIPTIONS)
    for name, sizes in zoo.SIZES.items():
        generator = generators.load(name)
        assert sizes == (generator.latent_dim, generator.input_dim), name


def test_a_data_set_is_shown(sources):
    done = call("generators", "show", "arrays.npz", "--key", "pictures", "--out", "a.png")
    assert done.returncode == 0, done.stderr
    assert "arrays: 60 samples of N = 64 inputs (8 x 8), float32, latents unknown" in done.stdout
    assert re.search(r"participation ratio \d+\.\d, eigenvalues fall as rank\^-\d", done.stdout)
    with Image.open(sources / "a.png") as picture:
        assert picture.width > 1.5 * picture.height  # samples beside the spectrum


def test_flat_inputs_are_shown_by_their_spectrum(tmp_path):
    shown = portrait(generators.single_layer(generators.gaussian_matrix(20, 10)), {})
    assert shown.images is None
    assert "D = 10 latents, N = 20 inputs, torch.float64" in shown.lines[0]


def test_a_portrait_has_the_numbers_of_the_spectrum():
    rho = np.array([4.0, 1.0, 0.25])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    shown = portrait(generators.dataset(signs * np.sqrt(rho) + 3), {})
    np.testing.assert_allclose(shown.spectrum, rho)
    assert shown.top_share == pytest.approx(4 / 5.25)
    assert shown.participation_ratio == pytest.approx(5.25**2 / (16 + 1 + 1 / 16))
    np.testing.assert_allclose(shown.mean, 3)
    np.testing.assert_allclose(shown.deviation, np.sqrt(rho))


@pytest.mark.parametrize("N", [8, 500])
@pytest.mark.parametrize("exponent", [0.0, 0.7, 2.0])
def test_a_power_law_has_its_exponent(N, exponent):
    rho = 3 * np.arange(1, N + 1) ** -exponent
    law = power_law(rho)
    assert (law.exponent, law.scale, law.error) == pytest.approx((exponent, 3, 0), abs=1e-12)
    assert power_law(np.concatenate([rho, np.zeros(N)])).exponent == pytest.approx(exponent, abs=1e-12)
    assert power_law(7 * rho).exponent == pytest.approx(exponent, abs=1e-12)


# --- mistakes -----------------------------------------------------------------------------------------------

WRONG = {
    "missing folder": ("no/such/folder", [], "there is no no/such/folder; expected a folder of images, an IDX file"),
    "missing folder here": ("folder", [], "unknown generator 'folder'; expected one of dcgan, "),
    "foreign weights": (
        "weights.safetensors",
        [],
        "weights.safetensors holds 7 arrays (a0, a1, a2, a3, a4, ...); choose one",
    ),
    "missing array": ("none.npy", [], "there is no file none.npy; expected an array of samples"),
    "empty folder": ("empty", [], "the folder empty holds 0 PNGs or JPEGs and 0 IDX files"),
    "several arrays": ("arrays.npz", [], "arrays.npz holds 2 arrays (pictures, labels); choose one by its key"),
    "labels in the place of images": (
        "arrays.npz",
        ["generator.key=labels"],
        "arrays has shape (60,); expected (n, ...)",
    ),
    "key of a folder": ("pictures", ["generator.key=a"], "key='a' is that of an .npz or .safetensors file"),
    "pickled objects": ("objects.npy", [], "objects.npy holds Python objects, which are not read"),
    "teacher on the latents": (
        "array.npy",
        ["learning.teacher_on=latents"],
        "the latents of the data set array.npy are unknown, so no teacher looks at them; leave learning.teacher_on out",
    ),
    "batch teacher on the latents": (
        "pictures",
        ["batch.teacher_on=latents"],
        "leave batch.teacher_on out, or set it to",
    ),
    "teacher of code on the latents": (
        "pictures",
        ["batch.teacher=a:b", "batch.measured_on=latents"],
        "leave batch.measured_on out",
    ),
    "Bayes": (
        "pictures",
        ["batch.bayes=true"],
        "bayes is the least error for teachers on the latents, and those of a data",
    ),
    "crop beyond the images": (
        "pictures",
        ["generator.crop=9"],
        "a crop to 9 x 9 pixels was asked for; the images of pictures",
    ),
    "crop to nothing": (
        "pictures",
        ["generator.crop=0"],
        "generator.crop = 0: input should be greater than or equal to 1",
    ),
    "pool that does not divide": (
        "pictures",
        ["generator.pool=3"],
        "pooling of 3 x 3 pixels does not divide the 8 x 8",
    ),
    "pool of flat rows": ("flat.npy", ["generator.pool=2"], "an output of flat has the shape (64,); expected an image"),
    "crop of a single layer": ("single-layer", ["generator.crop=4"], "crop cannot be set for single-layer"),
    "floor of nothing": ("pictures", ["generator.floor=0.1"], "floor is that of standardised inputs"),
    "widths of a data set": ("pictures", ["generator.widths=[5, 6]"], "widths cannot be set for pictures"),
    "closed form of a data set": ("pictures", ["estimate.closed_form=true"], "pictures has no closed-form moments"),
    "dead inputs": (
        "dead.npy",
        ["generator.standardise=true"],
        "1 of the 64 inputs of dead do not vary (the first is input 5)",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_refused_in_a_sentence(mistake, sources):
    name, values, sentence = WRONG[mistake]
    (sources / "empty").mkdir()
    save_file({f"a{i}": np.zeros((2, 3)) for i in range(7)}, sources / "weights.safetensors")
    np.save(sources / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(sources / "flat.npy", images().reshape(60, 64) / 255)
    dead = images().reshape(60, 64) / 255
    dead[:, 5] = 1
    np.save(sources / "dead.npy", dead)
    with pytest.raises(ge.InputError, match=re.escape(sentence)) as refused:
        _ = run(Run, sources, f"generator.name={name}", *values).model
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("arguments", [("demo", "--generator"), ("generators", "show")])
def test_a_damaged_data_set_ends_with_exit_code_two(arguments, sources):
    (sources / "cut.npy").write_bytes((sources / "array.npy").read_bytes()[:999])
    done = call(*arguments, "cut.npy")
    assert done.returncode == 2
    assert re.fullmatch(r"error: cut\.npy is not a complete \.npy file \(.*\); make it again\n", done.stderr)


def test_a_torch_teacher_on_a_data_set_comes_from_code(sources):
    (sources / "mine_on_data.py").write_text("def make():\n    return lambda x: x[:, 0] ** 2 - x[:, 1]\n")
    values = ["generator.name=array.npy", "batch.teacher=mine_on_data:make", "batch.penalty=1.0"]
    found = BatchRun(Experiment.read(None, [*QUICK, *values]), sources / "run", lambda *_: None, allow_code=True)
    x = torch.tensor(generators.dataset(images()).rows).double().numpy()
    y = x[:, 0] ** 2 - x[:, 1]
    np.testing.assert_allclose(found.teacher.covariance, ((x - x.mean(0)) * y[:, None]).mean(0), atol=1e-6)
    assert np.isfinite(found.theory.test_error).all()
    assert np.isfinite(found.practice.test_error).all()
