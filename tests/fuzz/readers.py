"""Every file that the library reads besides pictures: a valid one, and how it is read."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from etils import epath
from helpers import ONE_DEVICE, tiny_config
from test_checkpoints import state_at

from unet_jax.config import Config, DataConfig, ModelConfig
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.images.format import RGB8
from unet_jax.data.layout import find_layout
from unet_jax.data.records import Layout
from unet_jax.data.splits import assign_splits
from unet_jax.data.synthetic import write_synthetic
from unet_jax.inference.calibration_file import read_calibration, save_calibration
from unet_jax.interop import Network, write_network
from unet_jax.interop.keras_reader import read_keras_file
from unet_jax.metrics.calibration import fit_calibration, histogram
from unet_jax.metrics.object_rules import ObjectRules
from unet_jax.model import UNet
from unet_jax.program.own import OURS
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.checkpoints import open_store
from unet_jax.runs.data_files import load_identities, save_identities
from unet_jax.runs.info import RunInfo, load_info, save_info
from unet_jax.study.checked_table import checked_csv
from unet_jax.study.cost import read_costs
from unet_jax.study.scores import SCORES, ScoreTable, read_scores, write_scores
from unet_jax.training.goodput import Ledger
from unet_jax.training.setup import split_source


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kind of file: how a valid one is made, and how it is read."""

    make: Callable[[Path], None]
    """Writes valid files into a folder."""
    read: Callable[[Path], Any]
    """Reads them, and returns something whose repr tells what was read."""
    other_is_valid: str = ""
    """Why a damaged file may be another valid one; empty for files with digests, which must never be read as others."""
    hang_s: float = 20.0
    """Seconds after which reading counts as a hang."""
    seconds: float = 0.01
    """About how long reading takes, by which the short part divides its time."""


class Said(str):
    """A warning that a reader returned beside what it could read."""


def _info(out: Path) -> RunInfo:
    splits = {"train": ["a", "b/c"], "val": ["d"], "test": []}
    audit = {"prevalence": [0.25, 0.5], "digests": {"a": "0" * 32}, "vanished": {"cell": ["a"]}}
    return RunInfo(tiny_config(epath.Path("data")), ("cell", "nucleus"), splits, audit, {"jax": "0.10.2"}, RGB8)


def _make_splits(folder):
    lines = ["id,split", *(f"p{i:02d},{split}" for i, split in enumerate(["train"] * 8 + ["val"] * 3 + ["test"] * 3))]
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")


def _read_splits(folder):
    records: Any = [SimpleNamespace(id=f"p{i:02d}", split=None) for i in range(14)]
    config = DataConfig(root="data", splits=str(folder / "splits.csv"))
    return assign_splits(Layout(tuple(records), ("cell",)), config)


def _make_metrics(folder):
    file = MetricsFile(epath.Path(folder / "metrics.jsonl"))
    for step in range(1, 30):
        file.write({"step": step, "eval/loss": 1.0 / step, "epoch": step / 2, "x": float("inf") if step == 9 else 0.5})


def _read_metrics(folder):
    file = MetricsFile(epath.Path(folder / "metrics.jsonl"))
    warning = file.rewind(20, 20)
    return Said(warning) if warning else file.read()


def _read_goodput(folder):
    ledger = Ledger(epath.Path(folder), now=lambda: 0.0)
    warning = ledger.resume(2, {"step": 1.0})
    return Said(warning) if warning else (ledger.seconds, ledger.table())


def _make_calibration(folder):
    probs = np.random.default_rng(0).random((8, 8, 2), np.float32)
    fit = fit_calibration(np.stack([histogram(probs, probs > 0.4)]), 0.5)
    info = SimpleNamespace(config=Config(), audit={})
    run: Any = SimpleNamespace(
        path=epath.Path(folder), class_names=("cell", "nucleus"), step=3, config=Config(), info=info, own=OURS
    )
    rules = (ObjectRules(smallest_object=8), ObjectRules())
    fit = dataclasses.replace(fit, calibration=dataclasses.replace(fit.calibration, rules=rules))
    save_calibration(run, fit, split="val", num_images=1)


def _make_scores(folder):
    values = {name: np.random.default_rng(0).random((4, 2)) for name in SCORES}
    write_scores(epath.Path(folder / "test.csv"), ScoreTable(("a", "=b", "c,d", "e"), ("cell", "x"), values))


