#!/usr/bin/env bash
# Build wheel and sdist into dist/, check them, and use the wheel in an environment of its own.
#   scripts/check_wheel.sh
# Minutes, most of them for downloads. UNET_JAX_PYTHON names the interpreter to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$(find_python)" -m venv "$folder/build"
"$folder/build/bin/pip" install --quiet --disable-pip-version-check build twine
rm -rf dist
"$folder/build/bin/python" -m build --outdir dist .
"$folder/build/bin/twine" check --strict dist/*

# The wheel is made from the sdist, so that a file that the sdist lacks is found here.
"$(find_python)" -m venv "$folder/clean"
"$folder/clean/bin/pip" install --quiet --disable-pip-version-check dist/*.whl
cd "$folder" # not the repository, whose folder unet_jax would be imported
clean/bin/unet-jax --version
clean/bin/unet-jax synth --out data --num-images 12 --image-size 32
clean/bin/unet-jax audit --data.root data --data.splits data/splits.csv --data.image-size 32 --page page.html
clean/bin/python -c "
import pathlib, unet_jax
folder = pathlib.Path(unet_jax.__file__).parent
assert 'site-packages' in str(folder), folder
assert (folder / 'py.typed').exists()
config = unet_jax.replace(unet_jax.PRESETS['small'](), {
    'data.root': 'data', 'data.splits': 'data/splits.csv', 'data.image_size': 32, 'train.num_epochs': 1,
    'train.batch_size': 4, 'model.widths': (4,), 'model.center_width': 8})
print(unet_jax.train(config, 'run').best_metrics)
"
clean/bin/unet-jax evaluate run
echo "wheel and sdist: built, checked, installed and used"
