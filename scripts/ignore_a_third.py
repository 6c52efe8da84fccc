"""Copy a data set of PNG files, and ignore a third of each image: random blobs, under which the masks are inverted.

A network that learned anything from ignored pixels would learn the opposite of the truth (docs/data.md has the result).

    python scripts/ignore_a_third.py WBC WBC_IGNORED
"""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np


def read(file: Path) -> np.ndarray:
    """Return the pixels of a file as gray levels, `[h w]` uint8."""
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        sys.exit(f"{file}: cannot be read as an image.")
    return pixels


def main(source: Path, out: Path) -> None:
    """Write the copy, with ignore/ID.png for each images/ID.png."""
    shutil.copytree(source, out)
    (out / "ignore").mkdir()
    rng = np.random.default_rng(0)
    for image in sorted((out / "images").iterdir()):
        noise = cv2.GaussianBlur(rng.normal(size=read(image).shape), (0, 0), 6.0)
        ignored = noise > np.quantile(noise, 2 / 3)
        cv2.imwrite(str(out / "ignore" / f"{image.stem}.png"), ignored.astype(np.uint8) * 255)
        for folder in (out / "masks").iterdir():
            file = folder / f"{image.stem}.png"
            mask = read(file)
            cv2.imwrite(str(file), np.where(ignored, 255 - mask, mask))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
