"""`Generator` and the zoo: a module as a map that leaves no trace; weights a function of the seed; refusals."""

import numpy as np
import pytest
import torch
from torch import nn

import cases
import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import zoo


def convolutional():
    torch_rng = torch.Generator().manual_seed(0)
    module = nn.Sequential(
        nn.ConvTranspose2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.ConvTranspose2d(4, 2, 2, 2),
        nn.Tanh(),
    )
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_rng) / 2)
    return module


GENERATORS = {
    "module": lambda: generators.Generator(convolutional(), latent=(6, 1, 1)),
    "callable": lambda: generators.Generator(lambda c: torch.sin(c[:, :3] * c[:, 1:4]), latent=4, dtype=torch.float64),
    "single-layer": lambda: generators.single_layer(generators.gaussian_matrix(30, 10)),
    "deep-random": lambda: generators.deep_random((8, 20, 30), "tanh"),
    "dcgan-random": lambda: generators.load("dcgan-random"),
    "dcgan": lambda: generators.load("dcgan"),
    "realnvp-random": lambda: generators.load("realnvp-random"),
    "realnvp": lambda: generators.load("realnvp"),
    "realnvp-pixels": lambda: generators.load("realnvp-pixels"),
    "vae-random": lambda: generators.load("vae-random"),
    "vae": lambda: generators.load("vae"),
}


@pytest.fixture(params=GENERATORS, scope="module")
def generator(request):
    return GENERATORS[request.param]()


def test_samples_are_flat_and_in_the_modules_dtype(generator):
    latents, inputs = generator.sample(7, 0)
    assert latents.shape == (7, generator.latent_dim)
    assert inputs.shape == (7, generator.input_dim)
    expected = {torch.float32: np.float32, torch.float64: np.float64}[generator.dtype]
    assert latents.dtype == inputs.dtype == expected


def test_a_sample_is_the_push_of_its_latents_and_a_function_of_the_seed(generator):
    latents, inputs = generator.sample(9, 5)
    np.testing.assert_array_equal(generator.push(torch.from_numpy(latents)).numpy(), inputs)
    np.testing.assert_array_equal(generator.sample(9, 5)[1], inputs)
    assert not np.array_equal(generator.sample(9, 6)[0], latents)


