"""TFLite files in LiteRT's interpreter (extra tflite)."""

import json
import zipfile

import numpy as np
import pytest
from export_runs import random_run, some_images

from unet_jax import predict_probs_unresized
from unet_jax.data.images.format import ImageFormat
from unet_jax.export.tflite import export_tflite
from unet_jax.metrics.calibration import Calibration

pytest.importorskip("litert_converter", reason="the extra tflite is not installed")
pytest.importorskip("ai_edge_litert")

RUNS = {
    "uint8, batch norm": (None, None, {"widths": (4, 8), "num_convs_down": 2}),
    "limits, calibrated, group norm": (
        ImageFormat((0, 1), 2, 16, (100.0, -50.0), (4000.0, 60000.0)),
        Calibration((2.0, 0.5), (0.4, 0.7)),
        {"norm": "group", "group_size": 2},
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_interpreter_gives_the_probabilities_of_the_run(name, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    image_format, calibration, model = RUNS[name]
    run = random_run(image_format, calibration=calibration, **model)
    agreement = export_tflite(run, tmp_path / "m.tflite", some_images(run))
    assert agreement.num_images == 3 and agreement.largest_difference < 2e-5
    interpreter = Interpreter(model_path=str(tmp_path / "m.tflite"))
    runner = interpreter.get_signature_runner("serving_default")
    (details,) = interpreter.get_input_details()
    assert details["shape"].tolist() == [1, 16, 16, run.info.num_channels]
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 256 if image_format is None else 60000, details["shape"])
    numbers = numbers.astype(run.info.image_dtype)
    actual = runner(pixels=numbers.astype(details["dtype"]))["probabilities"]
    np.testing.assert_allclose(actual, predict_probs_unresized(run, numbers), atol=2e-5)
    kinds = {op["op_name"] for op in interpreter._get_ops_details()}
    assert {"CONV_2D", "MAX_POOL_2D", "LOGISTIC"} <= kinds
    with zipfile.ZipFile(tmp_path / "m.tflite") as archive:
        contract = json.loads(archive.read("contract.json"))
        assert archive.read("labels.txt").decode().split() == ["disk", "square"]
    assert contract["thresholds"] == pytest.approx(run.threshold.tolist()) and contract["check"]["num_images"] == 3
