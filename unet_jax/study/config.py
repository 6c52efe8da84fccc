"""The class `Study`, and `load_study`, which reads one from a TOML file.

Settings are checked here, before a run begins and before anything is written.
"""

import dataclasses
import re
import typing
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, LossConfig, LossTermConfig
from unet_jax.config.checks import did_you_mean, require
from unet_jax.config.dicts import config_from_dict, replace
from unet_jax.config.presets import PRESETS
from unet_jax.config.toml_file import flatten_tables, in_folder, read_toml

_STUDY_FIELDS = ("out", "seeds", "baseline", "preset", "split", "devices_per_run")
_LOSS_FIELDS = tuple(field.name for field in dataclasses.fields(LossConfig))
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

    def __post_init__(self) -> None:
        for setting in self.settings:
            section, _, field = setting.partition(".")
            reason = {
                "seed": "every variant is trained with every seed of [study]",
                "loss": "the loss is given by the variant's own fields, such as bce_weight or terms",
                "train.devices_per_image": "all runs of a study use the same devices",
            }
            if section == "data" and field not in _VARIED_DATA:
                varied = ", ".join(f"data.{name}" for name in _VARIED_DATA)
                why = f"all variants must have the same images, masks and splits (only {varied} may differ)"
            else:
                why = reason.get(setting, reason.get(section, ""))
            if why:
                raise InputError(f"config.{setting} cannot differ between variants: {why}.")


