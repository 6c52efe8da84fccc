"""Chunks of PNG files, found without decoding the pixels."""

from typing import BinaryIO

PNG_START = b"\x89PNG\r\n\x1a\n"


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