def test_a_batch_is_the_same_in_pieces(generator):
    exact = generator.to(dtype=torch.float64)  # a flow multiplies what batches of other sizes round otherwise by 1,000
    latents, inputs = exact.sample(12, 1)
    pieces = exact.to(batch_size=5).push(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(pieces, inputs, atol=1e-10)


def test_single_precision_errs_no_more_than_latents_that_moved_by_100_roundings(generator):
    latents, exact = generator.to(dtype=torch.float64).sample(12, 1)
    inputs = generator.to(dtype=torch.float32).push(torch.from_numpy(latents)).numpy()
    rough = 1e-5 * np.random.default_rng(0).standard_normal(latents.shape)  # a rounding: 1.2e-7
    moved = generator.to(dtype=torch.float64).push(torch.from_numpy(latents + rough)).numpy()
    assert np.abs(inputs - exact).max() < max(np.abs(moved - exact).max(), 1e-6)


def test_latents_are_standard_normal():
    latents, _ = GENERATORS["callable"]().sample(50_000, 0)
    assert np.abs(latents.mean(axis=0)).max() < 4.5 / np.sqrt(50_000)
    assert np.abs(np.cov(latents.T) - np.eye(4)).max() < 4.5 * np.sqrt(2 / 50_000)


def test_the_users_module_and_the_global_random_state_are_untouched():
    module = convolutional().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    generator = generators.Generator(module, latent=(6, 1, 1))
    generator.sample(50, 0)
    assert all(m.training for m in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_changing_the_users_module_later_does_not_change_the_generator():
    module = convolutional()
    generator = generators.Generator(module, latent=(6, 1, 1))
    before = generator.sample(3, 0)[1]
    with torch.no_grad():
        next(module.parameters()).zero_()
    np.testing.assert_array_equal(generator.sample(3, 0)[1], before)


def test_a_callable_that_draws_random_numbers_leaves_the_global_state():
    generator = generators.Generator(lambda c: c + torch.randn_like(c), latent=3)
    state = torch.get_rng_state()
    generator.sample(4, 0)
    assert torch.equal(torch.get_rng_state(), state)


@cases.each([g for g in cases.ACTIVATIONS if g.name in zoo.TORCH_ACTIVATIONS])
def test_the_torch_form_of_an_activation_is_that_of_the_theory(case):
    z = np.linspace(-4, 4, 101)
    np.testing.assert_allclose(zoo.torch_activation(case.name)(torch.from_numpy(z)).numpy(), case(z), atol=1e-14)


def test_a_single_layer_is_its_formula_with_the_rows_as_given():
    F = 3 * np.random.default_rng(0).standard_normal((5, 4))
    latents, inputs = generators.single_layer(F, "tanh").sample(10, 0)
    np.testing.assert_allclose(inputs, np.tanh(latents @ F.T), atol=1e-14)


def test_random_weights_are_a_function_of_the_seed_and_every_layer_has_unit_variance():
    a, b, c = (zoo.dcgan(seed=seed).sample(400, 0)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1
    module = zoo.dcgan(seed=3).module
    captured = []
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, args, out: captured.append(out.std().item()))
    with torch.no_grad():
        module(zoo.latents(9, 500, module.shape))
    np.testing.assert_allclose(captured, 1.0, atol=0.06)


def test_the_papers_dcgan_makes_colour_images_of_32_pixels_from_100_latents():
    generator = generators.load("dcgan-random-32")
    assert (generator.latent_dim, generator.input_dim) == (100, 3 * 32 * 32)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in generator.module.modules()) == 5


def test_weights_survive_their_file(tmp_path):
    module = zoo.dcgan(seed=1).module
    path = tmp_path / "mine.safetensors"
    zoo.save(module, path, {"data": "none"})
    again = generators.load(path)
    latents, inputs = zoo.dcgan(seed=1).sample(20, 0)
    np.testing.assert_allclose(again.push(torch.from_numpy(latents)).numpy(), inputs, atol=2e-2)
    assert zoo.card(path) == {"data": "none"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: generators.Generator(3, latent=2), "the generator is an int; expected a torch module or a callable"),
        (lambda: generators.Generator(torch.sin, latent=()), "expected the shape of one latent"),
        (lambda: generators.Generator(torch.sin, latent=0), "expected the shape of one latent"),
        (lambda: generators.Generator(torch.sin, latent=2, device="nonsense"), "device 'nonsense' is not there"),
        (lambda: generators.Generator(torch.sin, latent=2, batch_size=0), "batch_size=0"),
        (
            lambda: generators.Generator(convolutional(), latent=5).sample(3, 0),
            "is latent=.* the shape that the module expects",
        ),
        (lambda: generators.Generator(lambda c: c.sum(), latent=2).sample(3, 0), r"returned shape \(\) for 3 latents"),
        (
            lambda: generators.Generator(lambda c: (c, c), latent=2).sample(3, 0),
            r"returned a tuple \(shape \(3, 2\), shape \(3, 2\)\); expected one tensor of shape \(n, ...\); choose one by output",
        ),
        (lambda: generators.Generator(lambda c: c / 0, latent=2).sample(3, 0), "returned a NaN or an infinity"),
        (lambda: generators.Generator(torch.sin, latent=2).sample(0, 0), "n=0; expected an integer of at least 1"),
        (lambda: generators.Generator(torch.sin, latent=2).push(torch.zeros(3, 4)), r"expected \(n, 2\)"),
        (lambda: generators.Generator(torch.sin, latent=2.5), "expected the shape of one latent"),
        (
            lambda: generators.Generator(torch.sin, latent=2, dtype=torch.int64),
            "dtype=torch.int64; expected one of torch.float16",
        ),
        (lambda: generators.Generator(torch.sin, latent=2, device="meta"), "device 'meta' is not there"),
        (lambda: generators.Generator(lambda c: {}["a"], latent=2).sample(3, 0), "failed on latents of shape"),
        (lambda: generators.Generator(lambda c: c[:, :0], latent=2).sample(3, 0), r"returned shape \(3, 0\)"),
        (lambda: generators.single_layer(1j * np.eye(2)), "F is complex"),
        (lambda: generators.single_layer("abc"), "F is not an array of numbers"),
        (lambda: generators.single_layer(np.eye(2), None), "the activation is a NoneType"),
        (lambda: generators.single_layer(np.zeros(3)), r"F has shape \(3,\); expected \(N, D\)"),
        (lambda: generators.single_layer([[np.nan]]), "F holds a NaN"),
        (lambda: generators.single_layer(np.eye(2), "gelo"), "unknown activation 'gelo'"),
        (lambda: generators.deep_random((3,)), r"expected at least \(D, N\)"),
        (lambda: generators.gaussian_matrix(0, 3), "rows=0; expected an integer of at least 1"),
        (lambda: generators.load("dcgam"), "unknown generator 'dcgam'; expected one of dcgan"),
        (lambda: generators.load("none.safetensors"), "there is no file none.safetensors"),
        (lambda: zoo.DCGANShape(100, (64, 32), 7, 1, 30), "makes 14 or 28 pixels; size=30"),
    ],
)
def test_wrong_generators_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_a_file_of_data_is_not_a_generator(tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"data\.npy holds data, not a generator; expected generators\.dataset\('"):
        generators.load(tmp_path / "data.npy")


def test_a_model_file_is_not_a_generator(tmp_path):
    ge.GaussianModel.isotropic(3).save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is a model file; expected a gaussequiv generator file"):
        generators.load(tmp_path / "model.safetensors")
