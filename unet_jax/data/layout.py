"""Layout of a data set: image and mask files are joined to samples by id, never by position in a listing."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.pixels import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Record:
    """Files of one sample."""

    id: str
    image: epath.Path
    masks: tuple[epath.Path | None, ...]  # one per class, or one index map; None: no file, so the mask is empty
    split: str = ""  # train, val or test, if the data set has folders of these names


@dataclasses.dataclass(frozen=True)
class Layout:
    """Files and classes of a data set, known before any pixel is read."""

    records: tuple[Record, ...]  # sorted by id
    class_names: tuple[str, ...]
    index_values: tuple[frozenset[int], ...] = ()  # per class, if masks are one index map
    known_values: frozenset[int] = frozenset()  # values that the index map may hold, also of classes not chosen
    bad: tuple[str, ...] = ()  # one reason per sample that was left out because a file is missing


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
    split_folders = [name for name in SPLITS if (root / name / "images").is_dir()]
    if split_folders and not (root / "images").is_dir():
        parts = [_folder_layout(root / name, config, name) for name in split_folders]
        for name, part in zip(split_folders, parts, strict=True):
            if part.class_names != parts[0].class_names:
                raise InputError(
                    f"{root / name / 'masks'}: has the classes {list(part.class_names)}, but {root / split_folders[0]} "
                    f"has {list(parts[0].class_names)}. Make them equal or choose with --data.classes."
                )
        return _checked(
            [r for part in parts for r in part.records],
            parts[0].class_names,
            config,
            bad=[b for part in parts for b in part.bad],
        )
    return _folder_layout(root, config, "")


def _folder_layout(root: epath.Path, config: DataConfig, split: str) -> Layout:
    """Join images/ID.ext and masks/CLASS/ID.ext."""
    masks_root = root / "masks"
    for folder in (root / "images", masks_root):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: there is no such folder. Expected {root}/images/ID.ext and {root}/masks/CLASS/ID.ext; for "
                f"files that lie elsewhere see --data.image-pattern, --data.mask-patterns and --data.index-map."
            )
    class_folders = sorted(p.name for p in masks_root.iterdir() if p.is_dir() and not p.name.startswith("."))
    class_names = config.classes or tuple(class_folders)
    if not class_names:
        raise InputError(f"{masks_root}: has no class folders. Put each class's masks into {masks_root}/CLASS/.")
    for name in class_names:
        if name not in class_folders:
            raise InputError(
                f"{masks_root / name}: there is no such folder, but data.classes names it; found {class_folders}."
            )
    images = _files_by_id(root / "images")
    masks = [_files_by_id(masks_root / name) for name in class_names]
    records, bad = [], []
    for id_ in images:
        paths, missing = [], []
        for name, files in zip(class_names, masks, strict=True):
            paths.append(files.get(id_))
            if id_ not in files and config.missing_masks == "error":
                missing.append(f"{masks_root / name / id_}.* is missing (the image is {images[id_]})")
        if missing:
            bad.append("; ".join(missing))
        else:
            records.append(Record(id_, images[id_], tuple(paths), split))
    for files in masks:
        bad.extend(
            f"{path}: there is no image of this id in {root / 'images'}" for i, path in files.items() if i not in images
        )
    return _checked(records, class_names, config, bad=bad)


def _files_by_id(folder: epath.Path) -> dict[str, epath.Path]:
    """List the image files of a folder and its subfolders by id: their path relative to the folder, without suffix."""
    files: dict[str, epath.Path] = {}
    pending = [(folder, "")]
    while pending:
        directory, prefix = pending.pop()
        for path in directory.iterdir():
            if path.name.startswith("."):
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES:
                id_ = normal_id(prefix + path.stem)
                if id_ in files:
                    raise InputError(f"{path}: has the same id {id_!r} as {files[id_]}. Rename one of them.")
                files[id_] = path
            elif path.is_dir():
                pending.append((path, f"{prefix}{path.name}/"))
    return dict(sorted(files.items()))


def normal_id(text: str) -> str:
    """Normalise an id to Unicode form NFC.

    File systems and programs disagree on whether an accented letter is one character or two; in ids it is one.
    """
    return unicodedata.normalize("NFC", text)


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


def _ordered(pairs: dict[str, str], config: DataConfig, field: str) -> dict[str, str]:
    """Return the assignments of the chosen classes, in the order of data.classes."""
    if not config.classes:
        return pairs
    if set(config.classes) - set(pairs):
        missing = sorted(set(config.classes) - set(pairs))
        raise InputError(f"{field} has no entry for {missing}, which data.classes names; it has {sorted(pairs)}.")
    return {name: pairs[name] for name in config.classes}


def _match_pattern(root: epath.Path, pattern: str, field: str) -> dict[str, epath.Path]:
    """List the files below root that match a pattern with {id}, by id."""
    if pattern.count("{id}") != 1:
        raise InputError(f"{field} is {pattern!r}, but must contain {{id}} once.")
    directory, _, name = pattern.rpartition("/")
    if "{id}" in directory:
        raise InputError(f"{field} is {pattern!r}, but {{id}} must be in the file name, after the last '/'.")
    folder = root / directory if directory else root
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder, but {field} is {pattern!r}.")
    before, after = normal_id(name).split("{id}")
    files: dict[str, epath.Path] = {}
    for path in folder.iterdir():
        file_name = normal_id(path.name)
        hidden = file_name.startswith(".") and not before.startswith(".")
        matches = file_name.startswith(before) and file_name.endswith(after)
        if len(file_name) > len(before) + len(after) and matches and not hidden and not path.is_dir():
            files[file_name[len(before) : len(file_name) - len(after)]] = path
    if not files:
        raise InputError(f"{folder}: no file matches {name!r} ({field}).")
    return dict(sorted(files.items()))


def _image_id(id_: str, config: DataConfig) -> str:
    """Return the id of the image that the mask with this id belongs to."""
    if not config.image_key:
        return id_
    try:
        match = re.search(config.image_key, id_)
    except re.error as error:
        raise InputError(
            f"data.image_key is {config.image_key!r}, which is not a valid regular expression: {error}."
        ) from error
    if match is None or not match.groups() or match.group(1) is None:
        raise InputError(
            f"data.image_key is {config.image_key!r}, which finds no group in the id {id_!r}. Put parentheses around "
            f"the part that names the image."
        )
    return match.group(1)


def _images(root: epath.Path, config: DataConfig, masks: Iterable[epath.Path]) -> dict[str, epath.Path]:
    """List the images by id, without the given mask files, because one folder may hold both."""
    if config.image_pattern:
        images = _match_pattern(root, config.image_pattern, "data.image_pattern")
    elif (root / "images").is_dir():
        images = _files_by_id(root / "images")
    else:
        raise InputError(
            f"{root / 'images'}: there is no such folder. Say where the images are with --data.image-pattern."
        )
    taken = set(masks)
    return {id_: path for id_, path in images.items() if path not in taken}


def _pattern_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join the files that data.mask_patterns and data.image_pattern match."""
    pairs = _split_assignments(config.mask_patterns, "data.mask_patterns")
    masks_of = {name: _match_pattern(root, pattern, f"data.mask_patterns {name}") for name, pattern in pairs.items()}
    names = tuple(_ordered(pairs, config, "data.mask_patterns"))
    images = _images(root, config, [path for files in masks_of.values() for path in files.values()])
    masks = {id_: tuple(masks_of[name].get(id_) for name in names) for name in names for id_ in masks_of[name]}
    return _join(masks, images, names, config)


