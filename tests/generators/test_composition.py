"""Cropped, pooled and standardised images: the laws of their moments, of their shapes and of their latents."""

import numpy as np
import pytest
import torch

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.generators import zoo


class Painter(torch.nn.Module):
    """Images (channels, rows, columns), a nonlinear function of five latents."""

    def __init__(self, shape=(1, 6, 8), seed=0):
        super().__init__()
        self.shape = shape
        draws = torch.randn(int(np.prod(shape)), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weights = torch.nn.Parameter(draws)

    def forward(self, c):
        return torch.tanh(c @ self.weights.T + 0.3).reshape(-1, *self.shape)


def painted(shape=(1, 6, 8)):
    return generators.Generator(Painter(shape), latent=5, name="painter")


def photographed(shape=(1, 6, 8)):
    """A data set of the same images."""
    return generators.dataset(painted(shape).sample(200, 3)[1].reshape(200, *shape), name="photos")


SOURCES = [painted, photographed]
each = pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__)


def pixels(shape, rows, columns, at):
    """Flat numbers of the pixels of a box of every channel."""
    index = np.arange(np.prod(shape)).reshape(shape)
    return index[..., at[0] : at[0] + rows, at[1] : at[1] + columns].ravel()


@each
@pytest.mark.parametrize("shape", [(1, 6, 8), (3, 6, 8), (6, 8)])
@pytest.mark.parametrize(
    ("size", "at", "box"),
    [
        (4, None, (4, 4, (1, 2))),
        ((2, 6), None, (2, 6, (2, 1))),
        ((3, 3), (3, 0), (3, 3, (3, 0))),
        ((6, 8), None, (6, 8, (0, 0))),
    ],
)
def test_the_model_of_a_crop_is_a_part_of_the_model(source, shape, size, at, box):
    whole = source(shape)
    part, kept = whole.crop(size, at=at), pixels(shape, *box)
    assert part.output_shape == (*shape[:-2], *box[:2])
    model, cropped = (generators.estimate(g, samples=2000) for g in (whole, part))
    np.testing.assert_allclose(cropped.Omega, model.Omega[np.ix_(kept, kept)], rtol=1e-12)
    np.testing.assert_allclose(cropped.Phi, model.Phi[kept], rtol=1e-12)
    np.testing.assert_allclose(cropped.mean_x, model.mean_x[kept], rtol=1e-12)


@each
@pytest.mark.parametrize("shape", [(1, 6, 8), (3, 6, 8), (6, 8)])
def test_the_model_of_pooled_images_is_a_linear_map_of_the_model(source, shape):
    whole = source(shape)
    A = whole_average(shape, 2)
    pooled = generators.estimate(whole.pool(2), samples=2000)
    expected = generators.estimate(whole, samples=2000).linear(A)
    assert whole.pool(2).output_shape == (*shape[:-2], 3, 4)
    for name in ("Omega", "Phi", "mean_x"):
        np.testing.assert_allclose(getattr(pooled, name), getattr(expected, name), atol=1e-12)


def whole_average(shape, k):
    """A of the averages over squares of k x k pixels, pixel by pixel."""
    index = np.arange(np.prod(shape)).reshape(-1, *shape[-2:])
    rows = []
    for channel in index:
        for i in range(0, shape[-2], k):
            for j in range(0, shape[-1], k):
                row = np.zeros(np.prod(shape))
                row[channel[i : i + k, j : j + k].ravel()] = 1 / k**2
                rows.append(row)
    return np.array(rows)


@each
def test_standardised_inputs_have_mean_zero_and_variance_one(source):
    whole = source()
    model = generators.estimate(whole, samples=2000)
    for by in (model, (model.mean_x, np.sqrt(np.diag(model.Omega)))):
        standard = generators.estimate(whole.standardise(by), samples=2000)
        np.testing.assert_allclose(np.diag(standard.Omega), 1, rtol=1e-10)
        np.testing.assert_allclose(standard.mean_x, 0, atol=1e-12)
    assert whole.standardise(model).output_shape == whole.output_shape
    scale = 1 / np.sqrt(np.diag(model.Omega))
    exact = model.linear(np.diag(scale), -model.mean_x * scale)
    np.testing.assert_allclose(standard.Omega, exact.Omega, atol=1e-12)
    np.testing.assert_allclose(standard.Phi, exact.Phi, atol=1e-12)


def test_latents_of_a_composed_generator_are_the_same():
    whole = painted()
    model = generators.estimate(whole, samples=2000)
    latents, images = whole.sample(7, 1)
    images = images.reshape(7, 6, 8)
    composed = whole.crop((4, 6)).pool(2).standardise((np.zeros(6), np.full(6, 2.0)))
    again, made = composed.sample(7, 1)
    np.testing.assert_array_equal(again, latents)
    by_hand = images[:, 1:5, 1:7].reshape(7, 2, 2, 3, 2).mean((2, 4)) / 2
    np.testing.assert_allclose(made, by_hand.reshape(7, -1), rtol=1e-12)
    features = generators.random_features(6, 9)
    assert composed.then(features).sample(3, 0)[1].shape == (3, 9)
    assert model.linear(np.eye(48)[:5]).latent_dim == 5


@each
def test_names_tell_what_was_done(source):
    whole = source()
    assert whole.crop(4).pool(2).name == f"{whole.name}, cropped to 4 x 4, pooled 2 x 2"
    assert whole.standardise((np.zeros(48), np.ones(48))).name == f"{whole.name}, standardised"


