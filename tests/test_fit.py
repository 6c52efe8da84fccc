"""Training from arrays and other sources in Python."""

import functools

import numpy as np
import pytest
from helpers import ONE_DEVICE, tiny_config
from helpers import run as run_training

import unet_jax
from unet_jax import ArraySource, InputError, load_run, predict_probs, replace
from unet_jax.config import DataConfig
from unet_jax.data.array_source import as_sample
from unet_jax.data.images.intensity import find_format
from unet_jax.data.layout import find_layout
from unet_jax.data.synthetic import synthetic_sample
from unet_jax.data.written_source import write_sources
from unet_jax.losses import soft_dice_loss
from unet_jax.report.display import Quiet
from unet_jax.training import fit as fit_module
from unet_jax.training.fit import _name_of
from unet_jax.training.setup import split_source

SAMPLES = [synthetic_sample(np.random.default_rng(i), 32, 2) for i in range(12)]


def arrays():
    return np.stack([s.image for s in SAMPLES]), np.stack([s.mask for s in SAMPLES])


def test_fit_trains_continues_and_refuses_other_samples(tmp_path, monkeypatch):
    """The result is that of `train` on the files; `history` holds the evaluations; the same call continues."""
    images, masks = arrays()

    class Own:
        """A source of the user's: pairs, no ids, no names."""

        def __init__(self, part):
            self.part = part

        def __len__(self):
            return len(self.part)

        def __getitem__(self, index):
            return images[self.part[index]], masks[self.part[index]] > 0

    config = replace(tiny_config(tmp_path, num_epochs=1), {"data.root": "", "data.splits": None})
    monkeypatch.setattr(
        fit_module, "train", lambda c, out, display, mesh, **own: run_training(c, out, display, mesh=ONE_DEVICE)
    )
    out = tmp_path / "run"
    result = unet_jax.fit(Own(range(8)), Own(range(8, 12)), config, out, display=Quiet())
    (row,) = result.history
    assert row["step"] == 1 and row["eval/loss"] == pytest.approx(result.best_metrics["loss"])
    run = load_run(out, mesh=ONE_DEVICE)
    assert run.class_names == ("class0", "class1") and run.history == result.history
    assert {name: len(ids) for name, ids in run.info.splits.items()} == {"train": 8, "val": 4, "test": 0}
    text = repr(run)
    assert len(text) < 400 and str(out) in text and "checkpoint 1 of 1" in text and "parameters on 1 cpu device" in text
    assert predict_probs(run, images[:1]).shape == (1, 32, 32, 2)
    again = unet_jax.fit(Own(range(8)), Own(range(8, 12)), config, out, display=Quiet())
    assert again.history == result.history
    with pytest.raises(InputError, match="'train-000000' of train was another one"):
        unet_jax.fit(Own(range(7, -1, -1)), Own(range(8, 12)), config, out, display=Quiet())
    with pytest.raises(InputError, match="has 8 train, 4 val samples"):
        unet_jax.fit(Own(range(8)), None, config, out, display=Quiet())
    with pytest.raises(InputError, match="fit trains on the sources"):
        unet_jax.fit(Own(range(8)), None, replace(config, {"data.root": "DATA"}), out)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "float16"])
def test_written_samples_are_read_as_they_were(tmp_path, dtype, channels):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 200, (9, 7, channels)).astype(dtype) for _ in range(2)]
    masks = [rng.integers(0, 2, (9, 7, 2)).astype(bool) for _ in range(2)]
    write_sources(tmp_path / "data", {"train": ArraySource(images, masks, ["b", "a"])}, ["b", "a"])
    config = DataConfig(root=str(tmp_path / "data"), classes=("b", "a"), image_size=8)
    layout = find_layout(config)
    found = find_format([record.images for record in layout.records], config)
    assert found.format.num_channels == channels and not found.rotated
    plain = unet_jax.read_pixels(layout.records[0].image)
    np.testing.assert_array_equal(plain, images[0].astype(np.float32 if "float" in dtype else dtype))
    sample = split_source(layout, ["train-000001"], config, found.format)[0]
    np.testing.assert_array_equal(sample.mask, masks[1] * np.uint8(255))


def test_masks_mean_the_same_in_every_type():
    inside = np.array([[[True, False]], [[False, True]]])
    expected = inside * np.uint8(255)
    image = np.zeros((2, 1, 3), np.uint8)
    for mask in (inside, inside.astype(int), inside * 255, inside.astype(float), inside * np.uint8(255)):
        np.testing.assert_array_equal(as_sample(image, mask, "x").mask, expected)
    assert as_sample(image, inside * 0.5, "x").mask.max() == 128
    assert as_sample(image[..., 0], inside[..., 0], "x").mask.shape == (2, 1, 1)


@pytest.mark.parametrize(
    "image, mask, message",
    [
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 1), 2), "values from 2 to 2"),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 1), -1), "values from -1 to -1"),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 1), np.nan), "values from nan to nan"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 1)), "4x5 pixels"),
        (np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 1)), "int64"),
        (np.full((4, 4, 3), np.inf), np.zeros((4, 4, 1)), "not finite"),
        (np.zeros((4,), np.uint8), np.zeros((4, 4, 1)), r"shape \(4,\)"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(image, mask, message):
    with pytest.raises(InputError, match=message) as error:
        ArraySource([image], [mask], ids=["left"])
    assert "'left'" in str(error.value)


def test_a_loss_goes_by_its_name():
    assert _name_of(soft_dice_loss) == "unet_jax.losses.dice:soft_dice_loss"

    def local(logits, labels):
        return logits

    for loss in (local, lambda logits, labels: logits, functools.partial(soft_dice_loss, smooth=2.0), object()):
        with pytest.raises(InputError, match="top level"):
            _name_of(loss)


def test_sources_that_do_not_fit_are_refused(tmp_path):
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), bool)
    for make in (
        lambda: ArraySource([image], []),
        lambda: ArraySource([image], [mask], ["a", "b"]),
        lambda: ArraySource([image], [mask], "cell"),
        lambda: ArraySource([image], [mask], ids=["a", "b"]),
        lambda: unet_jax.fit(ArraySource([], []), out=tmp_path / "run"),
        lambda: unet_jax.fit(ArraySource([image], [mask]), out="gs://bucket/run"),
        lambda: write_sources(tmp_path / "a", {"train": ArraySource([image], [mask], ids=["../x"])}, ["a"]),
        lambda: write_sources(tmp_path / "a", {"train": ArraySource([image] * 2, [mask] * 2, ids=["x", "X"])}, ["a"]),
        lambda: write_sources(tmp_path / "a", {"train": ArraySource([image], [mask])}, ["a", "b"]),
        lambda: write_sources(tmp_path / "a", {"train": [image]}, ["a"]),
    ):
        with pytest.raises(InputError):
            make()
    assert not (tmp_path / "a").exists()
