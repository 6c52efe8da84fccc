"""Image files for input benchmarks: synthetic images of the size and format of photographs."""

import cv2
import numpy as np
from etils import epath

from unet_jax.data.pixels import write_png
from unet_jax.data.synthetic import class_names, synthetic_sample

WIDTH, HEIGHT = 1918, 1280


def write_photos(root: epath.Path, *, num_images: int, num_classes: int) -> None:
    """Write images/ID.jpg of 1918x1280 pixels at quality 95, and masks/CLASS/ID.png, unless they exist."""
    for i in range(num_images):
        image_path = root / "images" / f"{i:04d}.jpg"
        if image_path.exists():
            continue
        sample = synthetic_sample(np.random.default_rng((0, i)), WIDTH, num_classes)
        for k, name in enumerate(class_names(num_classes)):
            write_png(root / "masks" / name / f"{i:04d}.png", sample.mask[:HEIGHT, :, k])
        ok, data = cv2.imencode(".jpg", sample.image[:HEIGHT, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert ok
        image_path.parent.mkdir(parents=True, exist_ok=True)
        image_path.write_bytes(data.tobytes())
