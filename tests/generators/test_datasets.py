"""Data sets as generators: resampled inputs whose latents are unknown, their exact moments, theory and simulation on them."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import gaussequiv as ge
from gaussequiv import generators, simulation
from gaussequiv.generators.datasets import Dataset, Lookup
from gaussequiv.generators.images import read_images
from gaussequiv.models.storage import holds_data


def numbers(n=300, N=12, seed=0):
    """Samples of correlated, skewed inputs with means."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, N)) ** 2 + rng.standard_normal((n, 1)) @ rng.standard_normal((1, N))).astype(
        np.float32
    )


def bytes_of_images(n=20, rows=6, columns=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, rows, columns), dtype=np.uint8)


def write_idx(path, images):
    raw = struct.pack(">BBBBIII", 0, 0, 8, 3, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def write_pngs(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
    return folder


# --- samples ------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_set_and_all_of_them_come_equally_often():
    data = generators.dataset(numbers(40))
    latents, inputs = data.sample(20_000, 3)
    assert latents.shape == (20_000, 0)
    counts = np.array([(inputs == row).all(axis=1).sum() for row in data.rows])
    assert counts.sum() == 20_000
    assert ((counts - 500) ** 2 / 500).sum() < 39 + 5 * np.sqrt(2 * 39)  # chi squared of 39 degrees of freedom


def test_samples_are_a_function_of_the_stream():
    data = generators.dataset(numbers())
    np.testing.assert_array_equal(data.sample(50, 7)[1], data.sample(50, 7)[1])
    assert not np.array_equal(data.sample(50, 7)[1], data.sample(50, 8)[1])


def test_a_data_set_keeps_its_numbers_when_those_of_the_user_change():
    given = numbers()
    data = generators.dataset(given)
    before = data.sha256
    given[:] = 0
    assert data.sha256 == before
    with pytest.raises(ValueError, match="read-only"):
        data.data[0] = 1


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), ("i8", "f8"), ("u2", "f8")],
)
def test_numbers_of_every_type_are_taken(dtype, kept):
    given = (4 * numbers()).astype(dtype)
    data = generators.dataset(given)
    assert data.dtype == np.dtype(kept)
    np.testing.assert_array_equal(data.data, given)


# --- files --------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_samples(tmp_path):
    images = bytes_of_images()
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", images)
    np.savez_compressed(tmp_path / "c.npz", other=np.zeros(3), pictures=images)
    save_file({"pictures": images}, tmp_path / "d.safetensors")
    sources = {
        write_idx(tmp_path / "train-images-idx3-ubyte", images): None,
        write_idx(tmp_path / "images.gz", images): None,
        write_pngs(tmp_path / "pngs", images): None,
        tmp_path / "a.npy": None,
        tmp_path / "b.npz": None,
        tmp_path / "c.npz": "pictures",
        tmp_path / "d.safetensors": None,
    }
    expected = read_images(tmp_path / "pngs").reshape(20, -1)
    for source, key in sources.items():
        assert holds_data(source)
        np.testing.assert_array_equal(generators.dataset(source, key=key).rows, expected, err_msg=str(source))
    assert generators.dataset(tmp_path / "pngs").name == "pngs"
    assert generators.dataset(str(tmp_path / "a.npy"), name="mine").name == "mine"
    assert generators.dataset(tmp_path / "pngs").output_shape == (1, 6, 6)


def test_images_of_a_data_set_need_not_be_squares(tmp_path):
    images = bytes_of_images(rows=4, columns=7)
    assert generators.dataset(write_idx(tmp_path / "a-idx3", images)).output_shape == (1, 4, 7)
    assert generators.dataset(write_pngs(tmp_path / "pngs", images)).output_shape == (1, 4, 7)
    with pytest.raises(ge.InputError, match="holds images of 4 x 7 pixels; expected squares"):
        read_images(tmp_path / "pngs")


def test_files_of_generators_are_no_data_sets(tmp_path):
    generators.zoo.save(generators.load("vae").module, tmp_path / "mine.safetensors", {})
    assert not holds_data(tmp_path / "mine.safetensors")
    with pytest.raises(ge.InputError, match=r"is a gaussequiv file and no data set; open it with generators\.load"):
        generators.dataset(tmp_path / "mine.safetensors")