def _index_map_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join images with the class number files that data.index_map matches."""
    pairs = _split_assignments(config.index_values, "data.index_values")
    values = {}
    for name, text in pairs.items():
        try:
            values[name] = frozenset(int(part) for part in text.split(","))
        except ValueError as error:
            raise InputError(
                f"data.index_values has {name}={text}, but values must be numbers, as in {name}=1,2."
            ) from error
    names = tuple(_ordered(pairs, config, "data.index_values"))
    maps = _match_pattern(root, config.index_map, "data.index_map")
    images = _images(root, config, maps.values())
    layout = _join({id_: (path,) for id_, path in maps.items()}, images, ("index map",), config)
    known = frozenset({0}).union(*values.values())
    return dataclasses.replace(
        layout, class_names=names, index_values=tuple(values[name] for name in names), known_values=known
    )


def _join(
    masks: dict[str, tuple[epath.Path | None, ...]],
    images: dict[str, epath.Path],
    names: tuple[str, ...],
    config: DataConfig,
) -> Layout:
    """Join masks, by id, with the images they belong to; data.missing_masks decides on images without any."""
    records, bad, used = [], [], set()
    for id_, paths in masks.items():
        image_id = _image_id(id_, config)
        used.add(image_id)
        absent = [name for name, path in zip(names, paths, strict=True) if path is None]
        if image_id not in images:
            wanted = (config.image_pattern or "images/{id}.*").replace("{id}", image_id)
            bad.append(f"{next(p for p in paths if p)}: its image {wanted} is missing")
        elif absent and config.missing_masks == "error":
            bad.append(f"{images[image_id]}: has no {', '.join(absent)} mask (id {id_!r})")
        else:
            records.append(Record(id_, images[image_id], paths))
    for image_id, image in images.items():
        if image_id not in used and config.missing_masks == "error":
            bad.append(f"{image}: has no mask")
        elif image_id not in used:
            records.append(Record(image_id, image, (None,) * len(names)))
    return _checked(records, names, config, bad=bad)


def _checked(records: list[Record], class_names: tuple[str, ...], config: DataConfig, *, bad: list[str]) -> Layout:
    """Return the layout of these records; raise InputError if it cannot be used."""
    if bad and config.on_bad_sample == "error":
        shown = first_ten(bad)
        raise InputError(
            f"{config.root}: {len(bad)} files have no matching image or mask:\n  {shown}\n"
            f"Add or remove files; or use --data.missing-masks empty (no mask file means no object) or "
            f"--data.on-bad-sample skip (leave these out)."
        )
    if "overlay" in class_names:
        raise InputError("a class is named 'overlay', which is where prediction writes its overlays. Rename the class.")
    if not records:
        why = f"All {len(bad)} are bad, the first: {bad[0]}." if bad else f"Images end in {', '.join(IMAGE_SUFFIXES)}."
        raise InputError(f"{config.root}: no sample was found. {why}")
    ids: dict[str, Record] = {}
    for record in records:
        if record.id in ids:
            raise InputError(
                f"{record.image}: has the same id {record.id!r} as {ids[record.id].image}. Rename one of them, and "
                f"its masks."
            )
        ids[record.id] = record
    return Layout(tuple(ids[i] for i in sorted(ids)), class_names, bad=tuple(bad))
