"""The least work that any implementation of a step must do."""

from unet_jax.config import Config
from unet_jax.model.architecture import convolutions
from unet_jax.plan.targets import Chip


def floor(config: Config, num_classes: int, program: str, images: float, chip: Chip | None) -> dict[str, float]:
    """The least that any implementation must do on one device, as a rough bound.

    FLOPs are the convolutions' own, without packing's zeros; a training step does them three times (forward, gradient
    of inputs, gradient of kernels). Bytes are every convolution's output in the activations' dtype, written once and
    read once forward; and in a training step six times more: the gradient is written once and read twice, the output
    is read again by the normalisation's gradient, by the convolution's own and by the next one's kernel gradient.
    Statistics, ReLU, pooling and up-sampling are counted as if they cost nothing.
    """
    convs = convolutions(config.model, num_classes, config.data.image_size)
    item = 2 if config.model.dtype == "bfloat16" else 4
    flops = images * sum(2 * c["kernel"] ** 2 * c["inputs"] * c["outputs"] * c["side"] ** 2 for c in convs)
    num_bytes = images * sum(c["outputs"] * c["side"] ** 2 * item for c in convs)
    flops, num_bytes = (3 * flops, 8 * num_bytes) if program == "train" else (flops, 2 * num_bytes)
    result = {"flops": flops, "bytes": num_bytes}
    if chip:
        seconds = max(flops / chip.flops_per_s, num_bytes / chip.bytes_per_s)
        result["ms"] = 1e3 * seconds
        if chip.clock_hz:
            result["cycles"] = seconds * chip.clock_hz
    return result
