"""Every kind of image file, written by other libraries, against what those read; and the mapping to pixels."""

import io
import json

import cv2
import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image, UnidentifiedImageError

from unet_jax import InputError
from unet_jax.config import DataConfig
from unet_jax.data.images.files import read_header, read_image, read_pixels
from unet_jax.data.images.format import RGB8, ImageFormat
from unet_jax.data.images.intensity import find_format
from unet_jax.data.memory import open_picture

RNG = np.random.default_rng(0)
SIZE = (35, 67)  # neither square nor a multiple of anything
TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")


def noise(channels, dtype):
    dtype = np.dtype(dtype)
    shape = (*SIZE, channels)
    if dtype.kind == "f":
        return RNG.normal(0.0, 100.0, shape).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype, endpoint=True)


def written(tmp_path, name, content):
    path = epath.Path(tmp_path / name)
    path.write_bytes(content)
    return path


def tiff(tmp_path, pixels, name="image.tif", **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return written(tmp_path, name, buffer.getvalue())


def check(path, expected):
    """The pixels are `expected`, bit for bit, and the header said so before."""
    pixels, header = read_pixels(path), read_header(path)
    assert pixels.dtype == expected.dtype and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, expected)
    assert (header.channels, header.dtype) == (expected.shape[-1], expected.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_npy_and_plain_tiff_of_any_type_and_number_of_channels(tmp_path, dtype, channels):
    pixels = noise(channels, dtype)
    np.save(tmp_path / "image.npy", pixels)
    check(epath.Path(tmp_path / "image.npy"), pixels)
    options = {"photometric": "minisblack", "extrasamples": ["unspecified"] * (channels - 1)} if channels > 1 else {}
    check(tiff(tmp_path, pixels if channels > 1 else pixels[..., 0], **options), pixels)
    planar = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    if channels > 1:
        check(tiff(tmp_path, planar, planarconfig="separate", **options), pixels)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 4}, {"bigtiff": True}, {"byteorder": ">"}]
)
def test_tiff_of_every_lossless_compression_and_arrangement(tmp_path, compression, options):
    pixels = noise(3, "uint16")
    check(tiff(tmp_path, pixels, photometric="rgb", compression=compression, **options), pixels)


@pytest.mark.parametrize(("compression", "dtype"), [("jpeg", "uint8"), ("jpeg2000", "uint16"), ("webp", "uint8")])
def test_tiff_of_lossy_compressions_is_what_tifffile_reads(tmp_path, compression, dtype):
    path = tiff(tmp_path, noise(3, dtype), photometric="rgb", compression=compression)
    check(path, tifffile.imread(path))


def test_tiff_without_imagecodecs_is_read_or_the_package_is_named(tmp_path, monkeypatch):
    def missing(self, *args, **kwargs):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    pixels = noise(3, "uint16")
    lzw = tiff(tmp_path, pixels, "lzw.tif", photometric="rgb", compression="lzw")
    jpeg2000 = tiff(tmp_path, pixels, "j2k.tif", photometric="rgb", compression="jpeg2000")
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", missing)
    np.testing.assert_array_equal(read_pixels(lzw), pixels)
    with pytest.raises(InputError, match=r"j2k.tif: is compressed with JPEG2000.*pip install imagecodecs"):
        read_pixels(jpeg2000)


def test_tiff_of_imagej_and_ome_say_which_axis_is_channels(tmp_path):
    stack = noise(3, "uint16").transpose(2, 0, 1)
    expected = stack.transpose(1, 2, 0)
    check(tiff(tmp_path, stack, imagej=True, metadata={"axes": "CYX"}), expected)
    ome = {"ome": True, "photometric": "minisblack"}
    check(tiff(tmp_path, stack, "image.ome.tif", metadata={"axes": "CYX"}, **ome), expected)
    check(tiff(tmp_path, stack, photometric="minisblack", metadata={"axes": "CYX"}), expected)
    for axis, meaning in (("Z", "depths"), ("T", "times")):
        with pytest.raises(InputError, match=rf"holds 3 {meaning}.*Save each one"):
            read_pixels(tiff(tmp_path, stack, imagej=True, metadata={"axes": f"{axis}YX"}))
        with pytest.raises(InputError, match=rf"holds 3 {meaning}"):
            read_pixels(tiff(tmp_path, stack, "image.ome.tif", metadata={"axes": f"{axis}YX"}, **ome))


