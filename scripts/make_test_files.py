"""Write the small sample files in tests/files, as other programs write them.

Usage: python scripts/make_test_files.py [FOLDER]

tifffile, Pillow, OpenCV and NumPy write most of them. Where ImageMagick 6, GDAL and ImageJ (with xvfb) are not
installed (`apt-get install imagemagick gdal-bin imagej xvfb`), the files in their folders stay as they are.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

FILES = Path(__file__).parents[1] / "tests" / "files"

RED, GREEN, BLACK, WHITE = (220, 20, 10), (10, 200, 30), (0, 0, 0), (255, 255, 255)


def two_objects() -> np.ndarray:
    """Return 12x20 pixels with object 1 of 4x9 and object 2 of 3x6 pixels, not symmetric in any way: uint8."""
    labels = np.zeros((12, 20), np.uint8)
    labels[2:6, 3:12] = 1
    labels[8:11, 13:19] = 2
    return labels


LABELS = two_objects()
INSIDE = (LABELS > 0).astype(np.uint8) * np.uint8(255)


def write_tifffile_masks(folder: Path) -> None:
    """Write masks of one class as tifffile writes them; see `INSIDE`."""

    def save(name: str, pixels: np.ndarray, **options: object) -> None:
        tifffile.imwrite(folder / f"{name}.tif", pixels, **options)  # type: ignore[arg-type]

    save("bool", INSIDE > 0)  # 1 bit, MinIsWhite
    save("miniswhite", INSIDE, photometric="miniswhite")
    save("bigtiff_tiles_lzw", INSIDE, bigtiff=True, tile=(16, 16), compression="lzw")
    save("lzw_predictor", INSIDE, compression="lzw", predictor=True)
    save("deflate_tiles", INSIDE, tile=(16, 16), compression="zlib", predictor=True)
    save("packbits_tiles", INSIDE, tile=(16, 16), compression="packbits")
    save("zstd", INSIDE, compression="zstd")
    save("jpeg2000", INSIDE, compression="jpeg2000")
    save("big_endian", INSIDE.astype(np.uint16) * np.uint16(257), byteorder=">")
    save("uint32", INSIDE.astype(np.uint32))
    save("int16_of_1", (INSIDE > 0).astype(np.int16))
    save("float32_of_1", (INSIDE > 0).astype(np.float32))
    save("float64_of_255", INSIDE.astype(np.float64))
    save("planar_rgb", np.stack([INSIDE] * 3), photometric="rgb", planarconfig="separate")
    save("gray_and_alpha", np.stack([INSIDE, np.full_like(INSIDE, 255)], -1), extrasamples=["unassalpha"])
    with tifffile.TiffWriter(folder / "pyramid.tif") as tif:
        tif.write(INSIDE, subifds=1)
        tif.write(INSIDE[::2, ::2], subfiletype=1)
    save("mask.ome", INSIDE, ome=True)
    save("imagej", INSIDE, imagej=True)
    colors = np.zeros((3, 256), np.uint16)
    colors[:, 0] = np.array(RED) * 257
    save("palette_red_first", (INSIDE == 0).astype(np.uint8), photometric="palette", colormap=colors)


def write_other_tifffile_files(folder: Path) -> None:
    """Write stacks, and label images as cellpose and StarDist do."""
    tifffile.imwrite(folder / "stack_of_pages.tif", np.stack([INSIDE] * 5), photometric="minisblack")
    tifffile.imwrite(folder / "stack_imagej.tif", np.stack([INSIDE] * 5), imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "stack.ome.tif", np.stack([INSIDE] * 5), metadata={"axes": "TYX"})
    tifffile.imwrite(folder / "labels_uint16.tif", LABELS.astype(np.uint16), compression="zlib")
    tifffile.imwrite(folder / "labels_uint32.tif", LABELS.astype(np.uint32) * np.uint32(70000))
    tifffile.imwrite(folder / "labels_int32.tif", LABELS.astype(np.int32) * 129)
    tifffile.imwrite(folder / "labels_float32.tif", LABELS.astype(np.float32))


def write_pillow_masks(folder: Path) -> None:
    """Write masks of one class as Pillow and OpenCV write them; see `INSIDE`."""
    black_second = Image.fromarray((INSIDE == 0).astype(np.uint8))
    black_second.putpalette([*RED, *BLACK])
    for ending in ("png", "gif", "bmp", "tif"):
        black_second.save(folder / f"palette_red_first.{ending}")
    colors = Image.fromarray((INSIDE > 0).astype(np.uint8))
    colors.putpalette([*GREEN, *RED])
    colors.save(folder / "palette_transparent_green.png", transparency=0)
    colors = Image.fromarray((INSIDE == 0).astype(np.uint8))
    colors.putpalette([*RED, *GREEN])
    colors.save(folder / "palette_background_green.gif", background=1)
    for bits in (1, 2, 4):
        Image.fromarray(INSIDE).convert("1" if bits == 1 else "L").save(folder / f"gray_{bits}_bits.png", bits=bits)
    Image.fromarray(INSIDE > 0).save(folder / "group4.tif", compression="group4")
    Image.fromarray(INSIDE).save(folder / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(INSIDE).save(folder / "lossless.webp", lossless=True)
    gray = INSIDE.astype(np.uint16)
    cv2.imwrite(str(folder / "rgb_16_bits_of_255.png"), np.stack([gray] * 3, -1))
    cv2.imwrite(str(folder / "rgba_16_bits.png"), np.stack([gray * 257] * 3 + [np.full_like(gray, 65535)], -1))


def write_numpy_masks(folder: Path) -> None:
    """Write masks of one class with numpy.save; see `INSIDE`."""
    np.save(folder / "bool.npy", INSIDE > 0)
    np.save(folder / "uint8.npy", INSIDE)
    np.save(folder / "int64_of_1.npy", (INSIDE > 0).astype(np.int64))
    np.save(folder / "big_endian_column_major.npy", np.asfortranarray(INSIDE.astype(">u2")))
    np.save(folder / "one_channel.npy", INSIDE[..., None])


def write_imagemagick_masks(folder: Path) -> None:
    """Write masks of one class with ImageMagick."""
    command = shutil.which("convert-im6.q16")
    if command is None:
        print("ImageMagick 6 is not there: its files stay as they are")
        return
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(INSIDE).save(file.name)
        for name, options in {
            "group4.tif": ["-monochrome", "-compress", "Group4"],
            "palette_red.png": ["-fill", "red", "-opaque", "white", "-type", "palette"],
            "palette_red.tif": ["-fill", "red", "-opaque", "white", "-type", "palette"],
            # The tag MinIsWhite, and pixels as without it, which nobody could know.
            "../../other_masks/polarity.tif": ["-define", "quantum:polarity=min-is-white", "-depth", "8"],
        }.items():
            subprocess.run([command, file.name, *options, "-strip", str(folder / name)], check=True)


def write_gdal_masks(folder: Path) -> None:
    """Write masks of one class with GDAL; the tag MinIsWhite does not change its numbers."""
    command = shutil.which("gdal_translate")
    if command is None:
        print("GDAL is not there: its files stay as they are")
        return
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(INSIDE).save(file.name)
        for name, options in {
            "miniswhite.tif": ["-co", "PHOTOMETRIC=MINISWHITE"],
            "one_bit_fax.tif": ["-co", "NBITS=1", "-co", "COMPRESS=CCITTFAX4", "-scale", "0", "255", "0", "1"],
            "lerc.tif": ["-co", "COMPRESS=LERC"],
            "georeferenced.tif": ["-a_srs", "EPSG:32633", "-a_ullr", "0", "12", "20", "0", "-a_nodata", "0"],
        }.items():
            subprocess.run([command, "-q", "-of", "GTiff", *options, file.name, str(folder / name)], check=True)
    for path in folder.glob("*.aux.xml"):
        path.unlink()


def write_imagej_masks(folder: Path) -> None:
    """Write masks of one class with ImageJ; with an inverting look-up table the numbers stay and colours turn."""
    commands = [shutil.which("xvfb-run"), "-a", shutil.which("imagej"), "-b"]
    if None in commands:
        print("ImageJ and xvfb are not there: its files stay as they are")
        return
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "mask.png"
        Image.fromarray(INSIDE).save(source)
        lines = []
        for name, steps in {
            "gray.tif": [],
            "inverting.tif": ["Invert LUT"],
            "red.tif": ["Red"],
            "sixteen_bits.tif": ["16-bit"],
            "float.tif": ["32-bit"],
        }.items():
            runs = "".join(f' run("{step}");' for step in ("8-bit", *steps))
            lines.append(f'open("{source}");{runs} saveAs("Tiff", "{folder / name}"); close();')
        macro = Path(temporary) / "masks.ijm"
        macro.write_text("\n".join(lines))
        subprocess.run([*map(str, commands), str(macro)], check=False, timeout=120)  # its status says nothing


FOLDERS = {
    "other_masks": write_other_tifffile_files,
    "masks/tifffile": write_tifffile_masks,
    "masks/pillow": write_pillow_masks,
    "masks/numpy": write_numpy_masks,
    "masks/imagemagick": write_imagemagick_masks,
    "masks/gdal": write_gdal_masks,
    "masks/imagej": write_imagej_masks,
}
"""Function that writes each folder below tests/files. Every file below masks/ is the mask `INSIDE`."""


def main(root: Path) -> None:
    for name, write in FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILES)
