"""Which sample comes when: a pure function of seed, epoch and position, whoever computes it."""

import contextlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax._types import InputError, Sample, Share
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.data.augment import augment
from unet_jax.data.order import EpochSample, TrainOrder, augment_rng, steps_per_epoch
from unet_jax.data.pipeline import eval_batches, train_batches
from unet_jax.data.pixels import BadSampleError

UNCHANGED = AugmentConfig(color_prob=0.0, geometry_prob=0.0, horizontal_flip_prob=0.0)
CHANGED = AugmentConfig(hue=50.0, geometry_prob=0.9, rotate=20.0, vertical_flip_prob=0.5)


class TinySource:
    """Sample i has i in its first pixel, and random ones behind it; it may ignore random pixels."""

    def __init__(self, num_samples, bad=(), ignores=False):
        self._num_samples, self._bad, self._ignores = num_samples, bad, ignores

    @property
    def ids(self):
        return [str(i) for i in range(self._num_samples)]

    def __len__(self):
        return self._num_samples

    def __getitem__(self, index):
        if index in self._bad:
            raise BadSampleError(f"images/{index}.png: is broken")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image[0, 0] = index
        mask, valid = rng.integers(0, 2, (2, 6, 6, 2), dtype=np.uint8) * np.uint8(255)
        return Sample(image, mask & valid, valid) if self._ignores else Sample(image, mask)


def batches_of(source, order, augment_config=UNCHANGED, *, num_threads=1, num_workers=0, **position):
    config = DataConfig(num_threads=num_threads, num_workers=num_workers)
    with contextlib.closing(train_batches(source, order, augment_config, config, **position)) as batches:
        return list(batches)


def indices_in(batches):
    return [batch.image[:, 0, 0, 0].tolist() for batch in batches]


