"""Writer of tests/golden/encoders.npz: features of image classifiers with torchvision's names, computed by PyTorch.

    python -m venv torch-env
    torch-env/bin/pip install torch numpy
    torch-env/bin/python scripts/make_golden_encoders.py

This script imports neither unet_jax nor torchvision. The networks are written out here with the structure and the names
of torchvision's (VGG with batch normalisation; ResNet with basic blocks or bottlenecks, whose stride is in the 3x3
convolution). The weights are a function of each tensor's name and shape, `weights_of`, so that the file needs to hold
only the names, the shapes and the features. The tests have the same function.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "encoders.npz"
VGG = {"vgg11_bn": "A", "vgg13_bn": "B", "vgg16_bn": "D"}
LAYERS = {
    "A": [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "B": [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "D": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
}
RESNET = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights of a tensor: float32 numbers that depend on its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:
        return rng.normal(0.0, np.sqrt(1.5 / np.prod(shape[1:])), shape).astype(np.float32)
    low, high = {"weight": (0.5, 1.0), "running_var": (0.5, 1.5)}.get(name.rsplit(".", 1)[-1], (-0.3, 0.3))
    return rng.uniform(low, high, shape).astype(np.float32)


class Vgg(nn.Module):
    """VGG with batch normalisation; its features are the results of each stage, before pooling."""

    def __init__(self, letter: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in LAYERS[letter]:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, int(width), 3, padding=1), nn.BatchNorm2d(int(width)), nn.ReLU(True)]
                channels = int(width)
        self.features = nn.Sequential(*layers)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the result of each stage."""
        results = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                results.append(x)
            x = layer(x)
        return results


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's result."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, and the input."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride != 1 or inputs != 4 * planes:
            convolution = nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's result."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet; its features are the result of the first convolution, and those of the four stages."""

    def __init__(self, counts: tuple[int, ...], *, has_bottlenecks: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, block, growth = 64, Bottleneck if has_bottlenecks else BasicBlock, 4 if has_bottlenecks else 1
        for i, (count, planes) in enumerate(zip(counts, (64, 128, 256, 512), strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(block(channels, planes, 2 if i and not j else 1))
                channels = growth * planes
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the result of each stage."""
        results = [torch.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(results[0])
        for i in (1, 2, 3, 4):
            x = getattr(self, f"layer{i}")(x)
            results.append(x)
        return results


def main() -> None:
    """Compute and write the file."""
    torch.manual_seed(0)
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, dict[str, list[int]]] = {}
    image = torch.rand(1, 3, 32, 32)
    arrays["image"] = image.numpy().transpose(0, 2, 3, 1)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (MEAN, STD))
    for name in (*VGG, *RESNET):
        if name in VGG:
            network: Vgg | ResNet = Vgg(VGG[name])
        else:
            network = ResNet(RESNET[name], has_bottlenecks=name == "resnet50")
        state = network.eval().state_dict()
        shapes[name] = {key: list(x.shape) for key, x in state.items() if x.ndim}
        network.load_state_dict(
            {key: torch.from_numpy(weights_of(key, tuple(x.shape))) if x.ndim else x for key, x in state.items()}
        )
        with torch.no_grad():
            for i, x in enumerate(network.stages((image - mean) / std)):
                # Every 16th channel, to keep the file small.
                arrays[f"{name}/{i}"] = x.numpy().transpose(0, 2, 3, 1)[..., ::16]
    about = json.dumps({"torch": torch.__version__, "numpy": np.__version__, "shapes": shapes})
    np.savez_compressed(GOLDEN, about=about, **arrays)  # type: ignore[arg-type]
    print(f"{GOLDEN}: {len(arrays)} arrays")


if __name__ == "__main__":
    main()
