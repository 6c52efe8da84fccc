#!/usr/bin/env bash
# The main job on made-up data: synthesise, train, evaluate, predict. About two minutes on two cores once installed.
#   scripts/quickstart.sh [FOLDER]     FOLDER is quickstart/ in the repository when not given
# Run it again and it continues where it was; remove the folder to start anew.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install ""
folder=${1:-$repository/quickstart}
unet_jax="$repository/.venv/bin/unet-jax"

"$unet_jax" synth --out "$folder/data" --num-images 80 --image-size 128 --num-classes 2
"$unet_jax" train small --data.root "$folder/data" --data.splits "$folder/data/splits.csv" --out "$folder/run"
"$unet_jax" evaluate "$folder/run" --data.root "$folder/data" --csv "$folder/scores.csv"
"$unet_jax" predict "$folder/run" "$folder/data/images" --out "$folder/predictions"

echo
echo "Look at:"
echo "  $folder/run/pictures/validation.png    image, truth, prediction and error of four validation images"
echo "  $folder/run/pictures/curves.png        loss and Dice over the epochs"
echo "  $folder/predictions/overlay/           predicted masks drawn on every image"
