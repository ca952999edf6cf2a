"""Generators that were made elsewhere: the same numbers as the library that made them; refusals in a sentence."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn

import gaussequiv as ge
from gaussequiv import generators
from gaussequiv.errors import InputError
from gaussequiv.generators import Generator, from_code, from_flow, from_onnx, load_weights
from gaussequiv.models.streams import stream


def perceptron(D=6, N=11, seed=0):
    torch_rng = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, N))
    with torch.no_grad():
        for tensor in (*module.parameters(), module[1].running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=torch_rng) / 2)
    return module


# --- how a module is called ---


def test_several_latents_are_named_arguments_and_parts_of_one_flat_latent():
    z, w = torch.randn(5, 3), torch.randn(5, 2, 4)
    generator = Generator(lambda w, z: z.sum(1)[:, None, None] * w, {"z": 3, "w": (2, 4)}, dtype=torch.float32)
    assert (generator.latent_dim, generator.input_dim, generator.output_shape) == (11, 8, (2, 4))
    found = generator.push(torch.cat([z, w.flatten(1)], dim=1))
    torch.testing.assert_close(found, (z.sum(1)[:, None, None] * w).flatten(1))
    alike = Generator(lambda a, b: a - 10 * b, {"a": 3, "b": 3}, dtype=torch.float32)  # in the order of the dictionary
    torch.testing.assert_close(alike.push(torch.cat([z, 2 * z], dim=1)), -19 * z)


@pytest.mark.parametrize(
    ("returned", "output", "expected"),
    [
        (lambda c: (c, 2 * c), 1, 2.0),
        (lambda c: [3 * c, c], -2, 3.0),
        (lambda c: {"logits": c, "images": 4 * c}, "images", 4.0),
        (lambda c: torch.return_types.max((5 * c, c)), "values", 5.0),
        (lambda c: (c, {"deep": 6 * c}), lambda out: out[1]["deep"], 6.0),
    ],
)
def test_one_of_several_outputs_is_picked(returned, output, expected):
    generator = Generator(returned, 3, dtype=torch.float64, output=output)
    latents, inputs = generator.sample(4, 0)
    np.testing.assert_allclose(inputs, expected * latents)


def test_extra_arguments_are_those_of_one_sample_and_repeated():
    def module(c, scale, shift, label, mode):
        assert (scale.shape, shift.shape, label.shape, mode) == ((len(c),), (len(c), 3), (len(c), 1), "eval")
        assert label.dtype == torch.int64
        return scale[:, None] * c + shift + label

    extra = {"scale": torch.tensor(2.0), "shift": np.array([1.0, 2.0, 3.0]), "label": [7], "mode": "eval"}
    generator = Generator(module, 3, dtype=torch.float64, extra=extra, batch_size=3)
    latents, inputs = generator.sample(8, 0)
    np.testing.assert_allclose(inputs, 2 * latents + [8.0, 9.0, 10.0])


def test_features_on_top_keep_latents_arguments_output_and_prior():
    inner = Generator(
        lambda z, w, gain: (None, gain[:, None] * (z + w)),
        {"z": 4, "w": 4},
        dtype=torch.float64,
        output=1,
        extra={"gain": torch.tensor(3.0)},
        prior={"w": lambda n, rng: 1 + rng.standard_normal((n, 4))},
    )
    outer = inner.then(nn.Softplus())
    (c, x), (d, v) = inner.sample(9, 3), outer.sample(9, 3)
    np.testing.assert_array_equal(c, d)
    np.testing.assert_allclose(v, np.log1p(np.exp(x)))
    assert abs(c[:, 4:].mean() - 1) < 0.6


def test_a_generator_of_other_shape_composes():
    images = Generator(lambda c: (c[:, None], c), (4, 4), output=0).crop(2)
    latents, inputs = images.sample(3, 0)
    np.testing.assert_allclose(inputs, latents.reshape(3, 4, 4)[:, 1:3, 1:3].reshape(3, 4))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Generator(lambda c: c, {}), "expected shapes by the names"),
        (lambda: Generator(lambda c: c, {"z": 0}), "expected the shape of one latent"),
        (lambda: Generator(lambda c: (c, c), 2, output=2).input_dim, "output=2 is not one of them"),
        (
            lambda: Generator(lambda c: {"a": c}, 2, output="b").input_dim,
            r"dictionary \('a': shape \(2, 2\)\); output='b'",
        ),
        (lambda: Generator(lambda c: {"a": c}, 2).input_dim, "choose one by output"),
        (lambda: Generator(lambda c: c, 2, extra={"y": 1}).input_dim, "unexpected keyword argument 'y'"),
        (lambda: Generator(lambda c: c.numpy(), 2).input_dim, "returned a ndarray; expected one tensor"),
        (lambda: Generator(lambda c: c + 1j, 2).input_dim, "complex numbers; expected real"),
        (lambda: Generator(lambda c: c, 2, output=0).input_dim, "returned one tensor, shape .*; leave output=0 out"),
        (lambda: Generator(lambda c: c, 2, output=3.5), "output=3.5; expected a position, a name, or a function"),
        (lambda: Generator(lambda c: c, 2, extra=3), "extra=3; expected further arguments by their names"),
        (
            lambda: Generator(lambda c, label: c, 2).input_dim,
            "argument: 'label'; its further arguments are those of extra",
        ),
        (lambda: Generator(lambda c: 1 / 0, 2).input_dim, r"failed on latents of shape \(2, 2\): division by zero$"),
        (lambda: Generator(nn.Linear, 4), "the generator is a class; expected a torch module"),
        (lambda: Generator(nn.Identity(), 10**12), "expected 10000000 at most"),
        (lambda: Generator(lambda c: c, 2, prior={"z": None}), "the latents have no names; expected one prior"),
        (lambda: Generator(lambda c: c, 2, prior=3), "prior of the latents is an int; expected a function"),
        (lambda: Generator(lambda z: z, {"z": 2}, prior={"y": None}), "prior=y for the latents z"),
    ],
)
def test_calls_that_do_not_fit_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


# --- random numbers of the module's own ---


def test_noise_in_the_layers_follows_from_the_seed_and_is_part_of_x_given_c():
    generator = Generator(lambda c: c + torch.randn_like(c), 3, dtype=torch.float64, stochastic=True)
    state = torch.get_rng_state()
    a, b, c = (generator.sample(5, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    with pytest.raises(InputError, match="is stochastic, so inputs do not follow from latents"):
        generators.on_inputs_of(generator, lambda x: x[:, 0])
    model = generators.estimate(generator, 40_000)
    np.testing.assert_allclose(model.Omega, 2 * np.eye(3), atol=4.5 * 2 * (2 / 40_000) ** 0.5)
    np.testing.assert_allclose(model.Phi, np.eye(3), atol=4.5 / 200)


# --- weights ---


@pytest.fixture
def files(tmp_path):
    """The same weights in every kind of file."""
    from safetensors.torch import save_file

    state = perceptron().state_dict()
    torch.save(state, tmp_path / "plain.pt")
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "parallel.pth")
    torch.save({"epoch": 3, "generator": state, "optimiser": {"lr": 0.1}}, tmp_path / "checkpoint.pt")
    torch.save({"state_dict": {f"_orig_mod.{k}": v for k, v in state.items()}}, tmp_path / "compiled.ckpt")
    torch.save({"G": state, "D": nn.Linear(2, 2).state_dict()}, tmp_path / "gan.pt")
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "old.pt")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "tensors.safetensors")
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "half.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["plain.pt", "parallel.pth", "checkpoint.pt", "compiled.ckpt", "gan.pt", "old.pt", "tensors.safetensors"]
)
def test_weights_of_a_file_are_those_that_were_saved(files, name):
    module = load_weights(perceptron(seed=1), files / name)
    for key, value in perceptron().state_dict().items():
        assert torch.equal(module.state_dict()[key], value)


def test_weights_in_half_precision_are_rounded(files):
    module = load_weights(perceptron(seed=1), files / "half.safetensors")
    for key, value in perceptron().state_dict().items():
        torch.testing.assert_close(module.state_dict()[key], value, rtol=1e-3, atol=1e-3)


def test_weights_that_were_saved_on_another_device_load_here(tmp_path, monkeypatch):
    """A file says "cuda:0" of each tensor: written here by the location tag that CUDA's would have."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(perceptron().state_dict(), tmp_path / "cuda.pt")
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "cuda.pt", weights_only=True)
    module = load_weights(perceptron(seed=1), tmp_path / "cuda.pt")
    assert torch.equal(module[0].weight, perceptron()[0].weight)


