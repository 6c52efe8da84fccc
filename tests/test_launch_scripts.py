"""The launch scripts, with programs in gcloud's and srun's place that note how they were called."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
NAMES = ("launch_tpu_pod.sh", "launch_slurm.sh")
TRAIN = ("train", "default", "--out", "gs://b/a run")


def run(name, *args, path=None, **environment):
    found = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return subprocess.run(
        [SCRIPTS / name, *args], env={**kept, "PATH": found, **environment}, capture_output=True, text=True, timeout=60
    )


def stand_in(folder, name, lines):
    """A program that notes its arguments in `calls`."""
    file = folder / name
    file.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "{name} $*" >> {folder}/calls\n{lines}\n')
    file.chmod(0o755)


def calls(folder):
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_help_and_what_is_missing(name):
    assert subprocess.run(["bash", "-n", SCRIPTS / name]).returncode == 0
    helped = run(name, "--help")
    assert helped.returncode == 0 and helped.stdout.startswith("usage: ") and "train PRESET" in helped.stdout
    refused = run(name)
    assert refused.returncode == 2 and "usage: " in refused.stderr


def test_wrong_options_of_the_pod_script_are_named():
    assert "--worker is not an option" in run("launch_tpu_pod.sh", "--worker", "all").stderr
    assert "--tpu needs a value" in run("launch_tpu_pod.sh", "--tpu").stderr
    assert "nothing to run" in run("launch_tpu_pod.sh", "--tpu", "a", "--zone", "b").stderr


def test_pod_script_starts_again_when_told_to_stop_and_waits_for_the_slice(tmp_path):
    """Not ready; told to stop; done."""
    number = f"$(wc -l < {tmp_path}/calls)"
    said = 'echo "unet-jax ended with status 75"; exit 1'
    stand_in(
        tmp_path,
        "gcloud",
        f'case "$* {number}" in *describe*" 1") echo CREATING;; *describe*) echo READY;; *ssh*" 4") {said};; esac',
    )
    options = ("--tpu", "pod", "--zone", "here", "--wait", "0", "--create", f"echo made >> {tmp_path}/calls")
    ended = run("launch_tpu_pod.sh", *options, "--", *TRAIN, path=tmp_path)
    assert ended.returncode == 0, ended.stderr
    last = calls(tmp_path)[-1]
    kinds = ["describe" if " describe " in line else "ssh" if " ssh " in line else line for line in calls(tmp_path)]
    assert kinds == ["describe", "made", "describe", "ssh", "describe", "ssh"]
    assert r"--zone here --worker=all --command unet-jax train default --out gs://b/a\ run ; status=$?" in last


@pytest.mark.parametrize(("status", "state"), [(2, "READY"), (1, "READY"), (130, "PREEMPTED")])
def test_pod_script_ends_with_an_error_of_the_training(tmp_path, status, state):
    said = f'echo "unet-jax ended with status {status}"; exit 1'
    stand_in(tmp_path, "gcloud", f'case "$*" in *describe*) echo READY;; *) {said};; esac')
    ended = run("launch_tpu_pod.sh", "--tpu", "pod", "--zone", "here", "--wait", "0", "--", *TRAIN, path=tmp_path)
    assert ended.returncode == 1 and f"ended with status {status}" in ended.stderr
    assert sum(" ssh " in line for line in calls(tmp_path)) == 1


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (2, False)])
def test_slurm_script_requeues_what_was_told_to_stop(tmp_path, status, requeued):
    stand_in(tmp_path, "srun", f"exit {status}")
    stand_in(tmp_path, "scontrol", "")
    ended = run("launch_slurm.sh", *TRAIN, path=tmp_path, SLURM_JOB_ID="17")
    assert ended.returncode == status
    expected = ["srun --kill-on-bad-exit=0 --wait=120 unet-jax train default --out gs://b/a run"]
    assert calls(tmp_path) == expected + ["scontrol requeue 17"] * requeued
