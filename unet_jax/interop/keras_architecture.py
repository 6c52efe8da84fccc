"""Settings of a Keras model that its weights do not show, and a check that the model is this library's U-Net.

Both come from the description (`model_config`) that Keras stores in files of whole models.
"""

from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.interop.keras_graph import find_differences, joins_up_first, nodes_of

# Layers of the U-Net, and layers that do nothing in prediction (dropout, noise).
_KNOWN = {
    "InputLayer", "Conv2D", "BatchNormalization", "Activation", "ReLU", "MaxPooling2D", "UpSampling2D", "Concatenate",
    "Dropout", "SpatialDropout2D", "GaussianNoise",
}  # fmt: skip
NO_PLACE = "Their weights have no place in it: train a network here (unet-jax train), or keep this one in Keras"
"""Remedy for transposed convolutions."""


class Architecture(NamedTuple):
    """Settings that the weights alone do not show; None where there is no description or it does not contain them."""

    image_size: int | None
    norm_eps: float | None
    norm_momentum: float | None
    up_first: tuple[bool, ...] | None
    """For each concatenation, from the deepest to the first level, whether the skip connection comes second."""


def read_architecture(model_config: dict[str, Any] | None, file: epath.Path) -> Architecture:
    """Return the settings of a Keras model, after a check that it is the U-Net of the Keras original and no variant.

    Args:
      model_config: the description, parsed from JSON; None if the file has none.
      file: its file, for messages.

    Raises:
      InputError: the model differs. The message lists how: layers of another kind, another activation or interpolation,
        or different settings among its normalisations.
    """
    if model_config is None:
        return Architecture(None, None, None, None)
    try:
        return _checked(model_config, file)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            f"{file}: its description of the model is damaged ({type(error).__name__}: {error})."
        ) from error


def _checked(model_config: dict[str, Any], file: epath.Path) -> Architecture:
    """Return the settings of a Keras model; see `read_architecture`."""
    layers = model_config["config"]
    layers = layers["layers"] if isinstance(layers, dict) else layers
    if any(layer["class_name"] in ("Convolution2D", "Deconvolution2D", "Merge") for layer in layers):
        raise InputError(
            f"{file}: describes its network as Keras 1 does, which is not read. Import the weights alone: "
            f"model.save_weights of Keras 1, or of Keras 2 after keras.models.load_model."
        )
    problems = [problem for layer in layers for problem in _problems(layer, layers)]
    convs = [layer["config"] for layer in layers if layer["class_name"] == "Conv2D"]
    if convs and _activation(convs[-1]) not in ("sigmoid", "linear"):
        problems.append(
            f"{convs[-1]['name']} ends the network with {_activation(convs[-1])}, not sigmoid: its classes are not "
            f"independent"
        )
    norms = [layer["config"] for layer in layers if layer["class_name"] == "BatchNormalization"]
    settings = {(norm["epsilon"], norm["momentum"]) for norm in norms}
    if len(settings) > 1:
        problems.append(f"normalisations differ in (epsilon, momentum): {sorted(settings)}")
    nodes = nodes_of(layers)
    problems = problems or find_differences(nodes)
    if problems:
        raise InputError(f"{file}: is another network than this library's U-Net:\n  " + "\n  ".join(problems))
    eps, momentum = settings.pop() if settings else (None, None)
    return Architecture(_image_size(layers), eps, momentum, joins_up_first(nodes))


def _problems(layer: dict[str, Any], layers: list[dict[str, Any]]) -> list[str]:
    """Return one line for each setting in which a layer differs from the U-Net's."""
    kind, config = layer["class_name"], layer["config"]
    name = f"{config.get('name', kind)} ({kind})"
    if kind == "Conv2DTranspose":
        return [f"{name}: the U-Net has no transposed convolutions, only nearest-neighbour up-sampling. {NO_PLACE}"]
    if kind not in _KNOWN:
        return [f"{name}: there is no such layer in the U-Net"]
    wanted: dict[str, Any] = {}
    match kind:
        case "Conv2D":
            wanted = {"strides": (1, 1), "dilation_rate": (1, 1), "use_bias": True, "groups": 1}
            if tuple(config.get("kernel_size", ())) != (1, 1):  # padding changes nothing for a 1x1 kernel
                wanted["padding"] = "same"
        case "MaxPooling2D":
            wanted = {"pool_size": (2, 2), "strides": (2, 2)}
        case "UpSampling2D":
            wanted = {"size": (2, 2), "interpolation": "nearest"}
        case "Activation":
            wanted = {"activation": "relu"}
        case "BatchNormalization":
            wanted = {"scale": True, "center": True}
    if kind == "Activation" and config.get("activation") == "sigmoid" and layer is layers[-1]:
        return []
    given = {key: config[key] for key in wanted if key in config}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    if config.get("data_format") == "channels_first":
        return [f"{name}: data_format is 'channels_first', not 'channels_last'"]
    if kind in ("BatchNormalization", "Concatenate") and config.get("axis", -1) not in (-1, 3, [-1], [3]):
        return [f"{name}: axis is {config['axis']}, not that of the channels"]
    wrong = [f"{name}: {key} is {value!r}, not {wanted[key]!r}" for key, value in given.items() if value != wanted[key]]
    return wrong


def _activation(config: dict[str, Any]) -> Any:
    return config.get("activation", "linear")


def _image_size(layers: list[dict[str, Any]]) -> int | None:
    """Return the height and width of the model's input in pixels, or None if it is not square or not fixed."""
    for layer in layers:
        config = layer["config"]
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape and len(shape) == 4 and shape[1] == shape[2]:
            return shape[1]
    return None
