"""Layout of a data set: image and mask files are joined to samples by id, never by position in a listing."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.annotation_files import find_annotations
from unet_jax.data.listing import (
    Listing,
    check_name,
    count_endings,
    describe_endings,
    first_group,
    list_by_id,
    printable,
    unread_hint,
)
from unet_jax.data.masks.index_values import Values, parse_color, parse_numbers
from unet_jax.data.patterns import join_by_id, match_files, one_each
from unet_jax.data.pixels import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
_SPLIT_FOLDERS = {
    **{name: name for name in SPLITS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
}


@dataclasses.dataclass(frozen=True)
class Record:
    """Files of one sample."""

    id: str
    image: epath.Path
    masks: tuple[tuple[epath.Path, ...], ...]  # files of each class, or of one index map; none: the mask is empty
    split: str = ""  # train, val or test, if the data set has folders of these names

    @property
    def files(self) -> tuple[epath.Path | None, ...]:
        """Image file, and the mask files of each class, or None for a class without any."""
        return (self.image, *(path for paths in self.masks for path in paths or (None,)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Files and classes of a data set, known before any pixel is read."""

    records: tuple[Record, ...]  # sorted by id
    class_names: tuple[str, ...]
    index_values: tuple[Values, ...] = ()  # per class, if masks are one index map
    known_values: Values = ()  # values that the index map may hold, also of classes not chosen
    has_colors: bool = False  # the index values are colours, red * 65536 + green * 256 + blue
    has_objects: bool = False  # the values in mask files are numbers of objects
    bad: tuple[str, ...] = ()  # one reason per sample that was left out because a file is missing
    unread: tuple[tuple[str, int], ...] = ()  # endings that are not read, and how many files have them


def first_ten(reasons: Sequence[str]) -> str:
    """Join the first ten reasons, one a line, and the number of the others."""
    more = f"\n  and {len(reasons) - 10} more" if len(reasons) > 10 else ""
    return "\n  ".join(reasons[:10]) + more


def find_layout(config: DataConfig) -> Layout:
    """List the files of the data set that the config describes, and join them to samples.

    Raises:
      InputError: a folder or file is missing, an id occurs twice, or no sample was found. The message names the path.
    """
    if not config.root:
        raise InputError("data.root is empty: say where the data set is with --data.root DIR.")
    root = epath.Path(config.root)
    for part in (root, *root.parents):
        check_name(part)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder. --data.root must name one with images/ and masks/CLASS/.")
    if config.index_map:
        return _index_map_layout(root, config)
    if config.mask_patterns:
        return _pattern_layout(root, config)
    for name in ("image_pattern", "image_key"):
        if getattr(config, name):
            raise InputError(
                f"data.{name} is {getattr(config, name)!r}, but does nothing without data.mask_patterns or "
                f"data.index_map. Say where the masks are: --data.mask-patterns 'CLASS=masks/CLASS/{{id}}.png'."
            )
    split_folders = _split_folders(root)
    if not split_folders:
        return _folder_layout(root, config, "")
    parts = {name: _folder_layout(folder, config, name) for name, folder in split_folders.items()}
    first = next(iter(parts))
    for name, part in parts.items():
        if part.class_names != parts[first].class_names:
            raise InputError(
                f"{split_folders[name] / 'masks'}: has the classes {list(part.class_names)}, but "
                f"{split_folders[first]} has {list(parts[first].class_names)}. Make them equal or choose with "
                f"--data.classes."
            )
    return _checked(
        [r for part in parts.values() for r in part.records],
        parts[first].class_names,
        config,
        bad=[b for part in parts.values() for b in part.bad],
        unread=[e for part in parts.values() for e in part.unread],
    )


