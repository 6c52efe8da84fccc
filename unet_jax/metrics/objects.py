"""Connected objects of masks: area, centroid and bounding box of each, and how those of two masks match.

Pixels that touch by an edge or a corner belong to one object. A mask may come in blocks of rows: blocks are labelled
one by one, and labels that touch across blocks are united at the end, so that memory depends on the number of objects
and not on the image.
"""

from typing import NamedTuple

import cv2
import numpy as np
from etils import epy
from jaxtyping import Bool, Float, Int

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import sparse
    from scipy.sparse import csgraph


class Objects(NamedTuple):
    """Objects of one mask, in the order of their first rows."""

    area: Int[np.ndarray, " n"]
    """Number of pixels."""
    centroid: Float[np.ndarray, "n 2"]
    """Mean row and mean column of the pixels, counted from 0."""
    box: Int[np.ndarray, "n 4"]
    """First row, first column, number of rows, number of columns."""


class ObjectFinder:
    """Finder of the objects of one mask.

    Example:
      >>> finder = ObjectFinder()
      >>> for row in ([1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]):
      ...     finder.add(np.array([row], bool))
      >>> found = finder.objects()
      >>> found.area.tolist(), found.centroid.tolist(), found.box.tolist()
      ([2, 2], [[0.5, 0.5], [0.5, 3.0]], [[0, 0, 2, 2], [0, 3, 2, 1]])
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []  # [n 7] int64: area, sums of rows and columns, first and last row, column
        self._pairs: list[np.ndarray] = []  # [n 2] labels that touch
        self._num_labels = self._num_rows = 0
        self._last: np.ndarray | None = None  # labels of the last row so far, counted over all blocks; 0 is outside

    def add(self, rows: Bool[np.ndarray, "h w"]) -> None:
        """Add the next rows."""
        num_labels, labels, stats, centroids = cv2.connectedComponentsWithStats(
            rows.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        stats, centroids = stats[1:].astype(np.int64), centroids[1:]  # without the background
        left, top, width, height, area = stats.T
        sums = np.rint(centroids * area[:, None]).astype(np.int64)
        top = top + self._num_rows
        part = [area, sums[:, 1] + area * self._num_rows, sums[:, 0], top, top + height - 1, left, left + width - 1]
        self._parts.append(np.stack(part, axis=1))
        if self._last is not None:
            above, below = self._last, labels[0].astype(np.int64) + self._num_labels * (labels[0] > 0)
            for shift in (-1, 0, 1):
                a = above[max(0, -shift) : len(above) - max(0, shift)]
                b = below[max(0, shift) : len(below) - max(0, -shift)]
                touch = (a > 0) & (b > 0)
                self._pairs.append(np.unique(np.stack([a[touch], b[touch]], axis=1), axis=0))
        self._last = labels[-1].astype(np.int64) + self._num_labels * (labels[-1] > 0)
        self._num_labels += num_labels - 1
        self._num_rows += len(rows)

    def objects(self) -> Objects:
        """Return the objects of all rows together."""
        parts = np.concatenate([np.zeros((0, 7), np.int64), *self._parts])
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._pairs]) - 1
        graph = sparse.coo_array((np.ones(len(pairs), bool), pairs.T), shape=2 * (len(parts),)).tocsr()
        count, owner = csgraph.connected_components(graph, directed=False) if len(parts) else (0, [])
        sums = np.zeros((count, 3), np.int64)
        np.add.at(sums, owner, parts[:, :3])
        first = np.full((count, 2), np.iinfo(np.int64).max)
        last = np.zeros((count, 2), np.int64)
        np.minimum.at(first, owner, parts[:, [3, 5]])
        np.maximum.at(last, owner, parts[:, [4, 6]])
        order = np.lexsort((first[:, 1], first[:, 0]))
        sums, first, last = sums[order], first[order], last[order]
        return Objects(sums[:, 0], sums[:, 1:] / sums[:, :1], np.concatenate([first, last - first + 1], axis=1))


def match_objects(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> tuple[float, float, float, float]:
    """Match predicted and true objects whose intersection over union is above 0.5, so that no object has two matches.

    Args:
      predicted: `[h w]`, bool, predicted mask.
      truth: `[h w]`, bool, true mask.

    Returns:
      Number of matches (true positives), of predicted objects without a match (false positives), of true objects
      without a match (false negatives), and sum of the intersections over unions of the matches.

    Reference:
      Kirillov et al., Panoptic segmentation, 2019 (arXiv:1801.00868).

    Example:
      >>> truth = np.array([[1, 1, 1, 0, 1, 0, 1]], bool)
      >>> predicted = np.array([[1, 1, 0, 0, 1, 0, 0]], bool)  # two of three pixels, the same, nothing
      >>> [round(number, 3) for number in match_objects(predicted, truth)]
      [2.0, 0.0, 1.0, 1.667]
    """
    (num_predicted, first), (num_true, second) = (
        cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S) for mask in (predicted, truth)
    )
    both = (first > 0) & (second > 0)
    pairs, inside = np.unique(np.stack([first[both], second[both]]), axis=1, return_counts=True)
    areas, true_areas = (np.bincount(labels.ravel(), minlength=1) for labels in (first, second))
    union = areas[pairs[0]] + true_areas[pairs[1]] - inside
    iou = (inside / union)[2 * inside > union]
    hits = len(iou)
    return float(hits), float(num_predicted - 1 - hits), float(num_true - 1 - hits), float(iou.sum())
