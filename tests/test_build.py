"""A config's program with packing and without: the same numbers, from a single loss to a whole run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ONE_DEVICE, Interrupting, rows, run, tiny_config, with_optim

from unet_jax import Batch, load_run, metrics
from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.data.packing import pack_pixels
from unet_jax.data.synthetic import synthetic_sample
from unet_jax.inference.evaluate import evaluate_run, select_records
from unet_jax.model.packing import pack, unpack
from unet_jax.program import initial_state
from unet_jax.program.batch_shapes import batch_shapes
from unet_jax.program.build import build
from unet_jax.program.initial_state import state_shapes
from unet_jax.program.objective import make_loss

NUM_CLASSES = 2


def packed_batch(program, batch):
    """The batch as the program's steps take it: packed on the host."""

    def packed(pixels, factor):
        return np.stack([pack_pixels(x, factor) for x in pixels])

    return Batch(packed(batch.image, program.packing.image), packed(batch.label, program.packing.label), batch.weight)


@pytest.fixture(scope="module")
def batch():
    """Seven samples, and one that only fills up the batch."""
    samples = [synthetic_sample(np.random.default_rng(i), 32, NUM_CLASSES) for i in range(8)]
    image, label = (np.stack([getattr(s, name) for s in samples]) for name in ("image", "mask"))
    return Batch(image, label, np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32))


def config_with(packing, root=Path(), **settings):
    """With SGD: Adam makes whole steps of the rounding noise in a gradient that is 0."""
    config = with_optim(tiny_config(root), name="sgd", learning_rate=0.05)
    return replace(config, {"model.widths": (4, 8), "model.packing": packing, **settings})


@pytest.fixture(scope="module")
def programs():
    return {packing: build(config_with(packing), NUM_CLASSES, 4) for packing in ("none", "2,1x2")}


@pytest.fixture(scope="module")
def state(programs):
    """For both programs: which can take it, because neither's depends on the packing."""
    shapes = {packing: jax.eval_shape(program.init, jax.random.key(0)) for packing, program in programs.items()}
    assert shapes["none"] == shapes["2,1x2"]
    return jax.jit(programs["none"].init)(jax.random.key(0))


def test_one_step_trains_alike(programs, state, batch):
    """On noise: in flat regions a rounding error decides over a ReLU or a maximum, and so over a piece of gradient."""
    batch = batch._replace(image=np.random.default_rng(0).integers(0, 256, batch.image.shape, np.uint8))
    assert programs["2,1x2"].packing.image == (2, 2) and programs["none"].packing == ((1, 1), (1, 1))
    found = {}
    for packing, program in programs.items():
        own = jax.tree.map(jnp.copy, state)  # the step takes it away
        found[packing] = jax.device_get(program.train_step(own, packed_batch(program, batch)))
    (plain, plain_metrics), (packed, packed_metrics) = found["none"], found["2,1x2"]
    assert plain_metrics.keys() == packed_metrics.keys()
    for name, value in plain_metrics.items():
        np.testing.assert_allclose(packed_metrics[name], value, rtol=1e-5 if name == "grad_norm" else 1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), packed, plain)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), plain.params, state.params)
    assert changed["head"]["kernel"] and changed["down0"]["conv0"]["kernel"]


def assert_equal_but_for_a_pixel(counts, others):
    """A probability may lie within a rounding error of the threshold."""
    for a, b in zip(counts, others, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.int64), np.asarray(b, np.int64), rtol=0, atol=1)


def test_evaluation_counts_alike(programs, state, batch):
    found = {}
    for packing, program in programs.items():
        step = program.eval_step(state.params, state.batch_stats, packed_batch(program, batch))
        found[packing] = jax.device_get(step)
    (plain, plain_counts), (packed, packed_counts) = found["none"], found["2,1x2"]
    assert packed_counts.tp.shape == (8, NUM_CLASSES)
    assert_equal_but_for_a_pixel(packed_counts, plain_counts)
    assert 0 < np.sum(plain_counts.tp) < batch.label[..., 0].size * NUM_CLASSES
    for name, value in plain.items():
        np.testing.assert_allclose(packed[name], value, rtol=1e-6)


def test_steps_take_the_shapes_that_are_told(programs, state, batch):
    for packing, program in programs.items():
        config = replace(config_with(packing), {"train.batch_size": 8})
        told, given = batch_shapes(config, NUM_CLASSES, program.packing, ONE_DEVICE), packed_batch(program, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), told) == jax.tree.map(lambda x: (x.shape, x.dtype), given)
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state_shapes(config, NUM_CLASSES, 100, ONE_DEVICE))
        assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_a_state_and_its_shapes_trace_the_network_once(monkeypatch):
    config, traced, original = config_with("none", **{"model.center_width": 6}), [], initial_state.init_state
    monkeypatch.setattr(initial_state, "init_state", lambda *given: traced.append(given) or original(*given))
    told = [state_shapes(config, NUM_CLASSES, 9) for _ in range(2)]
    state = initial_state.first_state_of(config, NUM_CLASSES, 9, 3)(jax.random.key(0))
    assert len(traced) == 1
    for shapes in told:
        assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def horizontal_bce_loss(logits, labels, *, weight):
    """A loss of one's own that cares for the place of a pixel: columns count by their number."""
    columns = jnp.arange(logits.shape[-2], dtype=jnp.float32)[None, None, :, None]
    return weight * columns * (jax.nn.softplus(logits) - labels * logits)


