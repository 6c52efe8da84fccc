"""The check of what run.json holds: it may come from somebody else, and its names become paths and printed lines."""

import math
from collections.abc import Sequence
from typing import Any

from unet_jax.config.checks import control_character, is_plain_name
from unet_jax.data.listing import printable
from unet_jax.data.records import SPLITS
from unet_jax.runs.versioned_json import DamagedError

_MAX_NAME_BYTES = 255  # what file systems take


def check_class_names(names: Any) -> None:
    """Raise `DamagedError` unless these are names of classes, which are used as names of folders."""
    _require(_is_texts(names) and len(names) > 0, "class_names", "not a list of names")
    for name in names:
        fine = is_plain_name(name) and name != "overlay" and _fits(name)
        _require(fine, "class_names", f"{_shown(name)}, which cannot be a folder's name")
    _require(len(set(names)) == len(names), "class_names", "not free of repeated names")


def check_stored(values: dict[str, Any]) -> None:
    """Raise `DamagedError` for a value of run.json, besides the config, that cannot be used."""
    for name in ("config", "splits", "audit", "versions"):
        _require(isinstance(values.get(name), dict), name, "not an object")
    check_class_names(values.get("class_names"))
    _require(set(values["splits"]) == set(SPLITS), "splits", "not those of train, val and test")
    for name in SPLITS:
        _check_ids(values["splits"][name], f"splits.{name}")
    _require(all(map(_is_text, values["versions"].values())), "versions", "not an object of texts")
    _check_audit(values["audit"], len(values["class_names"]))
    _check_crops(values)
    _check_images(values.get("images"))
    code = values.get("loss_code", {})
    _require(_is_object(code) and all(map(_is_text, code.values())), "loss_code", "not an object of texts")
    encoder = values.get("encoder", {})
    fine = _is_object(encoder) and _is_object(encoder.get("metadata", {}))
    texts = [*(v for k, v in encoder.items() if k != "metadata"), *encoder.get("metadata", {}).values()] if fine else []
    _require(fine and all(map(_is_text, texts)), "encoder", "not the facts about a file of weights")
    own = values.get("own", {})
    fine = _is_object(own) and set(own) <= {"network", "optimizer"} and all(map(_is_own_part, own.values()))
    _require(fine, "own", "not the facts about a network and an optimizer")
    for change in _list(values.get("changes", []), "changes"):
        settings = change.get("settings") if isinstance(change, dict) else None
        fine = isinstance(settings, dict) and all(isinstance(x, list) and len(x) == 2 for x in settings.values())
        _require(fine and _is_count(change.get("step")), "changes", "not a list of steps and settings")
        _require(_is_texts(change.get("changed_files", [])), "changes", "not a list of ids")
    for choice in _list(values.get("choices", []), "choices"):
        fine = _is_object(choice) and set(choice) == {"name", "value", "reason", "given"}
        fine = fine and _is_text(choice["name"]) and _is_text(choice["reason"])
        _require(fine, "choices", "not a list of settings with reasons")


def _check_ids(ids: Any, field: str) -> None:
    """Raise `DamagedError` unless these are ids, each once. Prediction writes files of these names."""
    _require(_is_texts(ids), field, "not a list of ids")
    for id_ in ids:
        parts = id_.split("/")
        fine = all(part not in ("", ".", "..") and _fits(part) for part in parts)
        _require(fine, field, f"{_shown(id_)}, which is no path below a folder")
    _require(len(set(ids)) == len(ids), field, "not free of repeated ids")


def _check_audit(audit: dict[str, Any], num_classes: int) -> None:
    """Raise `DamagedError` for a part of the audit that later steps compute with or print."""
    prevalence = audit.get("prevalence")
    if prevalence is not None:
        fine = isinstance(prevalence, list) and len(prevalence) == num_classes and all(map(_is_share, prevalence))
        _require(fine, "audit.prevalence", "not one share for each class")
    digests, vanished = audit.get("digests", {}), audit.get("vanished", {})
    _require(_is_object(digests) and all(map(_is_text, digests.values())), "audit.digests", "not an object of texts")
    _require(_is_object(vanished) and all(map(_is_texts, vanished.values())), "audit.vanished", "not lists of ids")
    splits = audit.get("splits", {})
    fine = _is_object(splits) and all(map(_is_object, splits.values()))
    _require(fine, "audit.splits", "not the facts about each split")
    val = splits.get("val", {})
    fine = all(_is_list(val.get(name, [])) for name in ("constant_dice", "num_seen"))
    _require(fine and all(map(_is_share, val.get("constant_dice", []))), "audit.splits.val", "not lists of shares")
    sizes, classes = audit.get("sizes", {}), audit.get("classes", {})
    for size in _require_object(sizes, "audit.sizes").values():
        fine = len(_list(size, "audit.sizes")) == 2 and all(_is_count(side) and side > 0 for side in size)
        _require(fine, "audit.sizes", "not a height and a width for each id")
    for numbers in _require_object(classes, "audit.classes").values():
        fine = all(_is_count(number) and number < num_classes for number in _list(numbers, "audit.classes"))
        _require(fine, "audit.classes", "not numbers of classes")
    for name in ("imported_from", "channels"):
        _require(_is_text(audit.get(name, "")), f"audit.{name}", "not a text")


def _check_crops(values: dict[str, Any]) -> None:
    """Raise `DamagedError` if the length of an epoch of crops cannot be computed."""
    data, audit = values["config"].get("data"), values["audit"]
    if not _is_object(data) or data.get("fit") != "crop":
        return
    for split, field in (("train", "sizes"), ("val", "sizes"), ("train", "classes")):
        missing = [id_ for id_ in values["splits"][split] if id_ not in audit.get(field, {})]
        _require(not missing, f"audit.{field}", f"without {_shown(missing[0]) if missing else ''}")


def _check_images(images: Any) -> None:
    """Raise `DamagedError` unless these values describe channels and intensities, or there are none."""
    if images is None:
        return
    _require(isinstance(images, dict), "images", "not an object")
    channels, count = _list(images.get("channels", [0, 1, 2]), "images.channels"), images.get("file_channels", 3)
    _require(_is_count(count) and count > 0, "images.file_channels", "not a number of channels")
    fine = len(channels) > 0 and all(_is_count(c) and c < count for c in channels)
    _require(fine, "images.channels", "not numbers of the file's channels")
    _require(images.get("bits", 8) in (8, 16), "images.bits", "neither 8 nor 16")
    for name in ("low", "high", "percentiles"):
        numbers = _list(images.get(name, []), f"images.{name}")
        fine = all(map(_is_number, numbers)) and len(numbers) in (0, 2 if name == "percentiles" else len(channels))
        _require(fine, f"images.{name}", "not one number for each channel")
    _require(_is_text(images.get("pages", "error")), "images.pages", "not a text")


def _require(fine: bool, field: str, found: str) -> None:
    if not fine:
        raise DamagedError(f"{field} is {found}")


def _shown(text: str) -> str:
    return f"{printable(text[:80])!r}"


def _list(value: Any, field: str) -> list[Any]:
    _require(isinstance(value, list), field, "not a list")
    return value


def _fits(name: str) -> bool:
    """Return whether a name has no control characters and is short enough for a file system."""
    return not control_character(name) and len(name.encode()) <= _MAX_NAME_BYTES


def _require_object(value: Any, field: str) -> dict[str, Any]:
    _require(_is_object(value), field, "not an object")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_text, value))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_own_part(value: Any) -> bool:
    return _is_object(value) and set(value) == {"name", "values", "code"} and all(map(_is_text, value.values()))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0.0 <= value <= 1.0
