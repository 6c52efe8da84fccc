"""First weights of an encoder from a file that torchvision, timm or Keras wrote. Only numbers are read, never code.

| file | names |
|---|---|
| `.safetensors` | torchvision and timm: `features.0.weight` (VGG), `layer1.0.conv1.weight` (ResNet) |
| `.h5`, `.keras` | Keras: the convolutions of VGG16, in their order |
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from unet_jax._types import InputError, PyTree
from unet_jax.config import ModelConfig
from unet_jax.config.encoders import ENCODERS, NORM_EPS, input_statistics
from unet_jax.interop.keras_reader import read_keras_file
from unet_jax.model.architecture import Convolution, list_stages

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
_PREFIXES = ("", "module.", "model.", "encoder.", "backbone.")
_CLASSIFIER = ("fc.", "classifier.", "head.", "pre_logits.")
_IGNORED = "num_batches_tracked"
_MOST_METADATA = 2000


class EncoderWeights(NamedTuple):
    """First weights of an encoder, and where they come from."""

    params: PyTree
    """Parameters of its stages, float32."""
    batch_stats: PyTree
    """Running statistics of its stages, float32."""
    input_kind: Literal["imagenet", "caffe", "none"]
    """Value of `model.encoder_input` that the weights were adapted to."""
    facts: dict[str, Any]
    """Name and digest of the file, the kind of its names, and its own metadata; all are texts."""
    notes: tuple[str, ...]
    """Sentences that somebody should read."""


class _Layer(NamedTuple):
    kernel: Float[np.ndarray, "kh kw c d"]
    bias: Float[np.ndarray, " d"]
    norm: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # scale, bias, mean, variance


def read_encoder(file: str | epath.Path, config: ModelConfig, num_channels: int) -> EncoderWeights:
    """Read the weights of `config.encoder` for images with a number of channels.

    The first kernel of a file reads red, green and blue. For one channel, its input channels are added, so that a gray
    image gives what it gave as a colour image with three equal channels (but for the rim that the zeros of the padding
    reach, if the means of the three differ). For other numbers of channels, they are repeated (red, green, blue, red,
    and so on) and multiplied by 3 / channels.

    Args:
      file: path of the file, local or in a bucket.
      config: settings of the network. If `encoder_input` is auto, the file decides.
      num_channels: number of channels of the images.

    Raises:
      InputError: the file is not there, is of another kind, is damaged, or has not the tensors of this encoder.

    Example:
      >>> weights = read_encoder("resnet18.safetensors", config.model, 3)  # doctest: +SKIP
      >>> weights.facts["names"], sorted(weights.params)  # doctest: +SKIP
      ('torchvision', ['center', 'down1', 'down2', 'down3', 'down4'])
    """
    file = epath.Path(file)
    is_keras = file.suffix in (".h5", ".hdf5", ".keras")
    if file.suffix != ".safetensors" and not is_keras:
        raise InputError(_other_kind(file))
    if not file.exists():
        raise InputError(f"{file}: there is no such file. Give another --model.encoder-weights.")
    content = file.read_bytes()
    convs = _encoder_convs(config)
    metadata: Mapping[str, str] = {}
    if is_keras:
        layers, names, has_norms = _keras_layers(file, config, convs), "Keras", False
    else:
        tensors, metadata = _tensors(content, file)
        layers, has_norms = _torch_layers(tensors, file, config, convs)
        names = "torchvision"
    notes = []
    if not has_norms:
        notes.append(
            f"{file}: has no batch normalisation, so that of the encoder {config.encoder} begins as one that changes "
            f"nothing. While the encoder trains, it normalises: weights that were trained without it need some updates "
            f"to adapt."
        )
    broken = next((c for c, layer in zip(convs, layers, strict=True) if not _is_finite(layer)), None)
    if broken:
        place = "/".join(broken.place)
        raise InputError(f"{file}: has weights that are not finite numbers ({place}). Use another file.")
    kind = config.encoder_input if config.encoder_input != "auto" else "caffe" if is_keras else "imagenet"
    layers[0] = _adapted(layers[0], kind, num_channels)
    params, batch_stats = _trees(convs, layers)
    shown = {str(key): str(value)[:_MOST_METADATA] for key, value in (metadata or {}).items()}
    digest = hashlib.sha256(content).hexdigest()
    facts = {"file": file.name, "sha256": digest, "names": names, "metadata": shown}
    return EncoderWeights(params, batch_stats, kind, facts, tuple(notes))


def _encoder_convs(config: ModelConfig) -> list[Convolution]:
    """Return the convolutions of the encoder and the centre."""
    return [conv for stage in list_stages(config) if stage.reads not in ("joined", "upsampled") for conv in stage.convs]


def file_digest(file: str | epath.Path) -> str:
    """Return the digest of a file as `EncoderWeights.facts` has it; empty if it is not there."""
    file = epath.Path(file)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _other_kind(file: epath.Path) -> str:
    """Return the message for a file that is not read, with what makes one of it that is."""
    if file.suffix not in _PICKLES:
        return f"{file}: must be a .safetensors file (torchvision, timm) or a .h5 file (Keras), by its ending."
    out = file.with_suffix(".safetensors")
    return (
        f"{file}: is a pickle, which can run code when it is read, so it is not read here. Convert it where PyTorch is "
        f'installed: python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{file}', map_location='cpu', weights_only=True); "
        f"s.save_file({{k: v.contiguous() for k, v in w.items()}}, '{out}')\""
    )


def _tensors(content: bytes, file: epath.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise InputError(
            "reading safetensors files needs the package safetensors: pip install 'unet_jax[safetensors]'."
        ) from error
    try:
        tensors = safetensors.numpy.load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # of the library, of NumPy for types that it does not have, of json
        raise InputError(
            f"{file}: is damaged, or holds numbers of a type that NumPy does not have, such as bfloat16 ({error}). Use "
            f"another file, or save it again as float32."
        ) from error
    return tensors, metadata


def _torch_names(encoder: str, conv: Convolution, has_norms: bool) -> tuple[str, str]:
    """Return the names of a convolution and of its normalisation in torchvision and timm."""
    known = ENCODERS[encoder]
    if known.kind == "vgg":
        # features is one sequence: convolution, normalisation if any, ReLU; and pooling after each stage.
        number = sum(known.counts[: conv.level]) + conv.index
        place = number * (3 if has_norms else 2) + conv.level
        return f"features.{place}", f"features.{place + 1}" if has_norms else ""
    if conv.level == 1:
        return "conv1", "bn1"
    size = 3 if known.kind == "bottleneck" else 2
    if conv.name.startswith("shortcut"):
        block = f"layer{conv.level - 1}.{conv.index}.downsample"
        return f"{block}.0", f"{block}.1"
    block, part = f"layer{conv.level - 1}.{conv.index // size}", conv.index % size + 1
    return f"{block}.conv{part}", f"{block}.bn{part}"


def _torch_shapes(encoder: str, convs: list[Convolution], has_norms: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor of an encoder, but for biases of convolutions, which may be missing."""
    for conv in convs:
        name, norm = _torch_names(encoder, conv, has_norms)
        yield f"{name}.weight", (conv.outputs, conv.inputs, conv.kernel_size, conv.kernel_size)
        for part in ("weight", "bias", "running_mean", "running_var") if norm else ():
            yield f"{norm}.{part}", (conv.outputs,)


