"""Pretrained encoders: features against PyTorch, files that fit and do not, frozen steps and factors."""

import dataclasses
import json
import zlib
from functools import partial
from pathlib import Path

import h5py
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from unet_jax import Batch, InputError, UNet, replace
from unet_jax.cli.info import info as info_command
from unet_jax.config import Config, DataConfig, ModelConfig, OptimConfig
from unet_jax.config.encoders import ENCODERS, input_statistics
from unet_jax.interop import pretrained
from unet_jax.interop.pretrained import read_encoder
from unet_jax.model.architecture import list_stages
from unet_jax.model.blocks import ConvStage
from unet_jax.model.convolution import convolve
from unet_jax.model.packing import level_factors, pack, pack_strided_kernel, unpack
from unet_jax.program.after_update import freeze_encoder
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import start_state
from unet_jax.program.steps import make_train_step
from unet_jax.runs.info import RunInfo
from unet_jax.runs.stored_values import check_stored
from unet_jax.runs.versioned_json import DamagedError
from unet_jax.training import continuing

GOLDEN = np.load(Path(__file__).parent / "golden" / "encoders.npz")
SHAPES = json.loads(str(GOLDEN["about"]))["shapes"]
SLOW = pytest.mark.slow  # networks of millions of weights to compile


def weights_of(name, shape):
    """As in scripts/make_golden_encoders.py."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:
        return rng.normal(0.0, np.sqrt(1.5 / np.prod(shape[1:])), shape).astype(np.float32)
    low, high = {"weight": (0.5, 1.0), "running_var": (0.5, 1.5)}.get(name.rsplit(".", 1)[-1], (-0.3, 0.3))
    return rng.uniform(low, high, shape).astype(np.float32)


def tensors_of(encoder):
    return {name: weights_of(name, tuple(shape)) for name, shape in SHAPES[encoder].items()}


def write(path, tensors, **metadata):
    save_file(tensors, path, metadata=metadata or None)
    return path


@pytest.mark.parametrize(
    ("encoder", "packing"),
    [
        ("resnet18", "none"),
        pytest.param("vgg11_bn", "none", marks=SLOW),
        pytest.param("vgg13_bn", "none", marks=SLOW),
        pytest.param("vgg16_bn", "1x2,2", marks=SLOW),
        pytest.param("resnet18", "2,2x4,1x2,2", marks=SLOW),
        pytest.param("resnet34", "none", marks=SLOW),
        pytest.param("resnet50", "none", marks=SLOW),
    ],
)
def test_features_are_those_of_torchvisions_networks(encoder, packing, tmp_path):
    """Each stage, from a file with torchvision's names, with the input normalised inside of the network."""
    file = write(tmp_path / "w.safetensors", {**tensors_of(encoder), "fc.weight": np.zeros((2, 3), np.float32)})
    config = ModelConfig(encoder=encoder, encoder_input="imagenet", packing=packing, num_convs_up=1)  # type: ignore
    weights = read_encoder(file, config, 3)
    assert weights.input_kind == "imagenet" and not weights.notes
    stages = [stage for stage in list_stages(config) if stage.name in weights.params]

    def features(params, stats, image):
        _, found = UNet(config, 1).apply(
            {"params": params, "batch_stats": stats},
            image,
            False,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, ConvStage),
        )
        return {stage.name: found["intermediates"][stage.name]["__call__"][0] for stage in stages}

    shapes = jax.eval_shape(lambda: UNet(config, 1).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
    for ours, wanted in ((weights.params, "params"), (weights.batch_stats, "batch_stats")):
        theirs = {name: shapes[wanted][name] for name in ours}
        assert jax.tree.map(jnp.shape, ours) == jax.tree.map(lambda x: x.shape, theirs)
    rest = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    params, stats = {**rest["params"], **weights.params}, {**rest["batch_stats"], **weights.batch_stats}
    found = jax.jit(features)(params, stats, GOLDEN["image"])
    factors = level_factors(config, "cpu")
    for i, stage in enumerate(stages):
        expected = GOLDEN[f"{encoder}/{i}"]
        actual = np.asarray(unpack(found[stage.name], factors[stage.level]))[..., ::16]
        assert expected.std() > 0.05
        np.testing.assert_allclose(actual, expected, atol=1e-4 * max(1.0, np.abs(expected).max()), err_msg=stage.name)


@pytest.mark.parametrize(
    ("size", "old", "new"), [(3, (1, 1), (1, 1)), (7, (2, 4), (1, 2)), (1, (1, 1), (2, 2)), (3, (1, 2), (2, 1))]
)
def test_strided_convolutions_packed(size, old, new):
    """Against XLA's own stride, with PyTorch's padding."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 8, 16, 3), (size, size, 3, 4)))
    found = jax.jit(lambda x, k: unpack(convolve(pack(x, old), pack_strided_kernel(k, old, new)), new))(x, kernel)
    margins = [(size // 2, size // 2)] * 2
    expected = jax.lax.conv_general_dilated(x, kernel, (2, 2), margins, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["imagenet", "caffe"])
@pytest.mark.parametrize("num_channels", [1, 2, 3, 6])
def test_first_kernel_for_other_numbers_of_channels(kind, num_channels):
    """A patch whose channels are those of a colour, or one gray: the same number as from the colour image, by hand."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 3, 5)), rng.normal(size=5)
    layer = pretrained._Layer(kernel, bias, (bias, bias, bias, bias))
    adapted = pretrained._adapted(layer, kind, num_channels)
    mean, std = (np.asarray(values) for values in input_statistics(kind, num_channels) or ())
    patch = rng.random((3, 3, 1)) if num_channels == 1 else rng.random((3, 3, 3))
    colors = np.broadcast_to(patch, (3, 3, 3))
    given = colors[:, :, [i % 3 for i in range(num_channels)]]
    found = np.einsum("hwc,hwcd->d", (given - mean) / std, adapted.kernel) + adapted.bias
    rgb_mean, rgb_std = (np.asarray(values) for values in input_statistics(kind, 3) or ())
    normal = (colors - rgb_mean) / rgb_std
    terms = normal[..., ::-1] if kind == "caffe" else normal  # blue first
    if num_channels == 2:  # red counts with red's kernel, green with green's, both 3 / 2 times
        terms = 1.5 * np.where(np.arange(3) == (0 if kind == "caffe" else 2), 0.0, terms)
    expected = np.einsum("hwc,hwcd->d", terms, kernel) + bias
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-3)


