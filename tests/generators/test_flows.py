"""Flows and decoders: a flow undoes itself, its log-determinant is autograd's, and files and weights fit or are refused."""

import numpy as np
import pytest
import torch

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import flows, zoo
from gaussequiv.models.storage import load_arrays, save_arrays
from gaussequiv.models.streams import Purpose, stream

TINY = flows.RealNVPShape(channels=1, size=4, width=5, local=4, hidden=6, wide=3)
SHAPES = {
    "tiny": TINY,
    "colour": flows.RealNVPShape(channels=3, size=8, width=6, local=3, hidden=7, wide=6),
    "grey": flows.GREY_REALNVP,
}
DECODER = zoo.DecoderShape(latent=3, hidden=(5,), channels=1, size=4)


def flow(shape, seed=0):
    """In double precision, with shifts and scales of pixels that are not the trivial ones."""
    module = zoo.realnvp(shape, seed=seed).module.double()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        module.mean.copy_(torch.from_numpy(rng.standard_normal(module.mean.shape)))
        module.log_scale.copy_(torch.from_numpy(0.3 * rng.standard_normal(module.mean.shape)))
    return module.requires_grad_(False)


def normal(*shape):
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


@pytest.fixture(params=SHAPES, scope="module")
def shape(request):
    return SHAPES[request.param]


def test_a_flow_pulls_back_what_it_pushed_and_pushes_what_it_pulled_back(shape):
    module, z = flow(shape), normal(20, shape.latent)
    x = module(z)
    assert x.shape == (20, shape.channels, shape.size, shape.size)
    back, log_det = module.inverse(x)
    assert log_det.shape == (20,)
    np.testing.assert_allclose(back, z, atol=1e-11)
    np.testing.assert_allclose(module(back), x, atol=1e-11)
    np.testing.assert_array_equal(module.inverse(x.flatten(1))[0], back)


@pytest.mark.parametrize("small", [TINY, flows.RealNVPShape(3, 4, 4, 3, 5, 2)], ids=["grey", "colour"])
def test_the_log_determinant_is_that_of_autograds_jacobian(small):
    module = flow(small)
    for x in 2 * normal(3, small.latent):
        jacobian = torch.autograd.functional.jacobian(lambda x: module.inverse(x[None])[0][0], x)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        np.testing.assert_allclose(module.inverse(x[None])[1], expected[None], rtol=1e-10)


def test_every_latent_moves_some_pixels_and_every_pixel_is_moved():
    module = flow(TINY)
    jacobian = torch.autograd.functional.jacobian(lambda z: module(z[None]).flatten(), normal(TINY.latent))
    assert (jacobian != 0).any(dim=0).all()
    assert (jacobian != 0).any(dim=1).all()


def test_no_coordinate_passes_through_all_couplings_as_it_was():
    z = normal(50, TINY.latent)
    with torch.no_grad():
        maps = flows.split(zoo.realnvp(TINY).module.double()(z)).flatten(1)
    assert ((maps - z).abs() > 1e-3).any(dim=0).all()


def test_whatever_the_weights_no_latent_goes_further_than_the_couplings_reach():
    module, z = flow(TINY), 3 * normal(200, TINY.latent)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(100)
        module.mean.zero_()
        module.log_scale.zero_()
        couplings = len(module.wide) + len(module.local)
        furthest = z.abs().max()
        for _ in range(couplings):
            furthest = np.exp(0.7) * furthest + 3
        made = flows.spread_out(module(z)).abs().max()
        before = z.abs().max()
    assert before < made < furthest


def test_logits_grow_as_the_logarithm_of_what_the_couplings_make():
    module = flow(TINY)
    z = normal(50, TINY.latent)
    with torch.no_grad():
        module.mean.zero_()
        module.log_scale.fill_(np.log(1e6))
        far = module(z)
        module.log_scale.fill_(np.log(1e7))
        further = module(z)
    np.testing.assert_allclose((further - far).abs(), 1.5 * np.log(10), rtol=1e-3)


