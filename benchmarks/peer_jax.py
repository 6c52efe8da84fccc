"""Implementations for `peer.py`: the library's own training step, and the textbook's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from library_steps import packed_batch, state_with
from measure import peak_bytes
from peer import Peer, Task
from textbook import TextbookUNet, make_textbook_step, textbook_variables

from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.program.build import build


def make(variant: str, task: Task, weights: list[np.ndarray], image: np.ndarray, label: np.ndarray) -> Peer:
    """Make the implementation of a variant.

    The name "unet_jax" may be followed by names and values of settings of the model: "unet_jax packing 2,2 remat conv".
    """
    if variant.startswith("textbook"):
        return Textbook(task, weights, image, label)
    words = variant.removeprefix("unet_jax").split()
    settings = {f"model.{name}": value for name, value in zip(words[::2], words[1::2], strict=True)}
    return Product(task, settings, weights, image, label)


class Product:
    """Training step of `unet_jax.program.build` with the network and the loss of preset seed."""

    def __init__(self, task: Task, settings: dict[str, Any], weights: Any, image: np.ndarray, label: np.ndarray):
        network = task.network
        values = {
            "data.image_size": image.shape[1:3],
            "train.batch_size": len(image),
            "model.widths": network.widths,
            "model.center_width": network.center_width,
            "model.num_convs_down": network.num_convs_down,
            "model.num_convs_up": network.num_convs_up,
            "model.dtype": task.dtype,
            # AdamW without weight decay is Adam.
            "optim.name": "adamw",
            "optim.weight_decay": 0.0,
            "optim.schedule": "constant",
            "optim.learning_rate": task.learning_rate,
        }
        program = build(replace(PRESETS["seed"](), {**values, **settings}), network.num_classes, 1000)
        self.state = state_with(program, network, weights)
        self.program, self.image = program, jax.device_put(image)
        self.batch = jax.device_put(packed_batch(program, image, label))

    def num_parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.state.params))

    def logits(self) -> np.ndarray:
        variables = {"params": self.state.params, "batch_stats": self.state.batch_stats}
        apply = jax.jit(lambda variables, x: self.program.model.apply(variables, x / 255.0, False))
        return np.asarray(apply(variables, self.image.astype(jnp.float32)))

    def train_step(self) -> jax.Array:
        self.state, metrics = self.program.train_step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        return metrics["loss"]

    def peak_bytes(self) -> int | None:
        return peak_bytes()


class Textbook:
    """Training step of `textbook.py`."""

    def __init__(self, task: Task, weights: list[np.ndarray], image: np.ndarray, label: np.ndarray):
        network, dtype = task.network, jnp.dtype(task.dtype)
        convs = network.num_convs_down, network.num_convs_up
        self.model = TextbookUNet(network.widths, network.center_width, network.num_classes, *convs, dtype)
        params, stats = textbook_variables(network, weights)
        tx = optax.adam(task.learning_rate)
        self.state = (params, stats, jax.jit(tx.init)(params))
        self.batch = jax.device_put((image, label))
        self.step = make_textbook_step(self.model, tx)

    def num_parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.state[0]))

    def logits(self) -> np.ndarray:
        variables = {"params": self.state[0], "batch_stats": self.state[1]}
        apply = jax.jit(lambda variables, x: self.model.apply(variables, x / 255.0, False))
        return np.asarray(apply(variables, self.batch[0].astype(jnp.float32)))

    def train_step(self) -> jax.Array:
        *state, loss = jax.block_until_ready(self.step(*self.state, *self.batch))
        self.state = tuple(state)
        return loss

    def peak_bytes(self) -> int | None:
        return peak_bytes()
