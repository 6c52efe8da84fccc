"""Rules for the objects of masks for predict_onnx.py: small holes filled, small objects removed, only the largest kept.

This file stands by itself: NumPy and OpenCV only. It may be copied, changed and shipped together with the model.
"""

from typing import Any

import cv2
import numpy as np


def apply_rules(masks: np.ndarray, objects: list[dict[str, Any]] | None, seen_area: int) -> np.ndarray:
    """Apply the rules of each class to its mask.

    Args:
      masks: `[h w k]` bool.
      objects: `contract["objects"]`: for each class, the areas below which holes are filled and objects removed (0:
        none are), and whether only the largest object is kept. None: no rules.
      seen_area: number of pixels of the whole image at the size at which the network sees it; areas are in such pixels.

    Returns:
      `[h w k]` bool.
    """
    if objects is None:
        return masks
    return np.stack([_finished(masks[..., k], rules, seen_area) for k, rules in enumerate(objects)], axis=-1)


def _finished(mask: np.ndarray, rules: dict[str, Any], seen_area: int) -> np.ndarray:
    if rules["smallest_hole"]:
        labels, boxes, area = _components(~mask, 4)
        left, top, width, height = boxes
        is_hole = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
        is_hole[0] = False  # the mask itself
        mask = mask | (is_hole & (area * seen_area < rules["smallest_hole"] * mask.size))[labels]
    if rules["smallest_object"]:
        labels, _, area = _components(mask, 8)
        is_large = area * seen_area >= rules["smallest_object"] * mask.size
        is_large[0] = False
        mask = is_large[labels]
    if rules["largest_only"]:
        labels, _, area = _components(mask, 8)
        if len(area) > 1:
            ties = 1 + np.flatnonzero(area[1:] == area[1:].max())
            if len(ties) > 1:  # the one whose first pixel comes first, row by row
                flat = labels.ravel()
                ties = [min(ties.tolist(), key=lambda label: int(np.argmax(flat == label)))]
            mask = labels == ties[0]
    return mask


def _components(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the label of each pixel, 0 outside of the mask, and box (left, top, width, height) and area by label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S
    )
    stats = stats.astype(np.int64)
    return labels, stats[:, :4].T, stats[:, 4]