class Payload:
    """What a hostile file would run."""

    def __reduce__(self):
        return (print, ("the payload ran",))


def test_weights_that_do_not_fit_are_refused_in_a_sentence(files, capsys):
    torch.save(perceptron(N=12).state_dict(), files / "wide.pt")
    torch.save(nn.Linear(2, 3).state_dict(), files / "other.pt")
    torch.save(perceptron(), files / "module.pt")
    torch.save([1, 2], files / "list.pt")
    torch.save({}, files / "empty.pt")
    torch.save({"a": perceptron().state_dict(), "b": perceptron().state_dict()}, files / "two.pt")
    (files / "folder.pt").mkdir()
    (files / "payload.pt").write_bytes(pickle.dumps(Payload()))
    torch.save({"x": Payload()}, files / "payload.pth")
    (files / "text.pt").write_text("no weights")
    (files / "text.safetensors").write_text("no weights")
    broken = perceptron().state_dict()
    broken["0.bias"][3] = torch.nan
    torch.save(broken, files / "nan.pt")
    (files / "cut.pt").write_bytes((files / "plain.pt").read_bytes()[:900])
    for name, key, sentence in [
        ("none.pt", None, "there is no file"),
        ("wide.pt", None, r"3.weight has shape \(12, 16\); expected \(11, 16\)"),
        (
            "other.pt",
            None,
            r"missing \(0.bias, 0.weight, 1.bias, and \d more\), 2 that it does not have \(bias, weight\)",
        ),
        ("module.pt", None, "pickled Python objects, which are not read as they could run code"),
        ("payload.pt", None, "pickled Python objects"),
        ("payload.pth", None, "pickled Python objects"),
        ("list.pt", None, "holds a list; expected a state_dict"),
        ("folder.pt", None, "is a folder; expected a file of weights"),
        ("empty.pt", None, "holds nothing; expected tensors by their names"),
        ("two.pt", None, "several sets of weights; choose one of a, b by its key"),
        ("checkpoint.pt", "ema", "no weights 'ema'; it holds generator"),
        ("plain.pt", "ema", "no weights 'ema'; it holds only one set of weights, so leave the key out"),
        ("text.pt", None, "no complete file of weights"),
        ("text.safetensors", None, "no complete file of weights"),
        ("cut.pt", None, "no complete file of weights"),
        ("nan.pt", None, r"hold a NaN or an infinity \(0.bias\)"),
    ]:
        with pytest.raises(InputError, match=sentence) as caught:
            load_weights(perceptron(), files / name, key)
        assert "\n" not in str(caught.value)
    assert "payload ran" not in capsys.readouterr().out
    with pytest.raises(InputError, match="for a function; expected a torch module"):
        load_weights(perceptron, files / "plain.pt")


