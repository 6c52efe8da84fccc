"""Colour and tone of an image on the host, in NumPy and OpenCV: 8 and 16 bits, any number of channels.

`augment` draws the shifts and applies them. For 8-bit RGB they are bit for bit those of the Keras original.
"""

import cv2
import numpy as np

_HUES = np.arange(256)
_BAND = 2**13  # pixels of an image that are changed at a time


def shift_color(image: np.ndarray, shifts: tuple[float, float, float], *, circular_hue: bool) -> np.ndarray:
    """Shift hue, saturation and value of an image.

    The shifts are rounded half to even. Sums saturate at 0 and 255. A hue h above 180 means the hue h - 180; a
    negative hue becomes 0, which is red, unless `circular_hue` is on.

    Args:
      image: `[h w 3]` uint8, RGB.
      shifts: numbers added to hue (in units of 2 degrees), saturation and value (in gray levels).
      circular_hue: wrap the hue at red (modulo 180) instead of clamping it.

    Returns:
      `[h w 3]` uint8, RGB.
    """
    hue, saturation, value = _rounded(shifts)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv = cv2.add(hsv, (0.0 if circular_hue else hue, saturation, value, 0.0), dst=hsv)  # type: ignore
    if circular_hue:
        table = ((_HUES + hue) % 180).astype(np.uint8)
        hsv = cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), table), hsv, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _rounded(shifts: tuple[float, float, float]) -> tuple[int, int, int]:
    """Round colour shifts half to even, and clamp them far outside of what changes anything."""
    hue, saturation, value = (min(max(round(shift), -(10**6)), 10**6) for shift in shifts)
    return hue, saturation, value


def shift_deep_color(image: np.ndarray, shifts: tuple[float, float, float], *, circular_hue: bool) -> np.ndarray:
    """Shift hue, saturation and value of a 16-bit RGB image, as `shift_color` does for 8 bits, in float32.

    Args:
      image: `[h w 3]` uint16, RGB.
      shifts: as in `shift_color`: hue in units of 2 degrees, saturation and value in units of 1/255.
      circular_hue: wrap the hue at red instead of clamping it.

    Returns:
      `[h w 3]` uint16, RGB.
    """
    hue, saturation, value = _rounded(shifts)
    # OpenCV takes a hue of any size for the angle that it is.
    low, high = (-np.inf, np.inf) if circular_hue else (0.0, 510.0)
    height, width = image.shape[:2]
    # Bands of rows that stay in the processor's cache, and rows as one long axis: NumPy is slow along an axis of three.
    add, least, most = (
        np.tile(np.array(numbers, np.float32), width)
        for numbers in ((2 * hue, saturation / 255.0, value / 255.0), (low, 0.0, 0.0), (high, 1.0, 1.0))
    )
    shifted = np.empty_like(image)
    rows = max(1, _BAND // width)
    rgb, hsv = (np.empty((rows, width, 3), np.float32) for _ in range(2))
    for start in range(0, height, rows):
        band = image[start : start + rows]
        rgb, hsv = rgb[: len(band)], hsv[: len(band)]
        np.divide(band, np.float32(65535.0), out=rgb)
        cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV, dst=hsv)  # hue in degrees
        lines = hsv.reshape(len(band), -1)
        lines += add
        np.clip(lines, least, most, out=lines)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=rgb)
        rgb *= np.float32(65535.0)
        np.copyto(shifted[start : start + rows], np.rint(rgb, out=rgb), casting="unsafe")
    return shifted


def shift_value(image: np.ndarray, shifts: tuple[float, float, float]) -> np.ndarray:
    """Add the shift of value to all channels of an image that is not RGB; it has no hue and no saturation.

    Args:
      image: `[h w c]` uint8 or uint16.
      shifts: as in `shift_color`; the value is in units of 1/255.

    Returns:
      `[h w c]` of the same type; sums saturate.
    """
    white = np.iinfo(image.dtype).max
    value = _rounded(shifts)[2] * (white // 255)
    return np.clip(image.astype(np.int64) + value, 0, white).astype(image.dtype)


def shift_any_color(image: np.ndarray, shifts: tuple[float, float, float], *, circular_hue: bool) -> np.ndarray:
    """Shift the colour of `[h w c]` uint8 or uint16: all of it for three channels, else the value only."""
    if image.shape[-1] != 3:
        return shift_value(image, shifts)
    shift = shift_color if image.dtype == np.uint8 else shift_deep_color
    return shift(image, shifts, circular_hue=circular_hue)


def tone_table(brightness: float, contrast: float, gamma: float, white: int = 255) -> np.ndarray:
    """Tabulate contrast * (x^gamma - 1/2) + 1/2 + brightness for all gray levels x in [0, 1].

    Args:
      brightness: number added, where white is 1.
      contrast: factor on the distance from medium gray.
      gamma: exponent.
      white: largest gray level, 255 or 65535.

    Returns:
      `[white + 1]` uint8 or uint16.
    """
    values = contrast * ((np.arange(white + 1) / float(white)) ** gamma - 0.5) + 0.5 + brightness
    return np.rint(float(white) * values).clip(0, white).astype(np.uint8 if white == 255 else np.uint16)


def change_tone(image: np.ndarray, tone: tuple[float, float, float]) -> np.ndarray:
    """Apply brightness, contrast and gamma (in this order in `tone`) to `[h w c]` uint8 or uint16."""
    if image.dtype == np.uint8:
        return cv2.LUT(image, tone_table(*tone)).reshape(image.shape)
    return tone_table(*tone, white=65535)[image]
