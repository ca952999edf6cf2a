"""Training: reading gives what was written, one seed gives one set of weights; and the shipped weights."""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gaussequiv.errors import InputError
from gaussequiv.generators import flows, zoo
from gaussequiv.generators.images import pixel_frechet, read_images
from gaussequiv.generators.training import fitting_shape, train_dcgan
from gaussequiv.generators.training_likelihood import bits_per_dim, dequantised, train_realnvp, train_vae
from gaussequiv.models.storage import sha256_of_file

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
TINY = zoo.DCGANShape(latent=6, widths=(8,), base=4, channels=1, size=8)
TINY_FLOW = flows.RealNVPShape(channels=1, size=8, width=6, local=3, hidden=8, wide=2)
TINY_DECODER = zoo.DecoderShape(latent=3, hidden=(16,), channels=1, size=8)
TRAININGS = {"dcgan": (train_dcgan, TINY), "realnvp": (train_realnvp, TINY_FLOW), "vae": (train_vae, TINY_DECODER)}


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def idx(pixels: np.ndarray) -> bytes:
    return struct.pack(f">HBB{pixels.ndim}I", 0, 8, pixels.ndim, *pixels.shape) + pixels.tobytes()


def scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels / 127.5 - 1


def stripes(n: int) -> np.ndarray:
    """Vertical stripes of one place, width and brightness each."""
    rng = np.random.default_rng(0)
    place, width, light = rng.uniform(1, 6, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n)
    rows = light[:, None] * np.exp(-(((np.arange(8) - place[:, None]) / width[:, None]) ** 2)) - 1
    return np.repeat(rows[:, None, None], 8, axis=2).clip(-1, 1).astype(np.float32)


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_an_idx_file_is_read_as_it_was_written(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    pixels = drawn(5, 28, 28)
    file = tmp_path / "images-idx3-ubyte"
    file.write_bytes(pack(idx(pixels)))
    images = read_images(file)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, scaled(pixels)[:, None], atol=1e-7)
    assert images.min() >= -1
    assert images.max() <= 1


def test_of_a_folder_the_training_images_are_read(tmp_path: Path) -> None:
    train, test = drawn(6, 8, 8), drawn(3, 8, 8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(train)))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(test))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(drawn(6)))
    (tmp_path / "README").write_text("not an image")
    np.testing.assert_allclose(read_images(tmp_path)[:, 0], scaled(train), atol=1e-7)


def test_parts_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    parts = drawn(2, 4, 8, 8)
    for name, part in zip(("b", "a"), parts, strict=True):
        (tmp_path / f"{name}-idx3-ubyte").write_bytes(idx(part))
    np.testing.assert_allclose(read_images(tmp_path)[:, 0], scaled(np.concatenate(parts[::-1])), atol=1e-7)


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "RGB"])
def test_pngs_are_read_as_they_were_written(tmp_path: Path, channels: tuple[int, ...]) -> None:
    pixels = drawn(4, 16, 16, *channels)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    expected = scaled(pixels)[:, None] if channels == () else scaled(pixels).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(read_images(tmp_path), expected, atol=1e-7)


def test_jpegs_are_read_up_to_their_compression(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    for name in ("a.jpg", "b.JPEG"):
        Image.fromarray(ramp).save(tmp_path / name, format="JPEG", quality=95)
    found = read_images(tmp_path)
    assert found.shape == (2, 1, 16, 16)
    np.testing.assert_allclose(found[:, 0], [scaled(ramp)] * 2, atol=0.05)


def nothing(folder: Path) -> Path:
    return folder / "missing"


def empty(folder: Path) -> Path:
    return folder


def not_idx(folder: Path) -> Path:
    (folder / "images-idx3-ubyte").write_text("hello, this is no image at all")
    return folder / "images-idx3-ubyte"


def empty_file(folder: Path) -> Path:
    (folder / "images-idx3-ubyte").touch()
    return folder / "images-idx3-ubyte"


def labels(folder: Path) -> Path:
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(drawn(100)))
    return folder / "train-labels-idx1-ubyte"


def truncated(folder: Path) -> Path:
    (folder / "images-idx3-ubyte").write_bytes(idx(drawn(3, 8, 8))[:-1])
    return folder


