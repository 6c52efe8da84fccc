"""Prediction of image files: reading ahead, writing behind, files that are whole or not there, jobs that continue."""

import collections
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unet_jax._files import replace_text, scratch_folder
from unet_jax._types import InputError
from unet_jax.config.predict import OutputConfig, PredictConfig
from unet_jax.data.images.rows import ImageRows, joined, open_rows
from unet_jax.data.images.tiff import read_geo_tags
from unet_jax.data.threads import num_cores
from unet_jax.devices.processes import is_first
from unet_jax.inference.fits import predict_patches
from unet_jax.inference.image_writer import Finish, ImageWriter, Job, check_whole, mask_paths, probs_paths, told
from unet_jax.inference.inputs import ImageFiles
from unet_jax.inference.tables import Tables
from unet_jax.inference.way import Way, seen_area, way_facts, way_of
from unet_jax.program.tile_stream import Failure
from unet_jax.runs.ensemble import Trained, image_formats, members_of

AS_TRAINED, MASKS_AND_OVERLAYS = PredictConfig(), OutputConfig()
_MARK = "predict.json"
_FORMAT = 1
_AHEAD_BYTES = 2**28  # of images that are decoded before they are needed
_MOST_UNFINISHED = 64  # images that wait to be written


class Outcome(NamedTuple):
    """Outcome of an image."""

    id: str
    error: str = ""
    """Reason why it could not be predicted; empty if it was."""
    was_there: bool = False
    """True if its files were there already, so that it was left out."""


class Progress(NamedTuple):
    """Part of a large image that is finished."""

    id: str
    rows: int
    height: int


def predict_files(
    run: Trained,
    files: Mapping[str, ImageFiles],
    out: epath.Path,
    how: PredictConfig = AS_TRAINED,
    outputs: OutputConfig = MASKS_AND_OVERLAYS,
    *,
    on_open: Callable[[str, ImageRows], None] = lambda id_, image: None,
    on_rows: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Outcome]:
    """Write `out/CLASS/ID.png` (0 or 255) and what `outputs` says, at each image's own size.

    The masks of a GeoTIFF are `out/CLASS/ID.tif`, with its georeferencing tags. Each file appears when it is complete.
    An image that cannot be read does not end the job. All connected processes must be given the same files. Only the
    first process writes.

    Args:
      run: run from `load_run`, or runs from `load_ensemble`.
      files: the file, or the files of the channels, of each image by its id, from `find_inputs`.
      out: folder for the results.
      how: way of the images to the network.
      outputs: what to write beside masks.
      on_open: function that is called with the id and the size of each image that could be opened, in another thread.
      on_rows: function that is called where an image is finished in parts.

    Yields:
      The outcome of each image; those that were there already first.

    Raises:
      InputError: an image lies in `out`; `out` holds files that would be overwritten and that this function did not
        write, or that it wrote with other settings; a file cannot be written.
    """
    way = way_of(run, how)
    _check_out(run, files, out, outputs)
    todo = files
    if outputs.skip_existing:
        done = {id_ for id_ in files if _is_done(out, run.class_names, id_, outputs)}
        _check_mark(out, run, way, any_done=bool(done))
        todo = {id_: paths for id_, paths in files.items() if id_ not in done}
        yield from (Outcome(id_, was_there=True) for id_ in files if id_ in done)
    if not is_first():
        yield from _without_writing(run, todo, way)
        return
    with told(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / _MARK, json.dumps(_settings(run, way), indent=1) + "\n")
    with _scratch(out) as scratch:
        tables = Tables(scratch, out, run.class_names) if outputs.csv else None
        if tables:
            for id_ in files:
                if id_ not in todo:
                    tables.add_files([mask_paths(out, name, id_) for name in run.class_names], id_)
        yield from _predict(run, todo, out, way, outputs, scratch, tables, on_open, on_rows)
        if tables:
            tables.publish()