def test_two_sets_of_weights_are_told_apart_by_their_key(files):
    deep = {"step": 1, "ema": {"decay": 0.9, "state_dict": perceptron(seed=5).state_dict()}}
    torch.save({"a": perceptron().state_dict(), "b": perceptron(seed=3).state_dict(), **deep}, files / "several.pt")
    for key, seed in (("a", 0), ("b", 3), ("ema.state_dict", 5)):
        assert torch.equal(
            load_weights(perceptron(seed=1), files / "several.pt", key)[0].weight, perceptron(seed=seed)[0].weight
        )
    with pytest.raises(InputError, match=r"choose one of a, b, ema.state_dict by its key"):
        load_weights(perceptron(), files / "several.pt")


def test_the_only_set_of_weights_that_fits_is_taken(files):
    critic = nn.Sequential(nn.Linear(11, 3), nn.Linear(3, 1)).state_dict()
    torch.save({"generator": {"state_dict": perceptron(seed=4).state_dict()}, "critic": critic}, files / "gan.pt")
    assert torch.equal(load_weights(perceptron(), files / "gan.pt")[0].weight, perceptron(seed=4)[0].weight)


def test_weights_that_two_layers_share_are_saved_once(tmp_path):
    from safetensors.torch import save_model

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    first, second = Tied(), Tied()
    save_model(first, tmp_path / "tied.safetensors")
    load_weights(second, tmp_path / "tied.safetensors")
    assert torch.equal(second.b.weight, first.a.weight)
    torch.save({"a.weight": first.a.weight, "a.bias": first.a.bias}, tmp_path / "part.pt")
    with pytest.raises(InputError, match=r"1 missing \(b.bias\)"):
        load_weights(second, tmp_path / "part.pt")