DAMAGED = {
    "a path where nothing is": "there is no .*nowhere; expected a folder of images",
    "an array that is not there": "there is no file .*nowhere.npy",
    "an empty folder": "holds 0 PNGs or JPEGs and 0 IDX files",
    "images of two sizes": r"z.png holds images of shape \(1, 5, 6\)",
    "pickled objects": "holds Python objects, which are not read as they could run code",
    "two arrays": r"two.npz holds 2 arrays \(a, b\); choose one by its key",
    "no array": "none.npz holds 0 arrays",
    "half an npz": "cut.npz is not a complete .npz file",
    "half an npy": "cut.npy is not a complete .npy file",
    "an empty file": "empty.npy is not a complete .npy file",
    "text": r"text\.npy is not a complete \.npy file; make it again",
    "a pickle": "is not a complete .safetensors file",
    "half an IDX file": "cut-idx3 is damaged",
    "words": "is an array of dtype <U1; expected real numbers",
    "complex numbers": "is an array of dtype complex64; expected real numbers",
    "ragged lists": "is no array .*; expected samples of one shape",
    "a NaN": "holds a NaN or an infinity in 1 of 300 samples, first in number 3;",
    "one sample": r"has shape \(1, 12\); expected \(n, ...\), at least two samples",
    "a vector": r"has shape \(5,\)",
    "samples of nothing": r"has shape \(5, 0\)",
    "equal samples": "the 5 samples of data set are all the same",
}


def damaged(folder):
    """A source for each of these sentences."""
    images = bytes_of_images()
    np.save(folder / "objects.npy", np.array([{}, 3], dtype=object), allow_pickle=True)
    np.savez(folder / "two.npz", a=numbers(), b=numbers())
    np.savez(folder / "cut.npz", a=numbers())
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:900])
    np.save(folder / "cut.npy", numbers())
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:900])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_text("1 2 3")
    np.savez(folder / "none.npz")
    torch.save(torch.zeros(3), folder / "pickle.safetensors")
    write_idx(folder / "cut-idx3", images).write_bytes((folder / "cut-idx3").read_bytes()[:-5])
    (folder / "nothing").mkdir()
    write_pngs(folder / "mixed", images)
    Image.fromarray(bytes_of_images(1, 5, 6)[0]).save(folder / "mixed" / "z.png")
    nan = numbers()
    nan[3, 2] = np.nan
    return {
        "a path where nothing is": folder / "nowhere",
        "an array that is not there": folder / "nowhere.npy",
        "an empty folder": folder / "nothing",
        "images of two sizes": folder / "mixed",
        "pickled objects": folder / "objects.npy",
        "two arrays": folder / "two.npz",
        "no array": folder / "none.npz",
        "half an npz": folder / "cut.npz",
        "half an npy": folder / "cut.npy",
        "an empty file": folder / "empty.npy",
        "text": folder / "text.npy",
        "a pickle": folder / "pickle.safetensors",
        "half an IDX file": folder / "cut-idx3",
        "words": np.array([["a", "b"], ["c", "d"]]),
        "complex numbers": numbers() + 1j,
        "ragged lists": [[1.0, 2.0], [3.0]],
        "a NaN": nan,
        "one sample": numbers(1),
        "a vector": np.arange(5.0),
        "samples of nothing": np.zeros((5, 0)),
        "equal samples": np.ones((5, 3)),
    }


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_data_set_is_refused_in_a_sentence(case, tmp_path):
    with pytest.raises(ge.InputError, match=DAMAGED[case]) as refused:
        generators.dataset(damaged(tmp_path)[case])
    assert "\n" not in str(refused.value)


def test_keys_are_those_of_files_of_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", a=numbers(), b=numbers(seed=1))
    np.testing.assert_array_equal(generators.dataset(tmp_path / "a.npz", key="b").data, numbers(seed=1))
    with pytest.raises(ge.InputError, match=r"has no array 'c', but 2 others \(a, b\); choose one of them"):
        generators.dataset(tmp_path / "a.npz", key="c")
    with pytest.raises(ge.InputError, match="leave it out for an array"):
        generators.dataset(numbers(), key="a")
    with pytest.raises(ge.InputError, match="leave it out for"):
        generators.dataset(write_pngs(tmp_path / "pngs", bytes_of_images()), key="a")


# --- moments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 300, 2500])
def test_the_model_of_a_data_set_has_exactly_its_moments(n):
    data = generators.dataset(numbers(n))
    seen = []
    model = generators.estimate(data, progress=lambda done, of: seen.append((done, of)))
    x = data.rows.astype(float)
    np.testing.assert_allclose(model.Omega, np.cov(x.T, bias=True), atol=1e-12 * np.var(x))
    np.testing.assert_allclose(model.mean_x, x.mean(axis=0), rtol=1e-12)
    assert (model.latent_dim, model.Phi.shape, model.Psi.shape) == (0, (12, 0), (0, 0))
    assert model.standard_errors == {}
    assert model.provenance["samples"] == n
    assert model.provenance["sha256"] == data.sha256
    assert seen[-1] == (n, n)


