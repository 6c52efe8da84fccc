"""The layout of folders: images/ID.ext and masks/CLASS/ID.ext, directly or in folders of the splits."""

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.annotation_files import find_annotations
from unet_jax.data.ignored import with_ignored
from unet_jax.data.layout_hints import joining_flags
from unet_jax.data.listing import (
    alike_hint,
    check_name,
    count_endings,
    files_by_image,
    hint_after,
    list_by_id,
    plain_ids,
    printable,
    subfolder,
)
from unet_jax.data.records import SPLITS, Layout, Record, checked_layout, split_of_name


def folder_layout(root: epath.Path, config: DataConfig) -> Layout:
    """Join the images and masks below root, or below its train/, val/ and test/ folders.

    Raises:
      InputError: a folder or file is missing, an id occurs twice, or the folders of splits differ in their classes.
    """
    split_folders = _split_folders(root)
    if not split_folders:
        return _join_folder(root, config, "")
    parts = {name: _join_folder(folder, config, name) for name, folder in split_folders.items()}
    first = next(iter(parts))
    for name, part in parts.items():
        if part.class_names != parts[first].class_names:
            raise InputError(
                f"{split_folders[name] / 'masks'}: has the classes {list(part.class_names)}, but "
                f"{split_folders[first]} has {list(parts[first].class_names)}. Make them equal or choose with "
                f"--data.classes."
            )
    return checked_layout(
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
    is_flat = subfolder(root, "images").is_dir()
    for folder in sorted(root.iterdir(), key=lambda path: path.name):
        split = split_of_name(folder.name)
        if folder.name.startswith(".") or (is_flat and not split) or not subfolder(folder, "images").is_dir():
            continue
        if split is None:
            others.append(printable(folder.name))
        elif is_flat and subfolder(folder, "masks").is_dir():
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
            f"splits train/, val/ and test/ (or training/, valid/, validation/, dev/, testing/), or move it elsewhere."
        )
    if others:
        raise InputError(
            f"{root / 'images'}: there is no such folder, but {others[0]}/images/ is there. Use --data.root "
            f"{root / others[0]}, or call the folders of splits train/, val/ and test/."
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def _join_folder(root: epath.Path, config: DataConfig, split: str) -> Layout:
    """Join images/ID.ext and masks/CLASS/ID.ext."""
    images_root, masks_root = (subfolder(root, name) for name in ("images", "masks"))
    for folder in (images_root, masks_root):
        if not folder.is_dir():
            hint = (
                find_annotations(root)
                or _flags(root, config, split)
                or (
                    f"Expected {root}/images/ID.ext and {root}/masks/CLASS/ID.ext; for files that lie elsewhere see "
                    f"--data.image-pattern, --data.mask-patterns and --data.index-map"
                )
            )
            raise InputError(f"{folder}: there is no such folder. {hint}.")
    class_paths = [p for p in masks_root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    for path in class_paths:
        check_name(path)
    class_folders = sorted(path.name for path in class_paths)
    class_names = config.classes or tuple(class_folders)
    if not class_names:
        flags = _flags(root, config, split)
        raise InputError(
            f"{masks_root}: has no class folders. Put each class's masks into {masks_root}/CLASS/."
            f"{f' Or leave them where they are. {flags}.' if flags else ''}"
        )
    for name in class_names:
        if name not in class_folders:
            raise InputError(
                f"{masks_root / name}: there is no such folder, but data.classes names it; found {class_folders}."
            )
    images = list_by_id(images_root)
    masks = [files_by_image(list_by_id(masks_root / name), images.files) for name in class_names]
    alone = sorted(id_ for id_ in images.files if any(id_ not in listing.files for listing in masks))
    plain, *plain_of_class = map(plain_ids, (alone, *(sorted(m.files.keys() - images.files.keys()) for m in masks)))
    records, bad = [], []
    for id_, image in images.files.items():
        paths, missing = [], []
        for name, listing, alike in zip(class_names, masks, plain_of_class, strict=True):
            paths.append(listing.files.get(id_, ()))
            # A file that is there but not read never means an empty mask.
            if id_ not in listing.files and (config.missing_masks == "error" or id_ in listing.unread):
                missing.append(
                    f"{masks_root / name / id_}.* is missing (the image is {image})"
                    f"{hint_after(listing.unread, id_) or alike_hint(alike, id_)}"
                )
        if missing:
            bad.append("; ".join(missing))
        else:
            records.append(Record(id_, (image,), tuple(paths), split))
    for listing in masks:
        bad.extend(
            f"{paths[0]}: there is no image of this id in {images_root}"
            f"{hint_after(images.unread, id_) or alike_hint(plain, id_)}"
            for id_, paths in listing.files.items()
            if id_ not in images.files
        )
    unread = [path for listing in (images, *masks) for paths in listing.unread.values() for path in paths]
    hint = "" if records else _flags(root, config, split)
    layout = checked_layout(records, class_names, config, bad=bad, unread=count_endings(unread), hint=hint)
    return with_ignored(layout, subfolder(root, "ignore"), class_folders, config)


def _flags(root: epath.Path, config: DataConfig, split: str) -> str:
    """Return a sentence on another root, or flags, with which the files would be joined; empty if none was found."""
    if split:  # patterns know nothing of the folders of splits
        return ""
    above = root.parent
    if root.name.lower() in ("images", "masks") and all(subfolder(above, n).is_dir() for n in ("images", "masks")):
        return f"Use --data.root {above}"
    return joining_flags(root, config)
