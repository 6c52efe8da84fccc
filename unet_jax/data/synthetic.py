"""A small synthetic data set of overlapping shapes, drawn from a seed, to try everything on."""

import cv2
import numpy as np
from etils import epath

from unet_jax._types import InputError, Sample
from unet_jax.data.pixels import write_png

_SHAPE_NAMES = ("disk", "square", "ring", "triangle", "cross")
_FOREGROUND_RANGE = (0.10, 0.22)  # radius of a shape as a fraction of the image's side


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return the class names: disk, square, ring, triangle, cross, then disk2, square2, ..."""
    rounds = [(i // len(_SHAPE_NAMES), _SHAPE_NAMES[i % len(_SHAPE_NAMES)]) for i in range(num_classes)]
    return tuple(name if turn == 0 else f"{name}{turn + 1}" for turn, name in rounds)


def synthetic_sample(rng: np.random.Generator, image_size: int, num_classes: int) -> Sample:
    """Draw one image with one to three shapes of each class.

    Where shapes overlap, their colours mix and all of their masks contain the pixel. Class k is recognisable by its
    shape and roughly by its hue.

    Args:
      rng: the only source of randomness.
      image_size: height and width h, in pixels.
      num_classes: number of classes k.

    Returns:
      Image `[h h 3]` uint8 RGB and mask `[h h k]` uint8, 0 or 255.
    """
    size = image_size
    noise = rng.normal(0.0, 1.0, (max(2, size // 16), max(2, size // 16), 3)).astype(np.float32)
    background = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    canvas = rng.uniform(60, 120) + 14.0 * background
    mask = np.zeros((size, size, num_classes), np.uint8)
    for k in range(num_classes):
        for _ in range(rng.integers(1, 4)):
            shape = _draw_shape(rng, size, _SHAPE_NAMES[k % len(_SHAPE_NAMES)])
            hue = (k * 180 / num_classes + rng.uniform(-6, 6)) % 180
            hsv = np.array([[[hue, rng.uniform(130, 220), rng.uniform(150, 240)]]], np.uint8)
            color = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
            opacity = rng.uniform(0.55, 0.8)
            inside = shape > 0
            canvas[inside] = (1.0 - opacity) * canvas[inside] + opacity * color
            mask[..., k] |= shape
    canvas = cv2.GaussianBlur(canvas, (0, 0), max(0.6, size / 256)) + rng.normal(0.0, 6.0, canvas.shape)
    return Sample(np.clip(np.round(canvas), 0, 255).astype(np.uint8), mask)


def _draw_shape(rng: np.random.Generator, size: int, name: str) -> np.ndarray:
    """Draw one shape at a random place: `[size size]` uint8, 255 inside."""
    plane = np.zeros((size, size), np.uint8)
    radius = rng.uniform(*_FOREGROUND_RANGE) * size
    center = rng.uniform(radius, size - radius, 2)
    angle = rng.uniform(0.0, 2.0 * np.pi)

    def polygon(angles: np.ndarray, radii: np.ndarray) -> None:
        points = center + radii[:, None] * np.stack([np.cos(angle + angles), np.sin(angle + angles)], axis=-1)
        cv2.fillPoly(plane, [np.round(points).astype(np.int32)], 255)

    point = (round(center[0]), round(center[1]))
    match name:
        case "disk":
            cv2.circle(plane, point, round(radius), 255, -1)
        case "square":
            polygon(np.arange(4) * np.pi / 2, np.full(4, radius))
        case "ring":
            cv2.circle(plane, point, round(radius), 255, -1)
            cv2.circle(plane, point, min(round(0.55 * radius), round(radius) - 1), 0, -1)
        case "triangle":
            polygon(np.arange(3) * 2 * np.pi / 3, np.full(3, 1.15 * radius))
        case "cross":
            arm = 0.3
            for turn in (0.0, np.pi / 2):
                offsets = np.array([-arm, arm, np.pi - arm, np.pi + arm]) + turn
                polygon(offsets, np.full(4, radius))
    return plane


def write_synthetic(
    out: epath.Path, *, num_images: int, image_size: int, num_classes: int, seed: int
) -> tuple[str, ...]:
    """Write a data set: images/, masks/CLASS/ and splits.csv (60 % train, 20 % val, 20 % test).

    For a given size and number of classes, image i depends on (seed, i) alone.

    Args:
      out: folder of the data set.
      num_images: number of images, at least 1.
      image_size: height and width of the images, in pixels, at least 8.
      num_classes: number of classes, at least 1.
      seed: seed of the images.

    Returns:
      The class names.

    Raises:
      InputError: a number is too small, or `out` already holds a file that this call would not write.
    """
    for name, value, least in (
        ("num_images", num_images, 1),
        ("image_size", image_size, 8),
        ("num_classes", num_classes, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}, but must be at least {least}.")
    names = class_names(num_classes)
    ids = [f"{i:04d}" for i in range(num_images)]
    written = {out / "splits.csv"}.union(
        out / folder / f"{id_}.png" for folder in ("images", *(f"masks/{name}" for name in names)) for id_ in ids
    )
    foreign = sorted(set(_files_below(out)) - written)
    if foreign:
        raise InputError(
            f"{out}: already holds other files, such as {foreign[0]}. Choose another folder, or empty this one."
        )
    lines = ["id,split"]
    for i, id_ in enumerate(ids):
        sample = synthetic_sample(np.random.default_rng((seed, i)), image_size, num_classes)
        write_png(out / "images" / f"{id_}.png", sample.image)
        for k, name in enumerate(names):
            write_png(out / "masks" / name / f"{id_}.png", sample.mask[..., k])
        lines.append(f"{id_},{('train', 'train', 'train', 'val', 'test')[i % 5]}")
    (out / "splits.csv").write_text("\n".join(lines) + "\n")
    return names


def _files_below(path: epath.Path) -> list[epath.Path]:
    """List the files in a folder and its subfolders, without hidden ones; a path that is a file is listed itself."""
    if not path.exists():
        return []
    if not path.is_dir():
        return [path]
    return [file for entry in path.iterdir() if not entry.name.startswith(".") for file in _files_below(entry)]
