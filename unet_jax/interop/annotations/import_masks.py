"""Data sets of mask files from annotations of other programs."""

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from etils import epath

from unet_jax._files import unfinished_folder
from unet_jax._types import InputError
from unet_jax.config.checks import did_you_mean
from unet_jax.data.listing import check_name, printable
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.records import first_ten
from unet_jax.interop.annotations.class_names import name_classes
from unet_jax.interop.annotations.image_lookup import images_beside, index_images
from unet_jax.interop.annotations.json_values import shown
from unet_jax.interop.annotations.mask_drawing import SampleCounts, SampleJob, write_sample
from unet_jax.interop.annotations.reading import read_annotations
from unet_jax.interop.annotations.regions import IGNORED, ReadOptions, Region
from unet_jax.interop.annotations.samples import add_unannotated, find_samples

Format = Literal["coco", "labelme", "label-studio", "via", "qupath", "yolo", "kaggle"]


@dataclasses.dataclass(frozen=True)
class ClassCount:
    """Facts about one class of an imported data set."""

    name: str
    objects: int
    images: int  # with at least one object
    pixels: int


@dataclasses.dataclass(frozen=True)
class ImportedMasks:
    """Facts about an imported data set."""

    format: str  # a key of `unet_jax.data.annotation_files.FORMATS`
    num_images: int
    num_empty: int  # images without an object of any class
    num_pixels: int  # of all images
    classes: tuple[ClassCount, ...]
    notes: tuple[str, ...]  # what was cut off, left out or decided


