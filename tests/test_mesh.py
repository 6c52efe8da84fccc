"""Batches divided over one axis of the devices, rows of images over the other: the same numbers on every mesh."""

import contextlib
import dataclasses
import functools
import itertools
import math
import re

import jax
import numpy as np
import pytest
from helpers import ONE_DEVICE, run, tiny_config
from jax.sharding import NamedSharding, PartitionSpec

from unet_jax import InputError, load_run, predict_probs, predict_probs_unresized
from unet_jax._types import Batch
from unet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    LossTermConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from unet_jax.config.dicts import replace
from unet_jax.data.cached_source import training_source
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.sources import FileSource
from unet_jax.devices.mesh import check_batch_size, check_rows, make_mesh, process_share, put_batch, put_replicated
from unet_jax.inference.evaluate import evaluate_run
from unet_jax.model.packing import pack
from unet_jax.program.batch_shapes import batch_shapes
from unet_jax.program.build import build
from unet_jax.program.initial_state import state_shapes
from unet_jax.training.prefetch import device_batches

NUM_CLASSES = 2
SHAPES = [(8, 1), (4, 2), (2, 4), (1, 8)]


def mesh_of(data, space):
    return make_mesh(jax.devices()[: data * space], space=space)


def small_config(packing="none", *terms, widths=(4, 8), **train):
    model = ModelConfig(widths, 8, num_convs_down=1, num_convs_up=1, batch_norm_momentum=0.9, packing=packing)
    loss = LossConfig(terms=tuple(LossTermConfig(name, over=over) for name, over in terms))
    # Adam's first updates are a gradient's sign, also where the gradient is nothing but rounding.
    optim = OptimConfig(name="sgd", learning_rate=0.05, schedule="constant")
    train_config = TrainConfig(**{"batch_size": 8, **train})
    return Config(data=DataConfig(image_size=32), model=model, loss=loss, optim=optim, train=train_config)


def noise_batch(config, packing):
    """Random pixels: in even areas all are equal but for rounding, and which of them pooling takes is chance.

    Here too a number may be so close to where ReLU or pooling turn that rounding decides; with this seed none is.
    """
    rng, size = np.random.default_rng(1), config.data.image_size
    image = rng.integers(0, 256, (8, size, size, 3), np.uint8)
    label = rng.integers(0, 2, (8, size, size, NUM_CLASSES), np.uint8) * np.uint8(255)
    return Batch(np.asarray(pack(image, packing.image)), np.asarray(pack(label, packing.label)), np.ones(8, np.float32))


@functools.cache
def initial_state(config):
    """On the host."""
    return jax.device_get(jax.jit(build(config, NUM_CLASSES, 100).init)(jax.random.key(1)))


def arrays_of(state):
    """Parameters and running statistics, by name, on the host."""
    leaves = jax.tree_util.tree_leaves_with_path({"params": state.params, "batch_stats": state.batch_stats})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def trained(config, mesh, num_steps):
    """Everything that steps on one batch lead to, and the metrics of each."""
    program = build(config, NUM_CLASSES, 100)
    batch = put_batch(noise_batch(config, program.packing), mesh)
    state = put_replicated(initial_state(config), mesh)
    step = program.train_step.lower(state, batch).compile()
    metrics = []
    for _ in range(num_steps):
        state, of_step = step(state, batch)
        metrics.append(jax.device_get(of_step))
    return arrays_of(state), metrics


def assert_close_trees(actual, expected):
    """To 1e-5 of each array's length."""
    for name, wanted in expected.items():
        error = np.linalg.norm(actual[name] - wanted)
        assert error <= 1e-5 * np.linalg.norm(wanted) + 1e-7, name


@functools.cache
def on_one_device(packing):
    return trained(small_config(packing), ONE_DEVICE, 10)


@pytest.mark.parametrize(
    ("shape", "packing"),
    [
        ((4, 2), "4,2"),
        ((1, 8), "4,2"),
        *(pytest.param(shape, "4,2", marks=pytest.mark.slow) for shape in ((8, 1), (2, 4))),  # between those two
        *(pytest.param(shape, "none", marks=pytest.mark.slow) for shape in SHAPES),
    ],
)
def test_every_mesh_gives_the_same_run(packing, shape):
    """Ten steps: loss, gradient, parameters and running statistics."""
    expected, expected_metrics = on_one_device(packing)
    found, metrics = trained(small_config(packing), mesh_of(*shape), 10)
    assert_close_trees(found, expected)
    for of_step, wanted in zip(metrics, expected_metrics, strict=True):
        assert of_step.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(of_step[name], value, rtol=1e-5, err_msg=name)
    before = arrays_of(initial_state(small_config(packing)))
    assert max(np.abs(expected[name] - before[name]).max() for name in expected) > 1e-2  # something was learnt


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        pytest.param({}, [("batch_soft_dice", "image"), ("topk_bce", "batch")], marks=pytest.mark.slow),
        ({}, [("lovasz_hinge", "image"), ("boundary", "image"), ("hausdorff_dt", "image")]),
        ({"accumulation": 2}, []),
    ],
)
def test_losses_over_pixels_of_several_devices(settings, terms):
    """Sorted pixels, distances over rows, ratios over a batch, and micro-batches; one step."""
    config = small_config("none", *terms, widths=(4,), **settings)
    expected, (expected_metrics,) = trained(config, ONE_DEVICE, 1)
    found, (metrics,) = trained(config, mesh_of(2, 4), 1)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    assert_close_trees(found, expected)


