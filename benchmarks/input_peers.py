"""Other loaders of the same files, for bench_input. Each is a function that makes an iterator of batches."""

import math
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from unet_jax.config import DataConfig
from unet_jax.data.sources import FileSource, ResizedSource, Source

HUE, SATURATION, VALUE, SHIFT, SCALE = 50, 5, 15, 0.0625, 0.1


def _seed_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift hue, saturation and value with probability 1/2, as the Keras original does."""
    if rng.random() < 0.5:
        h, s, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
        h = cv2.add(h, rng.uniform(-HUE, HUE))  # type: ignore
        s = cv2.add(s, rng.uniform(-SATURATION, SATURATION))  # type: ignore
        v = cv2.add(v, rng.uniform(-VALUE, VALUE))  # type: ignore
        image = cv2.cvtColor(cv2.merge((h, s, v)), cv2.COLOR_HSV2BGR)
    return image


def _seed_warp(image: np.ndarray, masks: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """Shift and scale, and flip, each with probability 1/2, as the Keras original does."""
    if rng.random() < 0.5:
        height, width = image.shape[:2]
        angle, scale = rng.uniform(-0.0, 0.0), rng.uniform(1 - SCALE, 1 + SCALE)
        dx, dy = (round(rng.uniform(-SHIFT, SHIFT) * side) for side in (width, height))
        cos, sin = math.cos(angle / 180 * math.pi) * scale, math.sin(angle / 180 * math.pi) * scale
        box = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        moved = (box - [width / 2, height / 2]) @ np.array([[cos, -sin], [sin, cos]]).T
        moved = np.add(moved, (width / 2 + dx, height / 2 + dy))
        matrix = cv2.getPerspectiveTransform(box.astype(np.float32), moved.astype(np.float32))
        options: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT}
        image = cv2.warpPerspective(image, matrix, (width, height), **options)
        masks = [cv2.warpPerspective(m, matrix, (width, height), **options) for m in masks]
    if rng.random() < 0.5:
        image, masks = cv2.flip(image, 1), [cv2.flip(m, 1) for m in masks]
    return image, masks


def seed_generator(
    source: FileSource, size: tuple[int, int], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run the Keras original's loop with its OpenCV calls, in one thread, to float32 (its `NameError` is corrected)."""
    rng = np.random.default_rng(0)
    while True:
        for start in range(0, len(source) - batch_size + 1, batch_size):
            x_batch, y_batch = [], []
            for record in source.records[start : start + batch_size]:
                image = cv2.resize(cv2.imread(str(record.image)), size[::-1])  # type: ignore[arg-type]
                paths = [str(path) for files in record.masks for path in files]
                grays = [cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in paths]
                masks = [cv2.resize(gray, size[::-1]) for gray in grays]  # type: ignore[arg-type]
                image, masks = _seed_warp(_seed_colors(image, rng), masks, rng)
                x_batch.append(image)
                y_batch.append(np.stack(masks, axis=-1))
            yield np.array(x_batch, np.float32) / 255, np.array(y_batch, np.float32) / 255


class _PlainSample(grain.transforms.RandomMap):
    """Transform that reads and augments the sample at a position."""

    def __init__(self, source: Source):
        self._source = source

    def random_map(self, element: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, mask, _ = self._source[element]
        masks = [np.ascontiguousarray(mask[..., k]) for k in range(mask.shape[-1])]
        image, masks = _seed_warp(_seed_colors(image, rng), masks, rng)
        return image, np.stack(masks, axis=-1)


def plain_grain(source: FileSource, config: DataConfig, batch_size: int, num_threads: int) -> Iterator[Any]:
    """Make a pipeline of Grain's own shuffle, random_map and batch, with the Keras original's OpenCV calls.

    Files are read by our `FileSource`, and pixels stay bytes.
    """
    dataset = grain.MapDataset.range(len(source)).shuffle(seed=0).repeat()
    dataset = dataset.random_map(_PlainSample(ResizedSource(source, config)), seed=0)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2)))


def torch_albumentations(
    source: FileSource, size: tuple[int, int], batch_size: int, num_workers: int, cached: Source | None = None
) -> Iterator[Any]:
    """Make a DataLoader with worker processes and albumentations' versions of the changes; pixels stay bytes.

    Args:
      source: samples, of which the paths are used.
      size: height and width of the result, in pixels.
      batch_size: samples in a batch.
      num_workers: number of worker processes.
      cached: our cache of resized samples, which is read instead of the files if it is given.

    Raises:
      ImportError: one of the packages is not installed.
    """
    import albumentations as A
    import torch
    from torch.utils.data import DataLoader, Dataset

    changes = [
        A.HueSaturationValue(HUE, SATURATION, VALUE, p=0.5),
        A.Affine(
            translate_percent=(-SHIFT, SHIFT),
            scale=(1 - SCALE, 1 + SCALE),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_LINEAR,
            p=0.5,
        ),
        A.HorizontalFlip(p=0.5),
    ]
    resize = [A.Resize(*size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_LINEAR)]
    transform = A.Compose(changes if cached else resize + changes)
    paths = [(str(r.image), [str(p) for files in r.masks for p in files]) for r in source.records]

    class Files(Dataset):
        """All samples, 100 times over."""

        def __len__(self) -> int:
            return len(paths) * 100

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            index %= len(paths)
            if cached is not None:
                image, mask, _ = cached[index]
            else:
                image = cv2.cvtColor(cv2.imread(paths[index][0]), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
                mask = np.stack([cv2.imread(p, cv2.IMREAD_GRAYSCALE) for p in paths[index][1]], axis=-1)  # type: ignore
            out = transform(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
            return torch.from_numpy(out["image"]), torch.from_numpy(np.ascontiguousarray(out["mask"]))

    return iter(
        DataLoader(
            Files(),
            batch_size=batch_size,
            shuffle=True,
            num_workers=num_workers,
            worker_init_fn=lambda _: cv2.setNumThreads(0),
            persistent_workers=num_workers > 0,
        )
    )
