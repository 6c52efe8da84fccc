"""The class `Study` and its variants. Values are checked here, before a run begins and before anything is written."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig, LossConfig
from unet_jax.config.checks import require
from unet_jax.config.dicts import replace
from unet_jax.study.search import Space, Tune, with_loss_values

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_VARIED_DATA = (
    *("image_size", "fit", "scale", "crop_foreground", "sample_by_class", "mask_interpolation"),
    *("channels", "intensity", "intensity_percentiles", "intensity_limits"),
)
"""Settings of the data that a variant may have: what the network sees, but not which images, masks and splits."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the losses, networks or recipes that a study compares.

    Raises:
      InputError: a setting belongs to the whole study, such as the seed or the images.

    Example:
      >>> from unet_jax.config import LossConfig
      >>> Variant("bce", LossConfig(dice_weight=0.0)).loss.bce_weight
      1.0
      >>> Variant("group", LossConfig(), {"model.norm": "group"}).settings
      {'model.norm': 'group'}
    """

    name: str
    """Name in tables and pictures, and name of the folder of the variant's runs."""
    loss: LossConfig
    """Loss that the variant's runs minimise."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values that replace the study's, by dotted name, such as "model.norm" or "augment.rotate"."""
    tune: Space = dataclasses.field(default_factory=dict)
    """Settings that are tuned for this variant besides those of `Study.tune`."""

    def __post_init__(self) -> None:
        for setting in self.settings:
            section, _, field = setting.partition(".")
            reason = {
                "seed": "every variant is trained with every seed of [study]",
                "loss": "the loss is given by the variant's own fields, such as bce_weight or terms",
                "train.writers": "a study writes its own tables",
                "train.devices_per_image": "all runs of a study use the same devices",
            }
            if section == "data" and field not in _VARIED_DATA:
                varied = ", ".join(f"data.{name}" for name in _VARIED_DATA)
                why = f"all variants must have the same images, masks and splits (only {varied} may differ)"
            else:
                why = reason.get(setting, reason.get(section, ""))
            if why:
                raise InputError(f"config.{setting} cannot differ between variants: {why}.")

    def with_values(self, values: Mapping[str, Any]) -> "Variant":
        """Return the variant with values of a trial, by setting: "config.NAME" or "loss.NAME".

        Raises:
          InputError: a name does not exist, or a value cannot be used.
        """
        settings = {name.removeprefix("config."): v for name, v in values.items() if name.startswith("config.")}
        of_loss = {name.removeprefix("loss."): v for name, v in values.items() if name.startswith("loss.")}
        loss = with_loss_values(self.loss, of_loss) if of_loss else self.loss
        return dataclasses.replace(self, loss=loss, settings={**self.settings, **settings})


def check_folder_names(field: str, names: Sequence[str]) -> None:
    """Raise `InputError` unless all names can be folders side by side."""
    for name in names:
        ok = re.fullmatch(_NAME, name) is not None and not name.endswith(".")
        allowed = "made of letters, digits and . _ + -, begin with a letter or digit, and not end with a dot"
        require(ok, field, name, f"{allowed} (it is used as a folder name)")
    folded = [name.casefold() for name in names]  # some file systems ignore the case of folder names
    repeated = sorted({name for name in names if folded.count(name.casefold()) > 1})
    require(not repeated, field, repeated, "free of repeated names (case does not count)")


class Unit(NamedTuple):
    """Seed, or seed and fold, that every variant is trained with once."""

    seed: int
    """Seed of the run, which with folds also divides the images into them."""
    fold: int | None = None
    """Number of the fold that is held out; None if the study has no folds."""

    @property
    def name(self) -> str:
        """Text for people, such as "seed 0" or "seed 0 fold 2"."""
        return f"seed {self.seed}" if self.fold is None else f"seed {self.seed} fold {self.fold}"

    @property
    def folder(self) -> str:
        """Name of the run directory among those of a variant, such as "seed0" or "seed0-fold2"."""
        return f"seed{self.seed}" if self.fold is None else f"seed{self.seed}-fold{self.fold}"


