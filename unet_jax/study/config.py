"""What a study is, and the TOML file that says it; refused before anything is touched."""

import dataclasses
import re
import tomllib
import typing
from collections.abc import Collection
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, LossConfig, LossTermConfig
from unet_jax.config.checks import did_you_mean, require
from unet_jax.config.dicts import config_from_dict, replace
from unet_jax.config.presets import PRESETS

_PATHS = ("data.root", "data.splits", "data.cache_dir")
_STUDY_FIELDS = ("out", "seeds", "baseline", "preset", "split", "devices_per_run")
_LOSS_FIELDS = tuple(field.name for field in dataclasses.fields(LossConfig))
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One loss of a study."""

    name: str
    """Its name in tables, and a folder's."""
    loss: LossConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """Every variant is trained once with every seed; all else is the same."""

    out: str
    """Folder of the study."""
    config: Config
    """All settings but seed and loss, which variants and seeds replace."""
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    baseline: str
    """The variant that the others are compared with."""
    split: str = "test"
    """What is scored."""
    devices_per_run: int = 1
    """A run's batches are split over so many devices; the others do other runs meanwhile."""

    def __post_init__(self) -> None:
        require(bool(self.out), "study.out", self.out, "the folder that the study is written to")
        names = [variant.name for variant in self.variants]
        require(len(names) >= 2, "variant", names, "at least two tables [[variant]], one of them the baseline")
        for name in names:
            ok = re.fullmatch(_NAME, name) is not None and not name.endswith(".")
            require(ok, "variant.name", name, "letters, digits and . _ + - (it is used as a folder)")
        folded = [name.casefold() for name in names]  # folders of some file systems
        repeated = sorted({name for name in names if folded.count(name.casefold()) > 1})
        require(not repeated, "variant.name", repeated, "free of repeated names")
        require(self.baseline in names, "study.baseline", self.baseline, f"one of the variants {', '.join(names)}")
        size = self.devices_per_run
        require(type(size) is int and size >= 1, "study.devices_per_run", size, "a whole number of at least 1")
        require(len(self.seeds) >= 1, "study.seeds", self.seeds, "at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), "study.seeds", self.seeds, "free of repeated seeds")
        for seed in self.seeds:
            ok = type(seed) is int and 0 <= seed < 2**31
            require(ok, "study.seeds", seed, "whole numbers from 0 to 2**31 - 1")
        require(self.split in ("train", "val", "test"), "study.split", self.split, "one of 'train', 'val', 'test'")

    def run_config(self, variant: Variant, seed: int) -> Config:
        """The whole run of a variant and a seed."""
        return dataclasses.replace(self.config, seed=seed, loss=variant.loss)

    def run_path(self, variant: Variant, seed: int) -> epath.Path:
        """Its run directory."""
        return epath.Path(self.out) / "runs" / variant.name / f"seed{seed}"


def load_study(path: str | epath.Path, *, out: str = "", config: dict[str, Any] | None = None) -> Study:
    """Reads a study file.

    Args:
      path: the TOML file. Paths in it that are not absolute start at its folder.
      out: instead of the file's `study.out`.
      config: settings by dotted name that go before the file's own, as `{"data.root": "DATA"}`.

    Raises:
      InputError: it cannot be read, or says something that does not exist or cannot be.
    """
    path = epath.Path(path)
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}). Give the TOML file of a study.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML ({error}).") from error
    try:
        return _study(values, path.parent, out, config or {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _study(values: dict[str, Any], folder: epath.Path, out: str, overrides: dict[str, Any]) -> Study:
    _check_names("table", values, ("study", "config", "variant"))
    study, tables = _table("study", values.get("study", {})), values.get("variant", [])
    _check_names("study field", study, _STUDY_FIELDS)
    for name in ("out", "baseline", "preset", "split"):
        require(isinstance(study.get(name, ""), str), f"study.{name}", study.get(name), "text")
    seeds = study.get("seeds", [0, 1, 2])
    require(isinstance(seeds, list), "study.seeds", seeds, "a list of whole numbers")
    require(isinstance(tables, list), "variant", tables, "written [[variant]], once for each variant")
    preset = study.get("preset", "small")
    require(preset in PRESETS, "study.preset", preset, f"one of {', '.join(PRESETS)}")
    flat = _flatten(_table("config", values.get("config", {})))
    for name in flat:
        refused = name == "seed" or name.startswith("loss.")
        require(not refused, "config", name, "another setting: [study] has the seeds and [[variant]] the losses")
    flat |= {name: str(folder / flat[name]) for name in _PATHS if flat.get(name) and isinstance(flat[name], str)}
    # A picture of every run is time that nobody looks at; a file may still ask for them.
    config = replace(PRESETS[preset](), {"train.num_pictures": 0, **flat, **overrides})
    variants = tuple(_variant(table, i) for i, table in enumerate(tables))
    own_out = str(folder / study["out"]) if study.get("out") else ""
    baseline = study.get("baseline", variants[0].name if variants else "")
    rest = {name: study[name] for name in ("split", "devices_per_run") if name in study}
    return Study(out or own_out, config, variants, tuple(seeds), baseline, **rest)


def _variant(table: Any, index: int) -> Variant:
    table = dict(_table("variant", table))
    name = table.pop("name", "")
    require(isinstance(name, str) and bool(name), f"variant {index + 1}: name", name, "given, as text")
    try:
        _check_names("field", table, _LOSS_FIELDS)
        terms = table.get("terms", [])
        ok = isinstance(terms, list) and all(isinstance(term, dict) for term in terms)
        require(ok, "terms", terms, 'a list of tables, as in [{name = "bce"}, {name = "tversky", weight = 0.5}]')
        unused = sorted(set(table) - {"terms"}) if terms else []
        require(not unused, "terms", unused, "without these fields beside it, which it replaces")
        for term in terms:
            _check_names("field of a term", term, typing.get_type_hints(LossTermConfig))
            require("name" in term, "terms", term, "tables that have a name")
        return Variant(name, config_from_dict(table, LossConfig, "loss."))
    except InputError as error:
        raise InputError(f"variant {name!r}: {error}") from error


def _table(name: str, value: Any) -> dict[str, Any]:
    require(isinstance(value, dict), name, value, f"a table, written [{name}]")
    return value


def _check_names(kind: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
            raise InputError(f"the {kind} {name!r} does not exist.{hint}")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables and quoted dotted names alike, by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat
