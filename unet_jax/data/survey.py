"""Every sample decoded once: facts about each, and why the others cannot be used."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from unet_jax.data.fit import Fit
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sample_facts import SampleFacts, facts_of
from unet_jax.data.sources import FileSource


@dataclasses.dataclass(frozen=True)
class Survey:
    """Facts about every sample that can be used, and reasons for the others, both by id in the source's order."""

    good: dict[str, SampleFacts]
    bad: dict[str, str]
    fit: Fit | None
    """Size at which the network sees images; None: the images' own size."""
    histogram: np.ndarray
    """Number of pixels in each bin of values, over all images: `[c 256]` int64."""


def survey_source(
    source: FileSource,
    *,
    fit: Fit | None = None,
    linear_masks: bool = False,
    num_threads: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Decode every sample and collect facts about each; nothing that can be found in the files is an error here.

    Args:
      source: samples at their own size.
      fit: size at which the network sees images, or None for the images' own size.
      linear_masks: whether masks are resized bilinearly (`data.mask_interpolation`).
      num_threads: number of threads that decode.
      on_progress: called with (samples done, all samples) after each sample.
    """

    def look_at(index: int) -> SampleFacts | str:
        try:
            return facts_of(source[index], fit, linear_masks=linear_masks)
        except BadSampleError as error:
            return str(error)

    good: dict[str, SampleFacts] = {}
    bad: dict[str, str] = {}
    histogram = np.zeros((0, 0), np.int64)
    with ThreadPoolExecutor(num_threads) as pool:
        results = zip(source.ids, pool.map(look_at, range(len(source))), strict=True)
        for done, (id_, facts) in enumerate(results, start=1):
            if isinstance(facts, str):
                bad[id_] = facts
            else:
                histogram = histogram + facts.histogram if good else facts.histogram
                good[id_] = facts._replace(histogram=np.zeros((0, 0), np.int64))  # kept as their sum only
            on_progress(done, len(source))
    return Survey(good, bad, fit, histogram)
