"""Writer of tests/golden/object_scores.json: objects, panoptic quality, NSD and clDice of other libraries.

    python -m venv score-env
    score-env/bin/pip install torch==2.14.1 monai==1.6.1 panoptica==2.1.7 scikit-image==0.26.0
    score-env/bin/python scripts/make_golden_object_scores.py

This script does not import unet_jax. Panoptica matches objects and computes precision, recall, F1 and panoptic
quality of each image; MONAI computes panoptic quality again, and the normalized surface distance with three
tolerances. clDice is written out from its paper, with scikit-image's skeletons. Panoptica also matches objects whose
intersection over union is exactly 0.5, which the definition of panoptic quality and MONAI do not; so it is asked for
a little more.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_panoptic_quality
from monai.metrics.surface_dice import compute_surface_dice
from panoptica import InputType, NaiveThresholdMatching, Panoptica_Evaluator
from scipy import ndimage
from skimage.morphology import skeletonize

NUM_CASES = 12
SIZES = ((48, 48), (33, 61), (70, 40))
TOLERANCES = (0.0, 1.0, 3.0)


def case(seed: int) -> dict[str, object]:
    """Make masks of many blobs, of which some are moved, missed or joined in the prediction, and score them."""
    rng = np.random.default_rng(seed)
    shape = SIZES[seed % len(SIZES)]
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.8)
    other = field + 0.35 * ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    truth = field > np.quantile(field, 0.6 + 0.02 * seed)
    predicted = other > np.quantile(other, 0.6 + 0.02 * seed)
    eight = np.ones((3, 3))
    labels = [np.asarray(ndimage.label(mask, eight)[0]) for mask in (predicted, truth)]  # type: ignore[index]
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.UNMATCHED_INSTANCE,
        instance_matcher=NaiveThresholdMatching(matching_threshold=0.5 + 1e-9),
    )
    found = evaluator.evaluate(labels[0].astype(np.uint16), labels[1].astype(np.uint16), verbose=False)["ungrouped"]
    maps = [torch.tensor(np.stack([array, array > 0])[None].astype(np.int64)) for array in labels]
    quality = compute_panoptic_quality(maps[0][0, 0], maps[1][0, 0], metric_name="pq", match_iou_threshold=0.5)
    masks = [torch.tensor(mask[None, None].astype(np.float32)) for mask in (predicted, truth)]
    surface = [
        float(compute_surface_dice(*masks, class_thresholds=[tolerance], include_background=True)[0, 0])
        for tolerance in TOLERANCES
    ]
    skeletons = [skeletonize(mask) for mask in (predicted, truth)]
    precision = (skeletons[0] & truth).sum() / skeletons[0].sum()
    sensitivity = (skeletons[1] & predicted).sum() / skeletons[1].sum()
    return {
        "shape": shape,
        "predicted": np.packbits(predicted).tobytes().hex(),
        "truth": np.packbits(truth).tobytes().hex(),
        "counts": [int(found.tp), int(found.fp), int(found.fn)],
        "object_precision": float(found.prec),
        "object_recall": float(found.rec),
        "object_f1": float(found.rq),
        "panoptic_quality": float(found.pq),
        "monai_panoptic_quality": float(quality),
        "surface_dice": surface,
        "cldice": float(2 * precision * sensitivity / (precision + sensitivity)),
    }


def main() -> None:
    """Write the file."""
    path = Path(__file__).parent.parent / "tests" / "golden" / "object_scores.json"
    versions = {name: version(name) for name in ("monai", "panoptica", "scikit-image", "torch", "numpy", "scipy")}
    values = {"versions": versions, "tolerances": TOLERANCES, "cases": [case(i) for i in range(NUM_CASES)]}
    path.write_text(json.dumps(values, indent=0) + "\n")


if __name__ == "__main__":
    main()
