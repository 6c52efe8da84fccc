"""Batches divided into micro-batches: the mean over parts, each with its own batch statistics."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from etils import epath
from helpers import Interrupting, run, tiny_config, with_optim

from unet_jax import Batch, InputError, load_run
from unet_jax.config import TrainConfig
from unet_jax.config.dicts import replace
from unet_jax.config.packing import UNPACKED
from unet_jax.data.packing import pack_pixels
from unet_jax.devices.mesh import make_mesh, put_batch, put_replicated
from unet_jax.program.batch_shapes import batch_shapes, check_divisible
from unet_jax.program.build import build
from unet_jax.program.initial_state import state_shapes
from unet_jax.program.objective import make_loss
from unet_jax.program.steps import unit_range
from unet_jax.runs.info import RunInfo, info_path, load_info, save_info
from unet_jax.study.shared_program import SharedPrograms

NUM_CLASSES = 2
ONE_DEVICE = make_mesh(jax.devices()[:1])
LEARNING_RATE = 0.05


def config_with(accumulation=1, packing="none", **settings):
    """With plain SGD, whose step is the gradient, and batch Dice."""
    config = with_optim(tiny_config(epath.Path("")), name="sgd", learning_rate=LEARNING_RATE, momentum=0.0)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, schedule="constant"))
    return replace(
        config,
        {
            "data.image_size": 16,
            "model.widths": (4,),
            "model.packing": packing,
            "train.batch_size": 16,
            "train.accumulation": accumulation,
            **settings,
        },
    )


@pytest.fixture(scope="module")
def batch():
    """On noise: in flat regions a rounding error decides over a ReLU or a maximum, and so over a piece of gradient.

    Fourteen samples count, and two only fill up the batch.
    """
    rng = np.random.default_rng(0)
    contrast = rng.uniform(0.1, 1.0, (16, 1, 1, 1))  # so that parts of the batch have statistics of their own
    image = (contrast * rng.integers(0, 256, (16, 16, 16, 3))).astype(np.uint8)
    label = (image[..., :NUM_CLASSES] > rng.integers(16, 128, (16, 1, 1, 1))).astype(np.uint8) * np.uint8(255)
    weight = np.ones(16, np.float32)
    weight[[3, 6]] = 0.0
    return Batch(image, label, weight)


def packed(program, batch):
    image, label = (
        np.stack([pack_pixels(x, factor) for x in pixels])
        for pixels, factor in ((batch.image, program.packing.image), (batch.label, program.packing.label))
    )
    return Batch(image, label, batch.weight)


@functools.cache
def initial_state():
    return jax.device_get(jax.jit(build(config_with(), NUM_CLASSES, 4).init)(jax.random.key(0)))


@functools.cache
def compiled_step(config, mesh, make_program=build):
    program = make_program(config, NUM_CLASSES, 4)
    shapes = batch_shapes(config, NUM_CLASSES, program.packing, mesh)
    return program, program.train_step.lower(state_shapes(config, NUM_CLASSES, 4, mesh), shapes).compile()


def step(config, batch, mesh=ONE_DEVICE, state=None, make_program=build):
    """The state after one step, and the metrics."""
    program, compiled = compiled_step(config, mesh, make_program)
    state = put_replicated(state or initial_state(), mesh)
    return jax.device_get(compiled(state, put_batch(packed(program, batch), mesh)))


def assert_alike(found, expected, atol=1e-5):
    """States and metrics, to `atol`, relative to the norm where a number is one."""
    (state, metrics), (expected_state, expected_metrics) = found, expected
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=atol, err_msg=name)
    for tree in ("params", "batch_stats"):
        pairs = (jax.tree_util.tree_leaves_with_path(getattr(s, tree)) for s in (state, expected_state))
        for (path, a), (_, b) in zip(*pairs, strict=True):
            # A step of SGD is the gradient times the learning rate.
            scale = LEARNING_RATE if tree == "params" else 1.0
            np.testing.assert_allclose(a, b, rtol=0.0, atol=atol * scale, err_msg=f"{tree}{jax.tree_util.keystr(path)}")


def test_exact_statistics_are_refused_with_what_serves_instead():
    with pytest.raises(InputError, match=r"accumulation_statistics is 'exact'.*divide nothing.*--model.remat full"):
        TrainConfig(batch_size=8, accumulation=2, accumulation_statistics="exact")
    TrainConfig(batch_size=8, accumulation=1, accumulation_statistics="exact")  # nothing is divided


def test_a_run_of_exact_statistics_still_loads_as_the_same_program(tmp_path):
    """Exact statistics divided nothing, and computed as `model.remat` full does."""
    save_info(tmp_path, RunInfo(config_with(), ("a",), {"train": [], "val": [], "test": []}, {}, {}))
    file = info_path(tmp_path)
    values = json.loads(file.read_text())
    values["config"]["train"] |= {"accumulation": 4, "accumulation_statistics": "exact"}
    del values["digest"]  # as earlier versions wrote it
    file.write_text(json.dumps(values))
    config = load_info(tmp_path).config
    assert config.train.accumulation == 1 and config.model.remat == "full"


@functools.cache
def gradients_of_a_part():
    program, state = build(config_with(), NUM_CLASSES, 4), initial_state()
    loss_fn = make_loss(config_with().loss)

    def loss_of(params, part):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updated = program.model.apply(variables, unit_range(part.image), True, mutable=["batch_stats"])
        loss, terms = loss_fn(logits, unit_range(part.label), part.weight, 0)
        return loss, ({"loss": loss, **terms}, updated["batch_stats"])

    return jax.jit(jax.grad(loss_of, has_aux=True))


def by_hand(batch, num_micro_batches):
    """The definition of `make_accumulating_train_step`, micro-batch by micro-batch, in Python and float64."""
    state, metrics, grads, statistics = initial_state(), {}, None, []
    for i in range(num_micro_batches):
        part = jax.tree.map(lambda x, i=i: x[i::num_micro_batches], batch)
        share = np.float64(part.weight.sum()) / batch.weight.sum()
        part_grads, (part_metrics, part_statistics) = jax.device_get(gradients_of_a_part()(state.params, part))
        part_grads = jax.tree.map(lambda g, s=share: s * np.float64(g), part_grads)
        grads = part_grads if grads is None else jax.tree.map(np.add, grads, part_grads)
        metrics = {name: metrics.get(name, 0.0) + share * value for name, value in part_metrics.items()}
        statistics.append(part_statistics)
    metrics["grad_norm"] = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
    params = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state.params, grads)
    batch_stats = jax.tree.map(lambda *s: np.mean(s, axis=0), *statistics)
    return dataclasses.replace(state, params=params, batch_stats=batch_stats), metrics


# Packed networks are more than unpacked ones, which test_packing.py shows to be the same.
@pytest.mark.parametrize(("packing", "accumulation"), [pytest.param("none", 2, marks=pytest.mark.slow), ("2", 4)])
def test_ghost_is_the_weighted_mean_over_micro_batches(batch, packing, accumulation):
    found = step(config_with(accumulation, packing=packing), batch)
    assert_alike(found, by_hand(batch, accumulation))
    # It is not the whole batch: neither its Dice nor its normalisation.
    whole = step(config_with(), batch)
    assert abs(found[1]["dice_loss"] - whole[1]["dice_loss"]) > 1e-4
    variances = [state.batch_stats["down0"]["norm0"]["var"] for state, _ in (found, whole)]
    assert np.abs(variances[0] - variances[1]).max() > 1e-4


def test_a_micro_batch_of_padding_only_counts_nothing(batch):
    """But for the running statistics, which see every image, as they do without accumulation."""
    batch = batch._replace(weight=np.tile(np.array([1, 0], np.float32), 8))
    state, metrics = step(config_with(2), batch)
    half = jax.tree.map(lambda x: x[::2], batch)
    alone, of_half = by_hand(half, 1)
    for name, value in of_half.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-7), state.params, alone.params)


@pytest.mark.slow
def test_without_batch_statistics_ghost_is_the_whole_batch(batch):
    """Group normalisation and a loss that is a mean over pixels and images see no other image."""
    settings = {"model.norm": "group", "model.group_size": 4, "loss.dice_reduction": "image"}
    whole, ghost = (config_with(n, **settings) for n in (1, 4))
    state = jax.device_get(jax.jit(build(whole, NUM_CLASSES, 4).init)(jax.random.key(0)))
    assert_alike(step(ghost, batch, state=state), step(whole, batch, state=state))


def test_eight_devices_keep_their_images(batch):
    """The numbers are those of one device, and no image goes from device to device."""
    mesh, config = make_mesh(), config_with(2)
    assert_alike(step(config, batch, mesh), step(config, batch))
    text = compiled_step(config, mesh)[1].as_text()
    assert " while(" in text and " all-reduce(" in text
    assert not re.findall(r"all-to-all|all-gather|collective-permute", text)


def test_ghost_takes_a_part_of_the_memory():
    compiled = (compiled_step(config_with(n, **{"data.image_size": 64}), ONE_DEVICE)[1] for n in (1, 4))
    whole, quarter = (c.memory_analysis().temp_size_in_bytes for c in compiled)
    assert quarter < 0.4 * whole


def test_programs_of_a_study_accumulate_too(batch):
    config = config_with(2)
    assert_alike(step(config, batch, make_program=SharedPrograms(ONE_DEVICE)), step(config, batch))


@pytest.mark.slow
def test_an_interrupted_run_ends_where_it_would_have(synthetic_root, tmp_path):
    config = tiny_config(synthetic_root, accumulation=2, checkpoint_every_steps=1)
    run(config, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "resumed", Interrupting(3))
    run(config, tmp_path / "resumed")
    straight, resumed = (load_run(tmp_path / name, "last", mesh=ONE_DEVICE) for name in ("straight", "resumed"))
    assert straight.step == resumed.step == 4
    jax.tree.map(np.testing.assert_array_equal, straight.state, resumed.state)
    with pytest.raises(InputError, match=r"train\.accumulation"):
        run(replace(config, {"train.accumulation": 4}), tmp_path / "resumed")


def test_numbers_that_do_not_divide():
    with pytest.raises(InputError, match=r"train.accumulation is 3.*which is 8: use --train.batch-size 9"):
        TrainConfig(batch_size=8, accumulation=3)
    check_divisible(config_with(2), make_mesh())
    with pytest.raises(InputError, match=r"batch_size is 16.*multiple of 32.*8 devices.*--train.batch-size 32"):
        check_divisible(config_with(4), make_mesh())
    with pytest.raises(InputError, match=r"train.batch_size is 16.*multiple of 32"):
        batch_shapes(config_with(4), NUM_CLASSES, UNPACKED, make_mesh())
