"""Writer of tests/golden/image_scores.json: HD95, surface Dice and calibration errors of MONAI and torchmetrics.

    python -m venv score-env
    score-env/bin/pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1
    score-env/bin/pip install --no-deps monai==1.6.1 torchmetrics==1.9.0 lightning-utilities==0.15.3 packaging
    score-env/bin/python scripts/make_golden_image_scores.py

This script does not import unet_jax. Probabilities are stored as whole 256ths, row by row in hexadecimal, so that they
are exact.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage
from torchmetrics.functional.classification import binary_calibration_error

NUM_CASES = 12
SIZES = ((24, 24), (17, 31), (40, 20))


def case(seed: int) -> dict[str, object]:
    """Make a random truth and prediction from smooth fields, and score them.

    The masks are blobs with holes, some of which touch the border of the image.
    """
    rng = np.random.default_rng(seed)
    shape = SIZES[seed % len(SIZES)]
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3.0)
    other = field + 0.6 * ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    truth = field > np.quantile(field, 0.4 + 0.05 * seed)
    logits = 12.0 * (other - np.quantile(other, 0.5 + 0.04 * seed)) / other.std()
    levels = np.clip(np.round(255.0 / (1.0 + np.exp(-logits))), 1, 255).astype(np.uint8)
    probs = levels / 256.0
    predicted = probs > 0.5
    masks = [torch.tensor(mask[None, None].astype(np.float32)) for mask in (predicted, truth)]
    error = binary_calibration_error(torch.tensor(probs.ravel()), torch.tensor(truth.ravel().astype(int)), n_bins=15)
    return {
        "shape": shape,
        "levels": levels.tobytes().hex(),
        "truth": np.packbits(truth).tobytes().hex(),
        "hausdorff95": float(compute_hausdorff_distance(*masks, include_background=True, percentile=95)[0, 0]),
        "surface_dice": float(compute_surface_dice(*masks, class_thresholds=[2.0], include_background=True)[0, 0]),
        "calibration_error": float(error),
    }


def main() -> None:
    """Write the file."""
    path = Path(__file__).parent.parent / "tests" / "golden" / "image_scores.json"
    versions = {name: version(name) for name in ("monai", "torchmetrics", "torch", "numpy", "scipy")}
    path.write_text(json.dumps({"versions": versions, "cases": [case(i) for i in range(NUM_CASES)]}, indent=0) + "\n")


if __name__ == "__main__":
    main()
