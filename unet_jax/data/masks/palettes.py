"""The meaning of palettes in mask files: gray levels, or colours of which one is outside."""

import numpy as np
from etils import epath

from unet_jax.data.masks.content import MaskFile
from unet_jax.data.masks.index_values import index_flags
from unet_jax.data.masks.large_arrays import look_up, values_of
from unet_jax.data.pixels import BadSampleError

_BLACK = (0, 0, 0)


def palette_alpha(file: MaskFile) -> np.ndarray | None:
    """Return 0 for pixels whose index is declared transparent and 255 for others, or None if no index is: `[h w]`."""
    assert file.palette is not None
    if not file.clear:
        return None
    table = np.full(len(file.palette), 255, np.uint8)
    table[list(file.clear)] = 0
    return look_up(table, file.values)


def is_gray(file: MaskFile, *, look_at_all: bool) -> bool:
    """Return True if the colours of a palette are gray: those that occur, or all that the file declares."""
    assert file.palette is not None
    used = values_of(file.values)
    colors = file.palette[: max(file.declared, used[-1] + 1)] if look_at_all else file.palette[used]
    return bool((colors == colors[:, :1]).all())


def means_gray_levels(file: MaskFile, *, soft: bool) -> bool:
    """Return True if the palette of a mask holds gray levels, not colours of classes.

    Only the colours that occur count. In a palette that declares other colours too, a gray beside black and white is
    the colour of a class unless gray levels are asked for, and an index that is declared transparent is no gray level.
    """
    assert file.palette is not None
    if is_gray(file, look_at_all=True):
        return True
    used = values_of(file.values)
    if not is_gray(file, look_at_all=False) or file.clear & set(used):
        return False
    return soft or set(file.palette[used, 0].tolist()) <= {0, 255}


def inside_by_colors(path: epath.Path, file: MaskFile) -> np.ndarray:
    """Return what is inside by the colours of a palette: all that is neither black nor declared transparent.

    Args:
      path: name of the file, for messages.
      file: content, with a palette.

    Returns:
      `[h w]` bool.

    Raises:
      BadSampleError: which colour is outside cannot be told, or several colours are inside.
    """
    assert file.palette is not None
    used = values_of(file.values)
    colors = {i: tuple(file.palette[i].tolist()) for i in used}
    black = {i for i in used if colors[i] == _BLACK}
    declared = range(file.declared)
    clear = set(used) & file.clear
    if not set(declared) - file.clear:  # where all is transparent, that means nothing
        clear = set()
    outside = clear or black
    if not outside and len(used) == 2 and file.background in used:
        outside = {file.background}
    # A single colour that fills the file is inside if the palette has what is outside as well.
    has_outside = bool(file.clear) or _BLACK in {tuple(file.palette[i].tolist()) for i in declared}
    is_full = len(used) == 1 and has_outside
    is_told = (bool(outside) or is_full) and not (clear and black - clear)
    inside = sorted({colors[i] for i in used if i not in outside})
    if is_told and len(inside) <= 1:
        table = np.ones(len(file.palette), bool)
        table[list(outside)] = False
        return look_up(table, file.values)
    distinct = sorted(set(colors.values()))
    shown = ", ".join(map(str, distinct[:5])) + (f" and {len(distinct) - 5} more" if len(distinct) > 5 else "")
    if is_told:
        raise BadSampleError(
            f"{path}: has a palette with {len(inside)} colours inside ({shown}), but a mask has one. Name the class of "
            f"each colour ({index_flags(path, 'index-colors', [_text(color) for color in inside])}), or use "
            f"--data.instance-masks if each colour is an object of one class."
        )
    example = next((color for color in inside if color != (255, 255, 255)), inside[0] if inside else _BLACK)
    raise BadSampleError(
        f"{path}: has a palette with the colours {shown}, so that inside and outside cannot be told apart. Make the "
        f"outside black, or name what each colour is ({index_flags(path, 'index-colors', [_text(example)])} "
        f"outside=R,G,B --data.classes class1)."
    )


def _text(color: tuple[int, ...]) -> str:
    return ",".join(map(str, color))


def disagreeing_index(file: MaskFile) -> int | None:
    """Return an index other than 0 that the palette shows as outside, black or transparent; None if there is none."""
    assert file.palette is not None
    used = [i for i in values_of(file.values) if i]
    black = {i for i in used if tuple(file.palette[i].tolist()) == _BLACK}
    if tuple(file.palette[0].tolist()) == _BLACK:  # as it should be; other black entries are those that nobody set
        black = set()
    return next((i for i in used if i in black | file.clear), None)
