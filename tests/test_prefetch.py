"""Reading ahead: the same batches in every mode, errors where they belong, nothing left running."""

import contextlib
import dataclasses
import itertools
import os
import pickle
import signal
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath

from unet_jax._types import InputError, Sample
from unet_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from unet_jax.data import threads
from unet_jax.data.cached_source import training_source
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource
from unet_jax.data.synthetic import write_synthetic
from unet_jax.data.threads import PrefetchIterator
from unet_jax.devices.mesh import make_mesh
from unet_jax.training.prefetch import device_batches

CHANGED = AugmentConfig(
    rotate=20.0, crop_prob=0.3, elastic_prob=0.3, gamma_prob=0.5, noise_prob=0.3, blur_prob=0.3, cutout_prob=0.3
)


class Counter:
    """0, 1, 2, ..., with an error at one of them, and whether it was closed."""

    def __init__(self, count=1000, error_at=None):
        self.count, self.error_at, self.taken, self.closed = count, error_at, 0, False

    def __next__(self):
        if self.taken == self.error_at:
            raise BadSampleError("images/3.png: is broken")
        if self.taken == self.count:
            raise StopIteration
        self.taken += 1
        return self.taken - 1

    def close(self):
        self.closed = True


def test_ahead_gives_all_elements_in_order_and_stops():
    with contextlib.closing(PrefetchIterator(Counter(20), lambda i: i * i)) as ahead:
        assert list(ahead) == [i * i for i in range(20)]
        with pytest.raises(StopIteration):
            next(ahead)


def test_ahead_is_two_ahead_and_not_more():
    counter = Counter()
    with contextlib.closing(PrefetchIterator(counter, lambda i: i)) as ahead:
        for expected in range(3):
            time.sleep(0.15)
            assert counter.taken <= expected + 2  # one that waits, and one in the thread's hands
            assert next(ahead) == expected
        time.sleep(0.15)
        assert counter.taken == 5
    assert counter.closed


def test_ahead_raises_an_error_in_its_place_and_again():
    with contextlib.closing(PrefetchIterator(Counter(error_at=2), lambda i: i)) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        for _ in range(2):
            with pytest.raises(BadSampleError, match=r"images/3\.png"):
                next(ahead)


def test_ahead_leaves_no_thread(monkeypatch):
    """Also if the queue is full when it is closed: the thread is not waited for until it looks whether to stop."""
    monkeypatch.setattr(threads, "_CHECK_S", 60.0)

    def refuse(i):
        raise ValueError("not ready")

    for prepare in (lambda i: i, refuse):
        ahead = PrefetchIterator(Counter(), prepare)
        time.sleep(0.05)
        ahead.close()
        assert not [t for t in threading.enumerate() if t.name == "unet_jax-feed"]


@pytest.fixture
def config(synthetic_root):
    data = DataConfig(root=str(synthetic_root), image_size=32, num_threads=2)
    return Config(
        data=data,
        augment=CHANGED,
        model=ModelConfig(widths=(4, 4), center_width=4),
        train=TrainConfig(batch_size=8, num_epochs=2),
    )


def change(config, *, where="host", **data):
    augment = dataclasses.replace(config.augment, where=where)
    return dataclasses.replace(config, augment=augment, data=dataclasses.replace(config.data, **data))


def batches_of(config, tmp_path, start_step=0, count=6, source=None):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_dir=str(tmp_path)))
    layout = find_layout(config.data)
    source = source or training_source(FileSource(layout, layout.records), config.data)
    order = TrainOrder(len(source), 8, 2, seed=3)
    mesh = make_mesh(jax.devices()[:2])
    with contextlib.closing(device_batches(source, order, config, mesh, start_step=start_step)) as batches:
        return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("where", ["host", "device"])
def test_every_mode_gives_the_same_batches_from_every_step(config, tmp_path, where):
    """Caches, threads and workers change nothing, bit for bit, nor does beginning in the middle."""
    whole = batches_of(change(config, where=where, cache="none", num_threads=1), tmp_path)
    assert len(whole) == 6
    modes = [
        ({"cache": "disk", "num_threads": 3}, 0),
        ({"cache": "disk", "num_threads": 1}, 4),
        ({"cache": "memory", "num_threads": 0}, 2),
        ({"cache": "disk", "num_threads": 2, "num_workers": 2}, 1),
    ]
    if where == "device":  # only what feeds them is another, and each mode traces the changes and starts its workers
        modes = [({"cache": "disk", "num_threads": 2, "num_workers": 1}, 3)]
    for settings, start_step in modes:
        some = batches_of(change(config, where=where, **settings), tmp_path, start_step)
        assert len(some) == 6 - start_step
        for got, wanted in zip(some, whole[start_step:], strict=True):
            jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_device_and_host_get_the_same_masks_and_almost_the_same_images(config, tmp_path):
    host, device = (batches_of(change(config, where=where), tmp_path) for where in ("host", "device"))
    for h, d in zip(host, device, strict=True):
        np.testing.assert_array_equal(h.label, d.label)
        assert (np.abs(h.image.astype(int) - d.image.astype(int)) > 2).mean() < 0.001


