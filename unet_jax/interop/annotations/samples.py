"""Samples of a data set to make: the annotations of each image, joined with its file."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from unet_jax.data.listing import is_read, normal_id, printable, stem_and_ending
from unet_jax.data.pixels import BadSampleError
from unet_jax.interop.annotations.image_lookup import ImageFolder, find_image
from unet_jax.interop.annotations.mask_drawing import SampleJob
from unet_jax.interop.annotations.reading import Reading
from unet_jax.interop.annotations.regions import AnnotatedImage


@dataclasses.dataclass(frozen=True)
class Samples:
    """Images with their annotations."""

    jobs: dict[str, SampleJob]  # by id
    bad: tuple[str, ...]  # one reason per image that cannot be used
    bad_stems: frozenset[str]  # names of such images without ending, in lower case
    notes: tuple[str, ...]


def find_samples(reading: Reading, folder: ImageFolder, *, is_folder_given: bool) -> Samples:
    """Find the image of everything that is annotated.

    Args:
      reading: contents of the annotation files.
      folder: images.
      is_folder_given: the user named the folder; if not, images that annotation files name relative to themselves are
        taken from there.
    """
    jobs: dict[str, SampleJob] = {}
    bad = [reason for _, reason in reading.bad]
    bad_stems = {file.stem for file in (*(file for file, _ in reading.bad), *reading.others)}
    num_renamed = num_united = num_embedded = 0
    for source in reading.images:
        if not source.is_annotated:
            continue
        try:
            path, is_renamed = _image_of(source, folder, is_folder_given)
        except BadSampleError as error:
            bad.append(str(error))
            bad_stems.add(_stem(source.name))
            continue
        id_ = folder.id_of(path) if path else _id_of_file(source, reading)
        job = jobs.setdefault(id_, SampleJob(id_, path))
        if job.path != path or (path is None and job.sources):
            bad.append(
                f"{source.where}: its image {path or '(in the file)'} has the same id {id_!r} as "
                f"{job.path or job.sources[0].where}. Rename one of them."
            )
            bad_stems.add(_stem(source.name))
            continue
        num_renamed += is_renamed
        num_united += bool(job.sources)
        num_embedded += path is None
        job.sources.append(source)
    counted = (
        (num_renamed, "images have another ending than the annotations say, such as .tif for .png"),
        (num_united, "images are annotated in several places; the objects of all were taken"),
        (num_embedded, "images were taken from the annotation files, because there is no file of their name"),
    )
    notes = tuple(f"{number} {text}" for number, text in counted if number)
    return Samples(jobs, tuple(bad), frozenset(stem.lower() for stem in bad_stems), notes)


def _stem(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return stem_and_ending(last)[0] if is_read(last) else last


def _image_of(source: AnnotatedImage, folder: ImageFolder, is_folder_given: bool) -> tuple[Path | None, bool]:
    """Return the file of an image and whether its ending differs; no file if the annotation file contains the image."""
    if source.folder and not is_folder_given:
        direct = Path(os.path.normpath(source.folder / source.name.replace("\\", "/")))  # no "..": it becomes the id
        if is_read(direct.name) and direct.is_file():
            return direct, False
    try:
        return find_image(folder, source.name, source.where, source.folder)
    except BadSampleError:
        if source.embedded:
            return None, False
        raise


def _id_of_file(source: AnnotatedImage, reading: Reading) -> str:
    """Return the id of an image that an annotation file contains: the file's path below the folder that was given."""
    file = Path(source.where)
    place = next((place for place in reading.places if place in file.parents), file.parent)
    return normal_id((file.relative_to(place).parent / file.stem).as_posix())


def add_unannotated(
    samples: Samples, reading: Reading, folder: ImageFolder, unannotated: str
) -> tuple[list[SampleJob], tuple[str, ...]]:
    """Return samples for images that nobody annotated if these are to have empty masks, and what was done, in words.

    Images whose annotations cannot be used are not among them.

    Args:
      samples: samples with annotations.
      reading: contents of the annotation files.
      folder: images.
      unannotated: "empty", "skip", or "auto": empty masks beside images with YOLO labels, where the format means that.
    """
    used = {job.path for job in samples.jobs.values()}
    folders = {path.parent for path in used if path}
    added: list[SampleJob] = []
    num_skipped = 0
    for path in _others(folder, used):
        is_wanted = unannotated == "empty" or (
            unannotated == "auto" and reading.format == "yolo" and path.parent in folders
        )
        is_bad = stem_and_ending(path.name)[0].lower() in samples.bad_stems
        id_ = folder.id_of(path)
        if is_wanted and not is_bad and id_ not in samples.jobs:
            added.append(SampleJob(id_, path))
        else:
            num_skipped += not is_bad
    notes = []
    if added:
        notes.append(f"{len(added)} images have no annotation and got empty masks (--unannotated skip leaves them out)")
    if num_skipped:
        notes.append(
            f"{num_skipped} images in {printable(str(folder.folder))} have no annotation and were left out "
            f"(--unannotated empty makes empty masks for them)"
        )
    return added, tuple(notes)


def _others(folder: ImageFolder, used: Iterable[Path | None]) -> list[Path]:
    """Return the images that nothing refers to, by whatever path."""
    taken = {path.resolve() for path in used if path}
    return [path for path in folder.files if path.resolve() not in taken]
