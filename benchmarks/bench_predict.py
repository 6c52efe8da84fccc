"""Prediction by tiles: the whole command against the network's step, other ways to do it, symmetries, and memory.

    python benchmarks/bench_predict.py --save predict_2_cores
    python benchmarks/bench_predict.py --memory 12000 9000 --classes 2 32    # a process each; takes minutes

"command" is `predict_files` without the overlay: it reads a file, cuts, computes, blends, and writes masks. "step" is
the network on the same batches of tiles, without anything else. "loop" is what one writes by hand: one tile after the
other into arrays as large as the image, and "MONAI" is its `sliding_window_inference`, which calls the same step. All
blend with the same weights, and must give the same probabilities to 1e-4; MONAI to 1e-3, because it raises weights that
are below 1e-3.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import measure

from unet_jax.config import Config, DataConfig, ModelConfig
from unet_jax.config.predict import OutputConfig, PredictConfig
from unet_jax.data.images.format import RGB8
from unet_jax.data.images.rows import rows_of
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.inference.fits import BATCH_SIZE, network_of, predict_patches
from unet_jax.inference.folder import predict_files
from unet_jax.inference.way import way_of
from unet_jax.program.build import build
from unet_jax.program.tile_stream import Failure, cut
from unet_jax.report.row_files import NpyRows
from unet_jax.runs.info import RunInfo
from unet_jax.runs.load import Run

MASKS = OutputConfig(overlay=False)


def random_run(options: argparse.Namespace, num_classes: int) -> Run:
    """Return an untrained network as a run."""
    model = ModelConfig(widths=tuple(options.widths), center_width=2 * options.widths[-1], num_convs_up=2)
    config = Config(data=DataConfig(image_size=options.tile), model=model)
    names = tuple(f"class{k}" for k in range(num_classes))
    mesh = make_mesh()
    state = put_replicated(build(config, num_classes, 1).init(jax.random.key(0)), mesh)
    info = RunInfo(config, names, {"train": [], "val": [], "test": []}, {}, {}, RGB8)
    return Run(epath.Path("none"), 0, state, config, names, info, {}, mesh)


def gaussian(side: int) -> np.ndarray:
    """Return the weights of MONAI's and nnU-Net's kind: a Gaussian of a standard deviation of an eighth."""
    line = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    return (line[:, None] * line).astype(np.float32)


def by_hand(run: Run, image: np.ndarray, how: PredictConfig) -> np.ndarray:
    """Return the probabilities of an image, one tile after the other."""
    side, stride = run.config.data.height_and_width[0], way_of(run, how).tiling.axes(*image.shape[:2])
    network, weight = network_of(run, "none", logits=True, batch_size=1), gaussian(side)
    total = np.zeros((*image.shape[:2], len(run.class_names)), np.float32)
    weights = np.zeros((*image.shape[:2], 1), np.float32)
    for y in stride[0].starts:
        for x in stride[1].starts:
            logits = network.finish(network.start(image[None, y : y + side, x : x + side]))[0]
            total[y : y + side, x : x + side] += logits * weight[..., None]
            weights[y : y + side, x : x + side] += weight[..., None]
    return 1 / (1 + np.exp(-total / weights))


def by_monai(run: Run, image: np.ndarray, how: PredictConfig) -> np.ndarray:
    """Return the probabilities of an image by MONAI's `sliding_window_inference`."""
    import torch
    from monai.inferers import sliding_window_inference

    side, network = run.config.data.height_and_width[0], network_of(run, "none", logits=True)

    def logits(tiles: Any) -> Any:
        batch = np.ascontiguousarray(tiles.numpy().transpose(0, 2, 3, 1)).astype(np.uint8)
        fill = np.zeros((network.batch_size - len(batch), *batch.shape[1:]), np.uint8)
        values = network.finish(network.start(np.concatenate([batch, fill])))[: len(batch)]
        return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))

    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    weight = torch.from_numpy(gaussian(side))
    blended = sliding_window_inference(
        pixels, (side, side), network.batch_size, logits, overlap=how.overlap, roi_weight_map=weight
    )
    return 1 / (1 + np.exp(-np.asarray(blended)[0].transpose(1, 2, 0)))


