"""Weights in and out of Keras: files that Keras wrote (scripts/make_golden_keras.py), and files that lack something."""

import dataclasses
import functools
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from unet_jax import InputError, load_run, predict_probs_unresized
from unet_jax.cli.main import main
from unet_jax.config import ModelConfig
from unet_jax.interop import Network, export_keras, import_keras, keras_reader, read_network, write_network
from unet_jax.interop.keras_files import read_content
from unet_jax.interop.keras_network import infer_model_config
from unet_jax.model import UNet
from unet_jax.model.architecture import list_convolutions
from unet_jax.runs.info import load_info

h5py = pytest.importorskip("h5py", reason="reading Keras files needs h5py (the extra 'keras')")

GOLDEN = Path(__file__).parent / "golden"
SCRIPT = Path(__file__).parent.parent / "scripts" / "make_golden_keras.py"
FILES = ("keras3.weights.h5", "keras3.keras", "keras_legacy_weights.h5", "keras_legacy_model.h5")
CONVS = 2 * 2 + 2 + 2 * 3 + 1


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Files are read here: a process for each of them would take seconds. tests/test_hostile_keras.py starts some."""
    monkeypatch.setattr(keras_reader, "_read_apart", lambda content, file: read_content(content, str(file)))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "keras_files.npz") as file:
        return dict(file)


@functools.cache
def logits_of(config, num_classes):
    """Compiled as one program, and once for all tests."""
    return jax.jit(lambda variables, images: UNet(config, num_classes).apply(variables, images, False))


def bits(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def keras2_file(path, weights, *, first=1, below="", chunks=1):
    """What Keras 2 writes: bytes in attributes, names that end in ':0' and go on counting from earlier models."""
    names, groups = [b"input_1"], {}
    values = iter(weights)
    for i in range(CONVS):
        conv, norm = f"conv2d_{i + first}", f"batch_normalization_{i + first}"
        groups[conv] = [(f"{conv}/{part}:0", next(values)) for part in ("kernel", "bias")]
        if i + 1 < CONVS:
            parts = ("gamma", "beta", "moving_mean", "moving_variance")
            groups[norm] = [(f"{norm}/{part}:0", next(values)) for part in parts]
        names += [name.encode() for name in (conv, norm, f"activation_{i + first}") if name in groups or "act" in name]
    with h5py.File(path, "w") as file:
        root = file.create_group(below) if below else file
        if chunks == 1:
            root.attrs["layer_names"] = names
        else:
            for i, part in enumerate(np.array_split(np.array(names), chunks)):
                root.attrs[f"layer_names{i}"] = part
        for name in names:
            arrays = groups.get(name.decode(), [])
            group = root.create_group(name.decode())
            group.attrs["weight_names"] = [path.encode() for path, _ in arrays]
            for weight_path, value in arrays:
                group.create_dataset(weight_path, data=value)


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_probabilities_of_keras(golden, name):
    network = read_network(GOLDEN / name, channels="rgb")
    assert network.config == ModelConfig(widths=(2, 3), center_width=4)
    assert network.num_classes == 2
    assert network.image_size == (8 if name in ("keras3.keras", "keras_legacy_model.h5") else None)
    variables = {"params": network.params, "batch_stats": network.batch_stats}
    logits = logits_of(network.config, 2)(variables, golden["image"] / np.float32(255))
    np.testing.assert_allclose(jax.nn.sigmoid(logits), golden["probs"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("first, below, chunks", [(1, "", 1), (24, "model_weights", 1), (95, "", 3)])
def test_keras_2_files_are_read_in_the_order_they_name(golden, tmp_path, first, below, chunks):
    # 9 and 10, 99 and 100: in the order of HDF5, by name, the layers would be exchanged.
    weights = [golden[f"weight/{i}"] for i in range(CONVS * 2 + (CONVS - 1) * 4)]
    keras2_file(tmp_path / "old.h5", weights, first=first, below=below, chunks=chunks)
    found = read_network(tmp_path / "old.h5")
    wanted = read_network(GOLDEN / "keras3.weights.h5")
    assert bits(found.params) == bits(wanted.params)
    assert bits(found.batch_stats) == bits(wanted.batch_stats)


@pytest.mark.parametrize("backend, suffix", [("TensorFlow", ":0"), ("Theano", "")])
def test_weights_of_keras_1_are_read_and_what_is_assumed_of_its_backend_is_said(golden, tmp_path, backend, suffix):
    names, file = [], tmp_path / "old.h5"
    values = iter([golden[f"weight/{i}"] for i in range(CONVS * 2 + (CONVS - 1) * 4)])
    parts = {"convolution2d": ("W", "b"), "batchnormalization": ("gamma", "beta", "running_mean", "running_std")}
    with h5py.File(file, "w") as h5:
        for i in range(CONVS):
            for kind in list(parts)[: 2 if i + 1 < CONVS else 1]:
                names.append(f"{kind}_{i + 1}")
                group = h5.create_group(names[-1])
                group.attrs["weight_names"] = [f"{names[-1]}_{part}{suffix}" for part in parts[kind]]
                for path in group.attrs["weight_names"]:
                    value = next(values)
                    if backend == "Theano" and value.ndim == 4:
                        value = np.rot90(value, 2, (0, 1)).transpose(3, 2, 0, 1)
                    group.create_dataset(path, data=value)
        h5.attrs["layer_names"] = [name.encode() for name in names]
    found, wanted = read_network(file), read_network(GOLDEN / "keras3.weights.h5")
    assert bits(found.params) == bits(wanted.params) and bits(found.batch_stats) == bits(wanted.batch_stats)
    assert f"of Keras 1 with {backend}, which" in found.assumed[-1] and found.assumed[:-1] == wanted.assumed
    with h5py.File(file, "r+") as h5:
        layer = {"class_name": "Convolution2D", "config": {"name": "convolution2d_1", "nb_filter": 2}}
        h5.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": [layer]}})
    with pytest.raises(InputError, match="as Keras 1 does, which is not read"):
        read_network(file)


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
def test_what_is_exported_is_what_keras_wrote_bit_for_bit(tmp_path, channels):
    original = GOLDEN / "keras3.weights.h5"
    copy = tmp_path / "copy.weights.h5"
    write_network(copy, read_network(original, channels=channels), channels=channels)
    with h5py.File(original) as a, h5py.File(copy) as b:
        paths = []
        a["layers"].visititems(lambda name, x: paths.append(name) if isinstance(x, h5py.Dataset) else None)
        assert len(paths) == CONVS * 2 + (CONVS - 1) * 4
        for path in paths:
            assert a["layers"][path][()].tobytes() == b["layers"][path][()].tobytes(), path
    assert not list(tmp_path.glob("*.new"))


def test_channels_say_which_colour_the_first_kernel_reads_first(golden):
    bgr, rgb = (read_network(GOLDEN / "keras3.weights.h5", channels=c) for c in ("bgr", "rgb"))
    images = golden["image"] / np.float32(255)
    model = logits_of(bgr.config, 2)
    of_bgr = model({"params": bgr.params, "batch_stats": bgr.batch_stats}, images[..., ::-1])
    of_rgb = model({"params": rgb.params, "batch_stats": rgb.batch_stats}, images)
    np.testing.assert_allclose(of_bgr, of_rgb, rtol=0, atol=1e-6)
    swapped = model({"params": rgb.params, "batch_stats": rgb.batch_stats}, images[..., ::-1])
    assert np.abs(np.asarray(of_bgr) - swapped).max() > 1e-2
    with pytest.raises(InputError, match="must be 'bgr'"):
        read_network(GOLDEN / "keras3.weights.h5", channels="gbr")


@pytest.mark.parametrize("num_convs_down, num_convs_up", [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize(
    "widths, center", [((8,), 4), ((5, 5, 5), 5), ((8, 16, 32, 64, 128, 256, 512), 1024), ((9, 3), 7)]
)
def test_the_architecture_follows_from_the_shapes(widths, center, num_convs_down, num_convs_up):
    config = ModelConfig(widths=widths, center_width=center, num_convs_down=num_convs_down, num_convs_up=num_convs_up)
    kernels = [conv.kernel_shape for conv in list_convolutions(config, 3)]
    assert infer_model_config(kernels, GOLDEN) == (config, 3)


def edited(tmp_path, edit):
    """A copy of the Keras 3 file, changed by `edit(layers)`."""
    file = tmp_path / "edited.weights.h5"
    shutil.copyfile(GOLDEN / "keras3.weights.h5", file)
    with h5py.File(file, "r+") as h5:
        edit(h5["layers"])
    return file


def remove(name):
    return lambda layers: layers.__delitem__(name)


def replace(name, shape, value=0.0):
    def edit(layers):
        del layers[name]
        layers[name] = np.full(shape, value, np.float32)

    return edit


def add(name, *shapes):
    def edit(layers):
        for i, shape in enumerate(shapes):
            layers[f"{name}/vars/{i}"] = np.zeros(shape, np.float32)

    return edit


@pytest.mark.parametrize(
    "edit, parts",
    [
        (remove("conv2d_3"), ["missing: kernel 3x3x3x3 (down1, convolution 1)"]),
        (remove("batch_normalization_4"), ["missing: normalisation of 4 channels (center, 0)"]),
        (remove("conv2d_12"), ["missing: kernel 1x1x", "surplus"]),
        (remove("conv2d_5/vars/1"), ["lack a part of their weights", "conv2d_5 3x3x4x4"]),
        (add("conv2d_13", (1, 1, 2, 2), (2,)), ["surplus: conv2d_1"]),
        (add("dense", (4, 4), (4,)), ["not in the U-Net", "dense 4x4, 4"]),
        (add("conv2d_transpose", (2, 2, 4, 4), (4,)), ["conv2d_transpose 2x2x4x4, 4"]),
        (replace("conv2d/vars/0", (3, 3, 4, 2)), ["missing: kernel 3x3x3x2 (down0", "surplus: conv2d 3x3x4"]),
        (replace("conv2d_7/vars/0", (3, 3, 3, 3), np.nan), ["not finite", "conv2d_7"]),
    ],
)  # fmt: skip
def test_a_file_of_another_network_is_refused_with_a_list(tmp_path, edit, parts):
    with pytest.raises(InputError) as error:
        read_network(edited(tmp_path, edit))
    for part in parts:
        assert part in str(error.value)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("a", "b")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    cases = [
        ("missing.h5", "no such file"),
        ("text.h5", "not an HDF5 file"),
        ("other.keras", "without model.weights.h5"),
        ("empty.h5", "neither"),
        ("", "is a folder"),
    ]
    for name, message in cases:
        with pytest.raises(InputError, match=message):
            read_network(tmp_path / name)


def change_layer(kind, **changes):
    def edit(config):
        layer = next(x for x in config["config"]["layers"] if x["class_name"] == kind)
        layer["config"].update(changes)

    return edit


def layers_of(config, kind):
    return [x for x in config["config"]["layers"] if x["class_name"] == kind]


def inputs_of(layer):
    """The history of the tensor that a layer reads: a list of the layer's name and two numbers."""
    argument = layer["inbound_nodes"][0]["args"][0]
    return [x["config"]["keras_history"] for x in (argument if isinstance(argument, list) else [argument])]


