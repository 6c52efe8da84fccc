"""Content that pages hold in themselves, so that they need no other file: pictures as data URLs, scripts by hash."""

import base64
import hashlib


def data_url(media_type: str, content: bytes) -> str:
    """Return the content of a file as the address of a picture.

    Example:
      >>> data_url("image/png", b"abc")
      'data:image/png;base64,YWJj'
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def script_hash(script: str) -> str:
    """Return the SHA-256 in base64 by which a content security policy allows an inline script ('sha256-HASH')."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
