"""A study that is killed again and again, and one that is not, end with the same files."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

STUDY = """
[study]
seeds = [0, 1, 2]
[config.data]
root = "{root}"
splits = "{root}/splits.csv"
image_size = 32
[config.model]
widths = [4, 8]
center_width = 8
[config.train]
num_epochs = 3
batch_size = 4
checkpoint_every_steps = 2
[[variant]]
name = "bce"
terms = [{{ name = "bce" }}]
[[variant]]
name = "focal"
terms = [{{ name = "focal" }}]
[[variant]]
name = "ramped"
terms = [{{ name = "bce" }}, {{ name = "soft_dice", ramp = {{ stop = 0.5 }} }}]
"""


def start(file, out, cache):
    """The command, a process group of its own."""
    env = dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(cache), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    command = [sys.executable, "-m", "unet_jax", "study", str(file), "--out", str(out)]
    return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)


def log_size(out):
    file = out / "log.txt"
    return file.stat().st_size if file.exists() else 0


def results(out):
    """What a study concludes from; not its times, nor the page, which has them."""
    paths = [*out.glob("runs/*/*/test.csv"), out / "results.csv", out / "table.csv"]
    return {str(path.relative_to(out)): path.read_text() for path in paths}


@pytest.mark.slow
def test_killed_at_any_moment_a_study_continues_and_ends_the_same(synthetic_root, tmp_path):
    file, cache, out = tmp_path / "study.toml", tmp_path / "compiled", tmp_path / "killed"
    file.write_text(STUDY.format(root=synthetic_root))
    straight = start(file, tmp_path / "straight", cache)
    assert b"page:" in straight.communicate()[0] and straight.returncode == 0
    rng, num_killed = random.Random(0), 0
    while True:
        said = log_size(out)
        process = start(file, out, cache)
        while process.poll() is None and log_size(out) == said:
            time.sleep(0.02)
        # From the first thing that a run said; longer each time, or no start might come as far as its next checkpoint.
        time.sleep(rng.uniform(0.0, 1.5 + 1.0 * num_killed))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        num_killed += 1
    assert b"page:" in process.communicate()[0] and process.returncode == 0
    assert num_killed >= 5
    expected = results(tmp_path / "straight")
    assert len(expected) == 9 + 2
    assert results(out) == expected