def _torch_layers(
    tensors: dict[str, np.ndarray], file: epath.Path, config: ModelConfig, convs: list[Convolution]
) -> tuple[list[_Layer], bool]:
    """Return the layers of the encoder among the tensors of torchvision or timm, and whether it has normalisations."""
    encoder = config.encoder
    first = "features.0.weight" if ENCODERS[encoder].kind == "vgg" else "conv1.weight"
    prefix = next((p for p in _PREFIXES if p + first in tensors), "")
    tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    has_norms = ENCODERS[encoder].kind != "vgg" or "features.1.running_mean" in tensors
    wanted = dict(_torch_shapes(encoder, convs, has_norms))
    biases = [f"{_torch_names(encoder, conv, has_norms)[0]}.bias" for conv in convs]
    if problems := _problems(tensors, wanted, biases, prefix):
        fitting = [f"--model.encoder {name}" for name in ENCODERS if name != encoder and _fits(tensors, name)]
        remedy = f"It fits {fitting[0]}." if fitting else "Use another file, or another --model.encoder."
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{file}: does not fit model.encoder {encoder}: {problems[0]}{more}. {remedy}")
    layers = []
    for conv in convs:
        name, norm = _torch_names(encoder, conv, has_norms)
        kernel = np.ascontiguousarray(tensors[f"{name}.weight"].transpose(2, 3, 1, 0), np.float32)
        bias = tensors.get(f"{name}.bias", np.zeros(conv.outputs))
        parts = [tensors[f"{norm}.{x}"] for x in ("weight", "bias", "running_mean", "running_var")] if norm else []
        layers.append(_Layer(kernel, _float32(bias), _norm(conv, parts)))
    return layers, has_norms


