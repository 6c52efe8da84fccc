"""Baseline: the same network, loss and update, written as in the documentation of Flax and Optax.

Only the optimizer comes from the library, so a comparison with this baseline compares formulations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from network import Network, by_stage

PyTree = Any


class TextbookUNet(nn.Module):
    """Network of `unet_jax.UNet` with batch normalisation: the same stages and the same number of parameters."""

    widths: tuple[int, ...]
    center_width: int
    num_classes: int
    num_convs_down: int = 2
    num_convs_up: int = 3
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def block(x: jax.Array, features: int, num_convs: int) -> jax.Array:
            for _ in range(num_convs):
                x = nn.Conv(features, (3, 3), dtype=self.dtype)(x)
                x = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, dtype=self.dtype)(x)
                x = nn.relu(x)
            return x

        skips = []
        for width in self.widths:
            x = block(x, width, self.num_convs_down)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = block(x, self.center_width, self.num_convs_down)
        for width, skip in zip(reversed(self.widths), reversed(skips), strict=True):
            b, h, w, c = x.shape
            x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
            x = block(jnp.concatenate([skip, x], axis=-1), width, self.num_convs_up)
        return nn.Conv(self.num_classes, (1, 1))(x.astype(jnp.float32))


def textbook_variables(network: Network, weights: Sequence[np.ndarray]) -> tuple[PyTree, PyTree]:
    """Return the parameters and the running statistics with given weights, in Keras's order, on the device."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for i, arrays in enumerate(by_stage(network, weights).values()):
        params[f"Conv_{i}"] = {"kernel": arrays[0], "bias": arrays[1]}
        if len(arrays) > 2:
            params[f"BatchNorm_{i}"] = {"scale": arrays[2], "bias": arrays[3]}
            stats[f"BatchNorm_{i}"] = {"mean": arrays[4], "var": arrays[5]}
    return jax.device_put((params, stats))


def make_textbook_step(model: TextbookUNet, tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Make a jitted step `(params, batch_stats, opt_state, image, label) -> (params, batch_stats, opt_state, loss)`.

    The three arguments of the state are donated. Image and label are uint8. The loss is the mean BCE plus one soft Dice
    loss over the batch and its classes.
    """

    def loss_of(params: PyTree, batch_stats: PyTree, image: jax.Array, label: jax.Array) -> tuple[jax.Array, PyTree]:
        x, t = image.astype(jnp.float32) / 255.0, label.astype(jnp.float32) / 255.0
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, x, True, mutable=["batch_stats"])
        p = jax.nn.sigmoid(logits)
        dice = (2.0 * jnp.sum(p * t) + 1.0) / (jnp.sum(p) + jnp.sum(t) + 1.0)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, t)) + 1.0 - dice, updated["batch_stats"]

    def step(params: PyTree, batch_stats: PyTree, opt_state: PyTree, image: jax.Array, label: jax.Array) -> Any:
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, batch_stats), grads = grad_fn(params, batch_stats, image, label)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state, loss

    return jax.jit(step, donate_argnums=(0, 1, 2))
