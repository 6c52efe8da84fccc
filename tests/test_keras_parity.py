"""Our network, loss, gradients and training against what Keras computed (scripts/make_golden_keras.py)."""

import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import OPTIMIZED

from unet_jax.config import ModelConfig
from unet_jax.interop.keras_metrics import accuracy, dice_coef
from unet_jax.losses import bce_dice_loss
from unet_jax.losses.bce_dice import PUBLIC_BCE_DICE
from unet_jax.model import UNet
from unet_jax.model.normalization import BatchNorm
from unet_jax.program.optim import rmsprop_keras
from unet_jax.program.steps import unit_range

GOLDEN = Path(__file__).parent / "golden"
SCRIPT = Path(__file__).parent.parent / "scripts" / "make_golden_keras.py"
# The network with three levels has no part that the one with four has not.
NAMES = (pytest.param("keras_unet3", marks=pytest.mark.slow), "keras_unet4")


class Record:
    """A golden file, and our network with its weights."""

    def __init__(self, path):
        with np.load(path) as file:
            self.values = dict(file)
        config = ModelConfig(widths=tuple(map(int, self["widths"])), center_width=int(self["center"]))
        self.config, self.num_classes = config, self["label"].shape[-1]
        downs = [(f"down{i}", 2) for i in range(len(config.widths))]
        ups = [(f"up{i}", 3) for i in range(len(config.widths))]
        self.convs = [(stage, i) for stage, num in (*downs, ("center", 2), *ups) for i in range(num)]
        self.params, self.batch_stats = self.trees("start")
        self.images, self.labels = unit_range(self["image"]), unit_range(self["label"])
        self.weight = jnp.ones(self.images.shape[1])

    def __getitem__(self, key):
        return self.values[key]

    def array_list(self, prefix):
        count = sum(key.startswith(f"{prefix}/") for key in self.values)
        return iter([self[f"{prefix}/{i}"] for i in range(count)])

    def trees(self, prefix):
        """Keras's list of all weights: kernel, bias, gamma, beta, moving mean and variance per convolution."""
        values = self.array_list(prefix)
        params, stats = {}, {}
        for stage, i in self.convs:
            block = params.setdefault(stage, {})
            block[f"conv{i}"] = {"kernel": next(values), "bias": next(values)}
            block[f"norm{i}"] = {"scale": next(values), "bias": next(values)}
            stats.setdefault(stage, {})[f"norm{i}"] = {"mean": next(values), "var": next(values)}
        params["head"] = {"kernel": next(values), "bias": next(values)}
        return params, stats

    def trainable(self, prefix):
        values = self.array_list(prefix)
        params = {}
        for stage, i in self.convs:
            block = params.setdefault(stage, {})
            block[f"conv{i}"] = {"kernel": next(values), "bias": next(values)}
            block[f"norm{i}"] = {"scale": next(values), "bias": next(values)}
        params["head"] = {"kernel": next(values), "bias": next(values)}
        return params

    def moving(self, prefix):
        values = self.array_list(prefix)
        stats = {}
        for stage, i in self.convs:
            stats.setdefault(stage, {})[f"norm{i}"] = {"mean": next(values), "var": next(values)}
        return stats

    def model(self, variance="biased"):
        return UNet(dataclasses.replace(self.config, batch_norm_variance=variance), self.num_classes)

    @functools.cached_property
    def apply(self):
        model = self.model()
        return jax.jit(lambda variables, x, train: model.apply(variables, x, train, mutable=["batch_stats"])[0],
                       static_argnums=2)  # fmt: skip

    def logits(self, params, batch_stats, train):
        return np.asarray(self.apply({"params": params, "batch_stats": batch_stats}, self.images[0], train))

    @functools.cache  # noqa: B019 - compiling is what takes the time here, and records live as long as this module
    def loss_and_grads(self, variance="biased"):
        model = self.model(variance)

        def loss_fn(params, batch_stats, images, labels):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, updated = model.apply(variables, images, True, mutable=["batch_stats"])
            loss, _ = bce_dice_loss(logits, labels, self.weight, **PUBLIC_BCE_DICE["petrosgk"].kwargs())
            return loss, updated["batch_stats"]

        # The gradients themselves are checked with the biased variance only, and closely.
        how = OPTIMIZED if variance == "biased" else None
        return jax.jit(jax.value_and_grad(loss_fn, has_aux=True), compiler_options=how)

    def train(self, variant, variance, num_steps, params):
        """The state after each step."""
        tx = rmsprop_keras(1e-4, variant=variant)
        params, batch_stats = jax.tree.map(jnp.asarray, (params, self.batch_stats))
        opt_state = tx.init(params)
        states = []

        @jax.jit
        def update(grads, opt_state, params):
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        for i in range(num_steps):
            (_, batch_stats), grads = self.loss_and_grads(variance)(params, batch_stats, self.images[i], self.labels[i])
            params, opt_state = update(grads, opt_state, params)
            states.append((params, batch_stats))
        return states