def inner_activation(config):
    layers_of(config, "Conv2D")[1]["config"]["activation"] = "elu"


def skip_of_another_layer(config):
    joins = layers_of(config, "Concatenate")
    first, second = inputs_of(joins[0])[0], inputs_of(joins[1])[0]
    first[:], second[:] = second[:], first[:]


def no_activation(config):
    """The pooling and the skip read the normalisation itself."""
    pool = layers_of(config, "MaxPooling2D")[0]
    relu = inputs_of(pool)[0][0]
    before = next(x for x in config["config"]["layers"] if x["config"]["name"] == relu)
    for layer in config["config"]["layers"]:
        for history in inputs_of(layer) if layer["inbound_nodes"] else []:
            if history[0] == relu:
                history[0] = inputs_of(before)[0][0]
    config["config"]["layers"].remove(before)


def relu_before_normalisation(config):
    relu, norm = layers_of(config, "Activation")[0], layers_of(config, "BatchNormalization")[0]
    conv = inputs_of(norm)[0][0]
    for layer in config["config"]["layers"]:
        for history in inputs_of(layer) if layer["inbound_nodes"] else []:
            if history[0] == relu["config"]["name"]:
                history[0] = norm["config"]["name"]
    inputs_of(norm)[0][0], inputs_of(relu)[0][0] = relu["config"]["name"], conv
    layers = config["config"]["layers"]
    i, j = layers.index(norm), layers.index(relu)
    layers[i], layers[j] = layers[j], layers[i]