def test_pages_without_a_meaning_are_refused_unless_they_are_said_to_be_channels(tmp_path):
    pages = [noise(1, "uint16")[..., 0] for _ in range(4)]
    path = epath.Path(tmp_path / "pages.tif")
    Image.fromarray(pages[0]).save(path, save_all=True, append_images=[Image.fromarray(p) for p in pages[1:]])
    with pytest.raises(InputError, match=r"holds 4 pages and does not say.*--data.pages channels"):
        read_pixels(path)
    np.testing.assert_array_equal(read_pixels(path, pages="channels"), np.stack(pages, axis=-1))


def test_alpha_is_dropped_and_never_multiplied_in(tmp_path):
    pixels = noise(4, "uint8")
    path = tiff(tmp_path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    check(path, pixels[..., :3])
    infrared = tiff(tmp_path, pixels, photometric="rgb", extrasamples=["unspecified"])
    check(infrared, pixels)
    with pytest.raises(InputError, match="multiplied by an alpha channel"):
        read_pixels(tiff(tmp_path, pixels, photometric="rgb", extrasamples=["assocalpha"]))
    for suffix in ("png", "webp"):
        path = epath.Path(tmp_path / f"image.{suffix}")
        Image.fromarray(pixels).save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
        check(path, pixels[..., :3])


def test_min_is_white_palette_and_bilevel_tiff(tmp_path):
    gray = noise(1, "uint8")[..., 0]
    check(tiff(tmp_path, gray, photometric="miniswhite"), 255 - gray[..., None])
    deep = noise(1, "uint16")[..., 0]
    check(tiff(tmp_path, deep, photometric="miniswhite"), 65535 - deep[..., None])
    bits = gray > 100
    for photometric, inside in (("minisblack", bits), ("miniswhite", ~bits)):
        check(tiff(tmp_path, bits, photometric=photometric), inside[..., None].astype(np.uint8) * np.uint8(255))
    palette = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    path = tiff(tmp_path, gray, photometric="palette", colormap=palette)
    check(path, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(tmp_path, orientation):
    from PIL import ImageOps

    pixels = noise(3, "uint8")
    path = tiff(tmp_path, pixels, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    check(path, expected)
    assert read_header(path).is_rotated == (orientation > 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = epath.Path(tmp_path / "image.jpg")
    Image.fromarray(pixels).save(jpeg, exif=exif)
    with Image.open(jpeg) as picture:
        np.testing.assert_array_equal(read_pixels(jpeg), np.asarray(ImageOps.exif_transpose(picture)))
    assert read_header(jpeg).is_rotated == (orientation > 1)


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        ("png", 1, "uint8"),
        ("png", 3, "uint8"),
        ("png", 1, "uint16"),
        ("png", 3, "uint16"),
        ("bmp", 1, "uint8"),
        ("bmp", 3, "uint8"),
        ("ppm", 3, "uint8"),
        ("ppm", 3, "uint16"),
        ("pgm", 1, "uint8"),
        ("pgm", 1, "uint16"),
        ("webp", 3, "uint8"),
        ("jp2", 1, "uint8"),
        ("jp2", 3, "uint16"),
    ],
)
def test_other_formats_hold_what_was_written(tmp_path, suffix, channels, dtype):
    pixels = noise(channels, dtype)
    options = {"webp": [cv2.IMWRITE_WEBP_QUALITY, 101], "jp2": [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]}
    ok, data = cv2.imencode(f".{suffix}", pixels[..., ::-1] if channels == 3 else pixels, options.get(suffix, []))
    assert ok
    check(written(tmp_path, f"image.{suffix}", data.tobytes()), pixels)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "ppm", "jp2", "avif"])