def probabilities(run: Run, image: np.ndarray, how: PredictConfig) -> np.ndarray:
    """Return the probabilities of an image by the library."""
    whole = np.empty((*image.shape[:2], len(run.class_names)), np.float32)
    for part in predict_patches(run, [(rows_of(image), None)], way_of(run, how)):
        assert not isinstance(part, Failure)
        rows, columns = part.values.shape[:2]
        whole[part.y : part.y + rows, part.x : part.x + columns] = part.values
    return whole


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Time the ways in turns, after a check that they give the same numbers."""
    run = random_run(options, options.classes[0])
    height, width = options.size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    how, d4 = PredictConfig(fit="crop", scale=1.0, overlap=options.overlap), None
    if options.d4:
        d4 = PredictConfig(fit="crop", scale=1.0, overlap=options.overlap, tta="d4")
    tiles = [tile for tile, _ in cut(rows_of(image), way_of(run, how).tiling)]
    network = network_of(run, "none", logits=True, batch_size=BATCH_SIZE)
    count = network.batch_size
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % count)]
    batches = [np.stack(filled[i : i + count]) for i in range(0, len(filled), count)]

    def step() -> None:
        for batch in batches:
            network.finish(network.start(batch))

    failed, expected = {}, probabilities(run, image, how)
    with tempfile.TemporaryDirectory() as folder:
        path = epath.Path(folder) / "image.npy"
        np.save(path, image)

        def command() -> None:
            list(predict_files(run, {"image": (path,)}, epath.Path(folder) / "out", how, MASKS))

        ways: dict[str, measure.Step] = {"step": step, "command": command, "loop": lambda: by_hand(run, image, how)}
        ways["MONAI"] = lambda: by_monai(run, image, how)
        for name, way, most in (("loop", by_hand, 1e-4), ("MONAI", by_monai, 1e-3)):
            try:
                difference = float(np.abs(way(run, image, how) - expected).max())
                assert difference < most, difference
            except (ImportError, AssertionError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
                del ways[name]
        if d4 is not None:
            ways["D4"] = lambda: probabilities(run, image, d4)
            ways["8 calls"] = lambda: [probabilities(run, image, how) for _ in range(8)]
        times = measure.time_in_turns(ways, options.num_rounds)
    results = {name: measure.summary(seconds, times["command"]) for name, seconds in times.items()}
    for name, values in results.items():
        values["tiles_per_s"] = len(tiles) / (values["median_ms"] / 1e3)
        print(f"{name:>8}: {values['median_ms']:9.0f} ms, {values['ratio']:.2f} of the command's time")
    return {"num_tiles": len(tiles), "results": results, "failed": failed}


def peak(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of a process for each size and number of classes."""
    results = {}
    for num_classes in options.classes:
        for factor in (0.5, 1.0):
            height, width = (int(side * factor) for side in (options.memory[1], options.memory[0]))
            command = [sys.executable, __file__, "--child", str(height), str(width), "--classes", str(num_classes)]
            command += ["--tile", str(options.tile), "--widths", *map(str, options.widths)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            results[f"{width}x{height}, {num_classes} classes"] = json.loads(said)
            print(f"{width}x{height}, {num_classes} classes: {said}", flush=True)
    return {"results": results}


def child(options: argparse.Namespace) -> None:
    """Predict one large image, which lies on the disk, and print the peak memory of the process."""
    run, (height, width) = random_run(options, options.classes[0]), options.child
    with tempfile.TemporaryDirectory() as folder:
        path = epath.Path(folder) / "image.npy"
        rng, file = np.random.default_rng(0), NpyRows(pathlib.Path(path), (height, width, 3), np.uint8)
        for start in range(0, height, 256):  # a mapped file would count as memory of the process
            file.write(rng.integers(0, 256, (min(256, height - start), width, 3), np.uint8))
        file.close()
        start = time.perf_counter()
        how = PredictConfig(fit="crop", scale=1.0, overlap=options.overlap)
        list(predict_files(run, {"image": (path,)}, epath.Path(folder) / "out", how, MASKS))
        seconds = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": round(peak_mib), "seconds": round(seconds, 1)}))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(2048, 2816),
        help="height and width of the image, at which MONAI places tiles alike",
    )
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="+", default=(16, 32, 64, 128))
    parser.add_argument("--classes", type=int, nargs="+", default=(2,))
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--d4", action="store_true", help="also time D4 and eight calls")
    parser.add_argument("--memory", type=int, nargs=2, help="width and height: peak memory of it and of its half")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--save", default="")
    options = parser.parse_args()
    if options.child:
        return child(options)
    if any(side % 2 ** len(options.widths) or side < options.tile for side in options.size):
        parser.error(
            "--size must be multiples of 2 to the number of --widths, and not below --tile (no image is padded)"
        )
    report = peak(options) if options.memory else compare(options)
    record = measure.record("predict", {k: v for k, v in vars(options).items() if k != "save"}, ("torch", "monai"))
    measure.finish(record | report, options.save)


if __name__ == "__main__":
    main()