def _problems(
    tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], biases: list[str], prefix: str = ""
) -> list[str]:
    """Return what is missing, has another shape, or is left over, one sentence each."""
    problems = []
    for name, shape in wanted.items():
        if name not in tensors:
            problems.append(f"it has no tensor {prefix}{name} ({_shown(shape)})")
        elif tensors[name].shape != shape:
            problems.append(f"{prefix}{name} has the shape {_shown(tensors[name].shape)}, not {_shown(shape)}")
    left = [x for x in tensors if x not in wanted and x not in biases and not x.endswith(_IGNORED)]
    left = [x for x in left if x.startswith(("features.", "conv", "bn", "layer")) and not x.startswith(_CLASSIFIER)]
    return problems + [f"it has a tensor {prefix}{name}, which the encoder has not" for name in left]


def _fits(tensors: Mapping[str, np.ndarray], encoder: str) -> bool:
    """Return whether these are the tensors of another encoder."""
    convs = _encoder_convs(ModelConfig(encoder=encoder))  # type: ignore[arg-type]
    has_norms = ENCODERS[encoder].kind != "vgg" or "features.1.running_mean" in tensors
    biases = [f"{_torch_names(encoder, conv, has_norms)[0]}.bias" for conv in convs]
    return not _problems(tensors, dict(_torch_shapes(encoder, convs, has_norms)), biases)


def _keras_layers(file: epath.Path, config: ModelConfig, convs: list[Convolution]) -> list[_Layer]:
    """Return the layers of the encoder in a Keras file, by the order of its convolutions."""
    if ENCODERS[config.encoder].kind != "vgg":
        raise InputError(
            f"{file}: of Keras's files only those of VGG fit, because Keras's ResNet50 is another one (its strides are "
            f"in the 1x1 convolutions). Use a .safetensors file with torchvision's or timm's weights of "
            f"{config.encoder}."
        )
    found = read_keras_file(file).convs
    shapes = [layer.arrays[0].shape for layer in found]
    wanted = [conv.kernel_shape for conv in convs]
    if shapes != wanted:
        place = next((i for i, (a, b) in enumerate(zip(shapes, wanted, strict=False)) if a != b), None)
        what = (
            f"it has {len(shapes)} convolutions, not {len(wanted)}"
            if place is None
            else f"{found[place].name} has a kernel of {_shown(shapes[place])}, not {_shown(wanted[place])}"
        )
        raise InputError(
            f"{file}: does not fit model.encoder {config.encoder}: {what}. Use another file, or another "
            f"--model.encoder."
        )
    pairs = zip(convs, found, strict=True)
    return [_Layer(*(_float32(x) for x in layer.arrays), norm=_norm(conv, [])) for conv, layer in pairs]


def _norm(conv: Convolution, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return scale, bias, mean and variance; without parts, those of a normalisation that changes nothing."""
    ones, zeros = np.ones(conv.outputs, np.float32), np.zeros(conv.outputs, np.float32)
    if not parts:
        return ones, zeros, zeros, ones - np.float32(NORM_EPS)
    scale, bias, mean, var = (_float32(x) for x in parts)
    return scale, bias, mean, var


def _adapted(layer: _Layer, kind: str, num_channels: int) -> _Layer:
    """Return the first layer for images with this number of channels; see `read_encoder`."""
    kernel, bias = layer.kernel.astype(np.float64), layer.bias.astype(np.float64)
    if kind == "caffe":
        kernel = kernel[:, :, ::-1]  # these weights read blue first
    if num_channels == 1:
        rgb, own = input_statistics(kind, 3), input_statistics(kind, 1)
        if rgb and own:
            (mean, std), ((gray_mean,), (gray_std,)) = (np.asarray(values) for values in rgb), own
            # k_c (x - m_c) / s_c = (k_c s / s_c) (x - m) / s + k_c (m - m_c) / s_c, whose last term is a constant.
            bias = bias + np.einsum("hwcd,c->d", kernel, (gray_mean - mean) / std)
            kernel = kernel * (gray_std / std)[None, None, :, None]
        kernel = kernel.sum(axis=2, keepdims=True)
    elif num_channels != 3:
        kernel = kernel[:, :, [channel % 3 for channel in range(num_channels)]] * (3.0 / num_channels)
    return layer._replace(kernel=_float32(kernel), bias=_float32(bias))


def _trees(convs: list[Convolution], layers: list[_Layer]) -> tuple[PyTree, PyTree]:
    """Return the parameters and the running statistics of the stages."""
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    for conv, (kernel, bias, (scale, offset, mean, var)) in zip(convs, layers, strict=True):
        stage = params.setdefault(conv.stage, {})
        stage[conv.name] = {"kernel": kernel, "bias": bias}
        stage[conv.norm] = {"scale": scale, "bias": offset}
        batch_stats.setdefault(conv.stage, {})[conv.norm] = {"mean": mean, "var": var}
    return params, batch_stats


def _is_finite(layer: _Layer) -> bool:
    return all(np.isfinite(x).all() for x in (layer.kernel, layer.bias, *layer.norm))


def _float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
