"""The disk cache: equal to the files it was made from, refused when it is not, whole or not there."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data import disk_cache
from unet_jax.data.cache_files import files_of_samples
from unet_jax.data.cache_sources import DiskSource
from unet_jax.data.cached_source import cache_kind, training_source
from unet_jax.data.disk_cache import cache_root, disk_source
from unet_jax.data.layout import find_layout
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource, MemorySource, ResizedSource
from unet_jax.data.synthetic import write_synthetic


@pytest.fixture
def root(tmp_path):
    write_synthetic(epath.Path(tmp_path / "set"), num_images=6, image_size=40, num_classes=3, seed=0)
    for path in (tmp_path / "set").rglob("*.png"):  # not compressed: other pixels take as many bytes
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    return tmp_path / "set"


def config_of(root, **settings):
    settings = {"cache": "disk", "cache_dir": str(root.parent / "cache"), "image_size": 32} | settings
    return DataConfig(root=str(root), **settings)


def files_of(config, count=None):
    layout = find_layout(config)
    return FileSource(layout, layout.records[:count], soft_masks=config.soft_masks)


def cached(config, count=None, **options):
    return disk_source(files_of(config, count), config, num_threads=2, **options)


def folders(config):
    return sorted(os.listdir(config.cache_dir))


@pytest.mark.parametrize("settings", [{}, {"mask_interpolation": "linear"}, {"soft_masks": True}, {"image_size": 33}])
def test_cache_holds_what_the_files_give(root, settings):
    config = config_of(root, **settings)
    source, expected = cached(config), ResizedSource(files_of(config), config)
    assert list(source.ids) == list(expected.ids)
    for sources in (source, pickle.loads(pickle.dumps(source))):
        for i in range(6):
            assert sources[i].valid is expected[i].valid is None
            for got, wanted in zip(sources[i][:2], expected[i][:2], strict=True):
                assert got.dtype == wanted.dtype
                np.testing.assert_array_equal(got, wanted)


def test_hard_masks_take_a_bit_and_soft_ones_a_byte(root):
    config = config_of(root)
    size = {name: (cached(config).folder / f"{name}.npy").stat().st_size for name in ("images", "masks")}
    assert size["images"] - 128 == 6 * 32 * 32 * 3
    assert size["masks"] - 128 == 6 * 32 * 32 * 3 / 8
    assert sum(size.values()) - 256 == files_of_samples(6, config, 3).num_bytes
    soft = cached(config_of(root, mask_interpolation="linear"))
    assert (soft.folder / "masks.npy").stat().st_size - 128 == 6 * 32 * 32 * 3


def test_second_opening_reads_no_file(root, monkeypatch):
    config = config_of(root)
    seen = []
    cached(config, on_progress=lambda *numbers: seen.append(numbers))
    assert seen == [(i, 6) for i in range(1, 7)]
    monkeypatch.setattr("unet_jax.data.file_identity.read_bytes", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr("unet_jax.data.pixels.read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert cached(config, on_progress=lambda *numbers: pytest.fail("was built"))[3].image.shape == (32, 32, 3)


def test_other_settings_and_samples_have_caches_of_their_own(root):
    base = config_of(root)
    cached(base)
    cached(base, 4)
    cached(config_of(root, image_size=64))
    cached(config_of(root, classes=("square", "disk")))
    assert len(folders(base)) == 4
    assert all(name.startswith("set-") for name in folders(base))


def test_copied_files_are_the_same_by_content(root):
    config = config_of(root)
    cached(config)
    for file in root.rglob("*.png"):
        os.utime(file, ns=(1, 1))
    cached(config, on_progress=lambda *numbers: pytest.fail("was built"))


def edit_pixel(path):
    pixels, size = cv2.imread(str(path), cv2.IMREAD_UNCHANGED), path.stat().st_size
    pixels[0, 0] = 255 - pixels[0, 0]
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert path.stat().st_size == size


def edit_meta(folder, change):
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


DAMAGES = {
    "changed image": (lambda r, f: edit_pixel(r / "images" / "0002.png"), r"stale: the content of .*0002\.png.*'0002'"),
    "changed mask": (lambda r, f: edit_pixel(r / "masks" / "disk" / "0001.png"), r"stale: .*masks/disk/0001\.png"),
    "longer image": (
        lambda r, f: (r / "images" / "0000.png").write_bytes(b"x" * 77),
        r"stale: .*0000\.png .*had \d+ bytes when the cache was built, now 77\.",
    ),
    "cut images": (
        lambda r, f: os.truncate(f / "images.npy", 9000),
        r"images\.npy: is truncated .*9000 bytes, but 18432",
    ),
    "cut masks": (lambda r, f: os.truncate(f / "masks.npy", 100), r"masks\.npy: is truncated or damaged"),
    "no masks": (lambda r, f: (f / "masks.npy").unlink(), r"masks\.npy: is truncated or damaged \(0 bytes"),
    "other shape": (
        lambda r, f: np.save(f / "images.npy", np.zeros((6, 32, 32, 4), np.uint8)),
        r"images\.npy: is uint8 \(6, 32, 32, 4\), but must be uint8 \(6, 32, 32, 3\)",
    ),
    "no meta": (lambda r, f: (f / "meta.json").unlink(), r"is not a complete cache"),
    "cut meta": (lambda r, f: os.truncate(f / "meta.json", 50), r"is not a complete cache"),
    "format": (lambda r, f: edit_meta(f, lambda m: m.update(format=99)), r"format 99, but this version reads 1"),
    "foreign size": (
        lambda r, f: edit_meta(f, lambda m: m["settings"].update(image_size=64)),
        r"other samples or settings: image_size was 64, and is 32 now",
    ),
    "foreign ids": (
        lambda r, f: edit_meta(f, lambda m: m["settings"].update(ids=["z"])),
        r"other samples or settings: ids was \['z'\]",
    ),
    "foreign OpenCV": (lambda r, f: edit_meta(f, lambda m: m["settings"].update(opencv="1.0")), r"opencv was '1\.0'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_cache_that_does_not_fit_is_refused_with_the_reason_and_rebuilt_on_request(root, damage):
    apply, reason = DAMAGES[damage]
    config = config_of(root)
    apply(root, cached(config).folder)
    with pytest.raises(InputError, match=reason) as error:
        cached(config)
    assert "Rebuild it with --data.rebuild-cache" in str(error.value)
    if damage == "longer image":  # is no image any more
        return
    again = dataclasses.replace(config, rebuild_cache=True)
    expected = ResizedSource(files_of(config), config)
    np.testing.assert_array_equal(cached(again)[2].image, expected[2].image)
    np.testing.assert_array_equal(cached(config)[1].mask, expected[1].mask)
    assert len(folders(config)) == 1


def test_mask_that_appears_later_makes_the_cache_stale(root):
    path = root / "masks" / "ring" / "0003.png"
    data = path.read_bytes()
    path.unlink()
    config = config_of(root, missing_masks="empty")
    cached(config)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"stale: a mask of '0003' is there now, and was not"):
        cached(config)


def test_cache_that_is_cut_while_in_use_is_an_error_not_a_crash(root):
    source = cached(config_of(root))
    os.truncate(source.folder / "images.npy", 4096)
    with pytest.raises(
        BadSampleError, match=r"a file was truncated from 18560 to 4096 bytes before sample '0005' was read"
    ):
        source[5]


def test_bad_sample_leaves_no_cache(root):
    (root / "images" / "0004.png").write_bytes(b"no image")
    config = config_of(root)
    with pytest.raises(BadSampleError, match=r"0004\.png: is not an image"):
        cached(config)
    assert folders(config) == []


def test_folder_that_cannot_be_written_is_an_error_with_the_remedy(root, monkeypatch):
    (root.parent / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written there .*--data\.cache-dir"):
        cached(config_of(root, cache_dir=str(root.parent / "file" / "below")))
    with pytest.raises(InputError, match=r"data\.cache_dir is 'gs://.*local disk"):
        cached(config_of(root, cache_dir="gs://bucket/cache"))
    monkeypatch.setattr("unet_jax.data.disk_cache.free_bytes", lambda config: 20_000)
    with pytest.raises(InputError, match=r"has 0\.0 MiB free, but the cache needs .*--data\.cache none"):
        cached(config_of(root))


def test_full_disk_is_an_error_that_leaves_nothing(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(InputError, match=r"No space left on device.*--data\.cache-dir"):
        cached(config_of(root))
    assert folders(config_of(root)) == []


def test_cache_lies_in_the_users_cache_folder_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root(DataConfig()) == tmp_path / "unet_jax"
    assert cache_root(DataConfig(cache_dir=str(tmp_path / "x"))) == tmp_path / "x"


@pytest.mark.parametrize(
    ("settings", "free", "kind"),
    [
        ({"image_size": 64}, 0, "memory"),
        ({"image_size": 23170}, 0, "memory"),  # 4 bytes for each of 23170**2 pixels: just below 2 GiB
        ({"image_size": 23171}, 2**40, "disk"),
        ({"image_size": 23171}, 2**30, "none"),
        ({"image_size": 23171, "cache": "memory"}, 0, "memory"),
        ({"image_size": 64, "cache": "none"}, 0, "none"),
        ({"image_size": 64, "cache": "disk"}, 0, "disk"),
    ],
)
def test_auto_is_memory_then_disk_then_nothing(settings, free, kind, monkeypatch):
    monkeypatch.setattr("unet_jax.data.cached_source.free_bytes", lambda config: free)
    config = DataConfig(**settings)
    assert cache_kind(files_of_samples(1, config, 1), config) == kind


@pytest.mark.parametrize(
    ("cache", "kind"), [("memory", MemorySource), ("disk", DiskSource), ("none", ResizedSource), ("auto", MemorySource)]
)
def test_training_source_is_what_data_cache_says(root, cache, kind):
    config = config_of(root, cache=cache)
    assert type(training_source(files_of(config), config)) is kind


PROLOGUE = """
    import os, random, signal, sys, time
    from unet_jax.config import DataConfig
    from unet_jax.data.disk_cache import disk_source
    from unet_jax.data.layout import find_layout
    from unet_jax.data.sources import FileSource

    config = DataConfig(root=sys.argv[1], image_size=256, cache="disk", cache_dir=sys.argv[2])

    def build(config=config):
        layout = find_layout(config)
        return disk_source(FileSource(layout, layout.records), config, num_threads=2)