def test_the_haar_maps_are_an_orthogonal_transform_with_the_means_of_blocks_first():
    images = normal(5, 3, 8, 8)
    maps = flows.split(images)
    np.testing.assert_allclose(flows.merged(maps), images, atol=1e-14)
    np.testing.assert_allclose((maps**2).sum((1, 2, 3)), (images**2).sum((1, 2, 3)))
    means = torch.nn.functional.avg_pool2d(images, 2)
    np.testing.assert_allclose(maps[:, :12], 2 * torch.nn.functional.pixel_unshuffle(means, 2), atol=1e-14)


def test_logits_and_pixels_are_inverse_and_the_slope_is_the_derivative():
    p = torch.rand(6, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, log_det = flows.logits(p)
    np.testing.assert_allclose(flows.pixels(x), 2 * p - 1, atol=1e-14)
    step = 1e-6
    slope = (flows.logits(p + step)[0] - flows.logits(p - step)[0]) / (2 * step)
    np.testing.assert_allclose(slope.log().flatten(1).sum(1), log_det, rtol=1e-7)
    np.testing.assert_array_equal(flows.pixels(torch.tensor([-50.0, 50.0])), [-1, 1])


RANDOM = {"realnvp": (zoo.realnvp, TINY), "vae": (zoo.vae, DECODER)}


@pytest.mark.parametrize("kind", RANDOM)
def test_random_weights_are_a_function_of_the_seed_and_leave_the_global_state(kind):
    make, small = RANDOM[kind]
    state = torch.get_rng_state()
    a, b, c = (make(small, seed=seed).sample(50, 0)[1] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1


def test_a_random_flow_is_neither_trivial_nor_wild():
    inputs = generators.load("realnvp-random").sample(2000, 0)[1]
    assert 0.5 < inputs.std() < 5
    assert np.abs(inputs).max() < 100
    correlation = np.corrcoef(inputs.T)
    assert np.sqrt((correlation**2).mean()) > 2 / np.sqrt(2000)  # latents alone have 1 / sqrt(2000)


def test_the_outputs_of_a_random_decoder_have_fields_of_variance_two():
    inputs = generators.load("vae-random").sample(4000, 0)[1]
    assert np.abs(inputs).max() <= 1
    assert np.mean(np.arctanh(inputs.astype(float).clip(-0.999999, 0.999999)) ** 2) == pytest.approx(2, rel=0.25)


def test_squashed_flows_are_the_pixels_of_the_flow():
    inner, squashed = zoo.realnvp(seed=1), zoo.realnvp(seed=1, squash=True)
    x, p = inner.sample(5, 0)[1], squashed.sample(5, 0)[1]
    np.testing.assert_array_equal(flows.pixels(torch.from_numpy(x)), p)
    for generator, inputs in ((inner, x), (squashed, p)):
        np.testing.assert_array_equal(zoo.images(generator, inputs), p.reshape(5, 1, 28, 28))
    assert zoo.images(generators.load("single-layer"), np.zeros((2, 1000))) is None
    with pytest.raises(InputError, match="dcgan-random is no RealNVP"):
        zoo.squashed(generators.load("dcgan-random"))


# --- files --------------------------------------------------------------------------------------------------

MODULES = {
    "dcgan": lambda: zoo.dcgan(zoo.DCGANShape(latent=6, widths=(8,), base=4, channels=1, size=8)).module,
    "realnvp": lambda: zoo.realnvp(TINY).module,
    "vae": lambda: zoo.vae(DECODER).module,
}


@pytest.fixture(params=MODULES)
def saved(request, tmp_path):
    module = MODULES[request.param]()
    path = tmp_path / f"{request.param}.safetensors"
    zoo.save(module, path, {"data": "none"})
    return module, path


def test_weights_come_back_from_their_file_in_half_precision(saved):
    module, path = saved
    again = generators.load(path)
    assert type(again.module) is type(module)
    assert again.module.shape == module.shape
    assert again.name == path.stem
    assert zoo.card(path) == {"data": "none"}
    for name, weight in module.state_dict().items():
        np.testing.assert_array_equal(
            weight.half() if weight.is_floating_point() else weight, again.module.state_dict()[name]
        )


def altered(path, change):
    arrays, metadata = load_arrays(path, "generator")
    change(arrays, metadata)
    save_arrays(path, "generator", arrays, metadata)
    return path


def another_shape(arrays, _):
    name = max(arrays, key=lambda name: arrays[name].size)
    arrays[name] = arrays[name][:-1]


def a_weight_too_few(arrays, _):
    del arrays[min(arrays)]


def a_weight_too_many(arrays, _):
    arrays["more"] = np.zeros(3, dtype=np.float16)


def no_sizes(_, metadata):
    del metadata["shape"]


def sizes_that_are_no_table(_, metadata):
    metadata["shape"] = [1, 2]


def a_size_too_many(_, metadata):
    metadata["shape"]["depth"] = 3


def a_size_that_is_no_number(_, metadata):
    metadata["shape"]["size"] = "large"


WRONG = [another_shape, a_weight_too_few, a_weight_too_many, no_sizes, sizes_that_are_no_table]
WRONG += [a_size_too_many, a_size_that_is_no_number]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_weights_that_do_not_fit_are_refused_in_a_sentence(saved, change):
    path = altered(saved[1], change)
    with pytest.raises(InputError, match="do not fit a") as caught:
        generators.load(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_refused(saved):
    path = altered(saved[1], lambda _, metadata: metadata.update(architecture="diffusion"))
    with pytest.raises(InputError, match="a generator of kind 'diffusion'; expected one of dcgan, realnvp, vae"):
        generators.load(path)


def test_what_the_zoo_does_not_know_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match="a Linear cannot be saved; expected one of dcgan"):
        zoo.save(torch.nn.Linear(2, 2), tmp_path / "a.safetensors", {})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: flows.RealNVPShape(1, 27, 4, 2, 4, 2), "size=27; expected a multiple of 4 pixels"),
        (lambda: flows.RealNVPShape(1, 28, 0, 2, 4, 2), "width=0; expected an integer of at least 1"),
        (lambda: zoo.DecoderShape(0, (3,), 1, 4), "latent=0; expected an integer of at least 1"),
        (lambda: zoo.DecoderShape(2, (0,), 1, 4), "a width of the hidden layers=0"),
    ],
)
def test_wrong_sizes_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


