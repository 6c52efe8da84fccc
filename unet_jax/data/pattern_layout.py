"""The layouts of path patterns and of index maps: files that lie anywhere below the root."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.ignored import with_ignored
from unet_jax.data.listing import Listing, count_endings, first_group, hint_after, list_by_id, subfolder
from unet_jax.data.masks.index_values import Values, color_text, is_in, parse_color, parse_numbers
from unet_jax.data.patterns import join_by_id, join_channels, match_files, one_each, split_assignments
from unet_jax.data.records import Layout, Record, checked_layout


class _Images(NamedTuple):
    """Image files by id, and what is wrong with some."""

    files: dict[str, tuple[epath.Path, ...]]  # of each id that has all of its channels
    unread: dict[str, list[epath.Path]]  # files whose ending is not read
    incomplete: dict[str, str]  # why an id lacks a channel
    channels: dict[str, str]  # pattern of each channel by its name, if each is in a file of its own


def pattern_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join the files that data.mask_patterns and data.image_pattern match."""
    pairs = split_assignments(config.mask_patterns, "data.mask_patterns")
    matches = {name: match_files(root, pattern, f"data.mask_patterns {name}") for name, pattern in pairs.items()}
    names = tuple(_ordered(pairs, config, "data.mask_patterns"))
    images = _images(root, config, [path for files in matches.values() for path in files])
    masks_of = {name: join_by_id(matches[name], lambda id_: _has_image(id_, images, config)) for name in names}
    masks = {id_: tuple(masks_of[name].get(id_, ()) for name in names) for name in names for id_ in masks_of[name]}
    layout = _join(masks, images, names, config)
    return with_ignored(layout, subfolder(root, "ignore"), tuple(pairs), config)


def index_map_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join images with the class number files that data.index_map matches."""
    values = _index_values(config)
    names = tuple(_ordered(values, config, "data.index_colors" if config.index_colors else "data.index_values"))
    maps = one_each(match_files(root, config.index_map, "data.index_map"), "data.index_map")
    images = _images(root, config, maps.values())
    layout = _join({id_: ((path,),) for id_, path in maps.items()}, images, ("index map",), config)
    layout = dataclasses.replace(
        layout,
        class_names=names,
        index_values=tuple(values[name] for name in names),
        known_values=(range(1), *(numbers for ranges in values.values() for numbers in ranges)),
        has_colors=bool(config.index_colors),
        ignore_values=_ignore_values(values, config),
    )
    return with_ignored(layout, subfolder(root, "ignore"), tuple(values), config)


def _ignore_values(values: Mapping[str, Values], config: DataConfig) -> Values:
    """Parse data.ignore_values; raise `InputError` for one that is a class's as well."""
    field = "data.ignore_values"
    parse = parse_color if config.index_colors else parse_numbers
    ignored = tuple(numbers for entry in config.ignore_values for numbers in parse(entry, field))
    for name, ranges in values.items():
        for numbers in ignored:
            both = next((value for value in numbers if is_in(value, ranges)), None)
            if both is not None:
                shown = color_text(both) if config.index_colors else both
                raise InputError(f"{field} has {shown}, which is a value of class {name!r}. Leave it out of one.")
    return ignored


def _index_values(config: DataConfig) -> dict[str, Values]:
    """Parse data.index_values, or data.index_colors, where a class may have several entries."""
    values: dict[str, Values] = {}
    for entry in config.index_colors:
        for name, text in split_assignments((entry,), "data.index_colors").items():
            values[name] = (*values.get(name, ()), *parse_color(text, f"data.index_colors has {name}"))
    for name, text in split_assignments(config.index_values, "data.index_values").items():
        values[name] = parse_numbers(text, f"data.index_values has {name}")
    return values


def _ordered(pairs: dict[str, Any], config: DataConfig, field: str) -> dict[str, Any]:
    """Return the assignments of the chosen classes, in the order of data.classes."""
    if not config.classes:
        return pairs
    if set(config.classes) - set(pairs):
        missing = sorted(set(config.classes) - set(pairs))
        raise InputError(f"{field} has no entry for {missing}, which data.classes names; it has {sorted(pairs)}.")
    return {name: pairs[name] for name in config.classes}


def _image_id(id_: str, config: DataConfig) -> str:
    """Return the id of the image that the mask with this id belongs to."""
    if not config.image_key:
        return id_
    return first_group(config.image_key, id_, "data.image_key", "the image")


def _images(root: epath.Path, config: DataConfig, masks: Iterable[epath.Path]) -> _Images:
    """List the images by id, without the given mask files, because one folder may hold both."""
    taken = set(masks)

    def without_masks(files: dict[str, epath.Path]) -> dict[str, epath.Path]:
        return {id_: path for id_, path in files.items() if path not in taken}

    if config.image_patterns:
        patterns = split_assignments(config.image_patterns, "data.image_patterns")
        channels = {}
        for name, pattern in patterns.items():
            field = f"data.image_patterns {name}"
            channels[name] = without_masks(one_each(match_files(root, pattern, field), field))
        files, incomplete = join_channels(channels, patterns)
        return _Images(files, {}, incomplete, patterns)
    if config.image_pattern:
        field = "data.image_pattern"
        images = Listing(one_each(match_files(root, config.image_pattern, field), field), {})
    elif (root / "images").is_dir():
        images = list_by_id(root / "images")
    else:
        raise InputError(
            f"{root / 'images'}: there is no such folder. Say where the images are with --data.image-pattern."
        )
    return _Images({id_: (path,) for id_, path in without_masks(images.files).items()}, images.unread, {}, {})


def _has_image(id_: str, images: _Images, config: DataConfig) -> bool:
    """Return True if there is an image, complete or not, for the mask with this id."""
    match = re.search(config.image_key, id_) if config.image_key else None
    image_id = match[1] if match and match.groups() else id_
    return image_id in images.files or image_id in images.incomplete


def _join(
    masks: dict[str, tuple[tuple[epath.Path, ...], ...]],
    images: _Images,
    names: tuple[str, ...],
    config: DataConfig,
) -> Layout:
    """Join masks, by id, with the images they belong to; data.missing_masks decides on images without any."""
    records, bad, used = [], [], set()
    for id_, paths in masks.items():
        image_id = _image_id(id_, config)
        used.add(image_id)
        absent = [name for name, files in zip(names, paths, strict=True) if not files]
        if image_id in images.incomplete:
            continue  # said once, below
        if image_id not in images.files:
            pattern = next(iter(images.channels.values()), config.image_pattern or "images/{id}.*")
            wanted = pattern.replace("{id}", image_id)
            hint = hint_after(images.unread, image_id)
            bad.append(f"{next(files[0] for files in paths if files)}: its image {wanted} is missing{hint}")
        elif absent and config.missing_masks == "error":
            bad.append(f"{images.files[image_id][0]}: has no {', '.join(absent)} mask (id {id_!r})")
        else:
            records.append(Record(id_, images.files[image_id], paths))
    bad.extend(images.incomplete.values())
    for image_id, files in images.files.items():
        if image_id not in used and config.missing_masks == "error":
            bad.append(f"{files[0]}: has no mask")
        elif image_id not in used:
            records.append(Record(image_id, files, ((),) * len(names)))
    unread = [path for paths in images.unread.values() for path in paths]
    layout = checked_layout(records, names, config, bad=bad, unread=count_endings(unread))
    return dataclasses.replace(layout, channel_names=tuple(images.channels))
