"""The folder ignore/: masks of the pixels that were not annotated, ID.ext for all classes and CLASS/ID.ext for one."""

import dataclasses
from collections.abc import Collection

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.listing import Listing, files_by_image, list_by_id, unread_hint
from unet_jax.data.records import Layout, first_ten


def with_ignored(layout: Layout, folder: epath.Path, all_classes: Collection[str], config: DataConfig) -> Layout:
    """Add the files in the folder ignore/ to the records of their samples.

    As for masks, a folder with the sample's id may hold several files. Samples with a file that cannot be used are left
    out if `data.on_bad_sample` is "skip".

    Args:
      layout: samples and the classes that are used.
      folder: path of the folder; nothing is ignored if it is not there.
      all_classes: names of all classes of the data set. Files of classes that are not used are left out.
      config: settings of the data set.

    Raises:
      InputError: a file may belong to a class or to all; or files cannot be used, and `data.on_bad_sample` is "error".
    """
    if not folder.is_dir():
        return layout
    ids = {record.id for record in layout.records}
    files: dict[str, list[tuple[epath.Path, ...]]] = {}
    bad: dict[str, str] = {}
    for name, listing in _by_class(list_by_id(folder), {*layout.class_names, *all_classes}, ids).items():
        if name and name not in layout.class_names:
            continue
        place = 1 + layout.class_names.index(name) if name else 0
        masks = files_by_image(listing, ids)
        for id_, paths in masks.files.items():
            if id_ in ids:
                files.setdefault(id_, [()] * (1 + len(layout.class_names)))[place] = paths
            else:
                first = id_.partition("/")[0]
                no_class = "" if name or first == id_ else f", and no class {first!r}"
                bad[id_] = f"{paths[0]}: there is no sample {id_!r}{no_class}"
        for id_, paths in masks.unread.items():  # a file that is not read never means that nothing is ignored
            bad[id_] = f"{paths[0]}: {unread_hint(paths)}"
    if bad and config.on_bad_sample == "error":
        raise InputError(
            f"{folder}: {len(bad)} files of ignored pixels cannot be used:\n  {first_ten(list(bad.values()))}\n"
            f"Correct or remove them, or use --data.on-bad-sample skip (leave their samples out)."
        )
    records = [
        dataclasses.replace(record, ignored=tuple(files.get(record.id, ())))
        for record in layout.records
        if record.id not in bad
    ]
    return dataclasses.replace(layout, records=tuple(records), bad=(*layout.bad, *bad.values()))


def _by_class(listing: Listing, class_names: Collection[str], ids: Collection[str]) -> dict[str, Listing]:
    """Divide files by the class that their first folder names; those of no class are for all, by the name ""."""
    parts = {name: Listing({}, {}) for name in ("", *sorted(class_names))}
    for id_, path in listing.files.items():
        name = _class_of(id_, class_names, ids, path)
        parts[name].files[id_.removeprefix(f"{name}/")] = path
    for id_, paths in listing.unread.items():
        name = _class_of(id_, class_names, ids, paths[0])
        parts[name].unread[id_.removeprefix(f"{name}/")] = paths
    return parts


def _class_of(id_: str, class_names: Collection[str], ids: Collection[str], path: epath.Path) -> str:
    """Return the class of a file by its folder; empty if it is for all classes."""
    name, _, rest = id_.partition("/")
    if not rest or name not in class_names:
        return ""
    if id_ in ids or id_.rpartition("/")[0] in ids:
        raise InputError(
            f"{path}: may ignore pixels of all classes in {id_!r}, or of class {name!r} in {rest!r}. Rename the class "
            f"or the image."
        )
    return name