# --- the shipped ones ---------------------------------------------------------------------------------------

NAMES = ["dcgan", "realnvp-pixels", "vae"]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_give_the_spectrum_of_their_card(name):
    from gaussequiv.generators.images import concentration

    quality = zoo.card(name)["quality"]
    share, ratio = concentration(np.cov(generators.load(name).sample(4000, 2)[1].T))
    assert share == pytest.approx(quality["top_share"], rel=0.05)
    assert ratio == pytest.approx(quality["participation_ratio"], rel=0.08)


def test_the_shipped_flow_undoes_itself_as_its_card_says():
    generator = generators.load("realnvp")
    module = generator.module.double()
    z = torch.from_numpy(stream(9, Purpose.CHECK).standard_normal((32, 784)))
    with torch.no_grad():
        back = module.inverse(module(z))[0]
    assert (back - z).abs().max() < 20 * zoo.card("realnvp")["quality"]["inversion_error"]
    assert zoo.card("realnvp")["quality"]["inversion_error"] < 1e-13


def test_samples_of_the_shipped_flow_end_where_the_data_do():
    inputs = generators.load("realnvp").sample(4000, 3)[1]
    end = np.log(0.95 / 0.05)  # logits of white, where the density falls off a cliff that a flow can only round
    assert np.mean(np.abs(inputs) > end + 0.2) < 0.01
    assert np.abs(inputs).max() < 2 * end


def test_random_fields_of_the_shipped_flow_have_no_heavy_tails():
    inputs = generators.load("realnvp").sample(10_000, 4)[1].astype(float)
    fields = (inputs - inputs.mean(axis=0)) @ np.random.default_rng(0).standard_normal((784, 200))
    kurtosis = (fields**4).mean(axis=0) / (fields**2).mean(axis=0) ** 2 - 3
    assert abs(kurtosis.mean()) < 0.3  # a Gaussian's is 0; those of the data have a standard deviation of .375
    assert kurtosis.max() < 2.5


def test_the_equivalent_model_of_a_small_flow_has_latents_as_many_as_inputs():
    model = generators.estimate(zoo.realnvp(TINY), samples=4000)
    assert isinstance(model, ge.GaussianModel)
    assert model.Omega.shape == model.Phi.shape == (16, 16)
