"""A training loop as one writes it in PyTorch, for a budget of time: for `bench_auto.py`, which starts it as a process.

    python benchmarks/recipe_torch.py TASK.json

AdamW with a one-cycle schedule to 2e-3, BCE plus soft Dice over the batch, flips and small changes of brightness,
images stretched to one size and kept in memory. The network is the same as that of preset `default` ("PyTorch") or
`segmentation_models_pytorch.Unet` with an encoder without pretrained weights ("smp resnet18"). Five steps are timed,
and the rest of the budget decides the number of updates. The last weights are scored.
"""

import json
import pathlib
import sys
import time
import types
from typing import Any

import cv2
import numpy as np
import torch
from network import Network
from peer_torch import UNet, bce_dice
from torch import nn
from torch.nn import functional as F

_TIMED_STEPS = 5
_RESERVE_S = 3.0


def make_network(name: str, num_classes: int) -> nn.Module:
    """Return the network of a variant."""
    if name != "PyTorch":
        import segmentation_models_pytorch as smp

        return smp.Unet(name.removeprefix("smp "), encoder_weights=None, classes=num_classes)
    network = Network((16, 32, 64, 128), 256, num_classes, 2, 2)
    model = UNet(types.SimpleNamespace(network=network))  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = 0.1, 1e-5  # PyTorch's own
    return model


def read(task: dict[str, Any], split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return images `[h w 3]` and masks `[h w k]` of a split, at their own size."""
    pairs = []
    for sample in task["samples"][split]:
        image = np.ascontiguousarray(np.asarray(cv2.imread(sample["image"], cv2.IMREAD_COLOR))[..., ::-1])
        masks = [np.asarray(cv2.imread(path, cv2.IMREAD_GRAYSCALE)) for path in sample["masks"]]
        pairs.append((image, np.stack(masks, axis=-1)))
    return pairs


def tensor(pairs: list[tuple[np.ndarray, np.ndarray]], index: int, side: int, interpolation: int) -> torch.Tensor:
    """Return the images (index 0) or masks (1) of pairs, resized to a square, as `[n c h w]` uint8."""
    resized = []
    for pair in pairs:
        pixels = cv2.resize(pair[index], (side, side), interpolation=interpolation)
        resized.append(pixels if pixels.ndim == 3 else pixels[..., None])
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def changed(image: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip an image and its masks, and change its brightness and contrast."""
    dims = [dim for dim in (1, 2) if rng.random() < 0.5]
    image, mask = image.float().div(255.0).flip(dims), mask.flip(dims)
    factor, offset = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
    return (image * factor + offset).clamp(0.0, 1.0), (mask >= 128).float()


def train(task: dict[str, Any], begin: float) -> tuple[nn.Module, int]:
    """Train until the budget ends; return the network and the number of updates."""
    torch.manual_seed(task["seed"])
    rng, side, batch_size = np.random.default_rng(task["seed"]), task["side"], task["batch_size"]
    pairs = read(task, "train")
    images, masks = tensor(pairs, 0, side, cv2.INTER_AREA), tensor(pairs, 1, side, cv2.INTER_NEAREST)
    model = make_network(task["method"], masks.shape[1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule: Any = None
    end, step, order, start = begin + 60.0 * task["minutes"] - _RESERVE_S, 0, np.zeros(0, int), 0.0
    num_steps = None
    model.train()
    while num_steps is None or step < num_steps:
        if len(order) < batch_size:
            order = rng.permutation(len(images))
        chosen, order = order[:batch_size], order[batch_size:]
        batch = [changed(images[i], masks[i], rng) for i in chosen]
        x = torch.stack([image for image, _ in batch]).contiguous(memory_format=torch.channels_last)
        t = torch.stack([mask for _, mask in batch])
        optimizer.zero_grad(set_to_none=True)
        bce_dice(model(x), t).backward()
        optimizer.step()
        step += 1
        if num_steps is None:
            if step == 1:
                start = time.perf_counter()  # the first step warms up
                optimizer.param_groups[0]["lr"] = 2e-4
            elif step == 1 + _TIMED_STEPS:
                one = (time.perf_counter() - start) / _TIMED_STEPS
                num_steps = max(step + 1, step + int((end - time.time()) / one))
                schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=num_steps - step)
        elif step < num_steps:
            schedule.step()
        if time.time() > end:
            break
    return model, step


def dice_of_images(model: nn.Module, task: dict[str, Any]) -> dict[str, list[float]]:
    """Return the Dice of each class of each test image, at its own size."""
    model.eval()
    scores = {}
    pairs = read(task, "test")
    for sample, (image, mask) in zip(task["samples"]["test"], pairs, strict=True):
        x = tensor([(image, mask)], 0, task["side"], cv2.INTER_AREA).float().div(255.0)
        with torch.no_grad():
            probs = torch.sigmoid(model(x))
        size = (mask.shape[0], mask.shape[1])
        found = F.interpolate(probs, size, mode="bilinear")[0].permute(1, 2, 0).numpy() > 0.5
        truth = mask >= 128
        both, total = (found & truth).sum(axis=(0, 1)), found.sum(axis=(0, 1)) + truth.sum(axis=(0, 1))
        scores[sample["id"]] = [float(2 * b / n) if n else 1.0 for b, n in zip(both, total, strict=True)]
    return scores


def main(path: str) -> None:
    """Train and score, and write the results where the task says."""
    begin, task = time.time(), json.loads(pathlib.Path(path).read_text())
    model, num_steps = train(task, begin)
    seconds = time.time() - begin
    report = {"dice": dice_of_images(model, task), "num_steps": num_steps, "train_s": seconds}
    pathlib.Path(task["out"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