def _read_scores(folder):
    table = read_scores(epath.Path(folder / "test.csv"))
    return table.ids, table.class_names, {name: values.tolist() for name, values in table.values.items()}


def _make_costs(folder):
    columns = ("variant", "step_ms", "relative_time", "step_bytes")
    (folder / "cost.csv").write_text(checked_csv(columns, [("bce", 1.5, 1.0, 12345), ("dice", 2.0, 1.3, "")]))


def _make_cache(folder):
    root = epath.Path(folder / "data")
    write_synthetic(root, num_images=4, image_size=16, num_classes=2, seed=0)
    _read_cache(folder)


def _read_cache(folder):
    config = DataConfig(root=str(folder / "data"), image_size=16, cache="disk", cache_dir=str(folder / "cache"))
    layout = find_layout(config)
    files = split_source(layout, [record.id for record in layout.records], config)
    cached = disk_source(files, config, num_threads=1)
    return [(sample.image.tobytes(), sample.mask.tobytes()) for sample in (cached[i] for i in range(len(cached)))]


def _make_keras(folder):
    config = ModelConfig(widths=(2,), center_width=2, num_convs_down=1, num_convs_up=1)
    shapes = jax.eval_shape(lambda: UNet(config, 2).init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32), False))
    rng = np.random.default_rng(0)
    weights: Any = jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)
    write_network(folder / "x.weights.h5", Network(config, 2, **weights, image_size=4))


def _read_keras(folder):
    found = read_keras_file(epath.Path(folder / "x.weights.h5"))
    layers = (*found.convs, *found.norms, *found.others)
    return [(layer.name, [array.tobytes() for array in layer.arrays]) for layer in layers]


_STORE: dict[str, Any] = {"keep_last": 2, "best_metric": "dice", "best_is_larger": True}


def _make_checkpoints(folder):
    with open_store(epath.Path(folder / "checkpoints"), **_STORE) as store:
        store.save(3, state_at(3, ONE_DEVICE), progress={"step": 3}, metrics={"dice": 0.5, "loss": 1.0})


def _read_checkpoints(folder):
    abstract = jax.eval_shape(lambda: state_at(0, ONE_DEVICE))
    with open_store(epath.Path(folder / "checkpoints"), **_STORE) as store:
        state = store.load(3, abstract, ONE_DEVICE)
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)], store.progress(3), store.metrics(3)


def _make_identities(folder):
    save_identities(epath.Path(folder), "data", {"a": [[5, 6, 7, "ab"], None], "b": []})


READERS = {
    "splits CSV": Reader(
        _make_splits,
        _read_splits,
        other_is_valid="a person writes it: a line less, or train in the place of val, is another valid file. Ids that "
        "are not in the data set are refused, and a run that continues compares the splits with its own",
    ),
    "run.json": Reader(lambda folder: save_info(epath.Path(folder), _info(folder)), lambda f: load_info(epath.Path(f))),
    "data.json": Reader(_make_identities, lambda folder: load_identities(epath.Path(folder))),
    "metrics.jsonl": Reader(_make_metrics, _read_metrics),
    "goodput.json": Reader(lambda folder: Ledger(epath.Path(folder), now=lambda: 0.0).write(2), _read_goodput),
    "calibration.json": Reader(
        _make_calibration,
        lambda folder: read_calibration(epath.Path(folder / "calibration.json"), ("cell", "nucleus")),
    ),
    "study scores": Reader(_make_scores, _read_scores),
    "study costs": Reader(_make_costs, lambda folder: read_costs(SimpleNamespace(out=str(folder)))),  # type: ignore[arg-type]
    "disk cache": Reader(_make_cache, _read_cache),
    "Keras export": Reader(_make_keras, _read_keras, hang_s=90.0, seconds=0.3),
    "checkpoint": Reader(_make_checkpoints, _read_checkpoints, seconds=0.1),
}


def files_to_damage(folder: Path) -> list[Path]:
    """The files that a reader's `make` wrote; the data set beside a cache is not what is tried here."""
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and "data" not in path.relative_to(folder).parts
    ]
    # What Orbax leaves in the folder of a process is not read: the merged copy is.
    return [path for path in files if not any(part.startswith("ocdbt.process") for part in path.parts)]


def as_text(value: Any) -> str:
    """What was read, for comparison; numbers with all digits."""
    return repr(value) if not isinstance(value, dict) else json.dumps(value, sort_keys=True, default=repr)