def test_batches_are_on_the_devices_before_they_are_asked_for(config, tmp_path):
    layout = find_layout(config.data)
    source = training_source(FileSource(layout, layout.records), config.data)
    order = TrainOrder(len(source), 8, 2, seed=3)
    mesh = make_mesh()
    with contextlib.closing(device_batches(source, order, config, mesh, start_step=0)) as batches:
        with jax.transfer_guard("disallow"):
            batch = next(batches)
        assert batch.image.sharding.num_devices == mesh.size
        assert batch.image.dtype == batch.label.dtype == np.uint8


class Counting:
    """Small samples, and how many were read."""

    def __init__(self):
        self.ids, self.reads = [str(i) for i in range(64)], 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        self.reads += 1
        return Sample(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 1), np.uint8))


def test_what_is_read_ahead_is_bounded(config):
    """However long a step takes: two batches of 8, one that is being filled, and two samples of each of two threads."""
    source = Counting()
    order = TrainOrder(64, 8, 100, seed=3)
    with contextlib.closing(device_batches(source, order, config, make_mesh(), start_step=0)) as batches:
        for used in range(1, 4):
            next(batches)
            time.sleep(0.3)
            assert 8 * (used + 1) <= source.reads <= 8 * (used + 3) + 4


@pytest.mark.parametrize(
    ("where", "num_workers"),
    [
        ("host", 1),
        ("device", 0),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("host", 0), ("device", 1))),
    ],
)  # each of the four is fed by one of these two ways and changed in one of these two
def test_file_that_becomes_unreadable_is_named_within_seconds(config, tmp_path, where, num_workers):
    """The audit was passed; the file is replaced while training reads others."""
    root = tmp_path / "set"
    write_synthetic(epath.Path(root), num_images=16, image_size=32, num_classes=2, seed=1)
    config = change(config, where=where, cache="none", num_workers=num_workers, num_threads=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root)))
    layout = find_layout(config.data)
    source = FileSource(layout, layout.records)
    order = TrainOrder(16, 8, 50, seed=3)
    with contextlib.closing(device_batches(source, order, config, make_mesh(), start_step=0)) as batches:
        next(batches)
        (root / "images" / "0005.png").write_bytes(b"")
        start = time.perf_counter()
        with pytest.raises(InputError, match=r"images/0005\.png: is not an image .*0 bytes"):
            for _ in range(98):
                next(batches)
        assert time.perf_counter() - start < 10


class Killer:
    """A source whose sample 13 kills the process that reads it, or fails in a way that names nothing."""

    def __init__(self, kill):
        self.kill, self.parent = kill, os.getpid()
        self.ids = [f"id{i}" for i in range(32)]

    def __len__(self):
        return 32

    def __getitem__(self, index):
        if index == 13:
            if not self.kill:
                raise MemoryError("no memory")
            assert os.getpid() != self.parent
            os.kill(os.getpid(), signal.SIGKILL)
        return Sample(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 1), np.uint8))


def test_killed_worker_process_is_an_error_with_the_images_in_question(config, tmp_path):
    start = time.perf_counter()
    with pytest.raises(RuntimeError, match=r"failed while it read .*id13.*: .*exit code -9.*num-workers"):
        batches_of(change(config, num_workers=1), tmp_path, source=Killer(kill=True))
    assert time.perf_counter() - start < 40  # a worker's start is most of it


def test_any_other_error_names_the_sample(config, tmp_path):
    with pytest.raises(RuntimeError, match=r"sample 'id13' cannot be read: MemoryError: no memory"):
        batches_of(config, tmp_path, source=Killer(kill=False))


def test_disk_cache_is_opened_by_path_in_workers(config, tmp_path):
    """A map sent through a pipe would be a copy of the data set."""
    layout = find_layout(config.data)
    data = dataclasses.replace(config.data, cache="disk", cache_dir=str(tmp_path))
    source = disk_source(FileSource(layout, layout.records), data, num_threads=1)
    assert len(pickle.dumps(source)) < 3000