"""


def run_script(script, *arguments):
    code = textwrap.dedent(PROLOGUE) + textwrap.dedent(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_build_leaves_nothing_that_looks_complete(root):
    """SIGKILL at 20 moments of a build; whatever is under the final name afterwards must be whole."""
    script = """
        build(config := DataConfig(root=sys.argv[1], image_size=256, cache="disk", cache_dir=sys.argv[2] + "-first"))
        start = time.perf_counter()
        build(DataConfig(root=sys.argv[1], image_size=256, cache="disk", cache_dir=sys.argv[2] + "-timed"))
        whole_s = time.perf_counter() - start
        killed = 0
        for moment in range(20):
            config = DataConfig(
                root=sys.argv[1], image_size=256, cache="disk", cache_dir=f"{sys.argv[2]}/{moment}"
            )
            child = os.fork()
            if child == 0:
                build(config)
                os._exit(0)
            time.sleep(whole_s * moment / 16)
            os.kill(child, signal.SIGKILL)
            killed += os.waitpid(child, 0)[1] != 0
            folder = config.cache_dir
            names = os.listdir(folder) if os.path.isdir(folder) else []
            complete = [n for n in names if ".building-" not in n]
            partial = [n for n in names if ".building-" in n]
            for name in partial:
                os.utime(f"{folder}/{name}", (1, 1))  # long ago
            source = build(config)  # opens what is complete, or builds; raises if something cannot be used
            left = os.listdir(folder)
            assert len(left) == 1, left  # also removes what the killed one left, unless it opened a complete one
            print(moment, len(partial), len(complete), int(source[5].image.sum()), int(source[5].mask.sum()))
        assert killed >= 5, killed
    """
    lines = [line.split() for line in run_script(script, root, root.parent / "cache").splitlines()]
    assert len(lines) == 20
    assert len({(image, mask) for *_, image, mask in lines}) == 1
    assert any(partial == "1" for _, partial, *_ in lines)
    assert any(complete == "0" and partial == "0" for _, partial, complete, *_ in lines) or lines[0][2] == "0"


def test_two_processes_at_once_make_one_whole_cache(root):
    script = """
        children = []
        for i in range(4):
            child = os.fork()
            if child == 0:
                rebuild = DataConfig(
                    root=config.root, image_size=256, cache="disk", cache_dir=config.cache_dir, rebuild_cache=i % 2 == 1
                )
                for _ in range(5):
                    source = build(rebuild)
                    samples = [source[k] for k in range(6)]
                    sums = [int(sample.image.sum()) + int(sample.mask.sum()) for sample in samples]
                    with open(f"{sys.argv[2]}-sums", "a") as file:
                        file.write(f"{sums}\\n")
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        print(os.listdir(sys.argv[2]))
    """
    out = run_script(script, root, root.parent / "cache")
    sums = (root.parent / "cache-sums").read_text().splitlines()
    assert len(sums) == 20
    assert len(set(sums)) == 1
    assert out.count("set-") == 1
    assert "building" not in out


def test_cache_replaced_between_check_and_opening_is_opened_again(root, monkeypatch):
    config = config_of(root, cache="disk")
    first = training_source(files_of(config), config)
    folder, moved = first.folder, first.folder.with_name("moved")
    check, calls = disk_cache.check_cache, []

    def check_then_replace(*arguments):
        check(*arguments)
        calls.append(folder.stat().st_ino)
        if len(calls) == 1:  # the other process is between its two renames, and goes on while this one waits
            folder.rename(moved)
            shutil.copytree(moved, moved.with_name("new"))
            monkeypatch.setattr("time.sleep", lambda s: moved.with_name("new").rename(folder))

    monkeypatch.setattr(disk_cache, "check_cache", check_then_replace)
    source = training_source(files_of(config), config)
    assert len(calls) == 2 and calls[0] != calls[1]
    np.testing.assert_array_equal(source[0].image, first[0].image)


def test_a_worker_process_opens_a_cache_that_is_just_being_replaced(root, monkeypatch):
    source = cached(config_of(root))
    pickled, folder, moved = pickle.dumps(source), source.folder, source.folder.with_name("moved")
    folder.rename(moved)
    monkeypatch.setattr("time.sleep", lambda s: moved.rename(folder))
    np.testing.assert_array_equal(pickle.loads(pickled)[0].image, source[0].image)
    folder.rename(moved)
    monkeypatch.setattr("time.sleep", lambda s: None)
    with pytest.raises(InputError, match=r"disappeared while it was opened\. Does another process delete it\?"):
        pickle.loads(pickled)
