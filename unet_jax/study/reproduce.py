"""Files that repeat a study: its settings as study.toml, its splits, and reproduce.sh, which runs it again."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from unet_jax._files import csv_text, replace_text
from unet_jax.config.dicts import changed_settings, config_to_dict
from unet_jax.config.loss import LossConfig, LossTermConfig
from unet_jax.config.toml_file import format_toml, format_value
from unet_jax.study.config import Study
from unet_jax.study.results import Results
from unet_jax.study.search import Range, Space
from unet_jax.study.study_file import SETS

_LOCAL = ("root", "splits", "cache_dir")
_LOCAL_NAMES = tuple(f"data.{name}" for name in _LOCAL)


def write_reproduction(study: Study, results: Results) -> None:
    """Write study.toml, splits.csv and reproduce.sh into the folder of a finished study.

    With folds, splits.csv names the images that are divided into them: all are train.

    Args:
      study: a study whose runs are done, with its split resolved.
      results: its results, whose first run says splits and versions.
    """
    out = epath.Path(study.out)
    replace_text(out / "study.toml", study_toml(study))
    rows = sorted((id_, "train" if study.folds else split) for split, ids in results.info.splits.items() for id_ in ids)
    replace_text(out / "splits.csv", csv_text(("id", "split"), rows))
    replace_text(out / "reproduce.sh", _script(results.info.versions))


def write_reproduction_of_sets(out: epath.Path, studies: Sequence[Study], versions: dict[str, str]) -> None:
    """Write study.toml and reproduce.sh of a study on several data sets; their splits lie in their own folders.

    Args:
      out: folder of the study, with the folders `sets/NAME`.
      studies: the study of each data set, with its split resolved.
      versions: versions of the packages that made the runs.
    """
    tables = {}
    for study in studies:
        changed = {name: value for name, (_, value) in changed_settings(studies[0].config, study.config).items()}
        own = {f"config.{name}": value for name, value in changed.items() if name not in _LOCAL_NAMES}
        tables[study.dataset] = {"splits": f"{SETS}/{study.dataset}/splits.csv", **own}
    splits = {study.split for study in studies}
    first = dataclasses.replace(studies[0], split=splits.pop() if len(splits) == 1 else "auto")
    replace_text(out / "study.toml", study_toml(first, tables))
    replace_text(out / "reproduce.sh", _script(versions, [study.dataset for study in studies]))


def study_toml(study: Study, datasets: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return a study as the text of a TOML file with every setting, without folders of this machine.

    Args:
      study: the study.
      datasets: fields of the table [[dataset]] of each data set, by its name; None: the study has only one.
    """
    config = config_to_dict(study.config)
    config.pop("seed")
    config["data"] = {name: value for name, value in config["data"].items() if name not in _LOCAL}
    config["loss"]["terms"] = [_term(term) for term in study.config.loss.terms]
    top = {
        "seeds": list(study.seeds),
        "baseline": study.baseline,
        "split": study.split,
        "devices_per_run": study.devices_per_run,
        **({"folds": study.folds} if study.folds else {}),
    }
    lines = [format_toml({"study": top, "config": config})]
    if study.tune is not None:
        search = {f.name: getattr(study.tune, f.name) for f in dataclasses.fields(study.tune) if f.name != "space"}
        search = {name: value for name, value in search.items() if (name, value) not in (("trials", 0), ("halving", 0))}
        lines.append(format_toml({"tune": search}) + "\n".join(_space(study.tune.space)) + "\n")
    for name, fields in (datasets or {}).items():
        values = {"name": name, **fields}
        lines += ["[[dataset]]", *(f"{key} = {format_value(v)}" for key, v in values.items() if v is not None), ""]
    for variant in study.variants:
        lines += ["[[variant]]", f"name = {format_value(variant.name)}"]
        lines += [f"{name} = {format_value(value)}" for name, value in _loss(variant.loss, study.config.loss).items()]
        lines += [f"config.{name} = {format_value(value)}" for name, value in variant.settings.items()]
        lines += [f"tune.{line}" for line in _space(variant.tune)]
        lines.append("")
    return "\n".join(lines)


def _space(space: Space) -> list[str]:
    """Return tuned settings as lines of TOML."""
    values = {name: dataclasses.asdict(v) if isinstance(v, Range) else v for name, v in space.items()}
    return [f"{_key(name)} = {format_value(value)}" for name, value in values.items()]


def _key(name: str) -> str:
    """Return a dotted name as a key of TOML, with quotes where a part of it is no bare key."""
    parts = name.split(".")
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else format_value(part) for part in parts)


def _loss(loss: LossConfig, shared: LossConfig) -> dict[str, Any]:
    """Return the fields of a variant's loss, none if it is the study's own."""
    if loss == shared:
        return {}
    if loss.terms:
        return {"terms": [_term(term) for term in loss.terms]}
    return {f.name: getattr(loss, f.name) for f in dataclasses.fields(loss) if f.name != "terms"}


def _term(term: LossTermConfig) -> dict[str, Any]:
    """Return the fields of a term that are not at their defaults."""
    values = dataclasses.asdict(term)
    defaults = dataclasses.asdict(LossTermConfig("bce"))
    return {name: value for name, value in values.items() if name == "name" or value != defaults[name]}


def _script(versions: Mapping[str, str], datasets: Sequence[str] = ()) -> str:
    packages = " ".join(f"'{name}=={version}'" for name, version in versions.items() if name != "python" and version)
    if datasets:
        usage = " ".join(f"{name}=DIR" for name in datasets)
        lines = "# The folder of each data set is given by its name; study.toml and sets/ lie beside this file."
        arguments = f"""if [ $# -ne {len(datasets)} ]; then echo "usage: bash reproduce.sh {usage}" >&2; exit 2; fi
out=${{OUT:-repeated}}"""
        options = '--roots "$@"'
    else:
        usage = "DATA [OUT]"
        lines = "# DATA is the folder of the data set; study.toml and splits.csv lie beside this script."
        arguments = """data=${1:?usage: bash reproduce.sh DATA [OUT]}
out=${2:-repeated}"""
        options = '--data.root "$data" --data.splits "$here/splits.csv"'
    return f"""#!/usr/bin/env bash
# Trains and scores this study again: bash reproduce.sh {usage}
{lines}
# The runs were made with Python {versions.get("python", "?")} and: {packages.replace("'", "")}
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
{arguments}
# With INSTALL=1, the versions of the runs are installed first.
if [ -n "${{INSTALL:-}}" ]; then python -m pip install {packages}; fi
unet-jax study "$here/study.toml" {options} --out "$out"
"""