def assert_equal_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert (a.valid is None) == (e.valid is None)
        for got, wanted in zip(jax.tree.leaves(a), jax.tree.leaves(e), strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_each_epoch_is_a_permutation_without_its_last_incomplete_batch(num_samples, batch_size, num_epochs, seed):
    batch_size = min(batch_size, num_samples)
    order = TrainOrder(num_samples, batch_size, num_epochs, seed)
    draws = [order[i] for i in range(len(order))]
    per_epoch = num_samples // batch_size * batch_size
    assert order.steps_per_epoch == steps_per_epoch(num_samples, batch_size) == num_samples // batch_size
    assert len(draws) == per_epoch * num_epochs
    for epoch in range(num_epochs):
        part = draws[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert {d.epoch for d in part} == {epoch}
        assert len({d.index for d in part}) == per_epoch
        assert {d.index for d in part} <= set(range(num_samples))


def test_order_depends_on_seed_and_epoch_and_nothing_else():
    def orders(seed, num_epochs=3, batch_size=5):
        order = TrainOrder(20, batch_size, num_epochs, seed)
        indices = [order[i].index for i in range(len(order))]
        return [tuple(indices[e * 20 : (e + 1) * 20]) for e in range(num_epochs)]

    assert orders(0) == orders(0)
    assert len(set(orders(0) + orders(1))) == 6
    assert orders(0, num_epochs=2) == orders(0)[:2]
    assert orders(0, batch_size=4) == orders(0)


def test_every_sample_is_left_out_equally_often():
    """10 samples in batches of 4: two are left out of each of 500 epochs, each 100 times with deviation 8.9."""
    order = TrainOrder(10, 4, 500, seed=0)
    counts = np.bincount([order[i].index for i in range(len(order))], minlength=10)
    assert (abs(counts - 400) < 40).all()


def test_random_numbers_of_a_sample_differ_by_seed_epoch_and_index():
    cases = [
        (0, EpochSample(0, 0)),
        (0, EpochSample(0, 1)),
        (0, EpochSample(1, 0)),
        (1, EpochSample(0, 0)),
        (1, EpochSample(1, 1)),
        (0, EpochSample(1, 1)),
    ]
    assert len({augment_rng(seed, draw).random() for seed, draw in cases}) == len(cases)
    assert augment_rng(3, EpochSample(2, 1)).random() == augment_rng(3, EpochSample(2, 1)).random()


def test_too_few_samples_is_an_error_with_both_numbers():
    with pytest.raises(InputError, match=r"has 3 images, fewer than train\.batch_size 4: use --train\.batch-size 3"):
        TrainOrder(3, 4, 1, 0)
    with pytest.raises(InputError, match=r"has 0 images, .*: check --data\.splits"):
        TrainOrder(0, 4, 1, 0)


def test_batches_hold_the_augmented_draws_of_their_step():
    source, order = TinySource(11), TrainOrder(11, 3, 2, seed=5)
    batches = batches_of(source, order, CHANGED)
    assert len(batches) == 6
    for step, batch in enumerate(batches):
        for row, draw in enumerate(order.batch(step)):
            expected = augment(augment_rng(5, draw), source[draw.index], CHANGED)
            np.testing.assert_array_equal(batch.image[row], expected.image)
            np.testing.assert_array_equal(batch.label[row], expected.mask)
        np.testing.assert_array_equal(batch.weight, np.ones(3))
        assert batch.image.dtype == batch.label.dtype == np.uint8
        assert batch.weight.dtype == np.float32


def test_a_sample_is_augmented_anew_in_each_epoch():
    batches = batches_of(TinySource(1), TrainOrder(1, 1, 30, 0), CHANGED)
    assert len({batch.image.tobytes() for batch in batches}) > 25


def test_masks_stay_hard_unless_interpolated_linearly():
    order, rotated = TrainOrder(8, 4, 3, 0), AugmentConfig(geometry_prob=1.0, rotate=45.0)
    for interpolation, hard in (("nearest", True), ("linear", False)):
        config = DataConfig(num_threads=1, mask_interpolation=interpolation)
        with contextlib.closing(train_batches(TinySource(8), order, rotated, config)) as batches:
            values = {v for batch in batches for v in np.unique(batch.label).tolist()}
        assert (values == {0, 255}) == hard


@pytest.mark.parametrize("start_step", [1, 3, 4, 9])
def test_start_step_continues_exactly_there(start_step):
    """Three steps in an epoch, so 3 is the start of one."""
    source, order = TinySource(11), TrainOrder(11, 3, 3, seed=1)
    whole = batches_of(source, order, CHANGED, num_threads=2)
    assert len(whole) == 9
    assert_equal_batches(batches_of(source, order, CHANGED, num_threads=2, start_step=start_step), whole[start_step:])


def test_threads_and_workers_do_not_change_the_data():
    source, order = TinySource(11, ignores=True), TrainOrder(11, 3, 2, seed=1)
    expected = batches_of(source, order, CHANGED)
    assert all(0 < batch.valid.mean() < 255 for batch in expected)
    assert indices_in(batches_of(source, order)) == [[d.index for d in order.batch(i)] for i in range(6)]
    assert_equal_batches(batches_of(source, order, CHANGED, num_threads=4), expected)
    assert_equal_batches(batches_of(source, order, CHANGED, num_threads=2, num_workers=2, start_step=2), expected[2:])


@pytest.mark.parametrize("process_count", [1, 2, 3, 6])
def test_shares_of_processes_make_up_the_global_batch(process_count):
    source, order = TinySource(13), TrainOrder(13, 6, 2, seed=1)
    expected = batches_of(source, order, CHANGED, start_step=1)
    shares = [
        batches_of(source, order, CHANGED, start_step=1, share=Share(i, process_count)) for i in range(process_count)
    ]
    assert [len(share) for share in shares] == [3] * process_count
    n = 6 // process_count
    for step, whole in enumerate(expected):
        for i, share in enumerate(shares):
            np.testing.assert_array_equal(share[step].image, whole.image[i * n : (i + 1) * n])
            np.testing.assert_array_equal(share[step].label, whole.label[i * n : (i + 1) * n])


def test_batch_size_must_be_a_multiple_of_the_processes():
    order = TrainOrder(13, 6, 2, seed=1)
    with pytest.raises(InputError, match=r"train\.batch_size is 6, but must be a multiple of the 4 processes"):
        batches_of(TinySource(13), order, share=Share(0, 4))
    with pytest.raises(InputError, match=r"train\.batch_size is 6, but must be a multiple of the 4 processes"):
        next(eval_batches(TinySource(13), 6, share=Share(0, 4)))


@pytest.mark.parametrize("num_threads", [1, 4])
def test_bad_file_during_training_is_an_error_that_names_it(num_threads):
    """Batches before it still arrive; a hang here would be a lost error in a thread."""
    order = TrainOrder(12, 2, 1, seed=0)
    bad = order.batch(3)[1].index
    config = DataConfig(num_threads=num_threads)
    batches = train_batches(TinySource(12, bad={bad}), order, UNCHANGED, config)
    with contextlib.closing(batches):
        assert indices_in(next(batches) for _ in range(3)) == [[d.index for d in order.batch(i)] for i in range(3)]
        with pytest.raises(BadSampleError, match=rf"images/{bad}\.png: is broken"):
            next(batches)


def test_iterator_can_be_closed_early_with_threads():
    batches = train_batches(TinySource(50), TrainOrder(50, 2, 100, 0), CHANGED, DataConfig(num_threads=4))
    next(batches)
    batches.close()


@settings(deadline=None)
@given(st.integers(1, 13), st.integers(1, 4), st.integers(1, 3))
def test_eval_batches_hold_every_sample_once_and_in_order(num_samples, rows, process_count):
    source, batch_size = TinySource(num_samples), rows * process_count
    shares = [list(eval_batches(source, batch_size, share=Share(i, process_count))) for i in range(process_count)]
    seen = []
    for parts in zip(*shares, strict=True):
        image, label, weight = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[:3])
        real = weight == 1.0
        seen.extend(image[real, 0, 0, 0].tolist())
        for index, row in zip(seen[-int(real.sum()) :], np.flatnonzero(real), strict=True):
            np.testing.assert_array_equal(image[row], source[index].image)
            np.testing.assert_array_equal(label[row], source[index].mask)
        assert not weight[~real].any()
        assert not image[~real].any()
        assert not label[~real].any()
        assert weight.dtype == np.float32
    assert seen == list(range(num_samples))


def test_eval_batches_of_nothing_are_none():
    assert list(eval_batches(TinySource(0), 4)) == []


def test_bad_file_during_evaluation_is_an_error_that_names_it():
    with pytest.raises(BadSampleError, match=r"images/5\.png: is broken"):
        list(eval_batches(TinySource(8, bad={5}), 4))
