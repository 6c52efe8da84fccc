"""The meaning of mask files: inside or outside of a class, class numbers, or colours; else refused with a remedy."""

from typing import NoReturn

import numpy as np
from etils import epath

from unet_jax.data.masks.content import MaskFile
from unet_jax.data.masks.files import read_mask_file
from unet_jax.data.masks.index_values import color_text, index_flags
from unet_jax.data.masks.large_arrays import look_up, values_of
from unet_jax.data.masks.object_numbers import look_like_counts
from unet_jax.data.masks.palettes import disagreeing_index, inside_by_colors, is_gray, means_gray_levels, palette_alpha
from unet_jax.data.pixels import BadSampleError

_MANY = 12  # gray levels or colours above which a file is hardly a map of classes


def read_mask(path: epath.Path, *, soft: bool = False, instances: bool = False, threshold: float = 0.0) -> np.ndarray:
    """Read the mask of one class.

    Inside is the largest number of the file's depth (255 or 65535), 255 in a deeper file, or 1 in a file without larger
    numbers. In a file with a palette of colours, black (or what the file declares transparent) is outside.

    Args:
      path: mask file.
      soft: accept gray levels between black and white as partial membership.
      instances: the numbers are those of objects: 0 is outside, all others are inside.
      threshold: share of white from which a gray level is inside; 0: gray levels are refused, or partial membership.

    Returns:
      `[h w]` uint8: 0 is outside, 255 is inside, and values between are partial membership.

    Raises:
      BadSampleError: the file cannot be read, or what is inside cannot be told; the message says why.
    """
    file = read_mask_file(path)
    if instances:
        return _inside(_objects(path, file) != 0)
    if not threshold:
        return _membership(path, file, soft=soft)
    plane = _membership(path, file, soft=True, setting="--data.mask-threshold", may_be_counts=not file.is_lossy)
    return _inside(plane >= 255.0 * threshold)


def _membership(
    path: epath.Path, file: MaskFile, *, soft: bool, setting: str = "--data.soft-masks", may_be_counts: bool = True
) -> np.ndarray:
    """Return how far each pixel is inside, `[h w]` uint8; where `setting` asks for gray levels, counts are refused."""
    if file.palette is not None and not means_gray_levels(file, soft=soft):
        return _inside(inside_by_colors(path, file))
    levels, full = _levels(path, file)
    if levels.dtype == np.bool_:
        return _inside(levels)
    if levels.dtype.kind == "f":
        return _fractions(path, levels, soft=soft)
    values = values_of(levels)
    if values[0] >= 0 and values[-1] <= 1:
        return _inside(levels == 1)
    for white in {full, 65535, 255}:
        if set(values) <= {0, white}:
            return _inside(levels == white)
    if not soft or values[0] < 0 or values[-1] > min(full, 65535):
        _refuse_levels(path, values, full, is_lossy=file.is_lossy)
    white = 255 if values[-1] <= 255 <= full else min(full, 65535)  # a deeper file may hold an 8-bit mask
    if may_be_counts and look_like_counts(levels, values, white):
        raise BadSampleError(
            f"{path}: has the values {_shown(values)}, which look like numbers of objects or classes, not like gray "
            f"levels. Use --data.instance-masks instead of {setting} if they number objects, --data.index-map if they "
            f"are class numbers, or save the soft mask with 16 bits, 0 to 65535."
        )
    return levels.astype(np.uint8) if white == 255 else np.round(levels / (white / 255.0)).astype(np.uint8)


def read_class_numbers(path: epath.Path) -> np.ndarray:
    """Read the class numbers of an index map.

    A palette is read by index, or by gray level if all of its colours are gray, used or not: so all files with the same
    palette are read in the same way.

    Args:
      path: file of one image, with the class number of each pixel.

    Returns:
      `[h w]` bool or integers.

    Raises:
      BadSampleError: the file cannot be read or holds no whole numbers; the message says why.
    """
    file = read_mask_file(path)
    _refuse_lossy(path, file)
    if file.palette is not None:
        return look_up(file.palette[:, 0], file.values) if is_gray(file, look_at_all=True) else file.values
    return _whole(path, _opaque(path, _one_channel(path, file.values), file.alpha))


