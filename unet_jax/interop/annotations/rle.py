"""Run-length encodings of masks: those of COCO, Kaggle and Label Studio.

The functions raise `ValueError` with the reason; who calls them knows the file and the object, and names both.
"""

from collections.abc import Sequence

import numpy as np

from unet_jax.interop.annotations.pixel_runs import from_bitmap


def decode_counts(text: str) -> np.ndarray:
    r"""Decode the string in which COCO packs the lengths of runs (its "compressed RLE").

    Each character holds 5 bits of a number and whether another follows; from the fourth number on, the difference from
    the number two before is stored.

    Args:
      text: characters "0" to "o".

    Returns:
      `[n]` int64: lengths of the runs, in turns outside and inside, counted down the columns.

    Raises:
      ValueError: the string has other characters or ends within a number.

    Example:
      >>> decode_counts("52203").tolist()  # pycocotools: of the counts 5, 2, 2, 2, 5
      [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    number = shift = 0
    for position, character in enumerate(text):
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r} at position {position} of the counts is not one of COCO's")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more bits follow
            continue
        if bits & 16:  # negative
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("the counts end within a number")
    return np.array(counts, np.int64)


def runs_of_counts(counts: Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels of COCO's lengths of runs, in turns outside and inside, down the columns.

    Raises:
      ValueError: a length is not a whole number from 0 up, or they do not add up to the image's pixels.

    Example:
      >>> runs_of_counts([1, 2, 3], 3, 2).tolist()
      [[1, 3]]
    """
    lengths = np.asarray(counts)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer) or (lengths < 0).any():
        raise ValueError("the counts are not whole numbers from 0 up")
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total != height * width:
        raise ValueError(f"the counts add up to {total} pixels, but {width}x{height} are {height * width}")
    runs = ends[: len(ends) // 2 * 2].reshape(-1, 2)
    return runs[runs[:, 0] < runs[:, 1]]


def runs_of_pairs(text: str, height: int, width: int, order: str) -> np.ndarray:
    """Return the pixels of Kaggle's "start length start length ...", where the first pixel is number 1.

    Args:
      text: whole numbers, separated by white space. An empty text and "-1" are an empty mask.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      order: "columns" counts down the columns, as most competitions do, "rows" along the rows.

    Raises:
      ValueError: the text is not pairs of whole numbers, a run leaves the image, or runs do not follow each other.

    Example:
      >>> runs_of_pairs("2 2", 3, 2, "columns").tolist(), runs_of_pairs("2 2", 3, 2, "rows").tolist()
      ([[1, 3]], [[1, 2], [3, 4]])
    """
    words = text.split()
    if not words or words == ["-1"]:
        return np.zeros((0, 2), np.int64)
    try:
        numbers = np.array(words, np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text[:40]!r} is not pairs of whole numbers") from error
    if len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers are no pairs of start and length")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    if (starts < 0).any() or (lengths < 1).any():
        raise ValueError("a start or a length is below 1; the first pixel is number 1")
    ends = starts + lengths
    if ends.max() > height * width:
        raise ValueError(f"a run ends at pixel {ends.max()}, but {width}x{height} are {height * width} pixels")
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("a run begins before the one before it ends: are starts counted from there?")
    runs = np.stack([starts, ends], axis=1)
    if order == "columns":
        return runs
    bitmap = np.zeros(height * width + 1, np.int8)
    bitmap[starts] += 1
    bitmap[ends] -= 1
    return from_bitmap(np.cumsum(bitmap[:-1], dtype=np.int8).reshape(height, width) > 0)


def decode_brush(data: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode a brush region of Label Studio, which is packed by the library @thi.ng/rle-pack.

    The stream of bits holds the number of values, the bits per value, four sizes, and then blocks: whether a value is
    repeated, which of the sizes the block's length is written in, the length, and the value or values.

    Args:
      data: numbers from 0 to 255.
      height: height of the image, in pixels.
      width: width of the image, in pixels.

    Returns:
      `[h w]` uint8: opacity of the brush, which is the fourth of four values per pixel.

    Raises:
      ValueError: the stream ends too early or does not hold four values per pixel.
    """
    try:
        stream = bytes(data)
    except (TypeError, ValueError) as error:
        raise ValueError("the RLE is not a list of numbers from 0 to 255") from error
    position = 0

    def read(num_bits: int) -> int:
        nonlocal position
        end = position + num_bits
        if end > 8 * len(stream):
            raise ValueError("the RLE ends too early")
        word = int.from_bytes(stream[position // 8 : (end + 7) // 8], "big")
        position = end
        return (word >> (-end % 8)) & ((1 << num_bits) - 1)

    num_values, bits_per_value = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if num_values != 4 * height * width:
        raise ValueError(f"the RLE holds {num_values} values, but {width}x{height} pixels have {4 * height * width}")
    values = np.zeros(num_values, np.uint32)
    done = 0
    while done < num_values:
        is_repeated = read(1)
        end = done + 1 + read(sizes[read(2)])
        if end > num_values:
            raise ValueError("the RLE holds more values than it says")
        values[done:end] = read(bits_per_value) if is_repeated else [read(bits_per_value) for _ in range(done, end)]
        done = end
    return values.reshape(height, width, 4)[..., 3].astype(np.uint8)
