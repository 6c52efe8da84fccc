"""`load_study` and `load_studies`, which read studies from a TOML file (docs/studies.md describes the format)."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.config.checks import did_you_mean, require
from unet_jax.config.dicts import config_from_dict, replace
from unet_jax.config.presets import PRESETS
from unet_jax.config.toml_file import flatten_tables, in_folder, read_toml
from unet_jax.study.config import Study, Variant, check_folder_names
from unet_jax.study.search import Range, Tune

SETS = "sets"
"""Folder of a study over several data sets that has a folder for each of them."""
_STUDY_FIELDS = ("out", "seeds", "folds", "baseline", "preset", "split", "devices_per_run")
_LOSS_FIELDS = tuple(field.name for field in dataclasses.fields(LossConfig))
_DATASET_FIELDS = ("name", "root", "splits", "classes", "config")


def load_study(path: str | epath.Path, *, out: str = "", config: dict[str, Any] | None = None) -> Study:
    """Read a study of one data set from a TOML file.

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
      InputError: the file cannot be read, is not TOML, holds an unknown name or a value that cannot be used, or names
        several data sets.

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
    studies = load_studies(path, out=out, config=config)
    if studies[0].dataset:
        names = ", ".join(study.dataset for study in studies)
        raise InputError(
            f"{path}: names data sets ({names}): read it with load_studies, which returns a study of each."
        )
    return studies[0]


def load_studies(
    path: str | epath.Path,
    *,
    out: str = "",
    config: dict[str, Any] | None = None,
    roots: Mapping[str, str] | None = None,
) -> tuple[Study, ...]:
    """Read a study of one or several data sets from a TOML file.

    Args:
      path, out, config: the same as in `load_study`.
      roots: folders of data sets by name, which replace those of the file.

    Returns:
      A study of each data set: OUT/sets/NAME is its folder. If the file has no table `[[dataset]]`, one study without
      the name of a data set, whose folder is OUT.

    Raises:
      InputError: the same as in `load_study`, or two data sets have the same images.
    """
    path = epath.Path(path)
    values = read_toml(path, "the TOML file of a study")
    try:
        return _studies(values, path.parent, out, config or {}, dict(roots or {}))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _studies(
    values: dict[str, Any], folder: epath.Path, out: str, overrides: dict[str, Any], roots: dict[str, str]
) -> tuple[Study, ...]:
    """Make the studies from the parsed file; relative paths start at `folder`."""
    _check_names("table", values, ("study", "config", "dataset", "tune", "variant"))
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
    shared = {"train.num_pictures": 0, **in_folder(flat, folder)}
    sets = _datasets(values.get("dataset", []), folder, flat, overrides, roots)
    own_out = out or (str(folder / study["out"]) if study.get("out") else "")
    rest: dict[str, Any] = {"split": "auto"} | {
        name: study[name] for name in ("split", "devices_per_run", "folds") if name in study
    }
    rest["tune"] = _tune(values["tune"]) if "tune" in values else None
    results = []
    for name, settings in sets.items():
        try:
            config = replace(PRESETS[preset](), {**shared, **settings, **overrides})
        except InputError as error:
            raise InputError(f"dataset {name!r}: {error}" if name else str(error)) from error
        variants = tuple(_variant(table, i, config.loss) for i, table in enumerate(tables))
        baseline = study.get("baseline", variants[0].name if variants else "")
        where = str(epath.Path(own_out) / SETS / name) if own_out and name else own_out
        result = Study(where, config, variants, tuple(seeds), baseline, dataset=name, **rest)
        for variant in variants:
            result.run_config(variant, seeds[0])  # an unknown setting or value of a variant is found here
        result.check_draws()
        results.append(result)
    return tuple(results)


