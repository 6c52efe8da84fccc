"""Constant masks against sums over pixels, and what a run that does not beat them says at its end."""

import json
import re

import numpy as np
import pytest

from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.data.constant_masks import GRID, constant_dice, share_map
from unet_jax.runs.info import RunInfo
from unet_jax.runs.verdict import verdict


def dice(truth, mask):
    total = truth.sum() + mask.sum()
    return 2 * (truth & mask).sum() / total if total else 1.0


def blobs(rng, count, size):
    """Disks near the middle, of different sizes; every fourth image has none."""
    y, x = np.mgrid[:size, :size] / size
    centres, radii = rng.normal(0.5, 0.08, (count, 2)), rng.uniform(0.1, 0.3, count)
    masks = np.array([(y - cy) ** 2 + (x - cx) ** 2 < r**2 for (cy, cx), r in zip(centres, radii, strict=True)])
    masks[::4] = False
    return masks


@pytest.mark.parametrize("size", [GRID, 3 * GRID, 100])
def test_constant_masks_are_scored_as_sums_over_pixels_score_them(size):
    """The mask of blocks is drawn at the images' own size and scored there, pixel by pixel."""
    rng = np.random.default_rng(0)
    train, val = blobs(rng, 16, size), blobs(rng, 9, size)
    maps = [[share_map(mask[..., None]) for mask in masks] for masks in (train, val)]
    (found,) = constant_dice(*maps, val.mean(axis=(1, 2))[:, None])
    blocks = np.mean([m[..., 0] / 255.0 for m in maps[0]], axis=0)
    rows = (np.arange(size) + 0.5) / size * GRID
    drawn = blocks[rows.astype(int)][:, rows.astype(int)]
    tried = [drawn >= threshold for threshold in np.arange(0.05, 1.0, 0.05, dtype=np.float32)]
    tried += [np.ones_like(drawn, bool), np.zeros_like(drawn, bool)]
    wanted = max(np.mean([dice(truth, mask) for truth in val]) for mask in tried)
    assert found == pytest.approx(wanted, abs=1e-3 if size % GRID == 0 else 0.02)
    assert 0.4 < found < 0.9


def test_empty_and_full_masks_are_tried():
    full, empty, quarter = (np.full((GRID, GRID, 1), value, np.uint8) for value in (255, 0, 64))
    assert constant_dice([empty], [empty, empty, full], np.array([[0.0], [0.0], [1.0]])) == (round(2 / 3, 6),)
    assert constant_dice([empty], [quarter], np.array([[0.25]])) == (2 * 0.25 / 1.25,)
    assert constant_dice([], [full], np.array([[1.0]])) == ()


def finished(path, config: Config, dice_of, *, step, num_seen=(9, 9), vanished=()):
    """Facts and metrics of a run with 64 training images that ended at a step, with these Dice of cell and nucleus."""
    row = {"step": step, "eval/loss": 0.5, **{f"eval/dice/{name}": value for name, value in dice_of.items()}}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    facts = {"num_seen": num_seen, "constant_dice": (0.86, 0.75)}
    audit = {"splits": {"train": facts, "val": facts}, "vanished": {"nucleus": vanished}}
    splits = {"train": [str(i) for i in range(64)], "val": ["v"], "test": []}
    return RunInfo(config, ("cell", "nucleus"), splits, audit, {})


def said(path, *args, **kwargs):
    info = finished(path, *args, **kwargs)
    return "\n".join(verdict(info, path, kwargs["step"], kwargs["step"]))


def test_a_run_that_beats_constant_masks_says_nothing(tmp_path):
    assert said(tmp_path, PRESETS["default"](), {"cell": 0.9, "nucleus": 0.76}, step=200) == ""


def test_the_warning_names_class_scores_reason_and_remedy(tmp_path):
    text = said(tmp_path, PRESETS["seed"](), {"cell": 0.9, "nucleus": 0.0}, step=77)
    assert "did not learn to find nucleus:" in text and "nucleus 0.0000 (constant mask 0.7500)" in text
    assert "cell 0.9" not in text
    assert "after 77 updates 46% of them" in text  # 0.99 ** 77
    assert "--model.batch-norm-momentum 0.9, or --train.num-steps 3200 --train.early-stop-patience 0" in text


@pytest.mark.parametrize(
    ("settings", "facts", "reason"),
    [
        ({}, {"step": 200}, r"200 updates are few.*--train.num-steps 1000"),
        ({}, {"step": 200, "num_seen": (9, 0)}, None),  # a class that val does not have is not judged
        ({}, {"step": 200, "vanished": ("a", "b")}, "in 2 images, all objects of nucleus vanish at 256x256"),
        ({"train.early_stop_patience": 3}, {"step": 160}, "stopped itself after 160 of 200 .* in 3 evaluations"),
        ({"train.num_steps": 900}, {"step": 900}, r"masks do not fit.*--optim.learning-rate 0.0002"),
        ({"model.norm": "group"}, {"step": 10}, "stopped itself|few"),
    ],
)
def test_likely_reasons(tmp_path, settings, facts, reason):
    text = said(tmp_path, replace(PRESETS["default"](), settings), {"cell": 0.9, "nucleus": 0.75}, **facts)
    if reason is None:
        assert text == ""
    else:
        assert re.search(reason, text.replace("\n", " ")), text


def test_runs_of_earlier_versions_are_not_judged(tmp_path):
    info = finished(tmp_path, PRESETS["default"](), {"cell": 0.0, "nucleus": 0.0}, step=9)
    old = RunInfo(info.config, info.class_names, info.splits, {"splits": {"val": {"num_seen": (9, 9)}}}, {})
    assert verdict(old, tmp_path, 9, 9) == [] and old.constant_dice == {}