def leaky(config):
    relu = layers_of(config, "Activation")[2]
    relu["class_name"] = "ReLU"
    relu["config"] = {"name": relu["config"]["name"], "max_value": 6.0, "negative_slope": 0.0, "threshold": 0.0}


def join_the_other_way(config):
    layer = next(x for x in config["config"]["layers"] if x["class_name"] == "Concatenate")
    layer["inbound_nodes"][0]["args"][0].reverse()


@pytest.mark.parametrize(
    "edit, message",
    [
        (change_layer("UpSampling2D", interpolation="bilinear"), "interpolation is 'bilinear', not 'nearest'"),
        (change_layer("Activation", activation="elu"), "activation is 'elu'"),
        (change_layer("BatchNormalization", epsilon=1e-5), "normalisations differ"),
        (change_layer("Conv2D", padding="valid"), "padding is 'valid'"),
        (lambda config: config["config"]["layers"][-1]["config"].update(activation="softmax"), "with softmax"),
        (inner_activation, "applies elu before the normalisation"),
        (skip_of_another_layer, "not what is pooled at the same resolution|reads .*not layers before it"),
        (no_activation, "is not followed by an ordinary ReLU"),
        (relu_before_normalisation, "is not followed by normalisation"),
        (leaky, "is not followed by an ordinary ReLU"),
        (change_layer("BatchNormalization", axis=[1]), "axis is"),
        (change_layer("UpSampling2D", data_format="channels_first"), "channels_first"),
        (lambda config: config["config"]["layers"][3].pop("config"), "description of the model is damaged"),
        (lambda config: config["config"].update(layers=5), "description of the model is damaged"),
        (lambda config: config["config"]["layers"][4].update(class_name="AveragePooling2D"), "no such layer"),
        (
            lambda config: layers_of(config, "UpSampling2D")[0].update(class_name="Conv2DTranspose"),
            r"no transposed convolutions, only nearest.*train a network here \(unet-jax train\)",
        ),
    ],
)
def test_a_description_of_another_network_is_refused(tmp_path, edit, message):
    file = tmp_path / "other.keras"
    with zipfile.ZipFile(GOLDEN / "keras3.keras") as old, zipfile.ZipFile(file, "w") as new:
        config = json.loads(old.read("config.json"))
        edit(config)
        new.writestr("config.json", json.dumps(config))
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    with pytest.raises(InputError, match=message):
        read_network(file)


