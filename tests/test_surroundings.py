"""Machines that lack something: a home folder, shared memory, names in UTF-8. Each is one line with a remedy."""

import pwd
import sys
from types import SimpleNamespace

import pytest

import unet_jax
from unet_jax._files import user_cache
from unet_jax._types import InputError
from unet_jax.cli.main import main
from unet_jax.config import DataConfig
from unet_jax.data.cache_files import files_of_samples
from unet_jax.data.cached_source import cache_kind
from unet_jax.data.disk_cache import cache_root
from unet_jax.data.make_sample import MakeSample
from unet_jax.data.pipeline import Batches
from unet_jax.data.shared_memory import check_shared_memory, free_bytes
from unet_jax.devices import compilation


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and a user that the password file does not know, as in a container started with --user 12345."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_folder_the_disk_cache_names_what_helps(homeless, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"no home folder.*XDG_CACHE_HOME"):
        user_cache()
    with pytest.raises(InputError, match=r"XDG_CACHE_HOME.*--data\.cache-dir.*--data\.cache memory"):
        cache_root(DataConfig(cache="disk"))
    assert cache_root(DataConfig(cache_dir=str(tmp_path))) == tmp_path
    assert (
        cache_kind(files_of_samples(10, DataConfig(), 2), DataConfig()) == "memory"
    )  # what fits into memory needs no folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root(DataConfig()) == tmp_path / "unet_jax"


def test_without_a_home_folder_programs_are_compiled_each_time(homeless, monkeypatch):
    set_options = []
    config = SimpleNamespace(
        jax_enable_compilation_cache=True,
        jax_compilation_cache_dir=None,
        update=lambda *option: set_options.append(option),
    )
    monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=config))
    compilation.enable_compilation_cache()
    assert set_options == []


class Settings(SimpleNamespace):
    """Settings of jax."""

    def update(self, name, value):
        setattr(self, name, value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("CACHE/unet_jax/compiled", 0.3)),
        ({"jax_compilation_cache_dir": "mine"}, ("mine", 1.0)),
        ({"jax_enable_compilation_cache": False}, (None, 1.0)),
        ({"jax_persistent_cache_min_compile_time_secs": 5.0}, ("CACHE/unet_jax/compiled", 5.0)),
    ],
)
def test_compiled_programs_are_kept_where_nobody_has_said_anything_else(tmp_path, monkeypatch, given, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    of_jax = {"jax_enable_compilation_cache": True, "jax_compilation_cache_dir": None}
    settings = Settings(**{**of_jax, "jax_persistent_cache_min_compile_time_secs": 1.0, **given})
    monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=settings))
    compilation.enable_compilation_cache()
    folder = settings.jax_compilation_cache_dir
    found = folder and folder.replace(str(tmp_path), "CACHE"), settings.jax_persistent_cache_min_compile_time_secs
    assert found == expected
    assert (tmp_path / "unet_jax" / "compiled").exists() == (found[0] == "CACHE/unet_jax/compiled")


def test_python_keeps_compiled_programs_as_the_command_does(tmp_path, monkeypatch):
    kept = []
    for module in ("unet_jax.training.loop", "unet_jax.training.auto", "unet_jax.runs.load"):
        monkeypatch.setattr(f"{module}.enable_compilation_cache", lambda module=module: kept.append(module))
    nowhere = {"data.root": str(tmp_path / "nosuch")}
    with pytest.raises(InputError):
        unet_jax.train(
            unet_jax.replace(unet_jax.PRESETS["small"](), {**nowhere, "train.batch_size": 8}), tmp_path / "run"
        )
    with pytest.raises(InputError):
        unet_jax.choose_config(nowhere)
    with pytest.raises(InputError):
        unet_jax.load_run(tmp_path / "run")
    assert kept == ["unet_jax.training.loop", "unet_jax.training.auto", "unet_jax.runs.load"]


@pytest.mark.parametrize("args", [["info", "~/run"], ["audit", "--data.root=~/data"], ["audit", "--data.root", "~"]])
def test_a_tilde_without_a_home_folder_is_no_folder_of_that_name(homeless, capsys, args):
    with pytest.raises(SystemExit) as ended:
        main(args)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert "there is no home folder" in err and "whole path instead of ~" in err and len(err.splitlines()) == 1


def test_arguments_that_are_not_utf8_are_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["audit", "--data.root", "dir\udcff"])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert r"the argument 'dir\udcff' is not UTF-8 text" in err and len(err.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's")
def test_shared_memory_is_measured_before_workers_need_it(tmp_path):
    check_shared_memory(1000, 4, folder=tmp_path)
    too_much = free_bytes(tmp_path)  # one batch as large as all that is free
    with pytest.raises(
        InputError, match=r"num_workers is 2, but .*need up to \d+ MiB.*--data\.num-workers 0.*shm-size"
    ):
        check_shared_memory(too_much, 2, folder=tmp_path)
    with pytest.raises(InputError, match=r"none is not there or cannot be written to: use --data\.num-workers 0"):
        check_shared_memory(1000, 2, folder=tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="numbers of signals differ")
def test_a_bus_error_blames_no_file():
    """What a full /dev/shm does to a worker; 7 is SIGBUS. The file that it was reading is good."""

    class Ended:
        def __next__(self):
            raise RuntimeError("Grain worker process 0 was terminated unexpectedly with exit code -7.")

    class InProgress:
        def of_dead(self):
            return [0]

    make_sample = MakeSample(SimpleNamespace(ids=["good file"]), 0, None, False)
    make_sample.in_progress = InProgress()
    with pytest.raises(
        RuntimeError, match=r"bus error: the shared memory in /dev/shm is full.*--data\.num-workers"
    ) as e:
        next(Batches(make_sample, Ended()))
    assert "good file" not in str(e.value)
