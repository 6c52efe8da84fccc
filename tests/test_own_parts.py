"""A network, an optimizer, callbacks and writers of somebody's own."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
from helpers import ONE_DEVICE, Interrupting, Lines, rows, tiny_config

import unet_jax
from unet_jax import InputError, load_run, replace
from unet_jax.config import OptimConfig
from unet_jax.program.optim import make_optimizer, make_schedule
from unet_jax.program.own import Own, check_own, check_own_settings
from unet_jax.report.display import Quiet
from unet_jax.report.writers import load_writers, write_row
from unet_jax.runs.info import load_info
from unet_jax.runs.own_parts import own_facts

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
MASKS = np.stack([IMAGES[..., 0] > 128, IMAGES[..., 1] > 200], axis=-1)
ROWS = []


class Tiny(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(self.width, (3, 3))(images)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))
        return nn.Conv(2, (1, 1))(x)


class WrongChannels(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Conv(3, (1, 1))(images)


class WithoutTrain(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Conv(2, (1, 1))(images)


class WithCache(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        self.variable("cache", "x", lambda: jnp.zeros(()))
        return nn.Conv(2, (1, 1))(images)


def writer(row):
    ROWS.append(row)
    raise OSError("no network")


def config(**train):
    values = {"data.image_size": 16, "data.root": "", "data.splits": None}
    tiny = dataclasses.replace(tiny_config(Path("DATA"), **train), model=unet_jax.PRESETS["small"]().model)
    return replace(tiny, values)


def fit(out, settings, **options):
    source = unet_jax.ArraySource(IMAGES, MASKS, ["a", "b"])
    options = {"display": Quiet(), "network": Tiny(), "optimizer": optax.lion, **options}
    return unet_jax.fit(source, config=settings, out=out, mesh=ONE_DEVICE, **options)


def test_a_run_with_own_parts(tmp_path):
    """It predicts what the module does; it continues and loads only with the same; pandas takes its records."""
    out, lines, seen = tmp_path / "run", Lines(), []

    def callback(run, record):
        seen.append((run.step, record["eval/dice"], unet_jax.predict_probs(run, IMAGES[:2])))

    settings = config(num_epochs=1, writers=("test_own_parts:writer",))
    ROWS.clear()
    result = fit(out, settings, callbacks=[callback], display=lines)
    run = load_run(out, network=Tiny(), mesh=ONE_DEVICE)
    variables = {"params": run.state.params, "batch_stats": run.state.batch_stats}
    logits = jax.jit(lambda x: Tiny().apply(variables, x, False))(IMAGES[:2] / np.float32(255))
    ((step, dice, probs),) = seen
    np.testing.assert_allclose(probs, 1 / (1 + np.exp(-np.asarray(logits, np.float64))), atol=1e-6)
    np.testing.assert_array_equal(unet_jax.predict_probs(run, IMAGES[:2]), probs)
    table = pandas.DataFrame(result.history)
    assert all(kind.kind in "if" for kind in table.dtypes) and (step, dice) == (1, table["eval/dice"][0])
    assert [row["step"] for row in ROWS] == [1] and ROWS[0]["eval/dice"] == dice
    assert "WARNING: train.writers test_own_parts:writer failed at step 1 (OSError: no network)" in lines.lines
    assert set(load_info(out).own) == {"network", "optimizer"}

    fit(out, settings)  # finished already
    for options, message in (
        ({"network": None}, r"has a network of its own, test_own_parts:Tiny \(width = 4\), which only Python"),
        ({"optimizer": None}, "has an optimizer of its own, optax._src.alias:lion, which only"),
        ({"network": Tiny(5)}, r"began with the network .*Tiny \(width = 4\), but now it has .*Tiny \(width = 5\)"),
        ({"optimizer": functools.partial(optax.lion, b1=0.8)}, r"but now it has optax._src.alias:lion \(b1=0.8\)"),
    ):
        with pytest.raises(InputError, match=message):
            fit(out, settings, **options)
    with pytest.raises(InputError, match=r"Tiny \(width = 4\), which only Python can give again: network=MODULE"):
        load_run(out)
    with pytest.raises(InputError, match=r"but test_own_parts:Tiny \(width = 5\) is given"):
        load_run(out, network=Tiny(5))


# 12 s: two runs of which one is killed. What a fast test cannot see is that dropout's random numbers go on, too.
@pytest.mark.slow
def test_a_killed_run_with_own_parts_continues_bit_for_bit(tmp_path):
    settings = config(num_epochs=4)
    fit(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", settings, display=Interrupting(3))
    fit(tmp_path / "killed", settings)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_own_parts_that_cannot_be_used_are_named():
    settings = config()
    for make, message in (
        (lambda: Own(network=Tiny), r"is the class Tiny: give a module, Tiny\(\)"),
        (lambda: Own(network=lambda images, train: images), "must be a Flax Linen module"),
        (lambda: Own(optimizer=optax.lion(1e-3)), "finished optax transformation"),
        (lambda: Own(optimizer="lion"), "must be a function such as optax.lion"),
        (lambda: check_own(Own(WrongChannels()), 2, (16, 16), 3), r"shape \(1, 16, 16, 3\).*\(1, 16, 16, 2\)"),
        (lambda: check_own(Own(WithoutTrain()), 2, (16, 16), 3), "TypeError: .*takes 2 positional arguments"),
        (lambda: check_own(Own(WithCache()), 2, (16, 16), 3), r"collections \['cache'\]"),
        (lambda: check_own(Own(optimizer=optax.lbfgs), 2, (16, 16), 3), "optimizer lbfgs cannot be used"),
        (lambda: check_own(Own(optimizer=lambda rate: None), 2, (16, 16), 3), "cannot be used"),
        (lambda: check_own_settings(replace(settings, {"model.norm": "group"}), Own(Tiny())), "a network of its own"),
        (
            lambda: check_own_settings(replace(settings, {"optim.weight_decay": 0.5}), Own(optimizer=optax.lion)),
            "an optimizer of its own",
        ),
        (lambda: load_writers(["no_such_module:f"]), "no_such_module:f' cannot be imported"),
        (lambda: load_writers(["test_own_parts:nothing"]), "cannot be imported: AttributeError"),
        (lambda: load_writers(["test_own_parts:IMAGES"]), "is ndarray, but must be a function"),
        (lambda: config(writers=("my_module",)), "package.module:function"),
    ):
        with pytest.raises(InputError, match=message):
            make()
    check_own_settings(replace(settings, {"model.widths": (4, 4)}), Own(Tiny(), optax.lion))
    assert list(write_row({"w": lambda row: row.clear()}, row := {"step": 1})) == [] and row == {"step": 1}


def test_an_own_optimizer_gets_the_schedule_and_everything_around_it():
    """Its updates are those of optax with this learning rate, after clipping."""
    settings = OptimConfig(learning_rate=0.5, schedule="cosine", clip_norm=1.0)
    tx = make_optimizer(settings, 10, functools.partial(optax.sgd, momentum=0.9))
    schedule = make_schedule(settings, 10)
    params, gradient, momentum = {"w": jnp.ones(2)}, {"w": jnp.array([3.0, 4.0])}, np.zeros(2)
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(gradient, state, params)
        momentum = 0.9 * momentum + np.array([0.6, 0.8])
        np.testing.assert_allclose(updates["w"], -float(schedule(step)) * momentum, rtol=1e-6)


def test_other_code_is_another_part(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "import optax\n\ndef own(rate):\n    return optax.sgd(rate, momentum=0.5)\n"
    digests = []
    for name, code in (("code_a", text), ("code_b", f"# note\n{text}"), ("code_c", text.replace("0.5", "0.6"))):
        (tmp_path / f"{name}.py").write_text(code)
        module = __import__(name)
        digests.append(own_facts(Own(optimizer=module.own))["optimizer"]["code"])
    assert digests[0] == digests[1] != digests[2] and digests[0]
    assert own_facts(Own(optimizer=optax.lion))["optimizer"] == {
        "name": "optax._src.alias:lion",
        "values": "",
        "code": "",  # of an installed package
    }
    local = own_facts(Own(optimizer=lambda rate: optax.sgd(rate)))["optimizer"]
    assert local["name"].endswith("<lambda>") and local["code"]
