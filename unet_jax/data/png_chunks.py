"""Chunks of PNG files, found without decoding the pixels."""

import zlib
from typing import BinaryIO

PNG_START = b"\x89PNG\r\n\x1a\n"
_USED = (b"tRNS", b"bKGD", b"eXIf", b"acTL")  # not critical for PNG, but what is read depends on them


def damaged_chunk(data: bytes) -> str:
    """Return the kind of the first chunk of a PNG file that has another checksum than its content; empty if none has.

    Texts, colour profiles and times are not looked at, nor is what follows the end of the picture.

    Args:
      data: content of the file.
    """
    start, view = len(PNG_START), memoryview(data)
    while start < len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        stop = start + 8 + length
        is_good = len(kind) == 4 and zlib.crc32(view[start + 4 : stop]) == int.from_bytes(data[stop : stop + 4], "big")
        # The first letter of a critical chunk is a capital one.
        counts = kind[:1].isupper() or kind in _USED or not kind.isalpha() or stop + 4 > len(data)
        if counts and not is_good:
            return kind.decode("ascii", "backslashreplace") or "header"
        if kind == b"IEND":
            break
        start = stop + 4
    return ""


def read_chunk(file: BinaryIO, kind: bytes) -> bytes:
    """Return the content of the first chunk of a kind, such as b"eXIf", before or after the pixels; empty without one.

    Args:
      file: the opened PNG file.
      kind: four letters.
    """
    file.seek(len(PNG_START))
    while len(header := file.read(8)) == 8:
        size = int.from_bytes(header[:4], "big")
        if header[4:] == kind:
            return file.read(size)
        file.seek(size + 4, 1)  # and the checksum
    return b""
