"""Writer of tests/golden/networks.npz: logits and gradients of small networks, computed by PyTorch in float64.

    python -m venv torch-env
    torch-env/bin/pip install torch numpy
    torch-env/bin/python scripts/make_golden_networks.py

This script does not import unet_jax. Each network is written out with `torch.nn` modules: a U-Net with residual blocks
in its encoder (conv, norm, act, conv, norm, + input, act), leaky ReLU, other numbers of convolutions in each stage, and
outputs at two resolutions. The weights are random, and are named and laid out as in unet_jax.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "networks.npz"
CLASSES, WIDTHS, CENTER = 2, (3, 4), 5
CONVS_DOWN, CONVS_UP = (2, 4, 2), (1, 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to the input, or to a 1x1 convolution of it."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs)
        self.conv1, self.norm1 = nn.Conv2d(outputs, outputs, 3, padding=1), norm(outputs)
        self.act = nn.LeakyReLU(0.01)
        if inputs != outputs:
            self.shortcut, self.shortcut_norm = nn.Conv2d(inputs, outputs, 1), norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's result."""
        y = self.act(self.norm0(self.conv0(x)))
        y = self.norm1(self.conv1(y))
        if hasattr(self, "shortcut"):
            x = self.shortcut_norm(self.shortcut(x))
        return self.act(y + x)


def residual_stage(inputs: int, outputs: int, num_convs: int, norm: type[nn.Module]) -> nn.Sequential:
    """Return a stage of `num_convs / 2` blocks."""
    channels = [inputs, *[outputs] * (num_convs // 2)]
    return nn.Sequential(*(ResidualBlock(a, b, norm) for a, b in itertools.pairwise(channels)))


def plain_stage(inputs: int, outputs: int, num_convs: int, norm: type[nn.Module]) -> nn.Sequential:
    """Return a stage of convolutions, each with normalisation and activation."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.LeakyReLU(0.01)]
        inputs = outputs
    return nn.Sequential(*layers)


class Network(nn.Module):
    """The whole network, with an output at full and one at half resolution."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.down0 = residual_stage(3, WIDTHS[0], CONVS_DOWN[0], norm)
        self.down1 = residual_stage(WIDTHS[0], WIDTHS[1], CONVS_DOWN[1], norm)
        self.center = residual_stage(WIDTHS[1], CENTER, CONVS_DOWN[2], norm)
        self.up0 = plain_stage(WIDTHS[1] + CENTER, WIDTHS[1], CONVS_UP[1], norm)
        self.up1 = plain_stage(WIDTHS[0] + WIDTHS[1], WIDTHS[0], CONVS_UP[0], norm)
        self.head, self.head1 = nn.Conv2d(WIDTHS[0], CLASSES, 1), nn.Conv2d(WIDTHS[1], CLASSES, 1)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of both resolutions."""
        first = self.down0(x)
        second = self.down1(self.pool(first))
        half = self.up0(torch.cat([second, self.up(self.center(self.pool(second)))], 1))
        full = self.up1(torch.cat([first, self.up(half)], 1))
        return self.head(full), self.head1(half)


def our_name(name: str) -> str:
    """Return the name of a parameter in unet_jax, from down1.0.conv0.weight or up0.3.weight."""
    stage, *middle, kind = name.split(".")
    if not middle:
        return f"{stage}/{'kernel' if kind == 'weight' else kind}"
    if len(middle) == 1:  # a plain stage: convolution, norm, activation, and so on
        index, which = divmod(int(middle[0]), 3)
        layer = f"{('conv', 'norm')[which]}{index}"
    else:
        block, part = int(middle[0]), middle[1]
        layer = f"{part}{block}" if part.startswith("shortcut") else f"{part[:-1]}{2 * block + int(part[-1])}"
    weight = "scale" if "norm" in layer else "kernel"
    return f"{stage}/{layer}/{weight if kind == 'weight' else kind}"


def our_layout(x: torch.Tensor) -> np.ndarray:
    """Return a kernel as `[height width inputs outputs]`, images as `[b h w c]`, and other arrays as they are."""
    array = x.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def main() -> None:
    """Compute and write the file."""
    torch.set_default_dtype(torch.float64)
    arrays: dict[str, np.ndarray] = {}
    norms = {
        "batch": lambda channels: nn.BatchNorm2d(channels, eps=1e-3),
        "instance": lambda channels: nn.InstanceNorm2d(channels, eps=1e-3, affine=True),
    }
    for kind, norm in norms.items():
        torch.manual_seed(0)
        network = Network(norm).train()  # type: ignore[arg-type]
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.7, 0.7)
        images = torch.rand(2, 3, 16, 24)
        logits = network(images)
        weights = [torch.randn_like(x) for x in logits]
        torch.stack([(x * w).sum() for x, w in zip(logits, weights, strict=True)]).sum().backward()
        arrays[f"{kind}/images"] = images.numpy().transpose(0, 2, 3, 1)
        for i, (x, w) in enumerate(zip(logits, weights, strict=True)):
            arrays[f"{kind}/logits{i}"] = x.detach().numpy().transpose(0, 2, 3, 1)
            arrays[f"{kind}/weight{i}"] = w.numpy().transpose(0, 2, 3, 1)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            arrays[f"{kind}/params/{our_name(name)}"] = our_layout(parameter)
            arrays[f"{kind}/grads/{our_name(name)}"] = our_layout(parameter.grad)
    about = {"torch": torch.__version__, "numpy": np.__version__}
    small = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    np.savez_compressed(GOLDEN, about=json.dumps(about), **small)  # type: ignore[arg-type]
    print(f"{GOLDEN}: {len(arrays)} arrays")


if __name__ == "__main__":
    main()