def test_composed_images_are_drawn():
    decoder = generators.load("vae").crop(20).pool(2)
    drawn = zoo.images(decoder, decoder.sample(4, 0)[1])
    assert drawn.shape == (4, 1, 10, 10)
    flow = generators.load("realnvp").crop(20)
    drawn = zoo.images(flow, flow.sample(4, 0)[1])
    assert drawn.shape == (4, 1, 20, 20)
    assert (drawn.min(), drawn.max()) == (-1, 1)
    assert zoo.images(decoder.then(generators.random_features(100, 9)), np.zeros((4, 9))) is None


@pytest.mark.parametrize("sigma", ["erf", "relu"])
def test_a_linear_map_of_a_single_layer_is_one_of_its_model(sigma):
    """Moments of A x + b against those of samples, by the standard errors of the estimate."""
    rng = np.random.default_rng(1)
    F, A, b = rng.standard_normal((8, 4)), rng.standard_normal((3, 8)), rng.standard_normal(3)
    exact = ge.GaussianModel.single_layer(F, sigma).linear(A, b)
    map_ = lambda x: x @ torch.tensor(A).T + torch.tensor(b)
    found = generators.estimate(generators.single_layer(F, sigma).then(map_), samples=40_000)
    for name in ("Omega", "Phi", "mean_x"):
        z = (getattr(found, name) - getattr(exact, name)) / found.standard_errors[name]
        assert np.abs(z).max() < 7


WRONG = {
    "crop beyond the image": (lambda g: g.crop(7), "a crop to 7 x 7 pixels was asked for; the images of .* have 6 x 8"),
    "crop beyond the edge": (
        lambda g: g.crop(4, at=(3, 0)),
        "a crop to 4 x 4 pixels from row 3 and column 0 was asked for",
    ),
    "crop to nothing": (lambda g: g.crop(0), "size=0; expected an integer of at least 1"),
    "crop to half a pixel": (lambda g: g.crop((2, 2.5)), "size=2.5; expected an integer of at least 1"),
    "box of one number": (lambda g: g.crop((2,)), r"size=\(2,\); expected a number of pixels, or \(rows, columns\)"),
    "corner before the image": (lambda g: g.crop(2, at=(-1, 0)), "at=-1; expected an integer of at least 0"),
    "corner of one number": (lambda g: g.crop(2, at=3), r"at=3; expected \(row, column\) of the first pixel"),
    "pool that does not divide": (
        lambda g: g.pool(4),
        "does not divide the 6 x 8 of .*; crop them before, such as to 4 x 8",
    ),
    "pool beyond the image": (lambda g: g.pool(9), "does not divide the 6 x 8 of .*; expected smaller squares"),
    "pool of nothing": (lambda g: g.pool(0), "size=0; expected an integer of at least 1"),
    "pool of flat outputs": (
        lambda g: g.then(generators.random_features(48, 9)).pool(2),
        r"has the shape \(9,\); expected an image, \(rows, columns\) or \(channels, rows, columns\)",
    ),
    "means of others": (
        lambda g: g.standardise((np.zeros(3), np.ones(3))),
        r"shapes \(3,\) and \(3,\); expected \(48,\)",
    ),
    "no means": (lambda g: g.standardise("model"), "standardisation by a str; expected a GaussianModel, or means and"),
    "half of it": (lambda g: g.standardise(3), "standardisation by a int; expected a GaussianModel, or means and"),
    "a NaN": (lambda g: g.standardise((np.full(48, np.nan), np.ones(48))), "hold a NaN or a negative deviation"),
    "dead inputs": (
        lambda g: g.standardise((np.zeros(48), np.r_[np.ones(40), 0, np.ones(6), 0])),
        "2 of the 48 inputs of .* do not vary .the first is input 40.*: crop them away, or pass floor=0.01",
    ),
    "a negative floor": (lambda g: g.standardise((np.zeros(48), np.ones(48)), floor=-1), "floor=-1; expected"),
}


@each
@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_refused_in_a_sentence(source, mistake):
    wrong, sentence = WRONG[mistake]
    with pytest.raises(ge.InputError, match=sentence) as refused:
        wrong(source())
    assert "\n" not in str(refused.value)


def test_channels_last_are_refused_in_a_sentence():
    with pytest.raises(
        ge.InputError, match=r"with its channels last; expected .channels, rows, columns., so transpose"
    ):
        generators.dataset(np.random.default_rng(0).random((5, 8, 8, 3))).crop(4)


def test_inputs_that_hardly_vary_count_as_the_floor():
    data = generators.dataset(np.random.default_rng(0).standard_normal((50, 4)) * [1.0, 2.0, 1e-5, 0.0])
    standard = data.standardise(generators.estimate(data), floor=0.1).data.std(axis=0)
    np.testing.assert_allclose(standard[:2], 1)
    assert standard[2] < 1e-3
    assert standard[3] == 0


@pytest.mark.parametrize(
    ("matrix", "offset", "sentence"),
    [
        (np.eye(3), None, r"the matrix has shape \(3, 3\); expected \(M, 4\)"),
        (np.eye(4), np.zeros(3), r"the offset has shape \(3,\); expected \(4,\)"),
        (np.full((2, 4), np.nan), None, "matrix holds a NaN"),
        (np.zeros(4), None, "expected a matrix"),
    ],
)
def test_linear_maps_that_do_not_fit_are_refused(matrix, offset, sentence):
    with pytest.raises(ge.InputError, match=sentence):
        ge.GaussianModel.isotropic(4).linear(matrix, offset)
