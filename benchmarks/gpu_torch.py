"""Measurements of the variants of `gpu_pieces.py` in PyTorch, for `gpu_worker.py`. Nothing here imports jax.

The network is that of `peer_torch.py`: channels last, autocast in bfloat16 (TF32 in float32), the fused Adam.
"""

import gc
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_pieces import Variant
from gpu_timing import convolution_rates, time_blocks
from network import Network, forward_flops, random_pixels, random_weights, training_flops
from peer import Task
from peer_torch import Torch
from torch.nn import functional as F

Row = dict[str, Any]
_ON_GPU = torch.cuda.is_available()
_DEVICE = torch.device("cuda" if _ON_GPU else "cpu")
LEARNING_RATE = 1e-4


def facts() -> dict[str, Any]:
    """Return device and versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if _ON_GPU:
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return {"device": torch.cuda.get_device_name() if _ON_GPU else "cpu", "versions": versions}


def measure(variant: Variant) -> Iterator[Row]:
    """Measure a variant, and yield a row for each of its programs as soon as it is finished."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    if not _ON_GPU:
        torch.set_num_threads(1)  # threads that wait for each other make tiny steps slow on a busy machine
    kinds = {"ceilings": _ceilings, "convolution": _convolution, "steps": _steps}
    try:
        yield from kinds[variant["kind"]](variant)
    finally:
        gc.collect()
        torch.compiler.reset()  # programs of other shapes are compiled for these alone
        if _ON_GPU:
            torch.cuda.empty_cache()


def _wait(_: Any = None) -> None:
    if _ON_GPU:
        torch.cuda.synchronize()


def _ceilings(variant: Variant) -> Iterator[Row]:
    """Time a large matrix product of each dtype, and a large copy."""
    side = variant["matrix"]
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=_DEVICE).to(dtype) for _ in range(2))
        row = time_blocks(lambda: a @ b, _wait, 0.1)  # noqa: B023
        name = f"matrix product, {str(dtype).removeprefix('torch.')}"
        yield {"program": name, **row, "flops_per_s": 2e3 * side**3 / row["ms"]}
    x = torch.randn(variant["copied_bytes"] // 4, device=_DEVICE)
    row = time_blocks(x.neg_, _wait, 0.1)
    yield {"program": "copy", **row, "bytes_per_s": 2e3 * variant["copied_bytes"] / row["ms"]}


def _convolution(variant: Variant) -> Iterator[Row]:
    """Time one convolution and its two gradients, as in `gpu_jax.py`."""
    (own, out), side, batch = variant["channels"], variant["side"], variant["batch_size"]
    dtype, layout = getattr(torch, variant["dtype"]), torch.channels_last

    def pixels(channels: int) -> torch.Tensor:
        return torch.randn(batch, channels, side, side, device=_DEVICE).to(dtype, memory_format=layout)

    x, gradient = pixels(own), pixels(out)
    kernel = torch.randn(out, own, 3, 3, device=_DEVICE).to(dtype, memory_format=layout)

    def backward(mask: list[bool]) -> Callable[[], Any]:
        return lambda: torch.ops.aten.convolution_backward(
            gradient, x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
        )

    functions = {
        "forward": lambda: F.conv2d(x, kernel, padding=1),
        "input gradient": backward([True, False, False]),
        "kernel gradient": backward([False, True, False]),
    }
    for name, function in functions.items():
        row = time_blocks(function, _wait, variant["block_s"])
        yield {"program": name, **row, **convolution_rates(variant, row["ms"])}


class _Step(Torch):
    """Training and prediction step of a variant, with the weights that the other implementations begin with."""

    def __init__(self, variant: Variant):
        network = Network(
            tuple(variant["widths"]), variant["center_width"], variant["num_classes"], 2, variant["num_convs_up"]
        )
        task = Task(network, variant["dtype"], LEARNING_RATE)
        pixels = random_pixels(variant["batch_size"], variant["image_size"], network.num_classes)
        super().__init__(task, False, random_weights(network), *pixels)
        implementation = variant["implementation"]
        if "compiled" in implementation:
            mode = "reduce-overhead" if "CUDA graphs" in implementation else "default"
            # Without a GPU only what comes before Inductor is tried: it would wait minutes for a C++ compiler.
            how: dict[str, Any] = {"mode": mode} if _ON_GPU else {"backend": "aot_eager"}
            self.forward_and_loss = torch.compile(self.loss, dynamic=False, **how)
            self.probabilities = torch.compile(self.probabilities, dynamic=False, **how)

    def launch(self) -> torch.Tensor:
        """Start one update, and return its loss."""
        torch.compiler.cudagraph_mark_step_begin()
        return super().launch()

    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Compute probabilities `[b k h w]` float32 of images of bytes."""
        with self.autocast():
            logits = self.model(image.float() / 255.0)
        return torch.sigmoid(logits.float())

    def predict(self) -> torch.Tensor:
        """Start one prediction."""
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            return self.probabilities(self.image)


def _steps(variant: Variant) -> Iterator[Row]:
    """Time the training step, with the losses of the first two, and the prediction step."""
    network = Network(
        tuple(variant["widths"]), variant["center_width"], variant["num_classes"], 2, variant["num_convs_up"]
    )
    for name in variant["programs"]:
        if _ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        begin, step = time.perf_counter(), _Step(variant)
        if name == "train":
            launch = _graph_of(step) if "CUDA graph of the step" in variant["implementation"] else step.launch
            checked: Row = {"losses": [float(launch()) for _ in range(2)]}
            count = training_flops
        else:
            step.model.eval()
            launch, count = step.predict, forward_flops
            checked = {"mean_probability": float(launch().mean())}
        row = {"program": name, "first_s": time.perf_counter() - begin, **checked}
        row |= time_blocks(launch, _wait, variant["block_s"])
        images_per_s = 1e3 * variant["batch_size"] / row["ms"]
        row |= {"images_per_s": images_per_s, "flops_per_s": images_per_s * count(network, variant["image_size"])}
        yield {**row, "peak_bytes": step.peak_bytes()}


def _graph_of(step: _Step) -> Callable[[], torch.Tensor]:
    """Return a function that replays an update recorded as one CUDA graph; without a GPU, the update itself.

    As PyTorch's documentation asks, the graph is recorded after some updates on another stream, with gradients that it
    allocates itself, and the optimizer keeps its number of steps on the device. The weights and the optimizer's state
    are then set back in place: the first losses are those of the other implementations.
    """
    step.optimizer = torch.optim.Adam(step.model.parameters(), lr=LEARNING_RATE, fused=True, capturable=_ON_GPU)
    first = {name: value.clone() for name, value in step.model.state_dict().items()}
    launch: Callable[[], torch.Tensor] = step.launch
    if _ON_GPU:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            _warm_up(step)
        torch.cuda.current_stream().wait_stream(stream)
        step.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step.update()

        def launch() -> torch.Tensor:
            graph.replay()
            return loss
    else:
        _warm_up(step)
    step.model.load_state_dict(first)
    for values in step.optimizer.state.values():
        for value in values.values():
            value.zero_()
    return launch


def _warm_up(step: _Step) -> None:
    for _ in range(3):  # cuDNN searches for its algorithms, and the optimizer allocates its state
        step.launch()