@pytest.fixture(scope="module", params=NAMES)
def record(request):
    return Record(GOLDEN / f"{request.param}.npz")


def largest_error(found, wanted, *, relative=False, skip=lambda name: False):
    """The largest difference in any array, and the name of that array; relative to the array's largest value."""
    errors = {}
    leaves = jax.tree_util.tree_leaves_with_path(wanted)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, b), a in zip(leaves, jax.tree.leaves(found), strict=True):
        name = "/".join(key.key for key in path)
        if not skip(name):
            error = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()
            errors[name] = error / max(np.abs(b).max(), 1e-30) if relative else error
    name = max(errors, key=errors.get)
    return errors[name], name


def bias_before_norm(name):
    """Batch normalisation takes a constant away again: the gradient of such a bias is 0, its value is moot."""
    return "conv" in name and name.endswith("bias")


def is_mean(name):
    return name.endswith("mean")


def never(name):
    return False


def nudged(params, seed):
    """The weights, changed by a rounding error; seed 0 leaves them."""
    rng = np.random.default_rng(seed)
    by = 1e-7 if seed else 0.0
    return jax.tree.map(lambda x: (x * (1.0 + by * rng.choice([-1, 1], np.shape(x)))).astype(np.float32), params)


def check_forward(record, train_tolerance):
    logits = record.logits(record.params, record.batch_stats, False)
    np.testing.assert_allclose(logits, record["logits_inference"], rtol=0, atol=1e-5)
    logits = record.logits(record.params, record.batch_stats, True)
    np.testing.assert_allclose(logits, record["logits_train"], rtol=0, atol=train_tolerance)


def check_gradients(record, tolerance, num_ways=1):
    """Compare loss, gradients and running statistics with Keras.

    If the gradients are not close enough, up to `num_ways - 1` copies of the weights, changed by a rounding error, are
    tried too.
    """

    def loss_and_grads(seed):
        params = nudged(record.params, seed)
        return record.loss_and_grads()(params, record.batch_stats, record.images[0], record.labels[0])

    (loss, stats), grads = loss_and_grads(0)
    np.testing.assert_allclose(loss, record["loss_train"], rtol=0, atol=1e-6)
    wanted = record.trainable("grad")
    errors = [largest_error(grads, wanted, relative=True, skip=bias_before_norm)]
    while min(errors)[0] >= tolerance and len(errors) < num_ways:
        _, others = loss_and_grads(len(errors))
        errors.append(largest_error(others, wanted, relative=True, skip=bias_before_norm))
    error, name = min(errors)
    assert error < tolerance, f"the gradient of {name} is off by {error:.1e} of its largest value"
    error, name = largest_error(stats, record.moving("moving"))
    assert error < 1e-5, f"{name} moves elsewhere than in Keras, by {error:.1e}"
    scale = max(np.abs(g).max() for g in jax.tree.leaves(wanted))
    for stage, i in record.convs:  # zero in theory: compared with the largest gradient there is
        assert np.abs(grads[stage][f"conv{i}"]["bias"]).max() < 1e-5 * scale


def test_logits(record):
    check_forward(record, 1e-5)


def test_losses_in_their_three_public_weightings(record):
    logits = record.logits(record.params, record.batch_stats, False)
    for name, constants in PUBLIC_BCE_DICE.items():
        loss, _ = bce_dice_loss(jnp.asarray(logits), record.labels[0], record.weight, **constants.kwargs())
        np.testing.assert_allclose(loss, record[f"loss/{name}"], rtol=0, atol=1e-6, err_msg=name)


def test_loss_gradients_and_running_statistics(record):
    check_gradients(record, 1e-5)


