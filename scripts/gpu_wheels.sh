#!/usr/bin/env bash
# Usage: scripts/gpu_wheels.sh FOLDER
# For a GPU machine without a network that has jax, flax, optax, orbax-checkpoint, torch, opencv-python-headless,
# matplotlib, scipy, tifffile and rich, but not this library's other requirements: fetches those as wheels for
# Python 3.12 on Linux x86-64 (about 4 MB), with versions that worked together on 2026-11-27 (jax 0.11.2).
# There: python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl, and SITE in PYTHONPATH.
set -euo pipefail
folder=${1:?Usage: scripts/gpu_wheels.sh FOLDER}

needed=(
    tyro==1.0.17 docstring_parser==0.18.0 typeguard==4.6.1 # tyro and what it needs
    grain==0.2.18 array_record==0.8.6 portpicker==1.6.0    # grain and what it needs
)
platforms=()
for version in 2_28 2_27 2_24 2_17; do # pip takes the platforms literally: 2_28 does not include 2_17
    platforms+=(--platform "manylinux_${version}_x86_64")
done
python=python3
command -v "$python" >/dev/null || python=python
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$folder" "${needed[@]}"
echo "${#needed[@]} wheels are in $folder ($(du -ch "$folder"/*.whl | tail -1 | cut -f1))"
