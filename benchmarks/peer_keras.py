"""Implementation for `peer.py`: the original program in Keras 3, on the backend that `KERAS_BACKEND` names."""

import os
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops
from network import Network
from peer import Peer, Task


def get_unet(network: Network, height: int, width: int) -> keras.Model:
    """Build the Keras original's network, with loops for its repetitions.

    Unlike the original it scales its input itself and returns logits instead of probabilities.
    """

    def block(x: Any, filters: int, times: int) -> Any:
        for _ in range(times):
            x = kl.Conv2D(filters, (3, 3), padding="same")(x)
            x = kl.BatchNormalization()(x)
            x = kl.Activation("relu")(x)
        return x

    inputs = kl.Input(shape=(height, width, 3), dtype="uint8")
    x = kl.Rescaling(1.0 / 255.0)(inputs)
    downs = []
    for filters in network.widths:
        x = block(x, filters, network.num_convs_down)
        downs.append(x)
        x = kl.MaxPooling2D((2, 2), strides=(2, 2))(x)
    x = block(x, network.center_width, network.num_convs_down)
    for filters, down in zip(reversed(network.widths), reversed(downs), strict=True):
        x = kl.UpSampling2D((2, 2))(x)
        x = kl.concatenate([down, x], axis=3)
        x = block(x, filters, network.num_convs_up)
    return keras.Model(inputs, kl.Conv2D(network.num_classes, (1, 1), dtype="float32")(x))


def bce_dice(label: Any, logits: Any) -> Any:
    """Compute the mean BCE plus one soft Dice loss over the batch and its classes."""
    t = ops.cast(label, "float32") / 255.0
    p = ops.sigmoid(logits)
    dice = (2.0 * ops.sum(p * t) + 1.0) / (ops.sum(p) + ops.sum(t) + 1.0)
    return ops.mean(ops.binary_crossentropy(t, logits, from_logits=True)) + 1.0 - dice


class Keras:
    """Training step of Keras, with its weights and its batch."""

    def __init__(self, task: Task, weights: list[np.ndarray], image: np.ndarray, label: np.ndarray):
        if task.dtype == "bfloat16":
            keras.mixed_precision.set_global_policy("mixed_bfloat16")
        self.model = get_unet(task.network, *image.shape[1:3])
        self.model.set_weights(weights)
        # The loss is one number for the whole batch, so Keras takes no mean over it.
        self.model.compile(keras.optimizers.Adam(task.learning_rate), loss=bce_dice)
        # The batch is put on the device once, as in the other implementations.
        self.image, self.label = ops.convert_to_tensor(image), ops.convert_to_tensor(label)

    def train_step(self) -> Any:
        return self.model.train_on_batch(self.image, self.label)  # the loss is a NumPy number, so the step has ended

    def logits(self) -> np.ndarray:
        return np.asarray(self.model.predict_on_batch(self.image), np.float32)

    def num_parameters(self) -> int:
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def peak_bytes(self) -> int | None:
        if os.environ["KERAS_BACKEND"] == "jax":
            from measure import peak_bytes

            return peak_bytes()
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def make(variant: str, task: Task, weights: list[np.ndarray], image: np.ndarray, label: np.ndarray) -> Peer:
    """Make the implementation; the variant does not matter here."""
    return Keras(task, weights, image, label)