# --- code ---

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16, D=6):
        super().__init__()
        self.latent_dim = D
        self.body = nn.Sequential(nn.Linear(D, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 11))

    def forward(self, z):
        return self.body(z)

class Group:
    Inner = Net

def bare():
    return Net().body

def function():
    return lambda c: torch.sin(c)

def ready():
    from gaussequiv.generators import Generator
    return Generator(Net(), 6, name="ready")

def fails():
    raise ValueError("of the user")

here = Net()
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / f"{name}_broken.py").write_text("import not_a_module_of_this_machine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_code_with_its_weights(folder, files):
    net = from_code(f"{folder}:Net")
    assert (net.latent_dim, net.input_dim, net.name) == (6, 11, "Net")
    assert from_code(f"{folder}:Net", arguments={"D": 9, "width": 4}).latent_dim == 9
    assert from_code(f"{folder}:Group.Inner").input_dim == 11
    assert from_code(f"{folder}:here").input_dim == 11
    assert from_code(f"{folder}:function", latent=(2, 3)).input_dim == 6
    expected = Generator(perceptron(), 6).sample(5, 0)[1]
    for made in (
        from_code(f"{folder}:bare", weights=files / "plain.pt", latent=6),
        Generator(load_weights(perceptron(seed=3), files / "plain.pt"), 6),
    ):
        np.testing.assert_array_equal(made.sample(5, 0)[1], expected)
    body = {f"body.{key}": value for key, value in perceptron().state_dict().items()}
    torch.save(body, files / "body.pt")
    for name in ("ready", "here"):
        made = from_code(f"{folder}:{name}", weights=files / "body.pt", dtype=torch.float64)
        np.testing.assert_allclose(made.sample(5, 0)[1], expected, atol=1e-5)
        assert made.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("no_module_here:x", {}, "there is no module no_module_here"),
        ("{}:missing", {}, "has no missing; expected a function of that name"),
        ("{}:fails", {}, r"fails\(\) fails: ValueError: of the user"),
        ("{}:Net", {"arguments": {"depth": 2}}, r"Net\(depth\) fails: TypeError"),
        ("{}_broken:x", {}, "needs not_a_module_of_this_machine, which is missing"),
        ("{}:number", {}, "number is an int; expected a function without arguments"),
        ("{}:bare", {}, "does not say how many latents it has; set latent"),
        ("{}:function", {"latent": 2, "weights": "x.pt"}, "weights x.pt for a function; expected a torch module"),
        ("not code", {}, "expected package.module:factory"),
        ("{}.py:Net", {}, "modules are named without .py; expected mine_"),
    ],
)
def test_code_that_does_not_work_is_refused(folder, name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        from_code(name.format(folder), **options)


def test_random_weights_of_code_follow_from_a_seed_and_leave_the_global_state(folder):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (from_code(f"{folder}:Net", seed=seed).sample(4, 0)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


# --- flows ---


def zuko_flow(context=0):
    zuko = pytest.importorskip("zuko")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zuko.flows.NSF(features=5, context=context, transforms=2, hidden_features=(16,))


def normflow(base=None):
    nf = pytest.importorskip("normflows")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = base(nf) if base is not None else nf.distributions.base.DiagGaussian(4)
        layers = []
        for _ in range(3):
            layers += [
                nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 16, 4], init_zeros=False)),
                nf.flows.Permute(4, mode="swap"),
            ]
        flow = nf.NormalizingFlow(base, layers)
        with torch.no_grad():
            if hasattr(base, "log_scale"):
                base.loc.copy_(torch.tensor([[1.0, -1.0, 0.5, 2.0]]))
                base.log_scale.copy_(torch.tensor([[0.3, -0.2, 0.0, 0.1]]))
        return flow


