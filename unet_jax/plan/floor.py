"""A lower bound on the work of a step, for any implementation."""

from unet_jax.config import Config
from unet_jax.model.architecture import list_convolutions
from unet_jax.plan.targets import Chip


def floor(
    config: Config, num_classes: int, program: str, images: float, chip: Chip | None, num_channels: int = 3
) -> dict[str, float]:
    """Return a rough lower bound on the work of one device: flops, bytes, and for a known chip ms and cycles.

    FLOPs are those of the convolutions, without the zeros of packing. A training step does them three times: forward,
    gradient of the inputs, gradient of the kernels. Bytes count the output of every convolution in the dtype of
    activations. A forward pass writes it once and reads it once. A training step moves it six times more: the gradient
    is written once and read twice, and the output is read again by the gradients of the normalisation, of the
    convolution itself, and of the next convolution's kernel. Statistics, ReLU, pooling and up-sampling cost nothing in
    this bound.

    Args:
      config: settings of the network, the image size and the dtype.
      num_classes: output channels.
      program: train or predict.
      images: images in a step on one device.
      chip: the device, or None if it is not known.
      num_channels: channels of the images.
    """
    item = 2 if config.model.dtype == "bfloat16" else 4
    flops, num_bytes = 0.0, 0.0
    for conv in list_convolutions(config.model, num_classes, num_channels):
        height, width = (side >> conv.level for side in config.data.height_and_width)
        pixels = images * height * width
        flops += pixels * 2 * conv.kernel_size**2 * conv.inputs * conv.outputs
        num_bytes += pixels * conv.outputs * item
    flops, num_bytes = (3 * flops, 8 * num_bytes) if program == "train" else (flops, 2 * num_bytes)
    result = {"flops": flops, "bytes": num_bytes}
    if chip:
        seconds = max(flops / chip.flops_per_s, num_bytes / chip.bytes_per_s)
        result["ms"] = 1e3 * seconds
        if chip.clock_hz:
            result["cycles"] = seconds * chip.clock_hz
    return result