def test_a_network_that_joins_the_other_way_is_turned(tmp_path):
    """Of the second concatenation; the kernel after it has its input channels in the model's order."""
    convolutions = list_convolutions(ModelConfig(widths=(2, 3), center_width=4), 2)
    place = next(i for i, conv in enumerate(convolutions) if conv.stage == "up1")
    with zipfile.ZipFile(GOLDEN / "keras3.keras") as old, zipfile.ZipFile(tmp_path / "x.keras", "w") as new:
        config = json.loads(old.read("config.json"))
        layers_of(config, "Concatenate")[1]["inbound_nodes"][0]["args"][0].reverse()
        new.writestr("config.json", json.dumps(config))
        weights = io.BytesIO(old.read("model.weights.h5"))
        with h5py.File(weights, "r+") as h5:
            kernel = h5[f"layers/conv2d_{place}/vars/0"]
            assert kernel.shape[2] == 2 + 3  # skip connection of 2 channels, 3 of the level below
            kernel[...] = kernel[()][:, :, [2, 3, 4, 0, 1]]
        new.writestr("model.weights.h5", weights.getvalue())
    found, wanted = read_network(tmp_path / "x.keras"), read_network(GOLDEN / "keras3.keras")
    assert bits(found.params) == bits(wanted.params) and found.config == wanted.config


def test_gray_networks_become_runs_of_gray_images(tmp_path):
    config = ModelConfig(widths=(2,), center_width=2, num_convs_down=1, num_convs_up=1)
    init = jax.jit(UNet(config, 1).init, static_argnums=2)
    variables = jax.device_get(init(jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32), False))
    write_network(tmp_path / "x.weights.h5", Network(config, 1, variables["params"], variables["batch_stats"], None))
    info = import_keras(tmp_path / "x.weights.h5", tmp_path / "run", image_size=4)
    assert (info.num_channels, info.audit["channels"]) == (1, "gray")
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    wanted = jax.nn.sigmoid(logits_of(config, 1)(variables, images / np.float32(255)))
    np.testing.assert_allclose(predict_probs_unresized(load_run(tmp_path / "run"), images), wanted, rtol=0, atol=1e-6)