def _predict(
    run: Trained,
    files: Mapping[str, ImageFiles],
    out: epath.Path,
    way: Way,
    outputs: OutputConfig,
    scratch: pathlib.Path,
    tables: Tables | None,
    on_open: Callable[[str, ImageRows], None],
    on_rows: Callable[[Progress], None],
) -> Iterator[Outcome]:
    """Predict and write; yield the outcomes as they are known."""
    unread: collections.deque[Outcome] = collections.deque()
    unfinished: collections.deque[tuple[Job, Future[Any], ImageWriter]] = collections.deque()
    writer: ImageWriter | None = None

    def finished(most: int) -> Iterator[Outcome]:
        while unread:
            yield unread.popleft()
        while unfinished and (len(unfinished) > most or unfinished[0][1].done()):
            job, future, _ = unfinished[0]
            objects = future.result()
            unfinished.popleft()
            if tables:
                tables.add(job.id, job.image.height, job.image.width, objects)
            yield Outcome(job.id)

    rules = run.calibration.rules if run.calibration else ()
    pool = ThreadPoolExecutor(max(2, min(8, num_cores())), thread_name_prefix="unet_jax-write")
    try:
        count = 0
        for part in predict_patches(run, _opened(run, files, unread, on_open), way):
            job = part.image
            if writer is None:
                count += 1
                place = scratch / str(count)
                area = seen_area(job.image.height, job.image.width, way)
                finish = Finish(run.threshold, rules, area)
                writer = ImageWriter(job, run.class_names, finish, outputs, out, place, pool)
            if isinstance(part, Failure):
                writer.discard()
                writer = None
                unread.append(Outcome(job.id, error=str(part.error)))
                continue
            writer.add(part)
            if part.is_last:
                unfinished.append((job, writer.finish(), writer))
                writer = None
            else:
                on_rows(Progress(job.id, part.y, job.image.height))
            yield from finished(_MOST_UNFINISHED)
        yield from finished(0)
    finally:
        pool.shutdown(cancel_futures=True)
        for left in (*(entry[2] for entry in unfinished), *([writer] if writer else [])):
            left.abandon()


