"""The digest inside of exported files, by which a file with one other bit is refused.

It is the SHA-256 of all other bytes of the file. In ONNX files it is the last of the metadata, in zip archives (also
that at the end of a TFLite file) the comment: both end the file, so that a reader needs to know no more than its last
bytes. In safetensors files, which end with numbers, it is in the metadata at the beginning.
"""

import hashlib

from etils import epath

from unet_jax._types import InputError

NAME = "unet_jax_sha256"
"""Name of the digest in metadata."""
EMPTY = "0" * 64
"""Digits in its place before it is known."""
_IN_JSON = f'"{NAME}":"'.encode()  # as safetensors writes metadata
_END_OF_ZIP = b"PK\5\6"


def onnx_with_digest(content: bytes) -> bytes:
    """Add the digest to an ONNX file: as an entry of `metadata_props` (field 14 of the model) at its end."""
    entry = _field(1, NAME.encode()) + _field(2, EMPTY.encode())  # key and value
    return with_digest(content + _field(14, entry))


def _field(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message: its number and kind, its length below 128, its bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def zip_with_digest(content: bytes) -> bytes:
    """Add the digest to a file that ends with a zip archive: as the archive's comment."""
    comment = f"{NAME}: {EMPTY}".encode()
    assert content[-22:-18] == _END_OF_ZIP and content[-2:] == b"\0\0", "the archive has a comment already"
    return with_digest(content[:-2] + len(comment).to_bytes(2, "little") + comment)


def with_digest(content: bytes) -> bytes:
    """Fill in the digest of a file that holds `EMPTY` in its place."""
    place = _place(content)
    assert place is not None
    return content[:place] + _digest(content, place) + content[place + len(EMPTY) :]


def check_digest(content: bytes, name: str | epath.Path) -> bool:
    """Return whether an exported file has a digest; raise `InputError` if its bytes are others.

    Args:
      content: content of the file.
      name: its name, for the message.

    Example:
      >>> content = onnx_with_digest(b"an ONNX file")
      >>> check_digest(content, "model.onnx"), check_digest(b"an ONNX file", "model.onnx")
      (True, False)
      >>> check_digest(b"AN ONNX file" + content[12:], "model.onnx")
      Traceback (most recent call last):
      unet_jax._types.InputError: model.onnx: is damaged: its bytes are not those that were exported. Export it again.
    """
    place = _place(content)
    if place is None:
        return False
    if content[place : place + len(EMPTY)] != _digest(content, place):
        raise InputError(f"{name}: is damaged: its bytes are not those that were exported. Export it again.")
    return True


def _digest(content: bytes, place: int) -> bytes:
    digest, view = hashlib.sha256(), memoryview(content)
    digest.update(view[:place])
    digest.update(view[place + len(EMPTY) :])
    return digest.hexdigest().encode()


def _place(content: bytes) -> int | None:
    """Return where the digest stands, or None if there is none."""
    at_end = len(content) - len(EMPTY)
    if content[at_end - 2 - len(NAME) : at_end - 2] == NAME.encode():  # 2 bytes are between name and value
        return at_end
    found = content.find(_IN_JSON)
    return found + len(_IN_JSON) if found >= 0 else None
