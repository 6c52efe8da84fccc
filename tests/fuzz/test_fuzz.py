"""Damaged files of every kind: an error by name or what was written, never a traceback, a hang or other numbers.

The line of JSON of each reader is printed (`pytest -s`). `scripts/test.sh -m slow tests/fuzz` tries thousands.
"""

import json
import shutil
import signal
import traceback

import numpy as np
import pytest
from mutate import mutate
from readers import READERS, Said, as_text, files_to_damage

from unet_jax import InputError


class Hang(BaseException):
    """Reading took too long."""


def alarm(number, frame):
    raise Hang


def try_inputs(reader, folder, num_inputs, seed=0):
    """Counts of what happened to so many damaged files, and the first tracebacks."""
    whole, work = folder / "whole", folder / "work"
    work.mkdir()
    reader.make(work)  # where it is read: a cache belongs to the place of its data
    files = [path.relative_to(work) for path in files_to_damage(work)]
    shutil.copytree(work, whole, symlinks=True)
    expected = as_text(reader.read(work))
    counts = dict.fromkeys(("inputs", "refused", "said", "same", "different", "tracebacks", "hangs"), 0)
    seen: list[str] = []
    rng = np.random.default_rng(seed)
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        for _ in range(num_inputs):
            shutil.rmtree(work)
            shutil.copytree(whole, work, symlinks=True)
            name = files[rng.integers(len(files))]
            (work / name).write_bytes(mutate(rng, (whole / name).read_bytes()))
            counts["inputs"] += 1
            signal.setitimer(signal.ITIMER_REAL, reader.hang_s)
            try:
                found = reader.read(work)
                kind = "said" if isinstance(found, Said) else "same" if as_text(found) == expected else "different"
                counts[kind] += 1
                if kind == "different":
                    seen.append(f"{name}: other content was read")
            except InputError:
                counts["refused"] += 1
            except Hang:
                counts["hangs"] += 1
            except Exception:
                counts["tracebacks"] += 1
                seen.append(f"{name}: {traceback.format_exc(limit=-3)}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    return counts, seen


def check(name, folder, num_inputs, seed=0):
    counts, seen = try_inputs(READERS[name], folder, num_inputs, seed)
    if READERS[name].other_is_valid:
        counts["other_valid"] = counts.pop("different")
        counts["why"] = READERS[name].other_is_valid
    print(json.dumps({"reader": name, **counts}))
    assert counts["tracebacks"] == counts["hangs"] == 0, "\n".join(x for x in seen if "Traceback" in x)[:5000]
    assert counts.get("different", 0) == 0, seen[0]


@pytest.mark.parametrize("name", READERS)
def test_a_few_damaged_files(name, tmp_path):
    check(name, tmp_path, max(1, min(30, round(0.3 / READERS[name].seconds))))


@pytest.mark.slow  # minutes: thousands of inputs for each reader
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files(name, tmp_path):
    check(name, tmp_path, max(200, min(5000, round(60 / READERS[name].seconds))), seed=1)
