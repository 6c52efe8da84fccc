"""Names of classes: those of annotation files become names of folders."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from unet_jax._types import InputError
from unet_jax.config.checks import did_you_mean
from unet_jax.data.listing import printable
from unet_jax.interop.annotations.json_values import shown
from unet_jax.interop.annotations.regions import Region

_NOT_IN_NAMES = '/\\:*?"<>|' if os.name == "nt" else "/\\"
_MOST_BYTES = 255  # in a file's name, on most file systems


def name_classes(
    regions: Iterable[Region],
    declared: Sequence[str],
    rename: Mapping[str, str],
    classes: Sequence[str],
    place: str,
) -> dict[str, str]:
    """Return the name of the folder of each class that is imported, by the class's name in the annotation files.

    Args:
      regions: objects that are imported.
      declared: classes that the files declare, whether or not they have objects.
      rename: new names by old ones; several classes may get one name, and are united.
      classes: new names of the classes that are wanted; all if empty.
      place: file or folder of the annotations, for messages.

    Returns:
      The names, those declared first and the others in order of the alphabet; none if there is no class.

    Raises:
      InputError: a class that is asked for does not exist, an object has no class, or a name cannot be a folder's.
    """
    first_of: dict[str, str] = {}
    for region in regions:
        first_of.setdefault(region.class_name, region.where)
    known = [*declared, *sorted(name for name in first_of if name not in declared)]
    names = {old: unicodedata.normalize("NFC", old.strip()) for old in known}
    as_shown = {printable(old): old for old in known}  # how messages write names that cannot be printed
    for old, new in rename.items():
        if as_shown.get(old, old) not in names:
            raise InputError(_no_such_class(place, "--rename", old, known))
        names[as_shown.get(old, old)] = new.strip()
    for name in classes:
        if name not in names.values():
            raise InputError(_no_such_class(place, "--classes", name, list(dict.fromkeys(names.values()))))
    chosen = {old: new for old, new in names.items() if new in classes or not classes}
    for old, new in chosen.items():
        if not new and not old:
            raise InputError(
                f"{first_of[old]}: the object has no class. Name the class of such objects: --rename =NAME."
            )
        _check(place, old, new)
    _check_cases(place, chosen)
    return chosen


def _no_such_class(place: str, option: str, name: str, known: list[str]) -> str:
    listed = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
    return f"{option} names the class {name!r}, but {place} has {listed or 'none'}.{did_you_mean(name, known)}"


def _check(place: str, old: str, new: str) -> None:
    """Raise `InputError` if a class's name cannot be the name of a folder, or means something else there."""
    bad = [c for c in new if c in _NOT_IN_NAMES or not c.isprintable()]
    reason = ""
    if bad:
        reason = f"{bad[0]!a} cannot be part of it"
    elif not new or new.startswith(".") or new.endswith("."):
        reason = "it must not be empty, nor begin or end with a dot"
    elif len(new.encode()) > _MOST_BYTES:
        reason = f"it has more than {_MOST_BYTES} bytes"
    elif new == "overlay":
        reason = "predictions write their pictures to the folder of this name"
    if reason:
        raise InputError(
            f"{place}: the class {shown(old)} cannot be the name of a folder: {reason}. Give it another: --rename "
            f"'{printable(old)}={_plain(new)}'."
        )


def _plain(name: str) -> str:
    """Propose a name that can be a folder's."""
    plain = "".join("_" if c in _NOT_IN_NAMES or not c.isprintable() else c for c in name).strip(". ")
    return plain[:60] if plain not in ("", "overlay") else "class_1"


def _check_cases(place: str, chosen: Mapping[str, str]) -> None:
    """Raise `InputError` if names differ only in capital letters, which some file systems do not tell apart."""
    by_lower: dict[str, tuple[str, str]] = {}
    for old, new in chosen.items():
        other_old, other = by_lower.setdefault(new.casefold(), (old, new))
        if other != new:
            raise InputError(
                f"{place}: the classes {other_old!r} and {old!r} differ only in capital letters. If it is one, unite "
                f"them: --rename '{printable(old)}={other}'."
            )
