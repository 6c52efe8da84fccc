"""The layers of a trained network as numbers: kernels and biases with batch normalisation folded into them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unet_jax._types import PyTree
from unet_jax.config import ModelConfig
from unet_jax.model.architecture import Convolution, list_convolutions


class Layer(NamedTuple):
    """A convolution with its normalisation. `unet_jax.export.walk` says what happens between layers."""

    conv: Convolution
    """Place, kernel size and channels of the convolution."""
    kernel: Float[np.ndarray, "kh kw c d"]
    """Kernel, float32."""
    bias: Float[np.ndarray, " d"]
    """Bias, float32."""
    group_norm: tuple[np.ndarray, np.ndarray] | None
    """Scale and bias `[d]` of the group normalisation, float32."""


def folded_layers(
    config: ModelConfig, params: PyTree, batch_stats: PyTree, *, num_channels: int, num_classes: int
) -> list[Layer]:
    """Return every layer of a network that predicts, in the order of the data flow.

    Args:
      config: settings of the network.
      params: parameters, on the host.
      batch_stats: running statistics of batch normalisation, on the host.
      num_channels: number of channels of the images.
      num_classes: number of classes.

    Raises:
      ValueError: there are parameters of which this function knows nothing, which would be an error of this library.

    Example:
      >>> import numpy as np
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.export.folded import folded_layers
      >>> config = ModelConfig(widths=(1,), center_width=1, num_convs_down=1, num_convs_up=1, norm="none")
      >>> params = {stage: {"conv0": {"kernel": np.ones((3, 3, c, 1)), "bias": np.zeros(1)}}
      ...           for stage, c in (("down0", 3), ("center", 1), ("up0", 2))}
      >>> params["head"] = {"kernel": np.ones((1, 1, 1, 2)), "bias": np.zeros(2)}
      >>> layers = folded_layers(config, params, {}, num_channels=3, num_classes=2)
      >>> [layer.conv.stage for layer in layers]
      ['down0', 'center', 'up0', 'head']
    """
    rest = _flatten(without_supervision(params)) | _flatten(batch_stats, ("statistics",))

    def take(*path: str) -> np.ndarray:
        return np.asarray(rest.pop(path), np.float64)

    layers = []
    for conv in list_convolutions(config, num_classes, num_channels):
        kernel, bias, group_norm = take(*conv.place, "kernel"), take(*conv.place, "bias"), None
        norm = (conv.stage, conv.norm)
        if config.norm == "batch" and conv.norm:
            slope = take(*norm, "scale") / np.sqrt(take("statistics", *norm, "var") + conv.norm_eps)
            kernel, bias = kernel * slope, take(*norm, "bias") + (bias - take("statistics", *norm, "mean")) * slope
        elif config.norm == "group" and conv.norm:
            group_norm = (take(*norm, "scale").astype(np.float32), take(*norm, "bias").astype(np.float32))
        layers.append(Layer(conv, kernel.astype(np.float32), bias.astype(np.float32), group_norm))
    if rest:
        left = ", ".join(sorted("/".join(path) for path in rest))
        raise ValueError(f"the network has parameters that the exporter does not know: {left}")
    return layers


def without_supervision(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without the heads of deep supervision, which only training uses.

    Example:
      >>> sorted(without_supervision({"up0": {}, "head": {}, "head1": {}, "head2": {}}))
      ['head', 'up0']
    """
    return {name: layer for name, layer in params.items() if not name.startswith("head") or name == "head"}


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    flat = {}
    for name, value in tree.items():
        flat |= _flatten(value, (*path, name)) if isinstance(value, Mapping) else {(*path, name): value}
    return flat