def test_metrics_of_the_seed(record):
    probs = jax.nn.sigmoid(record.logits(record.params, record.batch_stats, False))
    np.testing.assert_allclose(dice_coef(probs, record.labels[0]), record["test/dice_coef"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(accuracy(probs, record.labels[0]), record["test/accuracy"], rtol=0, atol=1e-6)


def test_the_corrected_variance_by_hand():
    x = jnp.array([-1.0, 1.0, 5.0, 7.0]).reshape(1, 2, 2, 1)  # mean 3, variance (16 + 4 + 4 + 16) / 4 = 10
    variables = {"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}
    variables["batch_stats"] = {"mean": jnp.zeros(1), "var": jnp.full(1, 2.0)}
    for variance, factor in (("biased", 1.0), ("keras2.1", 4.0 / (4.0 - 1.001))):
        layer = BatchNorm(1, 0.5, 1e-3, variance)
        y, updated = layer.apply(variables, x, jnp.zeros(1), mutable=["batch_stats"])
        np.testing.assert_allclose(updated["batch_stats"]["var"], 0.5 * 2.0 + 0.5 * 10.0 * factor, rtol=1e-6)
        np.testing.assert_allclose(y, jax.nn.relu((x - 3.0) / np.sqrt(10.001)), rtol=1e-5)


# keras2.1 differs from keras2.0 in epsilon, which tests/test_rmsprop_keras.py checks for all three, and in the running
# variance, which is checked by hand above.
@pytest.mark.parametrize("variant", ["keras3", "keras2.0", pytest.param("keras2.1", marks=pytest.mark.slow)])
def test_training_with_rmsprop(record, variant):
    """Where a pixel lies at ReLU's kink, the last digit of the weights decides which way training goes: with Keras 2.0
    in the fourth step, where it moves weights by 2.9e-5. The original must be on one of the ways that begin within
    rounding of its weights."""
    # Keras 2 divides the rounding noise of a gradient that should be 0 by about its own size, so that such biases
    # walk at random, and the running means with them. Keras 3 adds its epsilon inside of the square root instead.
    walks = variant != "keras3"

    def errors(seed):
        variance = "keras2.1" if variant == "keras2.1" else "biased"
        states = record.train(variant, variance, 5, nudged(record.params, seed))
        found = []
        for num_steps in (1, 5):
            wanted_params, wanted_stats = record.trees(f"{variant}/after{num_steps}")
            params, batch_stats = states[num_steps - 1]
            found.append(largest_error(params, wanted_params, skip=bias_before_norm if walks else never))
            found.append(largest_error(batch_stats, wanted_stats, skip=is_mean if walks else never))
        return max(found), params, batch_stats

    ways = []
    for seed in range(8):
        ways.append(errors(seed))
        if ways[-1][0][0] < 1e-5:
            break
    (error, name), params, batch_stats = min(ways, key=lambda way: way[0])
    assert error < 1e-5, f"{name} is off by {error:.1e}"
    # In training mode those biases cancel: here is where a wrong one would show.
    logits = record.logits(params, batch_stats, True)
    np.testing.assert_allclose(logits, record[f"{variant}/logits_train"], rtol=0, atol=3e-5)
    logits = record.logits(params, batch_stats, False)
    np.testing.assert_allclose(logits, record[f"{variant}/logits_inference"], rtol=0, atol=2e-3 if walks else 1e-5)


@pytest.mark.slow
def test_the_whole_network_at_256(tmp_path):
    """All eight levels, 34.6 million parameters, computed by Keras now: the files would be too large to keep.

    Where two pixels are equal but for rounding, the last digit of the weights decides which of them pooling takes, and
    gradients jump by thousandths. So the gradient of Keras must agree with one of eight: that of its weights, and those
    of seven copies changed by a rounding error, as in training. An error of the network would show in all of them.
    """
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec("torch") is None:
        pytest.skip("needs the packages keras and torch, see scripts/make_golden_keras.py")
    file = tmp_path / "full.npz"
    subprocess.run([sys.executable, SCRIPT, "full", file], check=True, env={**os.environ, "KERAS_BACKEND": "torch"})
    record = Record(file)
    assert sum(np.size(x) for x in jax.tree.leaves(record.params)) == 34_623_090
    check_forward(record, 3e-5)
    check_gradients(record, 5e-5, num_ways=8)