def test_a_flow_of_zuko_has_its_own_density():
    """The density of the flow at our samples is that of our latents and of the map's Jacobian."""
    flow = zuko_flow().double()
    generator = from_flow(flow)
    assert (generator.latent_dim, generator.input_dim) == (5, 5)
    latents, inputs = generator.sample(20, 0)
    c = torch.from_numpy(latents)
    jacobian = torch.func.vmap(torch.func.jacrev(flow().transform.inv))(c)
    expected = -0.5 * (c**2).sum(1) - 2.5 * np.log(2 * np.pi) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flow().log_prob(torch.from_numpy(inputs)).detach(), expected, atol=1e-8, rtol=0)


def test_a_conditional_flow_of_zuko_takes_the_context_of_one_sample():
    flow, context = zuko_flow(context=2), torch.tensor([0.3, -1.0])
    generator = from_flow(flow, context=context, dtype=torch.float64)
    latents, inputs = generator.sample(7, 0)
    expected = flow.double()(context.double()).transform.inv(torch.from_numpy(latents))
    np.testing.assert_allclose(inputs, expected.detach(), atol=1e-12)


def test_a_flow_of_normflows_has_its_own_density_with_the_base_in_the_map():
    flow = normflow().double()
    generator = from_flow(flow)
    latents, inputs = generator.sample(10, 0)
    z = flow.q0.loc + torch.exp(flow.q0.log_scale) * torch.from_numpy(latents)
    np.testing.assert_allclose(inputs, flow.forward(z).detach(), atol=1e-12)
    c = torch.from_numpy(latents)
    whole = lambda one: flow.forward(flow.q0.loc + torch.exp(flow.q0.log_scale) * one[None])[0]
    jacobian = torch.stack([torch.func.jacrev(whole)(one) for one in c])
    expected = -0.5 * (c**2).sum(1) - 2 * np.log(2 * np.pi) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flow.log_prob(torch.from_numpy(inputs)).detach(), expected, atol=1e-8, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in normflows
def test_a_flow_with_another_base_has_a_prior():
    flow = normflow(lambda nf: nf.distributions.base.Uniform(4, -2.0, 3.0))
    generator = from_flow(flow)
    latents, _ = generator.sample(4000, 0)
    assert latents.min() > -2
    assert latents.max() < 3
    assert abs(latents.mean() - 0.5) < 5 * np.sqrt(25 / 12 / 16_000)
    np.testing.assert_array_equal(generator.sample(5, 1)[0], generator.sample(5, 1)[0])


def test_a_distribution_of_torch_with_transforms_is_a_flow():
    d = torch.distributions
    base = d.Normal(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0]))
    generator = from_flow(
        d.TransformedDistribution(base, [d.transforms.ExpTransform(), d.transforms.AffineTransform(1, 2)])
    )
    latents, inputs = generator.sample(6, 0)
    np.testing.assert_allclose(inputs, 1 + 2 * np.exp([1, 2, 3] + np.array([0.5, 1.0, 2.0]) * latents), rtol=1e-5)


def test_what_is_no_flow_is_refused():
    with pytest.raises(InputError, match="a Linear is no flow that is known"):
        from_flow(nn.Linear(2, 2))


@pytest.mark.slow
def test_theory_and_training_agree_on_a_flow_that_nobody_here_wrote():
    generator = from_flow(zuko_flow(), batch_size=4096).then(generators.random_features(5, 120, "erf"))
    model = generators.estimate(generator, 60_000)
    teacher, student = ge.TwoLayer.random(2, 5, seed=1), ge.TwoLayer.random(2, 120, seed=2)
    problem = ge.OnlineSGD(model, teacher, student, lr=0.1)
    theory = ge.predict(problem, times=[0, 1, 4])
    practice = ge.simulation.simulate(problem, generator, times=theory.times, seeds=6, test_samples=2000)
    np.testing.assert_allclose(practice.test_error, theory.test_error, rtol=0.25)


# --- ONNX ---


