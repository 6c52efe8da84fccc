"""Small masks of known shape, and their files, for the tests of mask readers."""

import numpy as np
from etils import epath
from PIL import Image

FILES = epath.Path(__file__).parent / "files"
SHAPE = np.array([[0, 1, 1], [0, 0, 1]], bool)  # not square, not symmetric: a turned or mirrored result differs
INSIDE = SHAPE.astype(np.uint8) * np.uint8(255)
LABELS = np.zeros((12, 20), np.uint8)  # what scripts/make_test_files.py draws
LABELS[2:6, 3:12] = 1
LABELS[8:11, 13:19] = 2
RED, GREEN, BLUE, BLACK, WHITE = (220, 20, 10), (10, 200, 30), (0, 0, 250), (0, 0, 0), (255, 255, 255)


def save(path, pixels, mode=None, **options):
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return epath.Path(path)


def save_palette(path, indices, colors, **options):
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette([channel for color in colors for channel in color])
    picture.save(path, **options)
    assert stored(path)[0] == "P"
    return epath.Path(path)


def stored(path):
    """Mode and array as the file has them."""
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)
