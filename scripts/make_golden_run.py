"""Writer of tests/golden/run_VERSION.zip: a small run of this release, with its data and what it predicts.

    python scripts/make_golden_run.py

Later versions must load it (tests/test_old_runs.py). Run this once for each release, at its tag, and keep the files of
all releases. A file that exists is not written again.

The run has what is stored in ways of its own: 16-bit images with measured limits, two classes that overlap, a running
mean of the weights, a calibration with rules for objects, an evaluation between two checkpoints.
"""

import importlib.metadata
import io
import os
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from etils import epath

import unet_jax
from unet_jax.cli.main import main
from unet_jax.data.synthetic import write_synthetic

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
SETTINGS = {
    "data.root": "DATA",
    "data.splits": "DATA/splits.csv",
    "data.image_size": 32,
    "data.num_threads": 1,
    "model.widths": (2, 4),
    "model.center_width": 8,
    "train.batch_size": 4,
    "train.num_steps": 120,
    "train.eval_every_steps": 60,
    "optim.learning_rate": 0.02,
    "train.ema": 0.9,
    "train.num_pictures": 0,
    "train.keep_last": 1,
}


def write_data(root: Path) -> None:
    """Write 12 gray images of 16 bits, 40x32 pixels, with the masks of two classes."""
    write_synthetic(epath.Path(root), num_images=12, image_size=40, num_classes=2, seed=0)
    for path in sorted(root.rglob("*.png")):
        pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))[:32]
        cv2.imwrite(str(path), pixels if "masks" in path.parts else pixels.astype(np.uint16) * 100 + 3000)


def write_run() -> None:
    """Write DATA, RUN and expected.npz into the current folder."""
    write_data(Path("DATA"))
    unet_jax.train(unet_jax.replace(unet_jax.PRESETS["small"](), SETTINGS), "RUN")
    main(["calibrate", "RUN", "--objects"])
    run = unet_jax.load_run("RUN")
    image = unet_jax.read_pixels("DATA/images/0000.png")
    (probs,) = unet_jax.predict_images(run, [image])
    np.savez_compressed("expected.npz", image=image, probs=probs, step=run.step, dice=run.metrics["dice"])


def main_script() -> None:
    """Write the zip file of the installed version."""
    out = GOLDEN / f"run_{importlib.metadata.version('unet_jax')}.zip"
    if out.exists():
        raise SystemExit(f"{out} is there already: the run of a release does not change.")
    content = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        os.chdir(folder)
        write_run()
        for path in sorted(p for p in Path().rglob("*") if p.is_file() and p.suffix not in (".html", ".lock")):
            file.writestr(zipfile.ZipInfo(str(path), (1980, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
            print(f"{path.stat().st_size:9} {path}")
    out.write_bytes(content.getvalue())
    print(f"{out}: {len(content.getvalue())} bytes")


if __name__ == "__main__":
    main_script()