@dataclasses.dataclass(frozen=True)
class Study:
    """A plan to train every variant with every seed (and fold), with all settings equal that the variants do not name.

    Raises:
      InputError: a value cannot be used; the message names the field, the value and the requirement.

    Example:
      >>> from unet_jax.config import Config, LossConfig
      >>> variants = (Variant("bce", LossConfig(dice_weight=0.0)), Variant("bce+dice", LossConfig()))
      >>> study = Study("OUT", Config(), variants, seeds=(0, 1, 2), baseline="bce")
      >>> str(study.run_path(variants[1], seed=2))
      'OUT/runs/bce+dice/seed2'
    """

    out: str
    """Folder of the study."""
    config: Config
    """Settings of all runs. Each run replaces `config.seed` and `config.loss` by those of its seed and its variant, and
    the settings that its variant names."""
    variants: tuple[Variant, ...]
    """Variants to compare: at least two, with names that differ by more than upper and lower case."""
    seeds: tuple[int, ...]
    """Seeds that every variant is trained with, from 0 to 2**31 - 1: at least one, and none twice."""
    baseline: str
    """Name of the variant that the others are compared with."""
    split: str = "test"
    """Split whose images are scored: train, val or test; or auto, which is test, or val if the data set has no test."""
    devices_per_run: int = 1
    """Number of devices that each run's batches are divided over. The other devices compute other runs meanwhile."""
    dataset: str = ""
    """Name of the data set among those of a file with several; empty if there is only one."""

    tune: Tune | None = None
    """Search for each variant's settings, before its runs; None: all variants have the settings that they name."""
    folds: int = 0
    """Number of folds into which each seed divides the images of train and val. Each fold is held out once, and scored.
    0: no folds."""

    def __post_init__(self) -> None:
        writers = self.config.train.writers
        require(not writers, "train.writers", writers, "empty: rows do not say of which run they are")
        require(bool(self.out), "study.out", self.out, "the folder that the study is written to")
        names = [variant.name for variant in self.variants]
        require(len(names) >= 2, "variant", names, "at least two tables [[variant]], one of them the baseline")
        check_folder_names("variant.name", names)
        require(self.baseline in names, "study.baseline", self.baseline, f"one of the variants {', '.join(names)}")
        size = self.devices_per_run
        require(type(size) is int and size >= 1, "study.devices_per_run", size, "a whole number of at least 1")
        require(len(self.seeds) >= 1, "study.seeds", self.seeds, "at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), "study.seeds", self.seeds, "free of repeated seeds")
        for seed in self.seeds:
            ok = type(seed) is int and 0 <= seed < 2**31
            require(ok, "study.seeds", seed, "whole numbers from 0 to 2**31 - 1")
        for variant in self.variants:
            ok = self.tune is not None or not variant.tune
            require(ok, f"variant {variant.name!r}: tune", dict(variant.tune), "left out, or the study needs [tune]")
        ok = self.tune is None or self.tune.seed not in self.seeds
        require(ok, "tune.seed", self.tune and self.tune.seed, "none of the seeds of the study")
        ok = self.split in ("train", "val", "test", "auto")
        require(ok, "study.split", self.split, "one of 'train', 'val', 'test', 'auto'")
        ok = type(self.folds) is int and (self.folds == 0 or self.folds >= 2)
        require(ok, "study.folds", self.folds, "a whole number of at least 2, or 0 for none")
        if self.folds:
            ok = self.split in ("test", "auto")
            require(
                ok, "study.split", self.split, "left out with study.folds: each fold is scored where it is held out"
            )
            reason = "trials would see images that a fold holds out later: tune on other images, or leave folds out"
            require(self.tune is None, "tune", "given", f"left out with study.folds, because {reason}")

    @property
    def units(self) -> tuple[Unit, ...]:
        """Seeds that every variant is trained with; with folds, all folds of the first seed, then of the next."""
        folds = range(self.folds) if self.folds else (None,)
        return tuple(Unit(seed, fold) for seed in self.seeds for fold in folds)

    def data_of(self, seed: int, fold: int | None = None) -> DataConfig:
        """Return the settings of the data set, with the splits of a fold."""
        if fold is None:
            return self.config.data
        path = epath.Path(self.out) / "folds" / f"{Unit(seed, fold).folder}.csv"
        return dataclasses.replace(self.config.data, splits=str(path))

    def run_config(self, variant: Variant, seed: int, fold: int | None = None) -> Config:
        """Return the complete config of the run of one variant and one seed, or one fold of a seed."""
        try:
            config = replace(self.config, dict(variant.settings))
        except InputError as error:
            raise InputError(f"variant {variant.name!r}: {error}") from error
        if fold is not None:
            config = replace(config, {"data.splits": self.data_of(seed, fold).splits})
        return dataclasses.replace(config, seed=seed, loss=variant.loss)

    def draws(self, variant: Variant) -> list[dict[str, Any]]:
        """Return the values of each trial of a variant, by setting; trial 0 has none, which are those of the file.

        Raises:
          InputError: the study is not tuned, the variant has nothing to tune, or another number of trials than others.
        """
        if self.tune is None:
            raise InputError("the study is not tuned: it has no table [tune].")
        draws = self.tune.draws(variant.name, variant.tune)
        first = self.variants[0]
        expected = len(self.tune.draws(first.name, first.tune))
        if len(draws) != expected:
            raise InputError(
                f"variants {first.name!r} and {variant.name!r} would have {expected - 1} and {len(draws) - 1} trials. "
                f"With tune.method = 'random' and tune.trials, all have the same number."
            )
        return draws

    def check_draws(self) -> None:
        """Raise `InputError` if a value of a trial cannot be used."""
        for variant in self.variants if self.tune is not None else ():
            for number, values in enumerate(self.draws(variant)):
                try:
                    self.run_config(variant.with_values(values), 0)
                except InputError as error:
                    raise InputError(f"trial {number} of the variant {variant.name!r} ({values}): {error}") from error

    def run_path(self, variant: Variant, seed: int, fold: int | None = None) -> epath.Path:
        """Return the run directory of one variant and one seed: OUT/runs/VARIANT/seedN, or seedN-foldM."""
        return epath.Path(self.out) / "runs" / variant.name / Unit(seed, fold).folder