def _split_folders(root: epath.Path) -> dict[str, epath.Path]:
    """Return the folders of the splits by split, in the order of `SPLITS`; none if the samples lie in root itself.

    Raises:
      InputError: a folder with images beside them is no split's, two folders are one split's, or root has images too.
    """
    folders: dict[str, epath.Path] = {}
    others = []
    is_flat = _subfolder(root, "images").is_dir()
    for folder in sorted(root.iterdir(), key=lambda path: path.name):
        split = _SPLIT_FOLDERS.get(folder.name.lower())
        if folder.name.startswith(".") or (is_flat and not split) or not _subfolder(folder, "images").is_dir():
            continue
        if split is None:
            others.append(printable(folder.name))
        elif is_flat and _subfolder(folder, "masks").is_dir():
            raise InputError(
                f"{root}: has images/ itself, and {folder.name}/images/ as well. Keep one layout: move the images of "
                f"{folder.name}/ to images/ and name their split with --data.splits, or move that folder elsewhere."
            )
        elif split in folders:
            raise InputError(f"{root}: {folders[split].name}/ and {folder.name}/ are both {split}. Join them.")
        elif not is_flat:
            folders[split] = folder
    if others and folders:
        raise InputError(
            f"{root}: {', '.join(f'{name}/' for name in others)} holds images/, but is no split. Call the folders of "
            f"splits train/, val/ and test/ (or training/, valid/, validation/, testing/), or move it elsewhere."
        )
    if others:
        raise InputError(
            f"{root / 'images'}: there is no such folder, but {others[0]}/images/ is there. Use --data.root "
            f"{root / others[0]}, or call the folders of splits train/, val/ and test/."
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def _subfolder(folder: epath.Path, name: str) -> epath.Path:
    """Return a folder's subfolder of this name, in capital letters or not; the exact name if there is none."""
    exact = folder / name
    if exact.is_dir() or not folder.is_dir():
        return exact
    return next((path for path in folder.iterdir() if path.name.lower() == name and path.is_dir()), exact)


def _folder_layout(root: epath.Path, config: DataConfig, split: str) -> Layout:
    """Join images/ID.ext and masks/CLASS/ID.ext."""
    images_root, masks_root = (_subfolder(root, name) for name in ("images", "masks"))
    for folder in (images_root, masks_root):
        if not folder.is_dir():
            hint = find_annotations(root)
            expected = (
                f"Expected {root}/images/ID.ext and {root}/masks/CLASS/ID.ext; for files that lie elsewhere see "
                f"--data.image-pattern, --data.mask-patterns and --data.index-map"
            )
            raise InputError(f"{folder}: there is no such folder. {hint or expected}.")
    class_paths = [p for p in masks_root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    for path in class_paths:
        check_name(path)
    class_folders = sorted(path.name for path in class_paths)
    class_names = config.classes or tuple(class_folders)
    if not class_names:
        raise InputError(f"{masks_root}: has no class folders. Put each class's masks into {masks_root}/CLASS/.")
    for name in class_names:
        if name not in class_folders:
            raise InputError(
                f"{masks_root / name}: there is no such folder, but data.classes names it; found {class_folders}."
            )
    images = list_by_id(images_root)
    masks = [_masks_by_image(list_by_id(masks_root / name), images) for name in class_names]
    records, bad = [], []
    for id_, image in images.files.items():
        paths, missing = [], []
        for name, listing in zip(class_names, masks, strict=True):
            paths.append(listing.files.get(id_, ()))
            # A file that is there but not read never means an empty mask.
            if id_ not in listing.files and (config.missing_masks == "error" or id_ in listing.unread):
                missing.append(f"{masks_root / name / id_}.* is missing (the image is {image}){_hint(listing, id_)}")
        if missing:
            bad.append("; ".join(missing))
        else:
            records.append(Record(id_, image, tuple(paths), split))
    for listing in masks:
        bad.extend(
            f"{paths[0]}: there is no image of this id in {images_root}{_hint(images, id_)}"
            for id_, paths in listing.files.items()
            if id_ not in images.files
        )
    unread = [path for listing in (images, *masks) for paths in listing.unread.values() for path in paths]
    return _checked(records, class_names, config, bad=bad, unread=count_endings(unread))


class _Masks(NamedTuple):
    """Files of one class by the id of their image; the ids of masks without an image are their own."""

    files: dict[str, tuple[epath.Path, ...]]
    unread: dict[str, list[epath.Path]]  # files whose ending is not read


def _masks_by_image(masks: Listing, images: Listing) -> _Masks:
    """Join the masks of a class with images: ID.ext, or all files of a folder ID, one for each object."""
    files: dict[str, tuple[epath.Path, ...]] = {}
    unread: dict[str, list[epath.Path]] = {}

    def image_of(id_: str) -> str:
        folder = id_.rpartition("/")[0]
        return folder if id_ not in images.files and folder in images.files else id_

    for id_, path in masks.files.items():
        image_id = image_of(id_)
        if image_id != id_ and image_id in masks.files:
            raise InputError(
                f"{masks.files[image_id]}: is the mask of {image_id!r}, and {path} is another. Keep the file, or the "
                f"folder with a file for each object."
            )
        files[image_id] = (*files.get(image_id, ()), path)
    for id_, paths in masks.unread.items():
        unread.setdefault(image_of(id_), []).extend(paths)
    return _Masks(files, unread)


def _hint(listing: Listing | _Masks, id_: str) -> str:
    """Say, after a semicolon, that a file of this id is there but not read; empty if there is none."""
    hint = unread_hint(listing.unread.get(id_, ()))
    return f"; {hint}" if hint else ""


def _split_assignments(entries: tuple[str, ...], field: str) -> dict[str, str]:
    """Parse entries CLASS=value of a config field into a dict."""
    pairs = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InputError(f"{field} has {entry!r}, but each entry must look like CLASS=value.")
        name = name.strip()
        if "/" in name or name in (".", ".."):
            raise InputError(f"{field} has {entry!r}, but a class must be a plain name (it is used as a folder).")
        if name in pairs:
            raise InputError(f"{field} names {name!r} twice: {pairs[name]!r} and {value.strip()!r}. Keep one.")
        pairs[name] = value.strip()
    return pairs


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


def _images(root: epath.Path, config: DataConfig, masks: Iterable[epath.Path]) -> Listing:
    """List the images by id, without the given mask files, because one folder may hold both."""
    if config.image_pattern:
        field = "data.image_pattern"
        images = Listing(one_each(match_files(root, config.image_pattern, field), field), {})
    elif (root / "images").is_dir():
        images = list_by_id(root / "images")
    else:
        raise InputError(
            f"{root / 'images'}: there is no such folder. Say where the images are with --data.image-pattern."
        )
    taken = set(masks)
    return images._replace(files={id_: path for id_, path in images.files.items() if path not in taken})


def _has_image(id_: str, images: Listing, config: DataConfig) -> bool:
    """Return True if there is an image for the mask with this id."""
    match = re.search(config.image_key, id_) if config.image_key else None
    return (match[1] if match and match.groups() else id_) in images.files


def _pattern_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join the files that data.mask_patterns and data.image_pattern match."""
    pairs = _split_assignments(config.mask_patterns, "data.mask_patterns")
    matches = {name: match_files(root, pattern, f"data.mask_patterns {name}") for name, pattern in pairs.items()}
    names = tuple(_ordered(pairs, config, "data.mask_patterns"))
    images = _images(root, config, [path for files in matches.values() for path in files])
    masks_of = {name: join_by_id(matches[name], lambda id_: _has_image(id_, images, config)) for name in names}
    masks = {id_: tuple(masks_of[name].get(id_, ()) for name in names) for name in names for id_ in masks_of[name]}
    return _join(masks, images, names, config)


def _index_map_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join images with the class number files that data.index_map matches."""
    values = _index_values(config)
    names = tuple(_ordered(values, config, "data.index_colors" if config.index_colors else "data.index_values"))
    maps = one_each(match_files(root, config.index_map, "data.index_map"), "data.index_map")
    images = _images(root, config, maps.values())
    layout = _join({id_: ((path,),) for id_, path in maps.items()}, images, ("index map",), config)
    return dataclasses.replace(
        layout,
        class_names=names,
        index_values=tuple(values[name] for name in names),
        known_values=(range(1), *(numbers for ranges in values.values() for numbers in ranges)),
        has_colors=bool(config.index_colors),
    )


def _index_values(config: DataConfig) -> dict[str, Values]:
    """Parse data.index_values, or data.index_colors, where a class may have several entries."""
    values: dict[str, Values] = {}
    for entry in config.index_colors:
        for name, text in _split_assignments((entry,), "data.index_colors").items():
            values[name] = (*values.get(name, ()), *parse_color(text, f"data.index_colors has {name}"))
    for name, text in _split_assignments(config.index_values, "data.index_values").items():
        values[name] = parse_numbers(text, f"data.index_values has {name}")
    return values


def _join(
    masks: dict[str, tuple[tuple[epath.Path, ...], ...]],
    images: Listing,
    names: tuple[str, ...],
    config: DataConfig,
) -> Layout:
    """Join masks, by id, with the images they belong to; data.missing_masks decides on images without any."""
    records, bad, used = [], [], set()
    for id_, paths in masks.items():
        image_id = _image_id(id_, config)
        used.add(image_id)
        absent = [name for name, files in zip(names, paths, strict=True) if not files]
        if image_id not in images.files:
            wanted = (config.image_pattern or "images/{id}.*").replace("{id}", image_id)
            bad.append(
                f"{next(files[0] for files in paths if files)}: its image {wanted} is missing{_hint(images, image_id)}"
            )
        elif absent and config.missing_masks == "error":
            bad.append(f"{images.files[image_id]}: has no {', '.join(absent)} mask (id {id_!r})")
        else:
            records.append(Record(id_, images.files[image_id], paths))
    for image_id, image in images.files.items():
        if image_id not in used and config.missing_masks == "error":
            bad.append(f"{image}: has no mask")
        elif image_id not in used:
            records.append(Record(image_id, image, ((),) * len(names)))
    unread = [path for paths in images.unread.values() for path in paths]
    return _checked(records, names, config, bad=bad, unread=count_endings(unread))


def _checked(
    records: list[Record],
    class_names: tuple[str, ...],
    config: DataConfig,
    *,
    bad: list[str],
    unread: Iterable[tuple[str, int]] = (),
) -> Layout:
    """Return the layout of these records; raise InputError if it cannot be used.

    Args:
      records: samples that have all their files.
      class_names: names of the classes.
      config: settings of the data set.
      bad: one reason per sample that lacks a file.
      unread: endings that are not read, each with a number of files; an ending may occur again.
    """
    if bad and config.on_bad_sample == "error":
        shown = first_ten(bad)
        raise InputError(
            f"{config.root}: {len(bad)} files have no matching image or mask:\n  {shown}\n"
            f"Add or remove files; or use --data.missing-masks empty (no mask file means no object) or "
            f"--data.on-bad-sample skip (leave these out)."
        )
    endings: collections.Counter[str] = collections.Counter()
    for ending, count in unread:
        endings[ending] += count
    if "overlay" in class_names:
        raise InputError("a class is named 'overlay', which is where prediction writes its overlays. Rename the class.")
    if not records:
        why = f"All {len(bad)} are bad, the first: {bad[0]}." if bad else f"Images end in {', '.join(IMAGE_SUFFIXES)}."
        if endings:
            why += f" Files of other endings: {describe_endings(endings.most_common())}."
        raise InputError(f"{config.root}: no sample was found. {why}")
    ids: dict[str, Record] = {}
    for record in records:
        if record.id in ids:
            raise InputError(
                f"{record.image}: has the same id {record.id!r} as {ids[record.id].image}. Rename one of them, and "
                f"its masks."
            )
        ids[record.id] = record
    return Layout(
        tuple(ids[i] for i in sorted(ids)),
        class_names,
        bad=tuple(bad),
        unread=tuple(endings.most_common()),
        has_objects=config.instance_masks,
    )