def compiled_for(mesh):
    config = replace(small_config(batch_size=1), {"data.image_size": 256})
    program = build(config, NUM_CLASSES, 100)
    batch = batch_shapes(config, NUM_CLASSES, program.packing, mesh)
    return program.train_step.lower(state_shapes(config, NUM_CLASSES, 100, mesh), batch).compile()


def test_convolutions_are_divided_and_no_device_sees_a_whole_image():
    """Of one 256x256 image on eight devices each computes 32 rows, and is sent the edges of its neighbours' only."""
    alone, divided = compiled_for(ONE_DEVICE), compiled_for(mesh_of(1, 8))
    assert divided.memory_analysis().temp_size_in_bytes < alone.memory_analysis().temp_size_in_bytes / 5
    text = divided.as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    assert "collective-permute" in text
    shapes = [tuple(map(int, found.split(","))) for found in re.findall(r"f32\[(1,\d+,\d+,\d+)\]", text)]
    assert max(math.prod(shape) for shape in shapes) <= 34 * 258 * 12  # the head of the decoder's first stage
    whole = [tuple(map(int, found.split(","))) for found in re.findall(r"f32\[(1,\d+,\d+,\d+)\]", alone.as_text())]
    assert max(math.prod(shape) for shape in whole) >= 256 * 256 * 4  # nothing is concatenated on CPUs


@pytest.mark.parametrize("where", ["host", "device"])
def test_batches_are_the_same_on_every_mesh_bit_for_bit(synthetic_root, where):
    config = tiny_config(synthetic_root)
    augment = AugmentConfig(
        rotate=20.0, elastic_prob=0.5, blur_prob=0.5, blur=0.5, noise_prob=0.5, cutout_prob=0.5, where=where
    )
    config = dataclasses.replace(config, augment=augment)
    layout = find_layout(config.data)
    source = training_source(FileSource(layout, layout.records), config.data)
    order = TrainOrder(len(source), 8, 1, seed=3)
    packing = build(dataclasses.replace(config, model=small_config("4,2").model), 2, 10).packing

    def batches_on(mesh):
        batches = device_batches(source, order, config, mesh, start_step=0, packing=packing)
        with contextlib.closing(batches):
            taken = list(itertools.islice(batches, 2))
        for batch in taken:
            for pixels in (batch.image, batch.label):
                wanted = NamedSharding(mesh, PartitionSpec("data", "space"))
                assert pixels.sharding.is_equivalent_to(wanted, pixels.ndim)
        return jax.device_get(taken)

    expected = batches_on(ONE_DEVICE)
    for shape in SHAPES[1::2]:
        jax.tree.map(np.testing.assert_array_equal, batches_on(mesh_of(*shape)), expected)


@pytest.fixture(scope="module")
def runs(synthetic_root, tmp_path_factory):
    """One on one device; one of two epochs on two meshes: eight devices for four images, then for one."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny_config(synthetic_root, num_pictures=3)
    alone = run(tiny_config(synthetic_root), folder / "alone")  # its pictures are not looked at
    with contextlib.suppress(SystemExit):
        run(config, folder / "divided", mesh=mesh_of(4, 2), stop_at=lambda step: step == 3)
    divided = run(replace(config, {"train.devices_per_image": 8}), folder / "divided", mesh=None)
    return alone, divided


def test_run_continues_on_another_mesh_and_predicts_on_a_third(runs):
    alone, divided = runs
    assert alone.step == divided.step
    for name, value in alone.best_metrics.items():
        assert divided.best_metrics[name] == pytest.approx(value, rel=1e-3)
    assert (divided.path / "pictures" / "validation.png").exists()
    here = load_run(divided.path, mesh=ONE_DEVICE)
    layout = find_layout(here.config.data)
    expected = evaluate_run(here, layout, layout.records[:5])
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    for mesh in (mesh_of(2, 4), mesh_of(1, 8)):
        there = load_run(divided.path, mesh=mesh)
        found = evaluate_run(there, layout, layout.records[:5])
        jax.tree.map(np.testing.assert_array_equal, tuple(found.counts), tuple(expected.counts))
        for predict in (predict_probs, predict_probs_unresized):
            np.testing.assert_allclose(predict(there, images), predict(here, images), atol=1e-5)
    with pytest.raises(InputError, match=r"images of 36 rows.*over 4 devices.*use images of 40 rows"):
        predict_probs_unresized(load_run(divided.path, mesh=mesh_of(1, 4)), images[:, :36])


def test_what_cannot_be_divided_names_what_can():
    with pytest.raises(InputError, match=r"over 3 devices .*--train\.devices-per-image.*8: use one of 1, 2, 4, 8"):
        make_mesh(space=3)
    with pytest.raises(InputError, match=r"train\.batch_size is 6, .*4 groups of 2 devices: use --train\.batch-size 8"):
        check_batch_size(6, mesh_of(4, 2))
    check_batch_size(6, mesh_of(1, 8))
    check_rows(32, 4, mesh_of(1, 8))
    with pytest.raises(InputError, match=r"16 rows have 4 rows .* over 8 devices .*: use images of 32 rows .*, 4 dev"):
        check_rows(16, 4, mesh_of(1, 8))
    with pytest.raises(InputError, match=r"images of 16 rows have 4 rows"):
        config = dataclasses.replace(small_config(), data=DataConfig(image_size=16))
        batch_shapes(config, 2, build(config, 2, 10).packing, mesh_of(1, 8))


def test_one_process_reads_everything():
    assert [process_share(mesh_of(*shape)) for shape in SHAPES] == [(0, 1)] * 4
