"""What a Keras model's own description says beyond the shapes of its weights: sizes, epsilon, and what does not fit."""

from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError

# Layers that the U-Net consists of, and those that do nothing once training is over.
_KNOWN = {
    "InputLayer", "Conv2D", "BatchNormalization", "Activation", "ReLU", "MaxPooling2D", "UpSampling2D", "Concatenate",
    "Dropout", "SpatialDropout2D", "GaussianNoise",
}  # fmt: skip


class Architecture(NamedTuple):
    """Settings that weights alone do not show; None where the description does not say."""

    image_size: int | None
    norm_eps: float | None
    norm_momentum: float | None


def read_architecture(model_config: dict[str, Any] | None, file: epath.Path) -> Architecture:
    """Settings of a model, after making sure that it is the U-Net of the seed and not a relative.

    Raises:
      InputError: lists what differs: layers of another kind, another activation, interpolation or order of channels.
    """
    if model_config is None:
        return Architecture(None, None, None)
    layers = model_config["config"]
    layers = layers["layers"] if isinstance(layers, dict) else layers
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
    if problems:
        raise InputError(f"{file}: is another network than this library's U-Net:\n  " + "\n  ".join(problems))
    eps, momentum = settings.pop() if settings else (None, None)
    return Architecture(_image_size(layers), eps, momentum)


def _problems(layer: dict[str, Any], layers: list[dict[str, Any]]) -> list[str]:
    kind, config = layer["class_name"], layer["config"]
    name = f"{config.get('name', kind)} ({kind})"
    if kind not in _KNOWN:
        return [f"{name}: there is no such layer in the U-Net"]
    wanted: dict[str, Any] = {}
    match kind:
        case "Conv2D":
            wanted = {"strides": (1, 1), "dilation_rate": (1, 1), "use_bias": True, "groups": 1}
            if tuple(config.get("kernel_size", ())) != (1, 1):  # where padding changes nothing
                wanted["padding"] = "same"
        case "MaxPooling2D":
            wanted = {"pool_size": (2, 2), "strides": (2, 2)}
        case "UpSampling2D":
            wanted = {"size": (2, 2), "interpolation": "nearest"}
        case "Activation":
            wanted = {"activation": "relu"}
    if kind == "Activation" and config.get("activation") == "sigmoid" and layer is layers[-1]:
        return []
    found = {key: config[key] for key in wanted if key in config}
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    wrong = [f"{name}: {key} is {value!r}, not {wanted[key]!r}" for key, value in found.items() if value != wanted[key]]
    if kind == "Concatenate":
        kinds = {other["config"].get("name", other.get("name")): other["class_name"] for other in layers}
        inputs = [kinds.get(source) for source in _sources(layer.get("inbound_nodes", []))]
        if inputs and (len(inputs) != 2 or inputs[0] == "UpSampling2D"):
            wrong.append(f"{name}: joins {' and '.join(map(str, inputs))}, not a skip connection and then UpSampling2D")
    return wrong


def _sources(node: Any) -> list[str]:
    """Names of the layers a layer reads; Keras 2 writes [[['name', 0, 0, {}], ...]], Keras 3 nested dictionaries."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            return [node["config"]["keras_history"][0]]
        return [name for value in node.values() for name in _sources(value)]
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            return [node[0]]
        return [name for value in node for name in _sources(value)]
    return []


def _activation(config: dict[str, Any]) -> Any:
    return config.get("activation", "linear")


def _image_size(layers: list[dict[str, Any]]) -> int | None:
    """The side of square inputs."""
    for layer in layers:
        config = layer["config"]
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape and len(shape) == 4 and shape[1] == shape[2]:
            return shape[1]
    return None