def onnx_file(path, batch="n", second=False, shape=("n", 1)):
    """x = tanh(z W + b) [* gain], and the fields besides."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["z", "W", "b"], ["fields"]),
        helper.make_node("Tanh", ["fields"], ["flat"]),
    ]
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 4])]
    if second:
        inputs.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("Mul", ["flat", "gain"], ["images"]))
    else:
        nodes.append(helper.make_node("Identity", ["flat"], ["images"]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 6]) for name in ("images", "fields")]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(a, name) for a, name in ((W, "W"), (b, "b"))]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return W, b


@pytest.mark.parametrize("batch", ["n", 1, 5])
def test_an_onnx_model_is_its_formula_whatever_the_size_of_its_batches(tmp_path, batch):
    W, b = onnx_file(tmp_path / "net.onnx", batch)
    generator = from_onnx(tmp_path / "net.onnx", output=0)
    assert (generator.latent_dim, generator.input_dim, generator.name) == (4, 6, "net")
    latents, inputs = generator.sample(13, 0)
    np.testing.assert_allclose(inputs, np.tanh(latents @ W + b), atol=1e-6)
    generators.check_generator(generator).require()
    twice = generator.to(dtype=torch.float64).then(lambda x: 2 * x)
    np.testing.assert_allclose(twice.sample(13, 0)[1], 2 * inputs, atol=1e-5)


def test_an_onnx_model_of_several_inputs_takes_them_by_name(tmp_path):
    W, b = onnx_file(tmp_path / "net.onnx", second=True)
    one = from_onnx(tmp_path / "net.onnx", output="images", extra={"gain": torch.tensor([3.0])})
    latents, inputs = one.sample(5, 0)
    np.testing.assert_allclose(inputs, 3 * np.tanh(latents @ W + b), atol=1e-5)
    onnx_file(tmp_path / "number.onnx", second=True, shape=())
    one = from_onnx(tmp_path / "number.onnx", output="images", extra={"gain": torch.tensor(2.0)})
    latents, inputs = one.sample(5, 0)
    np.testing.assert_allclose(inputs, 2 * np.tanh(latents @ W + b), atol=1e-5)
    both = from_onnx(tmp_path / "net.onnx", latent={"z": 4, "gain": 1}, output="images")
    latents, inputs = both.sample(5, 0)
    np.testing.assert_allclose(inputs, latents[:, 4:] * np.tanh(latents[:, :4] @ W + b), atol=1e-5)


def test_onnx_models_that_do_not_fit_are_refused(tmp_path):
    onnx_file(tmp_path / "one.onnx")
    onnx_file(tmp_path / "two.onnx", second=True)
    (tmp_path / "text.onnx").write_text("no model")
    for name, options, sentence in [
        ("none.onnx", {}, "there is no file"),
        ("text.onnx", {}, "is no ONNX model that runs here"),
        ("two.onnx", {}, r"has the inputs z \['n', 4\], gain \['n', 1\]; set latent"),
        ("one.onnx", {}, r"returned a dictionary \('images': shape \(2, 6\), 'fields': shape \(2, 6\)\); .*choose one"),
        ("one.onnx", {"output": "x"}, "output='x' is not one of them"),
        ("one.onnx", {"output": "images", "extra": {"y": 1}}, "y is none of them"),
        ("two.onnx", {"output": "images", "latent": 4}, "gain has no value: pass it as extra"),
        ("one.onnx", {"output": "images", "latent": 3}, "failed on latents of shape"),
    ]:
        with pytest.raises(InputError, match=sentence) as caught:
            from_onnx(tmp_path / name, **options).sample(2, 0)
        assert "\n" not in str(caught.value)


def test_onnx_without_its_runtime_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'gaussequiv\[onnx\]'"):
        from_onnx(tmp_path / "x.onnx")


# --- a module typed in a notebook ---


def test_a_sequential_typed_in_a_notebook_runs_the_main_job():
    net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 40))
    generator = Generator(net, latent=8)
    generators.check_generator(generator).require()
    model = generators.estimate(generator, 20_000)
    problem = ge.OnlineSGD(model, ge.TwoLayer.random(2, 8, seed=1), ge.TwoLayer.random(2, 40, seed=2), lr=0.1)
    theory = ge.predict(problem, times=[0, 1])
    practice = ge.simulation.simulate(problem, generator, times=theory.times, seeds=3, test_samples=500)
    assert practice.test_error.shape == theory.test_error.shape
    assert net.training  # the user's module is not touched


def test_latents_of_a_prior_are_those_that_the_simulation_uses():
    seen = []
    generator = Generator(
        lambda c: (seen.append(c.mean()), c)[1],
        5,
        dtype=torch.float64,
        prior=lambda n, rng: 9 + rng.standard_normal((n, 5)),
    )
    model = generators.estimate(generator, 2000)
    problem = ge.OnlineSGD(model, ge.TwoLayer.random(1, 5, seed=1), ge.TwoLayer.random(1, 5, seed=2), lr=0.1)
    seen.clear()
    ge.simulation.simulate(problem, generator, times=[0, 1], seeds=2, test_samples=50)
    assert all(abs(mean - 9) < 2 for mean in seen)
    seen.clear()
    batch = ge.FullBatch(model, ge.Perceptron(np.ones(5), "linear", noise=0.5), "square", penalty=0.1)
    ge.simulation.simulate(batch, generator, alpha=[2.0], seeds=2, test_samples=50)
    assert seen
    assert all(abs(mean - 9) < 2 for mean in seen)
    assert generator.draw(3, stream(0, 0))[0].dtype == torch.float64


# --- what came raw from other libraries ---


def test_a_module_in_bfloat16_runs_in_the_float32_that_holds_its_weights():
    net = nn.Linear(5, 8).bfloat16()
    latents, inputs = Generator(net, 5).sample(7, 0)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, copy.deepcopy(net).float()(torch.from_numpy(latents)).detach(), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": 2**70}, "expected an integer of at most 9223372036854775807"),
        ({"arguments": 3}, "arguments=3; expected arguments by their names"),
        ({"name": 3}, "expected package.module:factory"),
    ],
)
def test_wrong_arguments_of_code_get_a_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        from_code(options.pop("name", "torch.nn:Identity"), latent=3, **options)


def test_weights_by_numbers_get_a_sentence(tmp_path):
    torch.save({0: torch.zeros(3), 1: torch.zeros(2)}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="holds 0, 1; expected tensors by their names"):
        load_weights(nn.Linear(5, 8), tmp_path / "numbers.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_a_function_that_returns_another_precision(dtype):
    inner = Generator(lambda c: torch.tanh(c.double()), 5, dtype=dtype)
    layer = nn.Linear(5, 7)
    latents, inputs = inner.then(layer).sample(4, 0)
    exact = copy.deepcopy(layer).double()(torch.tanh(torch.from_numpy(latents).double()))
    np.testing.assert_allclose(inputs, exact.detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ["zuko.NSF", "zuko.NCSF", "torch"])
def test_a_flow_is_a_snapshot_base_and_all(kind):
    if kind == "torch":
        base = torch.distributions.Independent(torch.distributions.StudentT(9 * torch.ones(3)), 1)
        flow = torch.distributions.TransformedDistribution(base, [torch.distributions.AffineTransform(0.0, 2.0)])
        generator = from_flow(flow)
    else:
        zuko = pytest.importorskip("zuko")
        flow = getattr(zuko.flows, kind.partition(".")[2])(3, context=2, transforms=1)
        generator = from_flow(flow, context=torch.zeros(2))
    before = generator.sample(50, 0)
    assert before[1].shape == (50, 3)
    for tensor in [base.base_dist.loc] if kind == "torch" else [*flow.parameters(), *flow.buffers()]:
        tensor.data = tensor.data + 0.5
    for old, new in zip(before, generator.sample(50, 0), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_onnx_output_of_one_number_a_batch_does_not_hinder_the_others(tmp_path):
    onnx = pytest.importorskip("onnx")
    W, b = onnx_file(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["flat"], ["loss"], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "net.onnx")
    latents, inputs = from_onnx(tmp_path / "net.onnx", output="images").sample(5, 0)
    np.testing.assert_allclose(inputs, np.tanh(latents @ W + b), atol=1e-6)
    with pytest.raises(InputError, match=r"returned shape \(1,\) for 2 latents"):
        from_onnx(tmp_path / "net.onnx", output="loss").sample(2, 0)