@pytest.fixture
def small_encoders(monkeypatch):
    """The same structures with few channels, so that files are small."""
    for name, encoder in list(ENCODERS.items()):
        widths = tuple(min(width, 8) for width in encoder.widths)
        monkeypatch.setitem(ENCODERS, name, encoder._replace(widths=widths))


def small_tensors(encoder):
    """Of as many numbers as the small encoder has, with torchvision's names."""
    config = ModelConfig(encoder=encoder)
    convs = pretrained._encoder_convs(config)
    return {name: weights_of(name, shape) for name, shape in pretrained._torch_shapes(encoder, convs, True)}


def test_names_and_shapes_are_torchvisions():
    """Each tensor of the golden file but the biases of VGG's convolutions, with its shape."""
    for encoder, shapes in SHAPES.items():
        convs = pretrained._encoder_convs(ModelConfig(encoder=encoder))
        biases = {f"{pretrained._torch_names(encoder, conv, True)[0]}.bias" for conv in convs}
        wanted = {name: tuple(shape) for name, shape in shapes.items() if name not in biases}
        assert dict(pretrained._torch_shapes(encoder, convs, True)) == wanted


def test_files_that_do_not_fit_are_refused_by_name(small_encoders, tmp_path):
    config, tensors = ModelConfig(encoder="resnet18"), small_tensors("resnet18")

    def refused(words, name="w.safetensors", config=config, **changes):
        path = tmp_path / name
        if changes:
            changed = {key: value for key, value in {**tensors, **changes}.items() if value is not None}
            write(path, changed)
        with pytest.raises(InputError, match=words):
            read_encoder(path, config, 3)

    refused("w.safetensors: there is no such file")
    write(tmp_path / "w.safetensors", tensors)
    resnet34 = "does not fit model.encoder resnet34: it has no tensor layer1.2.conv1.weight .8x8x3x3. .*more.. It fits "
    refused(resnet34 + "--model.encoder resnet18", config=ModelConfig(encoder="resnet34"))
    refused("does not fit model.encoder vgg16_bn: it has no tensor features", config=ModelConfig(encoder="vgg16_bn"))
    small = np.zeros((8, 3, 3, 3), np.float32)
    refused("conv1.weight has the shape 8x3x3x3, not 8x3x7x7", **{"conv1.weight": small})
    refused("has no tensor bn1.running_var", **{"bn1.running_var": None})
    refused("has a tensor layer1.2.conv1.weight, which the encoder has not", **{"layer1.2.conv1.weight": small})
    refused(r"not finite numbers \(down1/conv0\)", **{"conv1.weight": np.full((8, 3, 7, 7), np.nan, np.float32)})
    refused(r"is a pickle.*weights_only=True.*x\.safetensors", "x.pth")
    refused("must be a .safetensors file", "x.onnx")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    refused("cut.safetensors: is damaged", "cut.safetensors")
    (tmp_path / "k.h5").write_bytes(b"")
    refused("only those of VGG fit", "k.h5")