def _datasets(
    tables: Any, folder: epath.Path, shared: dict[str, Any], overrides: dict[str, Any], roots: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each data set by its name; one without a name if the file has no table [[dataset]]."""
    require(isinstance(tables, list), "dataset", tables, "a list of tables, each written [[dataset]]")
    found: dict[str, dict[str, Any]] = {}
    for index, table in enumerate(tables, start=1):
        table = _table("dataset", table)
        name = table.get("name", "")
        require(isinstance(name, str) and bool(name), f"dataset {index}: name", name, "given as text")
        _check_names(f"field of the dataset {name!r}:", table, _DATASET_FIELDS)
        settings = flatten_tables(_table("dataset.config", table.get("config", {})))
        for setting in settings:
            if setting == "seed" or setting.startswith("loss"):
                raise InputError(
                    f"dataset {name!r}: config.{setting} cannot differ between data sets: seeds and losses are those "
                    f"of [study], [config] and [[variant]]."
                )
        fields = {f"data.{field}": table[field] for field in ("root", "splits", "classes") if field in table}
        both = sorted(set(fields) & set(settings))
        require(not both, f"dataset {name!r}", both, "given once: either as a field or in config")
        for field in ("data.root", "data.splits"):
            require(isinstance(fields.get(field, ""), str), f"dataset {name!r}: {field[5:]}", fields.get(field), "text")
        classes = fields.get("data.classes", [])
        require(isinstance(classes, list), f"dataset {name!r}: classes", classes, "a list of names")
        if classes:
            fields["data.classes"] = tuple(classes)
        require(name not in found, "dataset.name", name, "a name that no other data set has")
        found[name] = in_folder(fields | settings, folder)
    check_folder_names("dataset.name", list(found))
    for name, root in roots.items():
        if name not in found:
            known = ", ".join(found) or "none, because it has no tables [[dataset]]"
            raise InputError(f"there is no data set {name!r} in the file (it has {known}).{did_you_mean(name, found)}")
        found[name]["data.root"] = root
    if not found:
        return {"": {}}
    for field in ("data.root", "data.splits"):
        if field in overrides or field in shared:
            raise InputError(
                f"{field} cannot be one for all {len(found)} data sets: give each [[dataset]] its own"
                f"{' (on the command line: --roots NAME=DIR ...)' if field == 'data.root' else ''}."
            )
    same: dict[tuple[Any, Any], str] = {}
    for name, settings in found.items():
        images = (settings.get("data.root", ""), settings.get("data.splits"))
        other = same.setdefault(images, name)
        if other != name:
            raise InputError(
                f"the data sets {other!r} and {name!r} have the same images (root {images[0]!r}): they would count "
                f"twice. Remove one of them."
            )
    return found


def _variant(table: Any, index: int, loss: LossConfig) -> Variant:
    """Make a variant from a [[variant]] table, with this loss if it names none; `index` counts from 0."""
    table = dict(_table("variant", table))
    name = table.pop("name", "")
    require(isinstance(name, str) and bool(name), f"variant {index + 1}: name", name, "given as text")
    settings = flatten_tables(_table("variant.config", table.pop("config", {})))
    tune = _space(_table("variant.tune", table.pop("tune", {})))
    try:
        _check_names("field", table, (*_LOSS_FIELDS, "config", "tune"))
        terms = table.get("terms", [])
        ok = isinstance(terms, list) and all(isinstance(term, dict) for term in terms)
        require(ok, "terms", terms, 'a list of tables, as in [{name = "bce"}, {name = "tversky", weight = 0.5}]')
        unused = sorted(set(table) - {"terms"}) if terms else []
        if unused:
            raise InputError(f"terms replaces {', '.join(unused)}: give either terms or these fields, not both.")
        for term in terms:
            _check_names("field of a term", term, typing.get_type_hints(LossTermConfig))
            require("name" in term, "terms", term, "tables that each have a name")
        return Variant(name, config_from_dict(table, LossConfig, "loss.") if table else loss, settings, tune)
    except InputError as error:
        raise InputError(f"variant {name!r}: {error}") from error


def _tune(table: Any) -> Tune:
    """Make the search from the [tune] table."""
    table = dict(_table("tune", table))
    _check_names("tune field", table, ("method", "trials", "halving", "seed", "config"))
    space = _space({"config": table.pop("config", {})})
    return Tune(space, **table)


def _space(table: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, ...] | Range]:
    """Return the values that a setting may have, by dotted name that begins with "config." or "loss."."""
    if not prefix:
        _check_names("kind of tuned settings", table, ("config", "loss"))
    space: dict[str, tuple[Any, ...] | Range] = {}
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and {"low", "high"} & set(value):
            _check_names(f"field of tune.{name}:", value, ("low", "high", "log"))
            require({"low", "high"} <= set(value), f"tune.{name}", value, "given with low and high")
            space[name] = Range(**value)
        elif isinstance(value, dict):
            space |= _space(value, f"{name}.")
        else:
            ok = isinstance(value, list) and len(value) > 0
            require(ok, f"tune.{name}", value, "a list of values, or {low = ..., high = ...}")
            space[name] = tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return space


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