def test_eight_bits_are_the_bits_of_read_image(tmp_path, suffix):
    path = epath.Path(tmp_path / f"image.{suffix}")
    Image.fromarray(noise(3, "uint8")).save(path)
    np.testing.assert_array_equal(RGB8.read([path]), read_image(path))
    assert read_header(path)[:2] == (3, np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_headers_of_png_say_what_is_decoded(tmp_path, mode):
    pixels = noise(3, "uint8")
    picture = Image.fromarray(noise(1, "uint16")[..., 0]) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    path = epath.Path(tmp_path / "image.png")
    picture.save(path)
    header, decoded = read_header(path), read_pixels(path)
    assert (header.channels, header.dtype) == (decoded.shape[-1], decoded.dtype)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tif", b"not a tiff", "a.tif: is not a TIFF file that tifffile can read"),
        ("a.npy", b"not an array", "a.npy: is not an array that NumPy can load"),
        ("a.png", b"\x89PNG\r\n", "a.png: is not an image that OpenCV can decode"),
        ("a.png", b"", "a.png: is not an image that OpenCV can decode"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    for read in (read_pixels, read_header):
        with pytest.raises(InputError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 100, 100)), r"has the shape \(3, 100, 100\).*np.moveaxis\(a, 0, -1\)"),
        (np.zeros(5), r"holds \(5,\), but an image is"),
        (np.zeros((2, 3, 4, 5)), "but an image is"),
        (np.zeros((2, 0, 1)), "has no pixel"),
        (np.array([[1.0, np.nan]]), "not finite .nan at row 0, column 1, channel 0"),
        (np.zeros((2, 2), complex), "values of type complex128"),
        (np.zeros((2, 2), "S3"), "values of type"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        read_pixels(epath.Path(tmp_path / "a.npy"))


def saved(tmp_path, arrays):
    paths = []
    for i, array in enumerate(arrays):
        np.save(tmp_path / f"{i}.npy", array)
        paths.append(epath.Path(tmp_path / f"{i}.npy"))
    return paths


def format_of(paths, config):
    return find_format([(path,) for path in paths], config)


def test_eight_bit_sets_stay_as_they_are(tmp_path):
    for channels in (1, 3, 5):
        paths = saved(tmp_path, [noise(channels, "uint8") for _ in range(2)])
        found = format_of(paths, DataConfig())
        assert found.format == ImageFormat(tuple(range(channels)), channels)
        assert f"{channels} channel" in found.description and "8 bits" in found.description
        pixels = found.format.read(paths[:1])
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.load(paths[0]))


def test_twelve_bits_in_sixteen_are_spread_and_a_hot_pixel_changes_little(tmp_path):
    arrays = [RNG.integers(0, 4096, (*SIZE, 1)).astype(np.uint16) for _ in range(8)]
    arrays[0][0, 0, 0] = 65535
    paths = saved(tmp_path, arrays)
    found = format_of(paths, DataConfig())
    assert found.format.bits == 16 and 4000 < found.format.high[0] < 4096 and 0 <= found.format.low[0] < 100
    pixels = found.format.read(paths[1:2])[..., 0]
    low, high = found.format.low[0], found.format.high[0]
    expected = np.rint((arrays[1][..., 0] - low) / (high - low) * 65535).clip(0, 65535)
    np.testing.assert_array_equal(pixels, expected)
    assert len(np.unique(pixels)) > 0.95 * len(np.unique(arrays[1]))  # nothing is quantised


def test_signed_values_and_floats_keep_their_order(tmp_path):
    for array in (
        np.arange(-1000, 1000, dtype=np.int16).reshape(40, 50, 1),
        np.linspace(-1, 1, 2000).reshape(40, 50, 1),
    ):
        found = format_of(saved(tmp_path, [array]), DataConfig(intensity_percentiles=(0.0, 100.0)))
        pixels = found.format.apply(array)[..., 0].reshape(-1).astype(int)
        assert pixels[0] == 0 and pixels[-1] == 65535 and (np.diff(pixels) > 0).all()