def _opened(
    run: Trained,
    files: Mapping[str, ImageFiles],
    unread: "collections.deque[Outcome]",
    on_open: Callable[[str, ImageRows], None],
) -> Iterator[tuple[ImageRows, Job]]:
    """Open and decode files ahead in threads; those that cannot be read are added to `unread`."""

    def open_one(entry: tuple[str, ImageFiles]) -> Job | Outcome:
        id_, paths = entry
        try:
            views = [open_rows(paths, image_format) for image_format in image_formats(run)]
            if run.calibration and run.calibration.rules:
                check_whole(paths[0], views[0].height, views[0].width)
            return Job(id_, views[0], read_geo_tags(paths[0]), joined(views))
        except InputError as error:
            return Outcome(id_, error=str(error))

    num_threads = max(2, min(8, num_cores()))
    waiting: collections.deque[Future[Job | Outcome]] = collections.deque()
    largest = 1  # bytes of the largest image so far: what one more is expected to take
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="unet_jax-read")
    try:
        remaining = iter(files.items())
        while True:
            while len(waiting) < max(1, min(2 * num_threads, _AHEAD_BYTES // largest)):
                entry = next(remaining, None)
                if entry is None:
                    break
                waiting.append(pool.submit(open_one, entry))
            if not waiting:
                return
            job = waiting.popleft().result()
            if isinstance(job, Outcome):
                unread.append(job)
                continue
            largest = max(largest, job.seen.held_bytes)
            on_open(job.id, job.image)
            yield job.seen, job
    finally:
        pool.shutdown(cancel_futures=True)


def _without_writing(run: Trained, files: Mapping[str, ImageFiles], way: Way) -> Iterator[Outcome]:
    """Take part in the computation of the first process."""
    unread: collections.deque[Outcome] = collections.deque()
    for part in predict_patches(run, _opened(run, files, unread, lambda id_, image: None), way):
        if isinstance(part, Failure):
            yield Outcome(part.image.id, error=str(part.error))
        elif part.is_last:
            yield Outcome(part.image.id)
    yield from unread


def _scratch(out: epath.Path) -> Any:
    """Return a context manager of a local folder for unfinished files, from which a rename to `out` is possible."""
    if "://" in str(out):
        return _local_scratch()
    return scratch_folder(pathlib.Path(os.fspath(out)))


class _local_scratch(tempfile.TemporaryDirectory):
    def __enter__(self) -> Any:
        return pathlib.Path(super().__enter__())


def _check_out(run: Trained, files: Mapping[str, ImageFiles], out: epath.Path, outputs: OutputConfig) -> None:
    """Raise `InputError` if results would replace something else."""
    for path in (path for paths in files.values() for path in paths):
        if out.absolute() in path.absolute().parents:
            raise InputError(f"{out}: the image {path} lies in it. Choose another --out, outside of the images.")
    if not is_first():
        return
    taken = [name for name in run.class_names if (out / name).exists()]
    if taken and not (out / "overlay").exists() and not (out / _MARK).exists():
        raise InputError(
            f"{out / taken[0]}: is there already and was not made by predict (no {_MARK} or overlay/ beside it); its "
            f"files would be overwritten. Choose another --out."
        )
    reserved = {_MARK: "", "overlay": "--no-overlay", "probs": "--probs none", "images.csv": "", "objects.csv": ""}
    reserved = {name: flag for name, flag in reserved.items() if name != "overlay" or outputs.overlay}
    reserved = {name: flag for name, flag in reserved.items() if name != "probs" or outputs.probs != "none"}
    for name in run.class_names:
        if name in reserved:
            remedy = f"Use {reserved[name]}." if reserved[name] else "Train with another name of the class."
            raise InputError(f"the class {name!r} has the name of another file or folder that is written. {remedy}")


def _is_done(out: epath.Path, class_names: tuple[str, ...], id_: str, outputs: OutputConfig) -> bool:
    """Return whether all files of an image are there."""
    masks = [any(path.exists() for path in mask_paths(out, name, id_)) for name in class_names]
    others = probs_paths(out, class_names, id_, outputs.probs)
    others += [out / "overlay" / f"{id_}.png"] if outputs.overlay else []
    return all(masks) and all(path.exists() for path in others)


def _settings(run: Trained, way: Way) -> dict[str, Any]:
    """Return what masks depend on, apart from images."""
    calibration = dataclasses.asdict(run.calibration) if run.calibration else None
    if calibration and not calibration["rules"]:
        del calibration["rules"]  # as earlier versions wrote it
    paths, steps = [str(member.path) for member in members_of(run)], [member.step for member in members_of(run)]
    runs = {"run": paths, "step": steps} if len(paths) > 1 else {"run": paths[0], "step": steps[0]}
    threshold = np.asarray(run.threshold).tolist()
    return {"format": _FORMAT, **runs, **way_facts(way), "threshold": threshold, "calibration": calibration}


def _check_mark(out: epath.Path, run: Trained, way: Way, *, any_done: bool) -> None:
    """Raise `InputError` if files that are there were written with other settings."""
    if not any_done:
        return
    mark = out / _MARK
    try:
        found = json.loads(mark.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{mark}: cannot be read ({error}), so that it is not known which run made the files beside it. Leave out "
            f"--skip-existing, or choose another --out."
        ) from error
    wanted = json.loads(json.dumps(_settings(run, way)))
    different = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
    if different:
        name = different[0]
        old = found.get(name) if isinstance(found, dict) else found
        raise InputError(
            f"{mark}: the files that are there were made with {name} {old!r}, but now it is {wanted[name]!r}. Leave "
            f"out --skip-existing to make all files again, or choose another --out."
        )
