"""The command `unet-jax import-masks`: parse the options, import, print a table of the classes and the next step."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from unet_jax._types import InputError
from unet_jax.config.placeholders import Dir, Names, OptionalDir, Renamings

if TYPE_CHECKING:
    from unet_jax.interop.annotations.import_masks import ImportedMasks


@dataclasses.dataclass(frozen=True)
class _ImportMasks:
    """Make a data set of mask files from annotations: COCO, LabelMe, Label Studio, VIA, QuPath, YOLO or Kaggle RLE.

    The data set is a folder with images/ID.ext and masks/CLASS/ID.png (0 or 255). Masks of different classes may
    overlap.
    """

    annotations: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...")]
    """Annotation files, or folders that are searched for them at any depth."""
    out: Dir
    """Folder to make. There must be none of this name."""
    images: OptionalDir = None
    """Folder that is searched for the images at any depth. By default images/ beside the annotations, or their own
    folder."""
    format: Literal["auto", "coco", "labelme", "label-studio", "via", "qupath", "yolo", "kaggle"] = "auto"
    """Format of the annotations. It is recognised from the content unless it is given."""
    classes: Names = ()
    """Classes to import. By default all."""
    rename: Renamings = ()
    """New names of classes, as OLD=NEW. Classes of one new name are united. OLD is empty for objects without a
    class."""
    leave_out: Names = ()
    """Kinds of shapes to leave out, above all those without area, such as point, polyline or box."""
    unannotated: Literal["auto", "empty", "skip"] = "auto"
    """Treatment of images that nobody annotated: empty (masks without a pixel) or skip (leave them out). auto means
    empty in folders of images with YOLO labels, where no label file means no object, and skip elsewhere."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """Treatment of images that are missing, have another size than stated, or annotations that cannot be drawn: error,
    or skip (leave them out)."""
    class_attribute: str = ""
    """VIA: region attribute that holds the class. Needed only if it cannot be told."""
    rle_order: Literal["columns", "rows"] = "columns"
    """Kaggle: direction in which pixels are counted. Most competitions count down the columns."""
    link: bool = False
    """Make symbolic links to the images instead of copies."""


def import_masks_command(args: Sequence[str]) -> None:
    """Run `unet-jax import-masks`."""
    options = tyro.cli(_ImportMasks, args=args, prog="unet-jax import-masks")
    if not options.out:
        raise InputError("--out is empty: name the folder to make.")
    from unet_jax.interop.annotations.import_masks import import_masks
    from unet_jax.report.display import Display

    show: Callable[[int, str], None] | None = None
    with contextlib.ExitStack() as bar:

        def on_progress(done: int, total: int) -> None:
            nonlocal show
            show = show or bar.enter_context(Display().bar("importing", total, unit="images"))
            show(done, "")

        imported = import_masks(
            options.annotations,
            options.out,
            images=options.images,
            format=None if options.format == "auto" else options.format,
            classes=options.classes,
            rename=_pairs(options.rename),
            leave_out=options.leave_out,
            unannotated=options.unannotated,
            on_bad_sample=options.on_bad_sample,
            class_attribute=options.class_attribute,
            rle_order=options.rle_order,
            link=options.link,
            on_progress=on_progress,
        )
    print("\n".join(_summary(imported, options.out)))


def _pairs(entries: Sequence[str]) -> dict[str, str]:
    """Parse entries OLD=NEW; the old name may contain "=", the new one may not."""
    pairs = {}
    for entry in entries:
        old, equals, new = entry.rpartition("=")
        if not equals or not new.strip():
            raise InputError(f"--rename has {entry!r}, but each entry must look like OLD=NEW.")
        if pairs.get(old, new) != new:
            raise InputError(f"--rename gives {old!r} two names: {pairs[old]!r} and {new!r}. Keep one.")
        pairs[old] = new
    return pairs


def _summary(imported: "ImportedMasks", out: str) -> list[str]:
    """Return the lines that tell what was imported."""
    from unet_jax.data.annotation_files import FORMATS

    empty = f", {imported.num_empty} of them without an object" if imported.num_empty else ""
    lines = [f"{out}: {imported.num_images} images{empty}, from {FORMATS[imported.format]} annotations"]
    width = max(len("class"), *(len(each.name) for each in imported.classes))
    lines.append(f"  {'class':{width}}  {'objects':>9}  {'images':>8}  {'pixels':>12}")
    for each in imported.classes:
        share = f"{each.pixels / imported.num_pixels:.2%}"
        lines.append(f"  {each.name:{width}}  {each.objects:>9}  {each.images:>8}  {each.pixels:>12} ({share})")
    lines += [f"note: {note}" for note in imported.notes]
    return [*lines, f"next: unet-jax train default --data.root {out} --out RUN"]