def test_channels_are_chosen_and_ordered_and_each_has_its_limits(tmp_path):
    array = np.stack([np.arange(600).reshape(20, 30) * factor for factor in (1, 10, 100)], axis=-1).astype(np.uint16)
    config = DataConfig(channels="2,0", intensity_percentiles=(0.0, 100.0))
    found = format_of(saved(tmp_path, [array]), config)
    assert found.format.channels == (2, 0) and found.format.high == (59900.0, 599.0)
    seen = found.format.apply(array)
    np.testing.assert_array_equal(seen[..., 0], seen[..., 1])  # the same ramp, each spread to the whole range
    again = ImageFormat.from_dict(json.loads(json.dumps(found.format.to_dict())))
    assert again == found.format


def test_limits_of_each_image_and_given_limits(tmp_path):
    dark, bright = (np.arange(600, dtype=np.uint16).reshape(20, 30, 1) * factor for factor in (1, 50))
    paths = saved(tmp_path, [dark, bright])
    config = DataConfig(intensity="image-percentiles", intensity_percentiles=(0.0, 100.0))
    of_image = format_of(paths, config).format
    np.testing.assert_array_equal(of_image.apply(dark), of_image.apply(bright))
    given = format_of(paths, DataConfig(intensity="limits", intensity_limits=(100.0, 300.0))).format
    values = given.apply(dark).reshape(-1)
    assert values[100] == 0 and values[200] == 32768 and values[300] == values[599] == 65535
    depth = format_of(paths, DataConfig(intensity="depth")).format
    np.testing.assert_array_equal(depth.apply(dark), dark)


def test_what_cannot_be_one_format_is_refused_with_both_files(tmp_path):
    with pytest.raises(InputError, match=r"different numbers of channels: .*0.npy has 2, .*1.npy has 5"):
        format_of(saved(tmp_path, [noise(2, "uint8"), noise(5, "uint8")]), DataConfig())
    with pytest.raises(InputError, match=r"different depths: .*uint16, .*uint8.*--data.intensity depth"):
        format_of(saved(tmp_path, [noise(1, "uint8"), noise(1, "uint16")]), DataConfig())
    few = (np.arange(600).reshape(20, 30, 1) % 10).astype(np.uint16)
    with pytest.raises(InputError, match=r"channel 0 of the images has only 10 levels"):
        format_of(saved(tmp_path, [few]), DataConfig())
    assert format_of(saved(tmp_path, [few]), DataConfig(intensity="percentiles")).format.high == (9.0,)
    with pytest.raises(InputError, match=r"channel 0 of the images is 7 nearly everywhere"):
        format_of(saved(tmp_path, [np.full((20, 30, 1), 7, np.uint16)]), DataConfig())
    for channels, message in (("0,9", "have 3 channels: 0 to 2"), ("0,0", "twice"), ("red", "must be numbers")):
        with pytest.raises(InputError, match=message):
            format_of(saved(tmp_path, [noise(3, "uint8")]), DataConfig(channels=channels))


def test_gray_files_among_rgb_files_are_repeated(tmp_path):
    gray, color = noise(1, "uint8"), noise(3, "uint8")
    found = format_of(saved(tmp_path, [gray, color]), DataConfig())
    assert found.format == RGB8
    np.testing.assert_array_equal(found.format.apply(gray), np.repeat(gray, 3, axis=-1))


def test_images_of_another_kind_than_the_runs_are_refused():
    with pytest.raises(InputError, match=r"x\.png: has 5 channels, but this run's images have 3"):
        RGB8.apply(noise(5, "uint8"), "x.png")
    with pytest.raises(InputError, match="has uint16 values, but this run's images have 8 bits"):
        RGB8.apply(noise(3, "uint16"))


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "SGI"])
def test_pillow_opens_only_the_formats_that_are_read(kind, monkeypatch):
    """A mask called .png that holds PostScript must not start Ghostscript."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    assert Image.open(io.BytesIO(stream.getvalue())).format == kind
    with pytest.raises(UnidentifiedImageError):
        open_picture(stream.getvalue())