def test_resampling_has_the_moments_of_the_model():
    """The estimate from resampled inputs, latents unknown, is within its standard errors of the exact one."""
    data = generators.dataset(numbers())
    exact = generators.estimate(data)

    class Resampled:
        latent_dim, input_dim, sample = 0, data.input_dim, staticmethod(data.sample)

    model = generators.estimate(Resampled(), samples=20_000)
    for name in ("Omega", "mean_x"):
        z = (getattr(model, name) - getattr(exact, name)) / model.standard_errors[name]
        assert np.abs(z).max() < 7  # 16 groups: Student's t
        assert 0.5 < np.sqrt((z**2).mean()) < 2
    assert model.provenance["estimator"] == "plain moments"


def test_a_model_without_latents_is_saved_loaded_sampled_and_composed(tmp_path):
    model = generators.estimate(generators.dataset(numbers() - numbers().mean(axis=0)))
    model.save(tmp_path / "m.safetensors")
    again = ge.GaussianModel.load(tmp_path / "m.safetensors")
    assert (again.latent_dim, again.Psi.shape) == (0, (0, 0))
    np.testing.assert_array_equal(again.Omega, model.Omega)
    latents, inputs = model.sample(40_000, 1)
    assert latents.shape == (40_000, 0)
    np.testing.assert_allclose(np.cov(inputs.T), model.Omega, atol=0.05 * np.abs(model.Omega).max())
    W = np.random.default_rng(0).standard_normal((7, 12))
    assert model.then(W, "erf", center=True).Phi.shape == (7, 0)
    np.testing.assert_allclose(model.linear(W).Omega, W @ model.Omega @ W.T)


def test_features_of_a_data_set_are_those_of_its_samples():
    data = generators.dataset(numbers())
    features = generators.random_features(12, 30, "erf")
    model = generators.estimate(data)
    made = data.then(features, mean=model.mean_x)
    z = (data.rows - model.mean_x) @ features.weight_matrix.T / np.sqrt(12)
    np.testing.assert_allclose(made.data, torch.erf(torch.tensor(z) / 2**0.5), atol=1e-5)
    np.testing.assert_array_equal(made.sample(9, 4)[1], made.rows[np.random.Generator(_bits(4)).integers(300, size=9)])
    assert made.name == "data set, features"
    with pytest.raises(ge.InputError, match="the features look at 11 inputs; the generator has N=12"):
        data.then(generators.random_features(11, 30, "erf"))
    with pytest.raises(ge.InputError, match="returned a NaN"):
        data.then(lambda x: x / 0)


def _bits(seed):
    from gaussequiv.models.streams import as_rng

    return as_rng(seed).bit_generator


# --- learning -----------------------------------------------------------------------------------------------


def gaussian_set(n=20_000, N=40):
    """A large set of Gaussian samples, of which theory is right."""
    rng = np.random.default_rng(5)
    return generators.dataset(rng.standard_normal((n, N)) * np.linspace(0.5, 1.5, N) + 0.3)


def test_one_pass_sgd_on_a_data_set_follows_theory():
    data = gaussian_set()
    model = generators.estimate(data)
    teacher, student = ge.TwoLayer.random(2, 40, seed=1), ge.TwoLayer.random(2, 40, seed=2)
    problem = ge.OnlineSGD(model, teacher, student, lr=0.3, teacher_on="inputs")
    theory = ge.predict(problem, times=[0, 1, 3, 10])
    practice = simulation.simulate(problem, data, times=theory.times, seeds=12, test_samples=4000)
    z = (practice.test_error - theory.test_error) / practice.data.test_error_se.values
    assert np.abs(z).max() < 5
    twin = simulation.simulate(problem, model, times=theory.times, seeds=3, test_samples=100)
    assert np.isfinite(twin.test_error).all()


