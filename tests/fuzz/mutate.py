"""Seeded damage of files: bits, blocks, lengths, and the values of JSON."""

import json

import numpy as np

ODD_VALUES = (None, True, 0, -1, 10**30, 1e308, float("nan"), "", "../x", "\x1b[2J", "a" * 300, [], {}, [[]], {"a": 1})
ODD_TEXTS = (b"\xff\xfe", b"\x00", b"\n", b'"', b",", b"NaN", b"1e999", b"-1", b"=1+1", b"\r\n", "é".encode())


def mutate(rng: np.random.Generator, content: bytes) -> bytes:
    """Return a damaged copy of a file's content; now and then it is the same."""
    if content[:1] == b"{" and rng.random() < 0.5:
        try:
            return _other_value(rng, content)
        except ValueError:  # lines of JSON, which are no JSON together
            pass
    for _ in range(int(rng.integers(1, 3))):
        content = _CHANGES[rng.integers(len(_CHANGES))](rng, content)
    return content


def _place(rng, content):
    """A position, and a length of some bytes up to a few hundred."""
    start = int(rng.integers(0, max(1, len(content))))
    return start, start + int(2 ** rng.uniform(0, 9))


def _flip(rng, content):
    start, _ = _place(rng, content)
    return (
        content[:start]
        + bytes([byte ^ (1 << int(rng.integers(8))) for byte in content[start : start + 1]])
        + content[start + 1 :]
    )


def _zero(rng, content):
    start, stop = _place(rng, content)
    return content[:start] + bytes(len(content[start:stop])) + content[stop:]


def _cut(rng, content):
    return content[: _place(rng, content)[0]]


def _delete(rng, content):
    start, stop = _place(rng, content)
    return content[:start] + content[stop:]


def _repeat(rng, content):
    start, stop = _place(rng, content)
    return content[:stop] + content[start:stop] + content[stop:]


def _swap(rng, content):
    (a, stop), (b, _) = _place(rng, content), _place(rng, content)
    a, b, length = min(a, b), max(a, b), stop - a
    length = max(0, min(length, b - a))
    return (
        content[:a]
        + content[b : b + length]
        + content[a + length : b]
        + content[a : a + length]
        + content[b + length :]
    )


def _insert(rng, content):
    start, _ = _place(rng, content)
    return content[:start] + ODD_TEXTS[rng.integers(len(ODD_TEXTS))] + content[start:]


_CHANGES = (_flip, _flip, _zero, _cut, _delete, _repeat, _swap, _insert)


def _other_value(rng, content):
    """JSON in which one value, at any depth, is another one, or is not there, or has another name."""
    values = json.loads(content)
    places = list(_places(values))
    parent, key = places[rng.integers(len(places))]
    kind = rng.random()
    if kind < 0.2:
        del parent[key]
    elif kind < 0.3 and isinstance(parent, dict):
        parent[str(rng.integers(100))] = parent.pop(key)
    else:
        parent[key] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    return json.dumps(values).encode()


def _places(value):
    """Every container with every key or index in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