@dataclasses.dataclass(frozen=True)
class Study:
    """A plan to train every variant once with every seed, with all settings equal that the variants do not name.

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

    def __post_init__(self) -> None:
        require(bool(self.out), "study.out", self.out, "the folder that the study is written to")
        names = [variant.name for variant in self.variants]
        require(len(names) >= 2, "variant", names, "at least two tables [[variant]], one of them the baseline")
        for name in names:
            ok = re.fullmatch(_NAME, name) is not None and not name.endswith(".")
            allowed = "made of letters, digits and . _ + -, begin with a letter or digit, and not end with a dot"
            require(ok, "variant.name", name, f"{allowed} (it is used as a folder name)")
        folded = [name.casefold() for name in names]  # some file systems ignore the case of folder names
        repeated = sorted({name for name in names if folded.count(name.casefold()) > 1})
        require(not repeated, "variant.name", repeated, "free of repeated names (case does not count)")
        require(self.baseline in names, "study.baseline", self.baseline, f"one of the variants {', '.join(names)}")
        size = self.devices_per_run
        require(type(size) is int and size >= 1, "study.devices_per_run", size, "a whole number of at least 1")
        require(len(self.seeds) >= 1, "study.seeds", self.seeds, "at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), "study.seeds", self.seeds, "free of repeated seeds")
        for seed in self.seeds:
            ok = type(seed) is int and 0 <= seed < 2**31
            require(ok, "study.seeds", seed, "whole numbers from 0 to 2**31 - 1")
        ok = self.split in ("train", "val", "test", "auto")
        require(ok, "study.split", self.split, "one of 'train', 'val', 'test', 'auto'")

    def run_config(self, variant: Variant, seed: int) -> Config:
        """Return the complete config of the run of one variant and one seed."""
        try:
            config = replace(self.config, dict(variant.settings))
        except InputError as error:
            raise InputError(f"variant {variant.name!r}: {error}") from error
        return dataclasses.replace(config, seed=seed, loss=variant.loss)

    def run_path(self, variant: Variant, seed: int) -> epath.Path:
        """Return the run directory of one variant and one seed: OUT/runs/VARIANT/seedN."""
        return epath.Path(self.out) / "runs" / variant.name / f"seed{seed}"


def load_study(path: str | epath.Path, *, out: str = "", config: dict[str, Any] | None = None) -> Study:
    """Read a study from a TOML file (docs/studies.md describes the format).

    Args:
      path: the TOML file. Relative paths in the file (`study.out`, `data.root`, `data.splits`, `data.cache_dir`) start
        at the file's folder.
      out: folder of the study, which replaces the file's `study.out` if it is not empty.
      config: settings by dotted name, such as `{"data.root": "DATA"}`, which take precedence over the file's.

    Returns:
      The study, with all values checked. Where the file leaves them out, the seeds are 0, 1 and 2, the baseline is the
      first variant, the preset is "small", the split is "auto", and runs draw no pictures (`train.num_pictures` is 0).
      A variant that names no field of the loss has that of `[config.loss]`, or the preset's.

    Raises:
      InputError: the file cannot be read, is not TOML, or holds an unknown name or a value that cannot be used.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "study.toml"
      >>> _ = path.write_text('''
      ... [study]
      ... out = "results"
      ... [[variant]]
      ... name = "bce"
      ... dice_weight = 0.0
      ... [[variant]]
      ... name = "bce+dice"
      ... ''')
      >>> study = load_study(str(path), config={"data.root": "DATA"})
      >>> [variant.name for variant in study.variants], study.seeds, study.baseline
      (['bce', 'bce+dice'], (0, 1, 2), 'bce')
    """
    path = epath.Path(path)
    values = read_toml(path, "the TOML file of a study")
    try:
        return _study(values, path.parent, out, config or {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _study(values: dict[str, Any], folder: epath.Path, out: str, overrides: dict[str, Any]) -> Study:
    """Make a study from the parsed file; relative paths start at `folder`."""
    _check_names("table", values, ("study", "config", "variant"))
    study, tables = _table("study", values.get("study", {})), values.get("variant", [])
    _check_names("study field", study, _STUDY_FIELDS)
    for name in ("out", "baseline", "preset", "split"):
        require(isinstance(study.get(name, ""), str), f"study.{name}", study.get(name), "text")
    seeds = study.get("seeds", [0, 1, 2])
    require(isinstance(seeds, list), "study.seeds", seeds, "a list of whole numbers")
    require(isinstance(tables, list), "variant", tables, "a list of tables, each written [[variant]]")
    preset = study.get("preset", "small")
    require(preset in PRESETS, "study.preset", preset, f"one of {', '.join(PRESETS)}")
    flat = flatten_tables(_table("config", values.get("config", {})))
    for name in (*flat, *overrides):
        require(name != "seed", "config", name, "another setting: [study] has the seeds")
    # A study has many runs, and drawing each one's pictures takes time; the file may still ask for them.
    config = replace(PRESETS[preset](), {"train.num_pictures": 0, **in_folder(flat, folder), **overrides})
    variants = tuple(_variant(table, i, config.loss) for i, table in enumerate(tables))
    own_out = str(folder / study["out"]) if study.get("out") else ""
    baseline = study.get("baseline", variants[0].name if variants else "")
    rest: dict[str, Any] = {"split": "auto"} | {
        name: study[name] for name in ("split", "devices_per_run") if name in study
    }
    result = Study(out or own_out, config, variants, tuple(seeds), baseline, **rest)
    for variant in variants:
        result.run_config(variant, seeds[0])  # an unknown setting or value of a variant is found here
    return result


def _variant(table: Any, index: int, loss: LossConfig) -> Variant:
    """Make a variant from a [[variant]] table, with this loss if it names none; `index` counts from 0."""
    table = dict(_table("variant", table))
    name = table.pop("name", "")
    require(isinstance(name, str) and bool(name), f"variant {index + 1}: name", name, "given as text")
    settings = flatten_tables(_table("variant.config", table.pop("config", {})))
    try:
        _check_names("field", table, (*_LOSS_FIELDS, "config"))
        terms = table.get("terms", [])
        ok = isinstance(terms, list) and all(isinstance(term, dict) for term in terms)
        require(ok, "terms", terms, 'a list of tables, as in [{name = "bce"}, {name = "tversky", weight = 0.5}]')
        unused = sorted(set(table) - {"terms"}) if terms else []
        if unused:
            raise InputError(f"terms replaces {', '.join(unused)}: give either terms or these fields, not both.")
        for term in terms:
            _check_names("field of a term", term, typing.get_type_hints(LossTermConfig))
            require("name" in term, "terms", term, "tables that each have a name")
        return Variant(name, config_from_dict(table, LossConfig, "loss.") if table else loss, settings)
    except InputError as error:
        raise InputError(f"variant {name!r}: {error}") from error


def _table(name: str, value: Any) -> dict[str, Any]:
    """Return the value if it is a TOML table, and raise `InputError` otherwise."""
    require(isinstance(value, dict), name, value, f"a table, written [{name}]")
    return value


def _check_names(kind: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise `InputError` for the first name that is not known."""
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f" Use one of {', '.join(known)}."
            raise InputError(f"the {kind} {name!r} does not exist.{hint}")
