"""Time of one image in the run's jitted step, and in the runtimes of its exports, in turns; sizes of the files."""

import dataclasses
import importlib.util
import tempfile
from typing import Any

import jax
import numpy as np
import tyro
from etils import epath
from measure import Step, finish, record, summary, time_in_turns

import unet_jax
from unet_jax.data.threads import num_cores
from unet_jax.devices.huge_pages import restart_with_huge_pages
from unet_jax.export.check import CheckImage
from unet_jax.export.contract import network_size
from unet_jax.export.onnx_model import export_onnx
from unet_jax.export.predict_onnx import load_model, run_network
from unet_jax.export.safetensors_file import export_safetensors
from unet_jax.export.stablehlo import export_stablehlo
from unet_jax.export.tflite import export_tflite, make_content, make_runner
from unet_jax.program.build import build_predict_step
from unet_jax.runs.load import Run, load_run

_PACKAGES = ("onnx", "onnxruntime", "ai-edge-litert", "litert-converter")


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the prediction of one image by a run and by its exports, in one interleaved run."""

    run: tyro.conf.Positional[str]
    """Run directory. Its images must be 8-bit."""
    image_sizes: tuple[int, ...] = (256, 1024)
    batch_size: int = 1
    """Images in one call; LiteRT is timed only with 1."""
    num_rounds: int = 20
    """Timed calls of each variant, after one untimed call."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def write_files(run: Run, folder: epath.Path) -> dict[str, epath.Path]:
    """Export a run in every way that is installed; return the files by name."""
    rng, size = np.random.default_rng(0), network_size(run)
    pixels = rng.integers(0, 256, (2, *size, run.info.num_channels), np.uint8)
    images = [CheckImage(str(i), image, None) for i, image in enumerate(pixels)]
    files = {"onnxruntime": folder / "float32.onnx", "onnxruntime, int8": folder / "int8.onnx"}
    export_onnx(run, files["onnxruntime"], images)
    export_onnx(run, files["onnxruntime, int8"], images, dtype="int8", calibration_images=images)
    files["onnx, float16"] = folder / "float16.onnx"
    export_onnx(run, files["onnx, float16"], images, dtype="float16")
    files["StableHLO"] = folder / "model.stablehlo"
    export_stablehlo(run, files["StableHLO"], images)
    files["safetensors"] = folder / "model.safetensors"
    export_safetensors(run, files["safetensors"], images)
    if importlib.util.find_spec("litert_converter"):
        files["LiteRT"] = folder / "model.tflite"
        export_tflite(run, files["LiteRT"], images)
    return files


def make_steps(run: Run, files: dict[str, epath.Path], size: int, batch_size: int) -> dict[str, Step]:
    """Return functions that predict the same images of one size, by name."""
    shape = (batch_size, size, size, run.info.num_channels)
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    step = build_predict_step(run.config.model, len(run.class_names))
    params, batch_stats = jax.device_put((run.state.params, run.state.batch_stats), jax.devices()[0])
    steps: dict[str, Step] = {"jitted step": lambda: np.asarray(step(params, batch_stats, jax.device_put(images)))}
    for name in ("onnxruntime", "onnxruntime, int8"):
        model = load_model(str(files[name]))
        steps[name] = lambda model=model: run_network(model, images)
    loaded = unet_jax.load_exported(files["StableHLO"])
    steps["StableHLO"] = lambda: loaded(images)
    if "LiteRT" in files and batch_size == 1:
        runner = make_runner(make_content(run, (size, size)), num_cores())
        steps["LiteRT"] = lambda: runner(pixels=images)
    return steps


def main(options: Options) -> None:
    """Measure and print."""
    run = load_run(options.run)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(run, epath.Path(folder))
        sizes = {name: len(path.read_bytes()) for name, path in files.items()}
        for size in options.image_sizes:
            steps = make_steps(run, files, size, options.batch_size)
            times = time_in_turns(steps, options.num_rounds)
            for name, seconds in times.items():
                row = {"image_size": size, "runtime": name, **summary(seconds, times["jitted step"])}
                row["images_per_s"] = 1e3 * options.batch_size / row["median_ms"]
                print({key: value if isinstance(value, str) else round(value, 3) for key, value in row.items()})
                results.append(row)
    report = record("bench_export", dataclasses.asdict(options), _PACKAGES)
    model = run.config.model
    network = {"widths": model.widths, "center_width": model.center_width, "norm": model.norm}
    finish({**report, "network": network, "file_bytes": sizes, "results": results}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()
    main(tyro.cli(Options))