def terms(*names):
    return LossConfig(terms=tuple(LossTermConfig(name, 1.0 + i) for i, name in enumerate(names)))


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(dice_reduction="batch"),
        pytest.param(
            LossConfig(dice_reduction="image", bce_weight=0.5), marks=pytest.mark.slow
        ),  # computed as over batch
        terms("focal", "generalized_dice"),
        terms("ssim", "bce"),
        terms("boundary", "border_bce"),
        LossConfig(terms=(LossTermConfig("tversky", class_weight=(1.0, 3.0), over="batch"),)),
        terms(f"{__name__}:horizontal_bce_loss"),
    ],
    ids=lambda config: "+".join(t.metric for t in config.terms) or f"bce+{config.dice_reduction}",
)
def test_losses_of_packed_logits(config, batch):
    """Value, terms and gradient are those of the unpacked logits, whether a loss cares for a pixel's place or not."""
    factor = (2, 4)
    logits = jax.random.normal(jax.random.key(1), batch.label.shape)
    labels = jnp.asarray(batch.label, jnp.float32) / 255.0

    def value_and_grad(loss, *arrays):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(*arrays, batch.weight)

    (plain, plain_terms), plain_gradient = value_and_grad(make_loss(config), logits, labels)
    packed_labels = np.stack([pack_pixels(x, factor) for x in batch.label]).astype(np.float32) / np.float32(255.0)
    (packed, packed_terms), gradient = value_and_grad(make_loss(config, factor), pack(logits, factor), packed_labels)
    np.testing.assert_allclose(packed, plain, rtol=2e-6)
    assert packed_terms.keys() == plain_terms.keys()
    for name, value in plain_terms.items():
        np.testing.assert_allclose(packed_terms[name], value, rtol=2e-6)
    largest = float(jnp.abs(plain_gradient).max())
    assert largest > 0.0
    np.testing.assert_allclose(unpack(gradient, factor), plain_gradient, atol=1e-5 * largest)


@pytest.fixture(scope="module")
def packed_run(synthetic_root, tmp_path_factory):
    """Trained packed, two epochs of two steps."""
    out = tmp_path_factory.mktemp("build") / "packed"
    run(config_with("2", synthetic_root), out)
    return out


def evaluations(out):
    return [row for row in rows(out) if "eval/loss" in row]


def test_a_packed_run_is_evaluated_unpacked(packed_run):
    loaded = load_run(packed_run, mesh=ONE_DEVICE)
    assert loaded.config.model.packing == "2"
    scores = {}
    for packing in ("none", "2", "2,1x2"):
        changed = dataclasses.replace(loaded, config=replace(loaded.config, {"model.packing": packing}))
        _, layout, records = select_records(changed, changed.config.data, "val")
        scores[packing] = evaluate_run(changed, layout, records)
    for packing in ("2", "2,1x2"):
        assert_equal_but_for_a_pixel(scores[packing].counts, scores["none"].counts)
    # The images have the network's size, so this is also what training wrote, from packed logits.
    assert metrics.dice(scores["none"].counts).mean() == pytest.approx(loaded.metrics["dice"], abs=2e-3)


def test_a_run_continues_with_another_packing(packed_run, synthetic_root, tmp_path):
    """A packed run is interrupted, and ends unpacked where the other one did, but for rounding (see above)."""
    settings = {"train.checkpoint_every_steps": 1}
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(config_with("2", synthetic_root, **settings), out, Interrupting(2))
    run(config_with("none", synthetic_root, **settings), out)
    straight, continued = (load_run(path, "last", mesh=ONE_DEVICE) for path in (packed_run, out))
    assert continued.step == straight.step == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), continued.state, straight.state)
    for a, b in zip(evaluations(packed_run), evaluations(out), strict=True):
        for name in ("train/loss", "eval/loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)


@pytest.mark.parametrize("packing", [pytest.param("none", marks=pytest.mark.slow), "4,2"])
def test_steps_of_more_pixels_than_an_int32_counts(packing):
    """A batch of 256 TPU chips; its step is traced only."""
    network = {"widths": (8, 16), "center_width": 32, "num_convs_down": 1, "num_convs_up": 1, "packing": packing}
    settings = {"data.image_size": 1024, "train.batch_size": 4096}
    config = replace(PRESETS["seed"](), settings | {f"model.{name}": value for name, value in network.items()})
    program = build(config, 2, 1000)
    state = jax.eval_shape(program.init, jax.random.key(0))
    batch = batch_shapes(config, 2, program.packing, ONE_DEVICE)
    _, metrics = jax.eval_shape(program.train_step, state, batch)
    assert metrics["loss"].shape == ()
    _, counts = jax.eval_shape(program.eval_step, state.params, state.batch_stats, batch)
    assert counts.tp.shape == (4096, 2)