def import_masks(
    annotations: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    images: str | Path | None = None,
    format: Format | None = None,
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    unannotated: Literal["auto", "empty", "skip"] = "auto",
    on_bad_sample: Literal["error", "skip"] = "error",
    class_attribute: str = "",
    rle_order: Literal["columns", "rows"] = "columns",
    link: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportedMasks:
    """Make a data set (`images/ID.ext` and `masks/CLASS/ID.png`) from annotation files of another program.

    Masks of different classes may overlap; objects of one class in one image are united. The data set appears under its
    name when it is complete.

    Args:
      annotations: annotation files, and folders that are searched for them.
      out: folder to make.
      images: folder that is searched for the images; by default `images/` beside the annotations, or their own folder.
      format: format of the annotations; by default it is recognised.
      classes: classes to import, by their new names; by default all.
      rename: new names of classes by old ones. Classes of one new name are united; the old name of objects without a
        class is "".
      leave_out: kinds of shapes to leave out, such as those without area: "point", "polyline", "box".
      unannotated: what to do with images that nobody annotated: "empty" makes empty masks, "skip" leaves them out,
        "auto" makes empty masks in folders with YOLO labels, where the format means that, and else leaves them out.
      on_bad_sample: "skip" leaves out images that are missing or cannot be used, "error" raises an error.
      class_attribute: VIA only: region attribute that holds the class.
      rle_order: Kaggle only: direction in which pixels are counted.
      link: make symbolic links to the images instead of copies.
      on_progress: called with (images done, all images) after each image.

    Returns:
      Counts per class, and what was cut off, left out or decided.

    Raises:
      InputError: `out` exists, annotations or images cannot be used, or an option does not fit them. Nothing is left
        under the name `out` then.

    Example:
      >>> import json, pathlib, tempfile
      >>> import numpy as np
      >>> from PIL import Image
      >>> from unet_jax.interop import import_masks
      >>> shape = {"label": "cell", "shape_type": "rectangle", "points": [[1, 1], [4, 3]]}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     root = pathlib.Path(folder)
      ...     Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / "a.png")
      ...     _ = (root / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
      ...     imported = import_masks(root / "a.json", root / "data")
      ...     mask = np.asarray(Image.open(root / "data/masks/cell/a.png"))
      >>> imported.classes[0].pixels, mask[1].tolist()
      (6, [0, 255, 255, 255, 0, 0])
    """
    out = Path(out)
    _check_out(out)
    paths = [Path(annotations)] if isinstance(annotations, str | Path) else [Path(path) for path in annotations]
    reading = read_annotations(paths, format, ReadOptions(class_attribute, rle_order))
    folder = index_images(Path(images)) if images else images_beside(reading.places)
    samples = find_samples(reading, folder, is_folder_given=images is not None)
    more, unannotated_notes = add_unannotated(samples, reading, folder, unannotated)
    jobs, bad = [*samples.jobs.values(), *more], list(samples.bad)
    if bad and on_bad_sample == "error":
        raise InputError(_refusal(bad, len(jobs) + len(bad)))
    place = printable(str(paths[0]))
    regions = [region for job in jobs for source in job.sources for region in source.regions]
    _check_leave_out(regions, leave_out)
    kept = [region for region in regions if region.kind not in leave_out]
    # A region called __ignore__ is ignored for all classes, unless somebody names it.
    is_named = IGNORED in (rename or {}) or IGNORED in classes
    of_classes = [region for region in kept if is_named or region.class_name != IGNORED]
    declared = [name for name in reading.classes if is_named or name != IGNORED]
    class_of = name_classes(of_classes, declared, rename or {}, classes, place)
    if not class_of:
        about = "".join(f"; {note}" for note in (*reading.notes, *unannotated_notes))
        raise InputError(f"{place}: holds no object and declares no class, so that there are no masks to make{about}.")
    _check_areas([region for region in kept if region.class_name in class_of])
    names = tuple(dict.fromkeys(class_of.values()))
    num_ignored = len(kept) - len(of_classes)
    ignored_notes = (f"{num_ignored} regions called {IGNORED} are ignored pixels, in ignore/",) if num_ignored else ()
    if num_ignored:
        class_of = {**class_of, IGNORED: ""}
    with unfinished_folder(out, replace=False) as unfinished:
        for name in names:
            (unfinished / "masks" / name).mkdir(parents=True)
        (unfinished / "images").mkdir()
        unfinished.chmod((unfinished / "images").stat().st_mode & 0o777)  # temporary folders are private
        counts, refused = _write(jobs, unfinished, names, class_of, leave_out, link, on_progress)
        bad += refused
        if bad and (on_bad_sample == "error" or not counts):
            raise InputError(_refusal(bad, len(jobs) + len(samples.bad)))
        if not counts:
            raise InputError(f"{printable(str(out))}: there is no image to import. {'; '.join(unannotated_notes)}")
    left_out = (f"{len(bad)} images were left out:\n  {first_ten(bad)}",) if bad else ()
    return ImportedMasks(
        reading.format,
        num_images=len(counts),
        num_empty=sum(not any(each.num_objects) for each in counts),
        num_pixels=sum(each.num_pixels for each in counts),
        classes=_class_counts(names, counts),
        notes=(*reading.notes, *ignored_notes, *samples.notes, *unannotated_notes, *_drawing_notes(counts), *left_out),
    )


def _check_out(out: Path) -> None:
    if not str(out) or str(out) == ".":
        raise InputError("--out is empty: name the folder to make.")
    if "://" in str(out) or ":/" in str(out)[2:]:
        raise InputError(f"{out}: must be a folder on this machine. Copy it to the bucket afterwards.")
    check_name(epath.Path(out))
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists already. Choose another --out, or remove it.")


def _refusal(bad: Sequence[str], total: int) -> str:
    if len(bad) == 1:
        return f"{bad[0]} Or leave this image out: --on-bad-sample skip."
    return (
        f"{len(bad)} of {total} images cannot be imported:\n  {first_ten(bad)}\n"
        f"Correct them, or leave these images out: --on-bad-sample skip."
    )


def _check_leave_out(regions: Sequence[Region], leave_out: Sequence[str]) -> None:
    """Raise `InputError` if a kind of shape is to be left out that no object has."""
    kinds = Counter(region.kind for region in regions)
    for kind in leave_out:
        if kind not in kinds:
            known = ", ".join(f"{shown(name)} ({number})" for name, number in kinds.most_common())
            raise InputError(
                f"--leave-out has {kind!r}, but the shapes are {known or 'none'}.{did_you_mean(kind, kinds)}"
            )


def _check_areas(regions: Sequence[Region]) -> None:
    """Raise `InputError` if a shape has no area."""
    flat = [region for region in regions if region.draw is None]
    if flat:
        counts = ", ".join(
            f"{number} {shown(kind)}" for kind, number in Counter(region.kind for region in flat).items()
        )
        options = " ".join(dict.fromkeys(shlex.quote(printable(region.kind)) for region in flat))
        raise InputError(
            f"{flat[0].where}: has the shape {shown(flat[0].kind)}, which has no area and makes no mask (such objects: "
            f"{counts}). Draw them as polygons, or leave them out: --leave-out {options}."
        )


def _write(
    jobs: Sequence[SampleJob],
    out: Path,
    names: Sequence[str],
    class_of: Mapping[str, str],
    leave_out: Sequence[str],
    link: bool,
    on_progress: Callable[[int, int], None],
) -> tuple[list[SampleCounts], list[str]]:
    """Write all samples in several threads; return the counts of each and one reason per sample that failed."""

    def write(job: SampleJob) -> SampleCounts | str:
        try:
            return write_sample(job, out, names, class_of, leave_out, link=link)
        except BadSampleError as error:
            return str(error)

    counts, refused = [], []
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for done, result in enumerate(pool.map(write, jobs), start=1):
            (refused if isinstance(result, str) else counts).append(result)
            on_progress(done, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)
    return counts, refused


def _class_counts(names: Sequence[str], counts: Sequence[SampleCounts]) -> tuple[ClassCount, ...]:
    return tuple(
        ClassCount(
            name,
            objects=sum(each.num_objects[k] for each in counts),
            images=sum(each.num_objects[k] > 0 for each in counts),
            pixels=sum(each.pixels[k] for each in counts),
        )
        for k, name in enumerate(names)
    )


def _drawing_notes(counts: Sequence[SampleCounts]) -> list[str]:
    """Say in words what was cut off or turned."""
    beyond = [entry for each in counts for entry in each.beyond]
    outside = [where for each in counts for where in each.outside]
    without_pixel = [where for each in counts for where in each.without_pixel]
    notes = []
    if beyond:
        distance, where = max(beyond)
        notes.append(
            f"{len(beyond)} objects reach beyond their image and were clipped, by up to {distance:.4g} pixels ({where})"
        )
    if outside:
        notes.append(f"{len(outside)} objects lie wholly outside of their image, such as {outside[0]}")
    if without_pixel:
        notes.append(f"{len(without_pixel)} objects cover no centre of a pixel, such as {without_pixel[0]}")
    turned = Counter(each.orientation for each in counts)
    if turned["turned"]:
        notes.append(f"{turned['turned']} images are shown rotated (EXIF) but annotated as stored; masks were turned")
    if turned["unsure"]:
        notes.append(
            f"{turned['unsure']} images are shown rotated or mirrored (EXIF), and the annotations do not say whether "
            f"they were made on the image as shown; the masks are drawn so. Look at them, and train with "
            f"--data.mask-orientation shown, or stored if they must be turned"
        )
    return notes