def test_names_with_a_prefix_and_files_without_normalisation(small_encoders, tmp_path):
    """`module.` before each name, biases without normalisation, and Keras's order of layers with blue first."""
    config = ModelConfig(encoder="vgg11_bn")
    rng = np.random.default_rng(0)
    kernels = [conv.kernel_shape for stage in list_stages(config)[:5] for conv in stage.convs]
    arrays = [(rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[-1])) for shape in kernels]
    tensors, place = {}, iter((0, 3, 6, 8, 11, 13, 16, 18))  # of torchvision's vgg11
    for kernel, bias in arrays:
        i = next(place)
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors |= {f"module.features.{i}.weight": weight, f"module.features.{i}.bias": bias.astype(np.float16)}
    of_torch = read_encoder(write(tmp_path / "w.safetensors", tensors, license="MIT"), config, 3)
    assert "has no batch normalisation" in of_torch.notes[0] and of_torch.facts["metadata"] == {"license": "MIT"}
    with h5py.File(tmp_path / "k.weights.h5", "w") as h5:
        for i, layer in enumerate(arrays):
            group = h5.create_group(f"layers/conv2d{f'_{i}' if i else ''}/vars")
            for j, array in enumerate(layer):
                group.create_dataset(str(j), data=array)
    of_keras = read_encoder(tmp_path / "k.weights.h5", config, 3)
    assert (of_torch.input_kind, of_keras.input_kind) == ("imagenet", "caffe")
    first = of_keras.params["down0"]["conv0"]
    np.testing.assert_array_equal(first["kernel"], arrays[0][0][:, :, ::-1])
    np.testing.assert_array_equal(of_torch.params["down0"]["conv0"]["kernel"], arrays[0][0])
    np.testing.assert_array_equal(of_torch.params["center"]["conv1"]["kernel"], arrays[-1][0])
    assert of_keras.batch_stats["center"]["norm1"]["var"][0] + np.float32(1e-5) == 1.0  # divides by 1
    with pytest.raises(InputError, match="has 8 convolutions, not 13"):
        read_encoder(tmp_path / "k.weights.h5", ModelConfig(encoder="vgg16_bn"), 3)