def test_an_import_is_compared_with_what_keras_computed(golden, tmp_path, capsys):
    image, probs = tmp_path / "image.png", tmp_path / "probs.npy"
    Image.fromarray(golden["image"][0][..., ::-1]).save(image)  # the golden images are in the file's order
    np.save(probs, golden["probs"][:1])
    file = GOLDEN / "keras3.weights.h5"
    arguments = ["import-keras", str(file), "--image-size", "8", "--check", str(image), str(probs)]
    main([*arguments, "--out", str(tmp_path / "run")])
    assert "probabilities differ from" in capsys.readouterr().out
    assert 0 < load_info(epath.Path(tmp_path / "run")).audit["largest_difference"] < 1e-5
    for more, message in (
        (["--channels", "rgb"], "Nothing|the other --channels"),
        ([], "differ from .* by up to 0\\.5 .row 3, column 4, output 1.*Nothing was imported"),
    ):
        if not more:
            changed = golden["probs"][:1].copy()
            changed[0, 3, 4, 1] += 0.5 if changed[0, 3, 4, 1] < 0.5 else -0.5
            np.save(probs, changed)
        with pytest.raises(SystemExit):
            main([*arguments, *more, "--out", str(tmp_path / "other")])
        assert re.search(message, capsys.readouterr().err) and not (tmp_path / "other").exists()
    np.save(probs, golden["probs"][0, :4])
    with pytest.raises(InputError, match="must have the size at which the network saw the image"):
        import_keras(file, tmp_path / "other", image_size=8, check=(image, probs))


def test_bare_weights_say_what_was_assumed(tmp_path, capsys):
    main(["import-keras", str(GOLDEN / "keras3.weights.h5"), "--image-size", "8", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "Assumed" in said and "epsilon 0.001 and ReLU" in said and "--check IMAGE PROBS.npy" in said
    assert read_network(GOLDEN / "keras3.keras").assumed == ()


def test_an_imported_run_predicts_and_exports(golden, tmp_path):
    run_path = tmp_path / "run"
    import_keras(GOLDEN / "keras3.weights.h5", run_path, class_names=("a", "b"), image_size=8)
    run = load_run(run_path)
    assert (run.step, run.class_names, run.config.data.image_size) == (0, ("a", "b"), 8)
    probs = predict_probs_unresized(run, golden["image"][..., ::-1])  # the golden images are in the file's order
    np.testing.assert_allclose(probs, golden["probs"], rtol=0, atol=1e-6)
    export_keras(run_path, tmp_path / "again.weights.h5")
    again, original = read_network(tmp_path / "again.weights.h5"), read_network(GOLDEN / "keras3.weights.h5")
    assert bits(again.params) == bits(original.params)
    assert bits(again.batch_stats) == bits(original.batch_stats)
    with pytest.raises(InputError, match="holds a run already"):
        import_keras(GOLDEN / "keras3.weights.h5", run_path, image_size=8)


def test_import_asks_for_what_the_file_does_not_say(tmp_path):
    file = GOLDEN / "keras3.weights.h5"
    with pytest.raises(InputError, match="--image-size"):
        import_keras(file, tmp_path / "run")
    with pytest.raises(InputError, match="has 2 output channels, but 1 class names"):
        import_keras(file, tmp_path / "run", class_names=("a",), image_size=8)
    with pytest.raises(InputError, match="multiple of 4"):
        import_keras(file, tmp_path / "run", image_size=9)
    assert not (tmp_path / "run").exists()
    info = import_keras(GOLDEN / "keras3.keras", tmp_path / "run")
    assert info.config.data.image_size == 8
    assert info.class_names == ("class0", "class1")


def test_what_cannot_be_exported(tmp_path):
    network = read_network(GOLDEN / "keras3.weights.h5")
    with pytest.raises(InputError, match=r"must end in \.weights\.h5"):
        write_network(tmp_path / "x.h5", network)
    group = network._replace(config=dataclasses.replace(network.config, norm="group", group_size=1))
    with pytest.raises(InputError, match="group normalisation"):
        write_network(tmp_path / "x.weights.h5", group)


@pytest.mark.slow
def test_keras_itself_loads_an_exported_file(golden, tmp_path):
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec("torch") is None:
        pytest.skip("needs the packages keras and torch, see scripts/make_golden_keras.py")
    network = read_network(GOLDEN / "keras3.weights.h5")
    params = jax.tree.map(lambda x: x + np.float32(0.01), network.params)  # not what Keras wrote, but new weights
    file = tmp_path / "ours.weights.h5"
    write_network(file, network._replace(params=params))
    np.save(tmp_path / "images.npy", golden["image"][..., ::-1])
    command = [sys.executable, SCRIPT, "predict", file, tmp_path / "images.npy", tmp_path / "probs.npy"]
    subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": "torch"})
    logits = UNet(network.config, 2).apply(
        {"params": params, "batch_stats": network.batch_stats}, golden["image"] / np.float32(255), False
    )
    np.testing.assert_allclose(jax.nn.sigmoid(logits), np.load(tmp_path / "probs.npy"), rtol=0, atol=1e-6)