def truncated_gzip(folder: Path) -> Path:
    (folder / "images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(drawn(3, 8, 8)))[:-20])
    return folder


def flipped_gzip(folder: Path) -> Path:
    raw = bytearray(gzip.compress(idx(drawn(3, 8, 8))))
    raw[40] ^= 0xFF
    (folder / "images-idx3-ubyte.gz").write_bytes(raw)
    return folder


def no_images(folder: Path) -> Path:
    (folder / "images-idx3-ubyte").write_bytes(idx(drawn(0, 8, 8)))
    return folder


def no_pixels(folder: Path) -> Path:
    (folder / "images-idx3-ubyte").write_bytes(idx(drawn(3, 0, 0)))
    return folder


def oblong(folder: Path) -> Path:
    (folder / "images-idx3-ubyte").write_bytes(idx(drawn(3, 8, 16)))
    return folder


def mixed_sizes(folder: Path) -> Path:
    Image.fromarray(drawn(8, 8)).save(folder / "a.png")
    Image.fromarray(drawn(16, 16)).save(folder / "b.png")
    return folder


def mixed_colours(folder: Path) -> Path:
    Image.fromarray(drawn(8, 8)).save(folder / "a.png")
    Image.fromarray(drawn(8, 8, 3)).save(folder / "b.png")
    return folder


def transparent(folder: Path) -> Path:
    Image.fromarray(drawn(8, 8, 4)).save(folder / "a.png")
    return folder


def broken_png(folder: Path) -> Path:
    Image.fromarray(drawn(8, 8)).save(folder / "a.png")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


def inks(folder: Path) -> Path:
    Image.fromarray(drawn(8, 8, 4), mode="CMYK").save(folder / "a.jpg")
    return folder


def no_png(folder: Path) -> Path:
    (folder / "a.png").write_text("hello")
    return folder


def both_kinds(folder: Path) -> Path:
    return truncated(mixed_sizes(folder))


WRONG = [
    nothing,
    empty,
    not_idx,
    empty_file,
    labels,
    truncated,
    truncated_gzip,
    flipped_gzip,
    no_images,
    no_pixels,
]
WRONG += [oblong, mixed_sizes, mixed_colours, transparent, broken_png, inks, no_png, both_kinds]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_images_are_refused_in_one_sentence(tmp_path: Path, wrong: Callable[[Path], Path]) -> None:
    path = wrong(tmp_path)
    with pytest.raises(InputError) as caught:
        read_images(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence.replace(str(path), "")) > 40


@pytest.mark.parametrize("size", [8, 10, 12, 14, 16, 20, 24, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fitting_dcgan_makes_the_size_that_was_asked_for(channels: int, size: int) -> None:
    shape = fitting_shape(channels, size)
    with torch.device("meta"):
        made = zoo.DCGAN(shape)(torch.empty(2, shape.latent, 1, 1))
    assert made.shape == (2, channels, size, size)


@pytest.mark.parametrize("size", [0, 1, 4, 7, 9, 27, 36, 57])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(InputError, match="resize"):
        fitting_shape(1, size)


def test_the_zoo_is_used_where_it_fits() -> None:
    assert fitting_shape(1, 28) == zoo.GREY_DCGAN
    assert fitting_shape(3, 32) == zoo.PAPER_DCGAN


# --- training -----------------------------------------------------------------------------------------------


@pytest.fixture(params=TRAININGS)
def training(request):
    return TRAININGS[request.param]


def test_one_seed_gives_one_set_of_weights_and_leaves_the_global_state(training, tmp_path: Path) -> None:
    train, shape = training
    images, before, seen = stripes(256), torch.get_rng_state(), []
    (first, card) = train(images, shape=shape, epochs=2, seed=3, progress=lambda *tick: seen.append(tick))
    other, _ = train(images, shape=shape, epochs=2, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(1)  # another process has another global state
        second, _ = train(images, shape=shape, epochs=2, seed=3, progress=lambda *tick: seen.append(tick))
    for name, weight in first.state_dict().items():
        assert weight.numpy().tobytes() == second.state_dict()[name].numpy().tobytes(), name
    assert any(not torch.equal(weight, other.state_dict()[name]) for name, weight in first.state_dict().items())
    steps = 24 if train is train_realnvp else 8  # its dense couplings have twice as many steps of their own
    assert seen == 2 * [(step, steps) for step in range(1, steps + 1)]

    # The weights are those that float16 can hold, so the file is the module.
    zoo.save(first, tmp_path / "tiny.safetensors", card)
    read = zoo.load(tmp_path / "tiny.safetensors")
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((50, read.latent_dim), dtype=np.float32))
    made = read.push(latents)
    with torch.no_grad():
        direct = first.eval()(latents.reshape(50, *read.latent)).reshape(50, -1)
    np.testing.assert_allclose(made.numpy(), direct.numpy(), atol=1e-6)
    assert zoo.card(tmp_path / "tiny.safetensors") == card


def test_training_brings_the_samples_closer_to_the_images(training) -> None:
    train, shape = training
    _, card = train(stripes(1024), shape=shape, epochs=20)
    quality = card["quality"]
    assert quality["frechet"] < 0.5 * quality["frechet_of_random_weights"]
    assert quality["frechet_of_data"] < quality["frechet"]


def test_more_epochs_make_the_images_likelier() -> None:
    for train, shape, figure, sign in (
        (train_realnvp, TINY_FLOW, "bits_per_dim", -1),
        (train_vae, TINY_DECODER, "elbo", 1),
    ):
        short, long = (train(stripes(512), shape=shape, epochs=n)[1]["quality"][figure] for n in (1, 15))
        assert sign * (long - short) > 0.1, figure


def test_bits_per_dim_of_a_flow_that_does_nothing_are_those_of_gaussian_noise_under_its_soft_end() -> None:
    """All couplings idle: y = 1.5 sinh(x / 1.5) of logits is Gaussian, which changes of variables make a density of greys."""
    module = flows.RealNVP(TINY_FLOW).double().requires_grad_(False)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    images = np.full((3, 1, 8, 8), -1 + 2 * 40 / 255)  # grey value 40 of 256 is level 5 of 32
    found = bits_per_dim(module, np.repeat(images, 400, axis=0), np.random.default_rng(0)).mean()
    p = 0.05 + 0.9 * (5 + np.linspace(0.0005, 0.9995, 1000)) / 32
    x = np.log(p / (1 - p))
    y, slope = 1.5 * np.sinh(x / 1.5), np.cosh(x / 1.5)
    density = np.exp(-0.5 * y**2) / np.sqrt(2 * np.pi) * slope * 0.9 / (p * (1 - p))
    assert float(found) == pytest.approx(np.mean(5 - np.log2(density)), abs=2e-3)


def test_dequantised_images_have_the_grey_values_of_the_images() -> None:
    images = scaled(np.arange(256, dtype=np.uint8).repeat(64).reshape(256, 1, 8, 8)).astype(np.float32)
    x, _ = dequantised(images, np.random.default_rng(0))
    p = (torch.sigmoid(x.double()) - 0.05) / 0.9
    levels = 32 * p.numpy() - (np.arange(256) // 8)[:, None, None, None]
    assert levels.min() > -1e-4
    assert levels.max() < 1 + 1e-4
    assert levels.mean() == pytest.approx(0.5, abs=0.01)


def test_flows_and_decoders_of_colours_are_trained_at_the_sizes_that_fit() -> None:
    images = np.repeat(stripes(64), 3, axis=1)
    flow, decoder = train_realnvp(images, epochs=1)[0], train_vae(images, epochs=1)[0]
    for module in (flow, decoder):
        assert (module.shape.channels, module.shape.size) == (3, 8)
        assert not module.training


def test_a_training_that_diverges_is_refused(training, monkeypatch: pytest.MonkeyPatch) -> None:
    train, shape = training
    for module in ("training", "training_likelihood"):
        monkeypatch.setattr(f"gaussequiv.generators.{module}.LEARNING_RATE", 1e30)
    seen: list[int] = []
    with pytest.raises(InputError, match="the training diverged at seed=0") as caught:
        train(stripes(256), shape=shape, epochs=9, progress=lambda done, _: seen.append(done))
    assert "\n" not in str(caught.value)
    assert train is train_dcgan or len(seen) < 30  # the loss says it at once


@pytest.mark.parametrize("widths", [(8,), (8, 4)], ids=["doubled at the end", "1 x 1 at the end"])
def test_colours_and_both_kinds_of_last_layers_are_trained(widths: tuple[int, ...]) -> None:
    shape = zoo.DCGANShape(latent=6, widths=widths, base=4, channels=3, size=8)
    module, card = train_dcgan(np.repeat(stripes(64), 3, axis=1), shape=shape, epochs=1)
    assert module.shape == shape
    assert not module.training
    assert card["recipe"]["steps"] == 1
    assert card["parameters"] == sum(weight.numel() for weight in module.parameters())


def test_an_interrupted_training_raises_what_interrupted_it(training) -> None:
    train, shape = training

    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stripes(256), shape=shape, progress=interrupt)


@pytest.mark.parametrize(
    ("images", "options", "match"),
    [
        (stripes(10), {}, "at least"),
        (stripes(64)[:, 0], {}, "expected"),
        (stripes(64)[:, :, :4], {}, "expected"),
        (stripes(64) * 255, {}, "-1 to 1"),
        (stripes(64) * np.nan, {}, "-1 to 1"),
        (stripes(64) * 0, {}, "same"),
        (stripes(64), {"epochs": 0}, "epochs"),
        (stripes(64), {"epochs": 1.5}, "epochs"),
        (stripes(64), {"seed": -1}, "seed"),
        (stripes(64), {"device": "nowhere"}, "device"),
    ],
)
def test_wrong_arguments_are_refused(training, images: np.ndarray, options: dict, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        training[0](images, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "images", "shape", "match"),
    [
        (train_dcgan, np.repeat(stripes(64), 2, axis=1), None, "2 channels; expected 1"),
        (train_dcgan, np.zeros((64, 1, 27, 27)) + np.linspace(0, 1, 27), None, "resize"),
        (train_dcgan, stripes(64), zoo.GREY_DCGAN, "shape=None"),
        (train_realnvp, stripes(64), flows.GREY_REALNVP, "shape=None"),
        (train_realnvp, stripes(64)[:, :, :6, :6], None, "size=6; expected a multiple of 4"),
        (train_vae, stripes(64), zoo.GREY_DECODER, "shape=None"),
    ],
)
def test_images_of_sizes_that_do_not_fit_are_refused(train, images: np.ndarray, shape, match: str) -> None:
    images = images * np.linspace(0.5, 1, 64)[:, None, None, None]
    with pytest.raises(InputError, match=match):
        train(images, shape=shape)


def test_frechet_distance_of_shifted_and_stretched_images() -> None:
    images = np.random.default_rng(0).standard_normal((500, 1, 4, 4))
    variance = np.trace(np.cov(images.reshape(500, 16).T, bias=True))
    assert pixel_frechet(images, images) == pytest.approx(0, abs=1e-9)
    assert pixel_frechet(images, images + 0.5) == pytest.approx(16 * 0.25)
    centred = images - images.mean(axis=0)
    assert pixel_frechet(centred, 3 * centred) == pytest.approx(4 * variance)


# --- the shipped weights ------------------------------------------------------------------------------------

PICTURES = ["dcgan", "realnvp-pixels", "vae"]


@pytest.mark.parametrize("name", ["dcgan", "realnvp", "vae"])
def test_the_model_card_names_the_shipped_file(name: str) -> None:
    file = zoo.WEIGHTS / f"{zoo.SHIPPED[name]}.safetensors"
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    assert re.findall(r"[0-9a-f]{64}", text)[0] == sha256_of_file(file)
    card = zoo.card(name)
    assert f"{card['quality']['frechet']:.1f}" in text
    assert f"{card['parameters']:,}" in text
    assert card["reproduce"] in text
    assert "Zalando" in card["licence"]
    assert file.stem in (zoo.WEIGHTS / "NOTICE.md").read_text(encoding="utf-8")
    for figure, form in (("bits_per_dim", ".3f"), ("elbo", ".1f")):
        assert f"{card['quality'].get(figure, 0):{form}}" in text or figure not in card["quality"]


def test_all_shipped_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in zoo.WEIGHTS.glob("*.safetensors")) < 4e6


@pytest.mark.parametrize("name", PICTURES)
def test_the_shipped_samples_are_images_and_diverse(name: str) -> None:
    before = torch.get_rng_state()
    samples = zoo.load(name).sample(2000, 0)[1]
    assert torch.equal(torch.get_rng_state(), before)
    assert samples.shape == (2000, 784)
    assert np.abs(samples).max() <= 1
    spectrum = np.linalg.eigvalsh(np.cov(samples.T))
    assert spectrum[-1] < 0.5 * spectrum.sum()
    assert spectrum.sum() ** 2 > 3 * (spectrum**2).sum()


@pytest.mark.full
@pytest.mark.parametrize("name", PICTURES)
def test_the_shipped_samples_are_as_close_to_the_data_as_their_card_says(name: str) -> None:
    if not FASHION.is_dir():
        pytest.skip("this law needs the data: install Debian's package dataset-fashion-mnist")
    images = read_images(FASHION)
    samples = zoo.load(name).sample(10_000, 1)[1]
    quality = zoo.card(name)["quality"]
    assert pixel_frechet(samples, images) == pytest.approx(quality["frechet"], rel=0.05)
