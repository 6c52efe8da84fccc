"""Networks other than the Keras original's: against PyTorch, packed and not, trained, exported."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from export_runs import random_run

from unet_jax import InputError, UNet
from unet_jax.config import LossConfig, ModelConfig
from unet_jax.export.folded import without_supervision
from unet_jax.export.onnx_model import layers_of
from unet_jax.export.tflite import apply_layers
from unet_jax.model.architecture import list_convolutions, list_stages
from unet_jax.model.packing import level_factors, logits_factor, pack, unpack
from unet_jax.model.receptive_field import receptive_radius
from unet_jax.program.initial_state import with_prior_bias
from unet_jax.program.objective import make_supervised_loss

GOLDEN = np.load(Path(__file__).parent / "golden" / "networks.npz")
RESIDUAL = ModelConfig(
    widths=(3, 4),
    center_width=5,
    stage_convs_down=(2, 4, 2),
    stage_convs_up=(1, 2),
    encoder_block="residual",
    activation="leaky_relu",
    deep_supervision=1,
)


def golden(kind: str, what: str) -> dict:
    """A tree of the arrays below `kind/what`."""
    tree: dict = {}
    for name in GOLDEN.files:
        if name.startswith(f"{kind}/{what}/"):
            *path, last = name.split("/")[2:]
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[last] = GOLDEN[name]
    return tree


def run(config, params, images, weights):
    """Logits of both resolutions, and the gradients of their weighted sum, from one compiled program."""
    model = UNet(config, 2)

    def loss(params, stats):
        variables = {"params": params, "batch_stats": stats}
        packed = pack(images, level_factors(config, "cpu")[0])
        logits, _ = model.apply(variables, packed, True, mutable=["batch_stats"], method="supervised")
        logits[0] = unpack(logits[0], logits_factor(config, 2, "cpu"))
        return sum(jnp.sum(x * w) for x, w in zip(logits, weights, strict=True)), logits

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, shapes["params"])
    stats = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes.get("batch_stats", {}))
    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params, stats)
    return logits, grads


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("batch", {"packing": "1x2,2"}),
        pytest.param("batch", {"packing": "none"}, marks=pytest.mark.slow),  # one more compilation each
        pytest.param("batch", {"packing": "none", "remat": "full"}, marks=pytest.mark.slow),
        pytest.param("instance", {"norm": "group", "group_size": 1}, marks=pytest.mark.slow),
    ],
)
def test_logits_and_gradients_are_those_of_torch(kind, changes):
    """Residual blocks, leaky ReLU, convolutions per stage and both heads, by `scripts/make_golden_networks.py`."""
    config = dataclasses.replace(RESIDUAL, **changes)
    weights = [GOLDEN[f"{kind}/weight{i}"] for i in (0, 1)]
    logits, grads = run(config, golden(kind, "params"), GOLDEN[f"{kind}/images"], weights)
    for i, found in enumerate(logits):
        np.testing.assert_allclose(found, GOLDEN[f"{kind}/logits{i}"], atol=2e-4)
    wanted = golden(kind, "grads")
    for path, found in jax.tree_util.tree_leaves_with_path(grads):
        stage, *rest = (key.key for key in path)
        value = wanted[stage]
        for key in rest:
            value = value[key]
        if rest[-1] == "bias" and rest[0].startswith(("conv", "shortcut")) and "norm" not in rest[0]:
            assert np.abs(found).max() < 1e-3 and np.abs(value).max() < 1e-6  # normalisation takes it away again
        else:
            np.testing.assert_allclose(found, value, atol=3e-4 * max(1.0, np.abs(value).max()), err_msg=str(path))


def test_stages_by_hand():
    """VGG16's stages; and the residual encoder: two blocks at level 1, 1x1 shortcuts where channels change."""
    vgg = ModelConfig(widths=(64, 128, 256, 512), center_width=512, stage_convs_down=(2, 2, 3, 3, 3), num_convs_up=1)
    convs = [conv.kernel_shape for conv in list_convolutions(vgg, 1) if conv.stage.startswith(("down", "center"))]
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert convs == [(3, 3, a, b) for a, b in itertools.pairwise(channels)]
    stages = {stage.name: stage for stage in list_stages(RESIDUAL)}
    assert [len(stage.blocks) for stage in stages.values()] == [1, 2, 1, 1, 1]
    names = [(conv.name, conv.norm, conv.kernel_size, conv.inputs, conv.outputs) for conv in stages["down1"].convs]
    assert names[2] == ("shortcut0", "shortcut_norm0", 1, 3, 4) and names[3][:2] == ("conv2", "norm2")
    assert stages["down1"].blocks[1].shortcut is None


