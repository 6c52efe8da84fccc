"""Scores of every image of a study as tables: results.csv, and results.parquet where pyarrow is installed."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from unet_jax._files import csv_text, replace_bytes, replace_text
from unet_jax.study.scores import SCORES, ScoreTable

_KEYS = ("variant", "seed", "id", "class")
"""One for each axis of the scores. With folds, the column "fold" stands behind the seed."""


def write_image_tables(out: epath.Path, names: Sequence[str], seeds: Sequence[int], table: ScoreTable) -> None:
    """Write results.csv, with six decimals, and results.parquet, with all digits, for pandas, polars or R.

    A score is empty (in Parquet: null) where an image ignores all pixels of the class. Without pyarrow (extra
    `parquet`) there is no results.parquet, nor one of an earlier state of the study.

    Args:
      out: folder of the study.
      names: names of the v variants.
      seeds: the s seeds.
      table: scores of the whole study, `[v s n k]`.
    """
    keys = _KEYS if table.folds is None else ("variant", "seed", "fold", "id", "class")
    replace_text(out / "results.csv", csv_text((*keys, *SCORES), _rows(names, seeds, table)))
    content, path = _parquet(names, seeds, table), out / "results.parquet"
    if content is None:
        path.unlink(missing_ok=True)
    else:
        replace_bytes(path, content)


def _rows(names: Sequence[str], seeds: Sequence[int], table: ScoreTable) -> Iterable[Sequence[Any]]:
    """Yield the rows of results.csv."""
    for v, name in enumerate(names):
        for s, seed in enumerate(seeds):
            for i, id_ in enumerate(table.ids):
                fold = () if table.folds is None else (table.folds[s, i],)
                for k, class_name in enumerate(table.class_names):
                    values = (float(table.values[score][v, s, i, k]) for score in SCORES)
                    yield (name, seed, *fold, id_, class_name, *("" if math.isnan(x) else f"{x:.6f}" for x in values))


def _parquet(names: Sequence[str], seeds: Sequence[int], table: ScoreTable) -> bytes | None:
    """Return results.parquet; None if pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    shape = (len(names), len(seeds), len(table.ids), len(table.class_names))
    columns: dict[str, Any] = {}
    for axis, (key, labels) in enumerate(zip(_KEYS, (names, seeds, table.ids, table.class_names), strict=True)):
        index = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(4)]), shape)
        if key == "seed":
            columns[key] = pyarrow.array(np.asarray(labels, np.int64)[index.ravel()])
            if table.folds is not None:
                fold = np.broadcast_to(table.folds[None, :, :, None], shape)
                columns["fold"] = pyarrow.array(fold.ravel().astype(np.int64))
        else:
            indices = pyarrow.array(index.ravel().astype(np.int32))
            columns[key] = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(list(labels)))
    for score in SCORES:
        columns[score] = pyarrow.array(table.values[score].ravel(), from_pandas=True)  # NaN becomes null
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()
