"""Class numbers and colours of index maps, as `data.index_values` and `data.index_colors` name them."""

import re
import shlex
from collections.abc import Iterable, Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.listing import stem_and_ending

Values = tuple[range, ...]
"""Numbers of a class, as ranges. A colour is the number red * 65536 + green * 256 + blue."""


def parse_numbers(text: str, field: str) -> Values:
    """Parse numbers and ranges of numbers.

    Args:
      text: numbers and ranges, separated by commas.
      field: name of the setting and the class, for the message.

    Raises:
      InputError: a part is neither a number nor a range of numbers.

    Example:
      >>> parse_numbers("1,3-5", "data.index_values a")
      (range(1, 2), range(3, 6))
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise InputError(
                f"{field}={text}, but values must be numbers and ranges of numbers, as in cell=1,2 or cell=1-65535."
            )
        ranges.append(range(first, last + 1))
    return tuple(ranges)


def parse_color(text: str, field: str) -> Values:
    """Parse a colour, red, green and blue from 0 to 255.

    Raises:
      InputError: the text is not three such numbers.

    Example:
      >>> parse_color("128,64,0", "data.index_colors a")
      (range(8404992, 8404993),)
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(re.fullmatch(r"\d{1,3}", part, re.ASCII) and int(part) <= 255 for part in parts):
        raise InputError(
            f"{field}={text}, but a colour is three numbers from 0 to 255, as in cell=128,64,128. A class of several "
            f"colours has an entry for each."
        )
    red, green, blue = map(int, parts)
    number = red << 16 | green << 8 | blue
    return (range(number, number + 1),)


def index_flags(path: epath.Path, setting: str, values: Sequence[str]) -> str:
    """Return flags that read files like this one as an index map, for messages about a file that is no mask.

    Args:
      path: the file; the flags name its folder if that is masks/CLASS/.
      setting: "index-values" or "index-colors".
      values: class numbers or colours in it, of which up to four are named.

    Example:
      >>> print(index_flags(epath.Path("DATA/masks/cell/a.tif"), "index-values", ["1", "2"]))
      --data.index-map 'masks/cell/{id}.tif' --data.index-values class1=1 class2=2
    """
    folder, ending = path.parent, path.name[len(stem_and_ending(path.name)[0]) :]
    is_known = folder.parent.name.lower() == "masks"
    pattern = f"{folder.parent.name}/{folder.name}/{{id}}{ending}" if is_known else "masks/CLASS/{id}.png"
    classes = [f"class{k}={value}" for k, value in enumerate(values[:4], 1)]
    more = f" (and so on: {len(values)} in all)" if len(values) > 4 else ""
    return f"--data.index-map {shlex.quote(pattern)} --data.{setting} {' '.join(classes)}{more}"


def is_in(value: int, ranges: Iterable[range]) -> bool:
    """Return True if one of the ranges holds the value."""
    return any(value in numbers for numbers in ranges)


def color_text(number: int) -> str:
    """Return a colour as red, green and blue.

    Example:
      >>> color_text(8404992)
      '128,64,0'
    """
    return f"{number >> 16},{number >> 8 & 255},{number & 255}"


def listed(ranges: Iterable[range], *, colors: bool = False) -> list[int | str]:
    """Return numbers, ranges and colours in order, each once, as a person writes them.

    Example:
      >>> listed([range(3, 6), range(1, 2), range(1, 2)])
      [1, '3-5']
    """
    ordered = sorted({(numbers.start, numbers.stop - 1) for numbers in ranges})
    if colors:
        return [color_text(first) for first, _ in ordered]
    return [first if first == last else f"{first}-{last}" for first, last in ordered]
