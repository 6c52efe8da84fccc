"""Pictures of the images on which two variants differ most, side by side: OUT/pictures/pairs/A--B.png.

OUT/pictures/pairs.csv says which images they show. So they are drawn again only if runs were added.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.inference.evaluate import probs_and_truths, select_records
from unet_jax.report.display import Display
from unet_jax.runs.load import load_run
from unet_jax.study.checked_table import checked_csv, read_checked
from unet_jax.study.compare import PRIMARY, with_mean
from unet_jax.study.config import Study
from unet_jax.study.examples import draw_example, save_examples
from unet_jax.study.scores import ScoreTable

_NUM_IMAGES = 3
_MOST_FOR_ALL_PAIRS = 4
_COLUMNS = ("first", "second", "id")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two variants, and the images on which they differ most."""

    first: str
    """Name of one variant; the baseline, if it is one of the two."""
    second: str
    """Name of the other variant."""
    ids: tuple[str, ...]
    """Names of the images, the largest difference first."""
    scores: tuple[tuple[float, float], ...]
    """Primary score of both variants on each image, averaged over classes and seeds."""

    def path(self, out: epath.Path) -> epath.Path:
        """Return the path of the picture in the study's folder."""
        return out / "pictures" / "pairs" / f"{self.first}--{self.second}.png"


def find_pairs(names: Sequence[str], table: ScoreTable, baseline: str) -> list[Pair]:
    """Find the images on which pairs of variants differ most in the primary score.

    Args:
      names: names of the v variants.
      table: scores of the whole study, `[v s n k]`.
      baseline: name of the variant that the others are compared with.

    Returns:
      All pairs of up to four variants, those with the baseline of more; without pairs that differ nowhere.
    """
    values = with_mean(table.values[PRIMARY])[..., -1].mean(axis=1)  # [v n]; NaN where all classes are ignored
    base = list(names).index(baseline)
    order = [base, *(v for v in range(len(names)) if v != base)]
    pairs = itertools.combinations(order, 2) if len(names) <= _MOST_FOR_ALL_PAIRS else ((base, v) for v in order[1:])
    return [pair for a, b in pairs if (pair := _pair(names, table.ids, values, a, b)).ids]


def _pair(names: Sequence[str], ids: Sequence[str], values: Float[np.ndarray, "v n"], a: int, b: int) -> Pair:
    distance = np.nan_to_num(np.abs(values[b] - values[a]))
    most = [int(i) for i in np.argsort(-distance, kind="stable")[:_NUM_IMAGES] if distance[i] > 0.0]
    scores = tuple((float(values[a, i]), float(values[b, i])) for i in most)
    return Pair(names[a], names[b], tuple(ids[i] for i in most), scores)


def are_drawn(study: Study, pairs: Sequence[Pair]) -> bool:
    """Return whether the pictures of pairs are there, and show these images."""
    out = epath.Path(study.out)
    return not pairs or (
        _read(out / "pictures" / "pairs.csv") == _rows(pairs) and all(pair.path(out).exists() for pair in pairs)
    )


def draw_pairs(study: Study, pairs: Sequence[Pair], mesh: Mesh, display: Display) -> None:
    """Predict the images of pairs with the runs of the first seed, and write the pictures, unless they are drawn.

    Args:
      study: a study whose runs are done, with its split resolved.
      pairs: pairs from `find_pairs`.
      mesh: devices to predict on.
      display: where progress is shown.
    """
    if are_drawn(study, pairs):
        return
    out = epath.Path(study.out)
    drawn: dict[tuple[str, str], UInt8[np.ndarray, "h w 3"]] = {}
    with display.bar("drawing most different images", len(study.variants), unit="variants") as show:
        for done, variant in enumerate(study.variants, start=1):
            wanted = {id_ for pair in pairs if variant.name in (pair.first, pair.second) for id_ in pair.ids}
            for unit in study.units if wanted else ():
                if unit.seed != study.seeds[0]:
                    continue
                run = load_run(study.run_path(variant, *unit), mesh=mesh)
                _, layout, records = select_records(run, study.data_of(*unit), study.split)
                records = [record for record in records if record.id in wanted]
                predicted = probs_and_truths(run, layout, records, soft_masks=run.config.data.soft_masks)
                for record, (probs, truth, valid) in zip(records, predicted, strict=True):
                    drawn[variant.name, record.id] = draw_example(run, layout, record, probs, truth, valid)
            show(done, "")
    for pair in pairs:
        pair.path(out).parent.mkdir(parents=True, exist_ok=True)
        save_examples(pair.path(out), [drawn[name, id_] for id_ in pair.ids for name in (pair.first, pair.second)])
    replace_text(out / "pictures" / "pairs.csv", checked_csv(_COLUMNS, _rows(pairs)))


def _rows(pairs: Sequence[Pair]) -> list[tuple[str, str, str]]:
    """Return the rows of pairs.csv."""
    return [(pair.first, pair.second, id_) for pair in pairs for id_ in pair.ids]


def _read(listing: epath.Path) -> list[tuple[str, str, str]] | None:
    """Return the rows of pairs.csv; None if it is not there or damaged."""
    try:
        rows = read_checked(listing.read_bytes().decode(), _COLUMNS)
    except (OSError, ValueError, InputError):
        return None
    return [(row["first"], row["second"], row["id"]) for row in rows]