def test_frozen_updates_leave_the_encoder_and_later_ones_have_its_factor():
    """A network of two numbers, w for the encoder and v for the rest, with gradients that can be had by hand.

    The loss is the mean of w x + v, so the gradients are 1 (the mean of x) and 1. Adam's first update is the learning
    rate, whatever the gradient; an update of the encoder that had counted frozen ones would be larger.
    """
    config = OptimConfig(name="adamw", weight_decay=0.1, learning_rate=0.5, schedule="cosine", encoder_factor=0.25)
    tx = make_optimizer(dataclasses.replace(config, freeze_encoder_steps=3), 10)

    def network(variables, images, train, mutable=(), frozen=False):
        w, stats = variables["params"]["down0"]["w"], variables["batch_stats"]
        moved = {"down0": stats["down0"] if frozen else stats["down0"] + 1.0}
        w = jax.lax.stop_gradient(w) if frozen else w
        return w * images + variables["params"]["up0"]["v"], {"batch_stats": moved}

    def mean(logits, labels, weight, step):
        return jnp.mean(logits), {}

    steps = [make_train_step(partial(network, frozen=frozen), mean, tx) for frozen in (False, True)]
    step = freeze_encoder(*steps, num_steps=3)
    params = {"down0": {"w": jnp.ones((1, 1, 1, 1))}, "up0": {"v": jnp.zeros(())}}
    state = start_state(params, {"down0": jnp.zeros(())}, tx)
    white = jnp.full((1, 1, 1, 1), 255, jnp.uint8)
    ws, stats, vs = [1.0], [], [0.0]
    for _ in range(5):
        state, _ = step(state, Batch(white, white, jnp.ones(1)))
        ws.append(float(state.params["down0"]["w"].item()))
        vs.append(float(state.params["up0"]["v"]))
        stats.append(float(state.batch_stats["down0"]))
    assert ws[:4] == [1.0] * 4 and stats == [0.0, 0.0, 0.0, 1.0, 2.0]  # weight decay does not move it either
    rates = [0.5 * 0.5 * (1 + np.cos(np.pi * i / 10)) for i in range(5)]
    np.testing.assert_allclose(-np.diff(vs), rates, rtol=1e-4)
    expected = [0.25 * rate * (1 + 0.1 * w) for rate, w in zip(rates[3:], ws[3:5], strict=True)]
    np.testing.assert_allclose(-np.diff(ws)[3:], expected, rtol=1e-4)


def test_the_encoder_of_a_frozen_network_has_no_gradient_and_keeps_its_statistics():
    model = UNet(ModelConfig((2,), 3, 1, 1), 1, is_encoder_frozen=True)
    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)

    def loss(params, stats):
        variables = {"params": params, "batch_stats": stats}
        logits, updated = model.apply(variables, images, True, mutable=["batch_stats"])
        return jnp.sum(logits**2), updated["batch_stats"]

    @jax.jit
    def run(key):
        variables = model.init(key, images, False)
        return variables["batch_stats"], jax.grad(loss, has_aux=True)(variables["params"], variables["batch_stats"])

    before, (grads, after) = run(jax.random.key(0))
    for stage, tree in grads.items():
        assert any(np.any(x) for x in jax.tree.leaves(tree)) == (stage in ("up0", "head")), stage
    for stage in after:
        same = jax.tree.all(jax.tree.map(np.array_equal, before[stage], after[stage]))
        assert same == (stage in ("down0", "center")), stage


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm": "group"}, "norm is 'group', but must be batch with model.encoder resnet18"),
        ({"activation": "leaky_relu"}, "activation is 'leaky_relu', but must be relu"),
        ({"decoder_widths": (4, 8)}, r"decoder_widths is \(4, 8\), but must be empty, or 5 positive numbers"),
        ({"stage_convs_up": (1,)}, "stage_convs_up is"),
    ],
)
def test_settings_that_do_not_go_with_an_encoder(settings, words):
    with pytest.raises(InputError, match=words):
        ModelConfig(encoder="resnet18", **settings)