def read_colors(path: epath.Path) -> np.ndarray:
    """Read the colours of a colour-coded label map, from RGB(A), gray or palette.

    Args:
      path: file of one image.

    Returns:
      `[h w]` int32: red * 65536 + green * 256 + blue.

    Raises:
      BadSampleError: the file cannot be read, or its numbers are no colours of 8 bits; the message says why.
    """
    file = read_mask_file(path)
    _refuse_lossy(path, file)
    if file.palette is not None:
        packed = look_up(file.palette.astype(np.int32) @ np.array([65536, 256, 1], np.int32), file.values)
        return _opaque(path, packed, palette_alpha(file))
    values, full = file.values, file.full
    if full == 65535 and not (values % 257).any():  # 8 bits in 16
        values, full = (values // 257).astype(np.uint8), 255
    if full not in (1, 3, 15, 255):
        raise BadSampleError(f"{path}: has values of {values.dtype}, but colours have 8 bits. Convert it.")
    values = values.astype(np.uint8) * np.uint8(255 // full)
    red, green, blue = (values, values, values) if values.ndim == 2 else np.moveaxis(values, -1, 0)
    packed = red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue
    return _opaque(path, packed, file.alpha)


def _inside(is_inside: np.ndarray) -> np.ndarray:
    return is_inside.astype(np.uint8) * np.uint8(255)


def _shown(values: list[int]) -> str:
    return ", ".join(str(v) for v in values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _refuse_levels(path: epath.Path, values: list[int], full: int, *, is_lossy: bool) -> NoReturn:
    """Raise BadSampleError for values that are neither inside nor outside."""
    strange = [v for v in values if v not in (0, full)]
    found = f"{path}: has the gray level{'s' if len(strange) > 1 else ''} {_shown(strange)}"
    if is_lossy:
        raise BadSampleError(
            f"{found}, which JPEG makes, but a mask must be 0 and 255. Use --data.mask-threshold 0.5 (what is lighter "
            f"than half is inside), or save it again as PNG from the program that drew it."
        )
    raise BadSampleError(
        f"{found}, but a mask must be 0 and 255 (or 0 and 1). Use --data.mask-threshold 0.5 if what is lighter than "
        f"half is inside (blurred masks), --data.soft-masks if partial membership is meant, --data.instance-masks if "
        f"the values number objects from 1 to N, or {_as_classes(path, strange)} if they are class numbers."
    )


def _as_classes(path: epath.Path, values: list[int]) -> str:
    """Return the flags that read values as class numbers."""
    return index_flags(path, "index-values", list(map(str, values))) if len(values) <= _MANY else "--data.index-map"


def _fractions(path: epath.Path, levels: np.ndarray, *, soft: bool) -> np.ndarray:
    """Return floats from 0 to 1 as a soft mask."""
    fits = (levels >= 0) & (levels <= 1) if soft else (levels == 0) | (levels == 1)
    if not fits.all():
        y, x = np.argwhere(~fits)[0]
        wanted = "0 to 1" if soft else "0 and 1; floats between are read with --data.soft-masks"
        raise BadSampleError(
            f"{path}: has the value {levels[y, x]:g} (row {y}, column {x}, {levels.dtype}), but a mask is {wanted}."
        )
    return np.round(levels * 255.0).astype(np.uint8)


def _levels(path: epath.Path, file: MaskFile) -> tuple[np.ndarray, int]:
    """Return gray levels `[h w]`, 0 is black, and the level of white; floats that are whole become integers."""
    values, full, alpha = file.values, file.full, file.alpha
    if file.palette is not None:
        alpha = palette_alpha(file)
        values, full = look_up(file.palette[:, 0], values), 255
    values = _opaque(path, _one_channel(path, values), alpha)
    if values.dtype.kind != "f":
        return values, full
    return (values.astype(np.int64), 65535) if _is_whole(values).all() else (values, 0)


def _one_channel(path: epath.Path, values: np.ndarray) -> np.ndarray:
    """Return one of three equal channels; raise BadSampleError if they are not equal."""
    if values.ndim == 2:
        return values
    differs = (values[..., :1] != values[..., 1:]).any(axis=-1)
    if differs.any():
        y, x = np.argwhere(differs)[0]
        color = tuple(int(v) for v in values[y, x])
        raise BadSampleError(
            f"{path}: is a colour image (row {y}, column {x} is {color}), but a mask has one gray channel. Save one "
            f"gray file per class{_other_reading(path, values)}."
        )
    return values[..., 0]


def _other_reading(path: epath.Path, values: np.ndarray) -> str:
    """Return the end of a sentence on a colour image: flags that name its colours, if there are few."""
    if values.dtype.kind not in "ui":
        return ""
    packed = (values if values.max() <= 255 else values // 257).astype(np.int64) @ np.array([65536, 256, 1])
    colors = [value for value in values_of(packed) if value]
    if len(colors) > _MANY:
        return f"; with {len(colors)} colours it may be a photo"
    return f", or name the class of each colour: {index_flags(path, 'index-colors', list(map(color_text, colors)))}"


def _is_whole(values: np.ndarray) -> np.ndarray:
    """Return for each float whether it is a whole number: `[h w]` bool."""
    return (np.abs(values) < 2**53) & (values == np.round(values))


def _whole(path: epath.Path, numbers: np.ndarray) -> np.ndarray:
    """Return floats as integers; raise BadSampleError if one is not whole."""
    if numbers.dtype.kind != "f":
        return numbers
    is_whole = _is_whole(numbers)
    if not is_whole.all():
        y, x = np.argwhere(~is_whole)[0]
        raise BadSampleError(
            f"{path}: has the value {numbers[y, x]:g} (row {y}, column {x}), but numbers of classes and objects are "
            f"whole. Convert it."
        )
    return numbers.astype(np.int64)


def _opaque(path: epath.Path, gray: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Return the gray levels; raise BadSampleError if the mask seems to be in the alpha channel, which is not read.

    That is so for a shape painted on a transparent layer, where gray level and transparency disagree.
    """
    if alpha is None:
        return gray
    clear = alpha < alpha.max()
    if clear.any() and (gray[clear].any() or not gray.any()):
        y, x = np.argwhere(clear)[0]
        raise BadSampleError(
            f"{path}: is partly transparent (row {y}, column {x} has alpha {alpha[y, x]}), so that inside and outside "
            f"cannot be told apart by gray level. Save it without transparency, white inside and black outside."
        )
    return gray


def _refuse_lossy(path: epath.Path, file: MaskFile) -> None:
    """Raise BadSampleError if the numbers in a file may not be those that somebody wrote."""
    if file.is_lossy:
        raise BadSampleError(
            f"{path}: is compressed like JPEG, which changes the numbers of classes, objects and colours. Export it as "
            f"PNG or TIFF."
        )


def _objects(path: epath.Path, file: MaskFile) -> np.ndarray:
    """Return object numbers `[h w]`, 0 is outside; in RGB, every colour but black is an object."""
    _refuse_lossy(path, file)
    if file.palette is not None:
        if is_gray(file, look_at_all=True):
            return look_up(file.palette[:, 0], file.values)
        index = disagreeing_index(file)
        if index is not None:
            raise BadSampleError(
                f"{path}: has a palette in which index {index} is black or transparent, so that it is not certain that "
                f"0 is outside. Save the numbers of the objects as gray levels."
            )
        return file.values
    if file.values.ndim == 2:
        numbers = _whole(path, file.values)
        if numbers.dtype.kind == "i" and numbers.min() < 0:
            raise BadSampleError(f"{path}: has the value {numbers.min()}, but outside is 0 and objects begin with 1.")
    else:
        numbers = np.asarray(file.values.any(axis=-1))
        if numbers.all() and (file.values != file.values[..., :1]).any():
            raise BadSampleError(
                f"{path}: has no black pixel, so that it is not known what is outside. Make that black."
            )
    return _opaque(path, numbers, file.alpha)
