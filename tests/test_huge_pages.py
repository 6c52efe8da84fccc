import os
import subprocess
import sys

import pytest

from unet_jax.devices import huge_pages


@pytest.fixture
def restarts(monkeypatch):
    """What would be executed, on a machine where it helps."""
    found = []
    monkeypatch.setattr(os, "execv", lambda path, argv: found.append((path, argv, os.environ["GLIBC_TUNABLES"])))
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    monkeypatch.setattr(huge_pages, "_are_given_on_request", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "unet_jax", "train"])
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    return found


def test_the_same_command_starts_once_more(restarts, monkeypatch):
    huge_pages.restart_with_huge_pages()
    huge_pages.restart_with_huge_pages()
    assert restarts == [(sys.executable, [sys.executable, "-m", "unet_jax", "train"], "glibc.malloc.hugetlb=1")]


def test_other_tunables_are_kept_and_a_users_own_choice_too(restarts, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    huge_pages.restart_with_huge_pages()
    assert restarts[0][2] == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages.restart_with_huge_pages()
    assert len(restarts) == 1


@pytest.mark.parametrize("version", ["glibc 2.34", "", "musl", None])
def test_nothing_happens_with_another_c_library(restarts, monkeypatch, version):
    monkeypatch.setattr(os, "confstr", lambda name: version)
    huge_pages.restart_with_huge_pages()
    assert restarts == []


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_happens_where_the_kernel_does_not_wait_to_be_asked(restarts, monkeypatch, tmp_path, text):
    monkeypatch.undo()
    found = []
    monkeypatch.setattr(os, "execv", lambda *command: found.append(command))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.setattr(huge_pages, "_STATE", tmp_path / "enabled")
    if text:
        (tmp_path / "enabled").write_text(text)
    huge_pages.restart_with_huge_pages()
    assert found == []


def test_a_command_keeps_its_arguments_and_its_status():
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "unet_jax", "info", "a run/that is not there"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "a run/that is not there" in done.stderr