@pytest.mark.parametrize("output", ["linear", "sign", "logit"])
def test_full_batch_learning_on_a_data_set_follows_theory(output):
    data = gaussian_set()
    model = generators.estimate(data)
    teacher = ge.Perceptron(np.random.default_rng(2).standard_normal(40), output, 0.2)
    loss = "square" if output == "linear" else "logistic"
    problem = ge.FullBatch(model, teacher, loss, 0.1, teacher_on="inputs")
    practice = simulation.simulate(problem, data, alpha=[1, 4], seeds=20, test_samples=2000)
    theory = ge.predict(problem, alpha=practice.alpha)
    z = (practice.test_error - theory.test_error) / practice.data.test_error_se.values
    assert np.abs(z).max() < 5 + 40 * 0.02  # N = 40 is not infinite


def test_a_teacher_on_unknown_latents_is_refused_in_a_sentence():
    data = generators.dataset(numbers())
    model = generators.estimate(data)
    student = ge.TwoLayer.random(2, 12, seed=2)
    sentence = "the latents are unknown .D=0., as those of a data set.*pass teacher_on='inputs' and a teacher on the N=12 inputs"
    with pytest.raises(ge.InputError, match=sentence):
        ge.OnlineSGD(model, ge.TwoLayer.random(2, 5), student, lr=0.1)
    with pytest.raises(ge.InputError, match=sentence):
        ge.FullBatch(model, ge.Perceptron(np.ones(12)))
    with pytest.raises(ge.InputError, match="no teacher looks at them; pass on='inputs'"):
        generators.measure_teacher(data, torch.nn.Linear(12, 1), on="latents")
    with pytest.raises(ge.InputError, match="they are unknown"):
        ge.bayes_optimal(model, [1.0])


# --- measured teachers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["linear", "sign"])
@pytest.mark.parametrize("n", [10, 2500])
def test_the_moments_of_a_torch_teacher_on_a_data_set_are_exact(output, n):
    data = generators.dataset(numbers(n))
    function = lambda x: torch.sin(x[:, 0]) + x[:, 1] - 1
    found = generators.measure_teacher(data, function, output=output)
    y = function(torch.tensor(data.rows)).double().numpy()
    y = np.where(y > 0, 1.0, -1.0) if output == "sign" else y
    x = data.rows.astype(float)
    np.testing.assert_allclose(
        found.covariance, (x * y[:, None]).mean(0) - x.mean(0) * y.mean(), atol=1e-12 * np.abs(x).max()
    )
    assert found.square == pytest.approx((y**2).mean())
    np.testing.assert_array_equal(found.standard_error, 0)


def test_labels_of_a_data_set_are_a_teacher():
    """The labels of the set, and a function that gives the same ones, are one teacher to theory and simulation."""
    data = generators.dataset(numbers(900))
    model = generators.estimate(data)
    function = lambda x: x[:, 0] * x[:, 1] - x[:, 2]
    y = np.sign(function(torch.tensor(data.rows)).numpy())
    given = generators.measure_teacher(data, y, output="sign")
    computed = generators.measure_teacher(data, function, output="sign")
    np.testing.assert_array_equal(given.covariance, computed.covariance)
    curves = [
        simulation.simulate(ge.FullBatch(model, teacher, "square", 1.0), data, alpha=[2.0], seeds=2, test_samples=50)
        for teacher in (given, computed)
    ]
    np.testing.assert_array_equal(curves[0].test_error, curves[1].test_error)


def test_labels_that_are_none_are_refused_in_a_sentence():
    data = generators.dataset(numbers())
    for labels in (np.ones(299), np.full(300, np.nan), np.array(["a"] * 300), np.ones((300, 2))):
        with pytest.raises(ge.InputError, match=r"expected \(300,\) finite numbers, one a sample of data set"):
            generators.measure_teacher(data, labels)
    twice = Dataset(np.concatenate([numbers(), numbers()]))
    with pytest.raises(ge.InputError, match="equal samples with different labels"):
        Lookup(twice, np.arange(600))
    with pytest.raises(ge.InputError, match="other inputs came"):
        Lookup(data, np.arange(300))(np.zeros((1, 0)), np.zeros((1, 12)))


def test_neighbours_of_the_chosen_array_are_not_looked_at(tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, objects=np.array([{}], dtype=object))
    tensors = {"x": torch.from_numpy(x), "half": torch.from_numpy(x).bfloat16()}
    save_tensors(tensors, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        np.testing.assert_array_equal(generators.dataset(tmp_path / name, key="x").data, x)
    half = generators.dataset(tmp_path / "a.safetensors", key="half").data
    np.testing.assert_array_equal(half, tensors["half"].float())
    with pytest.raises(ge.InputError, match="holds Python objects"):
        generators.dataset(tmp_path / "a.npz", key="objects")
