"""Exported files with another bit are refused by name; their contracts say which images are far from training's."""

import dataclasses
import io
import itertools
import json
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from etils import epath
from export_runs import random_image, random_run
from safetensors import safe_open

from unet_jax import InputError
from unet_jax.cli.main import main
from unet_jax.config.predict import PredictConfig
from unet_jax.export import predict_onnx
from unet_jax.export.check import Agreement
from unet_jax.export.contract import NOTHING, make_contract
from unet_jax.export.exported import Exported
from unet_jax.export.file_digest import EMPTY, NAME, check_digest, with_digest, zip_with_digest
from unet_jax.export.onnx_model import make_model, write_model
from unet_jax.export.predict_onnx_tiles import far_scale
from unet_jax.inference.scale import scale_warning
from unet_jax.inference.way import way_of


def audited_run(smallest=(64, 64), largest=(64, 64), **settings):
    """A run that knows the sizes of its training images."""
    run = random_run(**settings)
    info = dataclasses.replace(run.info, audit={"smallest": list(smallest), "largest": list(largest)})
    return dataclasses.replace(run, info=info)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = epath.Path(tmp_path_factory.mktemp("digest") / "m.onnx")
    run = audited_run()
    write_model(path, make_model(run), make_contract(run, "pixels", "uint8", NOTHING), Agreement(1, 0.0, 1, {}))
    return path


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("contract.json", "{}")
        file.writestr("weights.npz", bytes(range(256)))
    return buffer.getvalue()


def weights_file():
    arrays = {"params/a": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b": np.ones(2, np.float16)}
    return with_digest(safetensors.numpy.save(arrays, metadata={"unet_jax": '{"a": "b"}', NAME: EMPTY}))


def test_any_other_bit_is_noticed(model_file):
    files = {
        "m.onnx": model_file.read_bytes(),
        "m.stablehlo": zip_with_digest(archive()),
        "m.tflite": zip_with_digest(b"a TFLite file" + archive()),
        "m.safetensors": weights_file(),
    }
    for name, whole in files.items():
        assert check_digest(whole, name)
        marker = range(whole.index(NAME.encode()) - 8, whole.index(NAME.encode()) + len(NAME) + 4)
        for i in range(0, len(whole), max(1, len(whole) // 997)):
            damaged = whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :]
            if i in marker:
                continue  # it has no digest then
            with pytest.raises(InputError, match=f"{name}: is damaged: its bytes are not those that were exported"):
                check_digest(damaged, name)
        block, other = whole[-150:-130], whole[-120:-100]
        for damaged in (
            whole[:-150] + bytes(20) + whole[-130:],
            whole[:-150] + other + whole[-130:-120] + block + whole[-100:],
        ):
            with pytest.raises(InputError, match="is damaged"):
                check_digest(damaged, name)
    assert not check_digest(b"", "x") and not check_digest(archive(), "x")


def test_other_programs_read_files_with_digests(model_file, tmp_path):
    model = onnx.load(str(model_file))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == ["unet_jax", NAME]
    (tmp_path / "w.safetensors").write_bytes(weights_file())
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata()["unet_jax"] == '{"a": "b"}' and file.get_tensor("params/a")[1, 2, 3] == 23
    with zipfile.ZipFile(io.BytesIO(zip_with_digest(b"a TFLite file" + archive()))) as file:
        assert file.testzip() is None and file.read("weights.npz") == bytes(range(256))


def test_the_script_and_verify_refuse_damaged_files(model_file, tmp_path, capsys):
    whole = model_file.read_bytes()
    assert predict_onnx.load_model(str(model_file)).contract == predict_onnx.load_model(whole).contract
    main(["verify", str(model_file)])
    assert f"{model_file}: good" in capsys.readouterr().out
    path, place = tmp_path / "bad.onnx", whole.index(b'"thresholds": [0.5')
    path.write_bytes(whole[: place + 17] + b"4" + whole[place + 18 :])  # valid ONNX and JSON, with another threshold
    onnxruntime.InferenceSession(str(path))
    with pytest.raises(predict_onnx.PredictError, match=r"bad\.onnx: is damaged: its bytes are not those"):
        predict_onnx.load_model(str(path))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path)])
    assert ended.value.code == 1 and f"{path}: is damaged" in capsys.readouterr().out
    with pytest.raises(predict_onnx.PredictError, match=r"none\.onnx: cannot be read \(No such file or directory\)"):
        predict_onnx.load_model(str(tmp_path / "none.onnx"))
    path.write_bytes(b"something else")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path)])
    assert ended.value.code == 2 and "has no digest, so that nothing can be said of it" in capsys.readouterr().err


def test_a_file_that_was_changed_on_purpose_says_how_to_go_on(model_file, tmp_path):
    model = onnx.load(str(model_file))
    onnx.helper.set_model_props(model, {**{entry.key: entry.value for entry in model.metadata_props}, "more": "x"})
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(predict_onnx.PredictError, match=f"If this was on purpose, remove {NAME} from its metadata"):
        predict_onnx.load_model(str(tmp_path / "m.onnx"))
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != NAME}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert predict_onnx.load_model(str(tmp_path / "m.onnx")).contract["class_names"] == ["disk", "square"]


WAYS = [
    PredictConfig(),
    PredictConfig(fit="pad"),
    PredictConfig(fit="crop"),
    PredictConfig(fit="crop", scale=0.2),
    PredictConfig(fit="whole", scale=3.0),
]


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_exports_warn_of_the_images_that_predict_warns_of(fit):
    run = audited_run((30, 40), (64, 80), size=(16, 24), data={"fit": fit})
    told = set()
    for how in WAYS:
        contract = json.loads(json.dumps(make_contract(run, "pixels", "uint8", NOTHING, how)))
        way = way_of(run, how)
        for height, width in itertools.product((3, 14, 16, 64, 129, 161), repeat=2):
            expected = scale_warning(run.info, way.fit, way.scale, way.tiling.size, height, width)
            found = far_scale(contract, height, width)
            numbers = [word for word in found.split() if word[:1].isdigit()]
            assert [word for word in expected.split() if word[:1].isdigit()] == numbers, (how, height, width)
            told.add(bool(found))
    assert told == {True, False}
    assert far_scale(make_contract(random_run(), "pixels", "uint8", NOTHING), 1, 1) == ""


def test_the_command_and_the_loaded_network_name_the_first_image(model_file, tmp_path, capsys, monkeypatch):
    for i, side in enumerate((64, 400, 300)):
        np.save(tmp_path / f"{i}.npy", random_image(random_run(), side, side))
    monkeypatch.setattr(predict_onnx, "read_image", lambda path, images: np.load(path))
    inputs = [str(tmp_path / f"{i}.npy") for i in range(3)]
    assert predict_onnx.main([str(model_file), *inputs, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith(f"WARNING: {inputs[1]}: is 400x400 pixels (width x height), but the")
    assert "resized to 16x16, its objects become 6.25 times smaller" in said[0]
    assert said[1] == "WARNING: the scale of 2 images is far from that of training."
    contract = predict_onnx.load_model(str(model_file)).contract
    network = Exported(contract, None, {}, {})  # type: ignore[arg-type]
    monkeypatch.setattr(Exported, "predict_seen", lambda self, images: iter(list(images)))
    with pytest.warns(UserWarning, match=r"image 1 is 400x400 pixels .* Export the run with --fit crop") as warned:
        assert len(list(network.predict_images([np.load(path) for path in inputs]))) == 3
    assert len(warned) == 1