def test_receptive_field_follows_the_convolutions_of_each_stage():
    """By hand, as in the example of `receptive_radius`: 1 + 1 at full size; 2 * (n + 1) or so at half of it."""
    one = ModelConfig(widths=(8,), center_width=16, num_convs_down=1, num_convs_up=1)
    more = dataclasses.replace(one, stage_convs_down=(1, 3))
    assert receptive_radius(one) == 5 and receptive_radius(more) == 5 + 2 * 2
    residual = dataclasses.replace(one, num_convs_down=2, encoder_block="residual")
    assert receptive_radius(residual) == receptive_radius(dataclasses.replace(one, num_convs_down=2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stage_convs_down": (1, 2)}, r"stage_convs_down is \(1, 2\), but must be empty, or 3 positive numbers"),
        ({"stage_convs_up": (1, 0)}, r"stage_convs_up is \(1, 0\), but must be empty, or 2 positive numbers"),
        ({"encoder_block": "residual", "num_convs_down": 3}, "num_convs_down is 3, but must be even"),
        ({"encoder_block": "residual", "stage_convs_down": (2, 1, 2)}, "stage_convs_down is 1, but must be even"),
        ({"deep_supervision": 2}, "deep_supervision is 2, but must be from 0 to 1"),
    ],
)
def test_what_makes_no_network_is_refused(settings, words):
    with pytest.raises(InputError, match=words):
        ModelConfig(widths=(4, 8), **settings)


def test_supervised_loss_by_hand():
    """Half of the weight for each lower resolution, blocks of labels as means, and names that say the level."""
    rng = np.random.default_rng(0)
    logits, coarse = rng.normal(size=(2, 4, 4, 1)), rng.normal(size=(2, 2, 2, 1))
    labels = rng.integers(0, 2, (2, 4, 4, 1)).astype(np.float32)
    found, terms = make_supervised_loss(LossConfig(1.0, 0.0), 1)([logits, coarse], labels, jnp.ones(2))
    blocks = labels.reshape(2, 2, 2, 2, 2, 1).mean((2, 4))
    bce = [np.mean(np.logaddexp(0, x) - x * t) for x, t in ((logits, labels), (coarse, blocks))]
    np.testing.assert_allclose(found, (bce[0] + 0.5 * bce[1]) / 1.5, rtol=1e-5)
    np.testing.assert_allclose([terms["bce"], terms["bce/1"]], bce, rtol=1e-5)


def test_heads_of_training_start_alike_and_leave_with_it():
    params = {name: {"bias": jnp.zeros(2), "kernel": jnp.ones((1, 1, 3, 2))} for name in ("head", "head1")}
    biased = with_prior_bias({**params, "up0": {}}, np.array([0.5, 0.2]))
    np.testing.assert_allclose(biased["head1"]["bias"], [0.0, np.log(0.25)], atol=1e-6)
    assert biased["head"]["bias"] is not biased["head1"]["bias"]  # a step donates both, so they must be two
    assert set(without_supervision(biased)) == {"head", "up0"}


def test_layers_of_exports_give_the_logits_of_the_network():
    """`export.walk` on plain operations: what ONNX and TFLite files compute, node by node."""
    model = dataclasses.asdict(dataclasses.replace(RESIDUAL, packing="none"))
    run = random_run(**model)
    images = np.random.default_rng(1).random((1, 8, 12, 3)).astype(np.float32)
    variables = {"params": run.state.params, "batch_stats": run.state.batch_stats}
    expected = jax.jit(lambda x: UNet(run.config.model, 2).apply(variables, x, False))(images)
    layers = layers_of(run)
    assert {"head1"} & {layer.conv.stage for layer in layers} == set()
    found = jax.jit(lambda x: apply_layers(x, run.config.model, layers))(images)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
