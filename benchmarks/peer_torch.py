"""Implementation for `peer.py`: the network, the loss and the update in PyTorch, as its documentation advises.

It uses channels last, autocast to bfloat16, cuDNN's search for the fastest algorithms and the fused optimizer. The
variant "PyTorch compiled" uses `torch.compile` as well.
"""

import contextlib
import os

import numpy as np
import torch
from network import by_stage
from peer import Peer, Task
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Sequence of `num_convs` 3x3 convolutions, each followed by batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels: int, num_convs: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(num_convs):
            conv = nn.Conv2d(channels_in if i == 0 else channels, channels, 3, padding="same")
            layers += [conv, nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class UNet(nn.Module):
    """Network of the task."""

    def __init__(self, task: Task):
        super().__init__()
        network, channels = task.network, 3
        self.down = nn.ModuleList()
        for width in network.widths:
            self.down.append(Block(channels, width, network.num_convs_down))
            channels = width
        self.center = Block(channels, network.center_width, network.num_convs_down)
        channels = network.center_width
        self.up = nn.ModuleList()
        for width in reversed(network.widths):
            self.up.append(Block(width + channels, width, network.num_convs_up))
            channels = width
        self.head = nn.Conv2d(channels, network.num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.center(x)
        for block in self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


def bce_dice(logits: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Compute the mean BCE plus one soft Dice loss over the batch and its classes."""
    p = torch.sigmoid(logits)
    dice = (2.0 * (p * t).sum() + 1.0) / (p.sum() + t.sum() + 1.0)
    return F.binary_cross_entropy_with_logits(logits, t) + 1.0 - dice


class Torch:
    """Training step of PyTorch, with its weights and its batch."""

    def __init__(self, task: Task, compiled: bool, weights: list[np.ndarray], image: np.ndarray, label: np.ndarray):
        on_gpu = torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS") != "cpu"
        self.device = torch.device("cuda" if on_gpu else "cpu")
        torch.backends.cudnn.benchmark = True
        # Allow TF32 in matrix products, as JAX does by default on GPUs. cuDNN's convolutions use it anyway.
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(0)
        model = UNet(task)
        load(model, task, weights)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=task.learning_rate, fused=True)
        self.low = task.dtype == "bfloat16"
        pixels = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (image, label))  # already channels last in memory
        self.image, self.label = (x.to(self.device) for x in pixels)
        self.forward_and_loss = torch.compile(self.loss) if compiled else self.loss

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the network runs in the dtype of the task."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.low else contextlib.nullcontext()

    def loss(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Compute the mean BCE plus one soft Dice loss over the batch and its classes."""
        with self.autocast():
            logits = self.model(image.float() / 255.0)
        return bce_dice(logits.float(), label.float() / 255.0)

    def launch(self) -> torch.Tensor:
        """Start one update, and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.update()

    def update(self) -> torch.Tensor:
        """Start the update without clearing the gradients before, and return its loss."""
        loss = self.forward_and_loss(self.image, self.label)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train_step(self) -> torch.Tensor:
        loss = self.launch()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return loss

    def logits(self) -> np.ndarray:
        self.model.eval()
        with torch.no_grad(), self.autocast():
            logits = self.model(self.image.float() / 255.0)
        self.model.train()
        return logits.float().permute(0, 2, 3, 1).cpu().numpy()

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


def load(model: UNet, task: Task, weights: list[np.ndarray]) -> None:
    """Copy weights in Keras's order into the model."""
    blocks: dict[str, Block] = {f"down{i}": block for i, block in enumerate(model.down)}  # type: ignore[misc]
    blocks |= {"center": model.center, **{f"up{i}": block for i, block in enumerate(model.up)}}  # type: ignore[dict-item]
    with torch.no_grad():
        for name, arrays in by_stage(task.network, weights).items():
            stage, _, index = name.partition("/")
            conv = blocks[stage].layers[3 * int(index)] if index else model.head
            tensors = [conv.weight, conv.bias]
            if index:
                norm = blocks[stage].layers[3 * int(index) + 1]
                tensors += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
            values = [arrays[0].transpose(3, 2, 0, 1), *arrays[1:]]
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)))  # type: ignore[union-attr]


def make(variant: str, task: Task, weights: list[np.ndarray], image: np.ndarray, label: np.ndarray) -> Peer:
    """Make the implementation of a variant."""
    return Torch(task, variant.startswith("PyTorch compiled"), weights, image, label)
