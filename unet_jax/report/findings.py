"""Everything that `unet-jax audit` finds in a data set, collected without stopping at the first fault."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.audit import Audit, cannot_choose, problems_of, summarise
from unet_jax.data.fit import fit_of
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.images.intensity import FoundFormat, find_format
from unet_jax.data.layout import find_layout
from unet_jax.data.records import Layout, unmatched
from unet_jax.data.sample_facts import SampleFacts
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits, empty_split
from unet_jax.data.survey import survey_source
from unet_jax.data.threads import num_cores
from unet_jax.report.audit_text import format_lines, remarks
from unet_jax.report.display import Display


@dataclasses.dataclass(frozen=True)
class Findings:
    """Findings about a data set. It can be trained on if there are no `problems`."""

    config: DataConfig
    """Settings of the data set."""
    layout: Layout
    """Samples that have all their files."""
    source: FileSource
    """Samples of all splits, at their own size."""
    splits: dict[str, list[str]]
    """Ids of the usable samples of each split."""
    audit: Audit
    """Pixel counts and lists over the usable samples."""
    facts: dict[str, SampleFacts]
    """Facts about each usable sample by id."""
    histogram: np.ndarray
    """Number of pixels in each bin of values, over all images: `[c 256]` int64."""
    problems: tuple[str, ...]
    """Reasons why the data set cannot be trained on."""
    remarks: tuple[str, ...]
    """Lines that somebody should know before training; those that begin with WARNING come first."""

    @property
    def refused(self) -> tuple[str, ...]:
        """One reason per sample that lacks a file or cannot be used, of all splits."""
        return (*self.layout.bad, *self.audit.bad, *self.audit.bad_test)

    @property
    def sizes(self) -> list[tuple[tuple[int, int], int]]:
        """Sizes of images (height, width) and the number of images of that size, the most frequent first."""
        return collections.Counter(facts.size for facts in self.facts.values()).most_common()


def look_through(config: DataConfig, display: Display) -> Findings:
    """Read every sample of a data set, and collect what a run would say about it.

    Args:
      config: settings of the data set.
      display: place for progress bars.

    Raises:
      InputError: the layout is not understood, so that it is not known what the samples are.
    """
    layout = find_layout(dataclasses.replace(config, on_bad_sample="skip"))
    skip_bad = config.on_bad_sample == "skip"
    problems = []
    if layout.bad and not skip_bad:
        problems.append(unmatched(layout.bad))
    splits = assign_splits(layout, config)
    problems += [reason for reason in (empty_split(splits, name, config) for name in ("train", "val")) if reason]
    found = FoundFormat(ImageFormat(), "", ())
    image_format: ImageFormat | None = None  # any file as 8-bit RGB, so that the masks are looked at all the same
    try:
        found = find_image_format(layout, splits["train"], config, display)
        image_format = found.format
    except InputError as error:
        problems.append(str(error))
    in_splits = {id_ for ids in splits.values() for id_ in ids}
    records = [record for record in layout.records if record.id in in_splits]
    source = FileSource(layout, records, soft_masks=config.soft_masks, image_format=image_format)
    with display.bar("reading data", len(source), unit="images") as show:
        survey = survey_source(
            source,
            fit=fit_of(config),
            linear_masks=config.mask_interpolation == "linear",
            num_threads=config.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
    audit = summarise(survey, layout.class_names, splits)
    problems += problems_of(audit, skip_bad=skip_bad)
    if audit.ids and cannot_choose(audit):
        problems.append(cannot_choose(audit))
    usable = {name: [id_ for id_ in ids if id_ in survey.good] for name, ids in splits.items()}
    return Findings(
        config=config,
        layout=layout,
        source=source,
        splits=usable,
        audit=audit,
        facts=survey.good,
        histogram=survey.histogram,
        problems=tuple(problems),
        remarks=(*format_lines(found), *remarks(audit, layout, usable, config)),
    )


def find_image_format(layout: Layout, train_ids: Sequence[str], config: DataConfig, display: Display) -> FoundFormat:
    """Find the channels and intensities of the training images."""
    train = set(train_ids)
    images = [record.images for record in layout.records if record.id in train]
    with display.bar("reading intensities", len(images), unit="images") as show:
        return find_format(
            images,
            config,
            names=layout.channel_names,
            num_threads=config.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
