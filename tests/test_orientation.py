"""Images that are shown turned (EXIF, TIFF), and masks that are turned with them, or not."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image, ImageOps

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.images.files import read_header, read_pixels
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.layout import find_layout
from unet_jax.data.masks.read import read_mask
from unet_jax.data.orientation import read_orientation, turned
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource

RNG = np.random.default_rng(0)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def save(path, pixels, orientation=None):
    """Write a file with Pillow, or with tifffile if it is a TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tags = [] if orientation is None else [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, pixels, extratags=tags)
    else:
        options = {} if orientation is None else {"exif": exif(orientation)}
        Image.fromarray(pixels).save(path, lossless=True, quality=100, **options)


def sample(
    root,
    image,
    mask,
    image_orientation,
    mask_orientation=None,
    *,
    image_ending="png",
    ending="png",
    mask_orientation_rule="auto",
):
    """Write one image and its mask, as stored, and read both as a run does."""
    save(root / "images" / f"a.{image_ending}", image, image_orientation)
    save(root / "masks" / "cell" / f"a.{ending}", mask, mask_orientation)
    layout = find_layout(DataConfig(root=str(root), mask_orientation=mask_orientation_rule))
    channels = tuple(range(image.shape[-1]))
    return FileSource(layout, layout.records, image_format=ImageFormat(channels, len(channels)))[0]


def blob(height, width):
    """An image whose red channel is its mask, and that no turn maps to itself."""
    mask = np.zeros((height, width), np.uint8)
    mask[1 : height // 2, 2 : width // 3] = 255
    return np.stack([mask, 255 - mask, mask], axis=-1), mask


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_pillow_does(tmp_path, ending, orientation):
    """OpenCV does not know the orientation of AVIF, and others only in some versions."""
    path = tmp_path / f"a.{ending}"
    save(path, RNG.integers(0, 256, (17, 24, 3), dtype=np.uint8), orientation)
    with Image.open(path) as picture:
        shown = ImageOps.exif_transpose(picture)
        pixels = read_pixels(path)
        assert pixels.shape[:2] == (shown.height, shown.width)
        difference = np.abs(pixels.astype(int) - np.asarray(shown.convert("RGB")))
        assert difference.max() <= (40 if ending in ("avif", "jpg") else 0)  # decoders of lossy files round otherwise
    assert read_header(epath.Path(path)).is_rotated == (orientation != 1)


def test_orientations_that_viewers_do_not_follow_do_not_count(tmp_path):
    from PIL import PngImagePlugin

    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "xmp.png", pnginfo=info)
    assert read_pixels(tmp_path / "xmp.png").shape == (4, 6, 1)
    assert read_mask(epath.Path(tmp_path / "xmp.png")).shape == (4, 6)
    for value in (0, 9, 300):
        save(tmp_path / "a.jpg", np.zeros((4, 6, 3), np.uint8), value)
        assert read_pixels(tmp_path / "a.jpg").shape == (4, 6, 3)


def test_exif_after_the_pixels_of_a_png_is_found():
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(file, "PNG", exif=exif(8))
    data = file.getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    late = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    Image.open(io.BytesIO(late)).load()  # still a good file
    assert read_orientation(io.BytesIO(late)) == 8
    assert read_orientation(io.BytesIO(data)) == 8
    ok, plain = cv2.imencode(".png", np.full((4, 6), 7, np.uint8))
    assert ok and read_orientation(io.BytesIO(plain.tobytes())) is None


@pytest.mark.parametrize("image_ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("rule", ["auto", "stored"])
def test_a_mask_of_the_stored_size_is_turned_with_its_image(tmp_path, orientation, image_ending, rule):
    image, mask = blob(16, 24)
    seen = sample(tmp_path, image, mask, orientation, image_ending=image_ending, mask_orientation_rule=rule)
    np.testing.assert_array_equal(seen.mask[..., 0], seen.image[..., 0])
    np.testing.assert_array_equal(seen.mask[..., 0], turned(mask, orientation))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_shown_size_stays(tmp_path, orientation):
    image, mask = blob(16, 24)
    seen = sample(tmp_path, image, turned(mask, orientation), orientation)
    np.testing.assert_array_equal(seen.mask[..., 0], seen.image[..., 0])


@pytest.mark.parametrize(("orientation", "width"), [(2, 24), (3, 24), (4, 24), (3, 16), (5, 16), (6, 16), (8, 16)])
def test_where_sizes_do_not_tell_somebody_must(tmp_path, orientation, width):
    image, mask = blob(16, width)
    with pytest.raises(BadSampleError, match=r"a\.png: may belong .*orientation \d\).*--data.mask-orientation shown"):
        sample(tmp_path / "auto", image, mask, orientation)
    stored = sample(tmp_path / "stored", image, mask, orientation, mask_orientation_rule="stored")
    np.testing.assert_array_equal(stored.mask[..., 0], stored.image[..., 0])
    shown = sample(tmp_path / "shown", image, turned(mask, orientation), orientation, mask_orientation_rule="shown")
    np.testing.assert_array_equal(shown.mask[..., 0], shown.image[..., 0])


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_a_mask_that_carries_an_orientation_has_been_turned_by_it(tmp_path, ending):
    image, mask = blob(16, 16)
    for rule in ("auto", "shown", "stored"):
        seen = sample(tmp_path / rule, image, mask, 3, 3, ending=ending, mask_orientation_rule=rule)
        np.testing.assert_array_equal(seen.mask[..., 0], seen.image[..., 0])


def test_a_mask_that_says_upright_in_exif_is_and_in_tiff_says_nothing(tmp_path):
    image, mask = blob(16, 16)
    for rule in ("auto", "stored"):
        seen = sample(tmp_path / rule, image, turned(mask, 3), 3, 1, mask_orientation_rule=rule)
        np.testing.assert_array_equal(seen.mask[..., 0], seen.image[..., 0])
    with pytest.raises(BadSampleError, match="may belong to its image as it is shown, or as it is stored"):
        sample(tmp_path / "tiff", image, mask, 3, 1, ending="tif")


def test_a_mask_that_no_turn_changes_needs_nobody(tmp_path):
    image, _ = blob(16, 16)
    for name, mask in (("empty", np.zeros((16, 16), np.uint8)), ("full", np.full((16, 16), 255, np.uint8))):
        assert (sample(tmp_path / name, image, mask, 6).mask[..., 0] == mask).all()


def test_index_maps_are_turned_too(tmp_path):
    image, mask = blob(16, 24)
    save(tmp_path / "images" / "a.png", image, 6)
    save(tmp_path / "labels" / "a.png", mask // 255 * 2)
    config = DataConfig(root=str(tmp_path), index_map="labels/{id}.png", index_values=("cell=2",))
    layout = find_layout(config)
    np.testing.assert_array_equal(FileSource(layout, layout.records)[0].mask[..., 0], turned(mask, 6))


def test_an_unturned_image_asks_nothing(tmp_path):
    image, mask = blob(16, 16)
    for i, orientation in enumerate((None, 1)):
        seen = sample(tmp_path / str(i), image, mask, orientation)
        np.testing.assert_array_equal(seen.mask[..., 0], mask)
    with pytest.raises(InputError, match=r"is 16x24 pixels .*, but its image is 24x16\. One of them is rotated"):
        sample(tmp_path / "turned", *blob(16, 24)[:1], np.zeros((24, 16), np.uint8), None)