def test_depth_and_channels_follow_from_the_encoder():
    resnet, vgg = ModelConfig(encoder="resnet50"), ModelConfig(encoder="vgg16_bn", decoder_widths=(8, 8, 8, 8))
    assert (resnet.size_multiple, vgg.size_multiple) == (32, 16)
    up = {stage.name: stage for stage in list_stages(resnet)}
    assert (up["up0"].convs[0].inputs, up["up0"].convs[0].outputs) == (2048 + 1024, 256)
    assert up["up4"].reads == "upsampled" and up["up4"].convs[0].inputs == 32
    assert [stage.convs[0].outputs for stage in list_stages(vgg)[5:]] == [8, 8, 8, 8]
    assert all(len(e.widths) == len(e.counts) == len(e.decoder) + 1 for e in ENCODERS.values())


@SLOW
def test_a_run_begins_with_the_file_and_continues_without_it(synthetic_root, tmp_path, capsys):
    file = write(tmp_path / "w.safetensors", tensors_of("vgg11_bn"), license="Apache-2.0", source="somewhere")
    config = dataclasses.replace(
        helpers.tiny_config(synthetic_root, num_epochs=1, batch_size=4),
        model=ModelConfig(encoder="vgg11_bn", encoder_weights=str(file), decoder_widths=(4, 4, 4, 4), num_convs_up=1),
    )
    config = replace(config, {"optim.freeze_encoder_steps": 1, "optim.encoder_factor": 0.1})
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        helpers.run(config, tmp_path / "killed", helpers.Interrupting(1))
    write(file, {**tensors_of("vgg11_bn"), "features.0.bias": np.zeros(64, np.float32)})
    with pytest.raises(InputError, match="has another content than when the run began"):
        helpers.run(config, tmp_path / "killed")
    write(file, tensors_of("vgg11_bn"), license="Apache-2.0", source="somewhere")
    helpers.run(config, out)
    stored = json.loads((out / "run.json").read_text())
    assert stored["config"]["model"]["encoder_input"] == "imagenet" and stored["encoder"]["names"] == "torchvision"
    file.unlink()
    longer = replace(
        config, {"train.num_epochs": 2, "optim.when_longer": "stretch", "model.encoder_weights": ""}
    )  # the path may be left out
    helpers.run(longer, out)
    info_command([str(out)])
    printed = capsys.readouterr().out
    assert "encoder: vgg11_bn, first weights from w.safetensors (sha256" in printed and "license: Apache-2.0" in printed


def test_continuing_knows_what_the_file_decided(tmp_path):
    """The path may be left out or be another one; a file for a run that began without one is refused."""
    model = ModelConfig(encoder="resnet18", encoder_weights="a.safetensors", encoder_input="imagenet")
    began, file = Config(data=DataConfig(image_size=32), model=model), tmp_path / "b.safetensors"
    info = RunInfo(began, ("disk",), {}, {}, {}, encoder={"sha256": "0" * 64, "file": "a.safetensors"})
    file.write_bytes(b"other")
    for given, path, num_notes in (("", "a.safetensors", 0), ("gone", "gone", 0), (str(file), str(file), 1)):
        now = replace(began, {"model.encoder_weights": given, "model.encoder_input": "auto"})
        config, notes = continuing._with_encoder_of(info, now, epath.Path("RUN"))
        assert (config, len(notes)) == (replace(began, {"model.encoder_weights": path}), num_notes)
    random = dataclasses.replace(info, encoder={}, config=replace(began, {"model.encoder_weights": ""}))
    with pytest.raises(InputError, match="RUN: began without --model"):
        continuing._with_encoder_of(random, began, epath.Path("RUN"))
    plain = Config()
    assert continuing._with_encoder_of(dataclasses.replace(random, config=plain), plain, epath.Path("R")) == (plain, [])


def test_stored_facts_of_a_file_are_texts(tmp_path):
    values = {"config": {}, "splits": {s: [] for s in ("train", "val", "test")}, "audit": {}, "versions": {}}
    values |= {"class_names": ["disk"], "encoder": {"file": "a", "metadata": {"license": "MIT"}}}
    check_stored(values)
    for broken in ({"file": 3}, {"metadata": {"license": ["MIT"]}}, {"metadata": "MIT"}, []):
        with pytest.raises(DamagedError, match="encoder is not the facts"):
            check_stored({**values, "encoder": broken})
