"""Packages of the BioImage Model Zoo, validated by bioimageio.spec and run by bioimageio.core where it is there."""

import importlib.util

import pytest
from export_runs import random_run, some_images

from unet_jax import InputError
from unet_jax.data.images.format import ImageFormat
from unet_jax.export.contract import About
from unet_jax.metrics.calibration import Calibration

pytest.importorskip("bioimageio.spec", reason="the extra bioimageio is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # that package leaves files open

DEEP = ImageFormat((0, 1), 2, 16, (100.0, 0.0), (4000.0, 60000.0))
RUNS = {
    "uint8": (None, None),
    "limits, calibrated": (
        ImageFormat((0, 1), 2, 16, (100.0, 0.0), (4000.0, 60000.0)),
        Calibration((2, 0.5), (0.4, 0.7)),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_package_is_valid_and_gives_its_test_output(name, tmp_path):
    from bioimageio.spec import load_description

    from unet_jax.export.bioimageio import export_bioimageio

    image_format, calibration = RUNS[name]
    run = random_run(image_format, calibration=calibration)
    about = About("CC-BY-4.0", ("A. Person",), "Finds things.")
    agreement = export_bioimageio(run, tmp_path / "m.zip", some_images(run), about=about)
    assert agreement.num_images == 3 and agreement.differing == {}
    loaded = load_description(tmp_path / "m.zip")
    assert loaded.validation_summary.status in ("passed", "valid-format"), loaded.validation_summary.display()
    assert loaded.outputs[0].axes[-1].channel_names == ["disk", "square"]
    if importlib.util.find_spec("bioimageio.core"):  # it is in no extra (CONTRIBUTING.md)
        from bioimageio import core

        summary = core.test_model(tmp_path / "m.zip", weight_format="onnx", determinism="full")
        assert summary.status == "passed", summary.display()


def test_a_licence_and_authors_are_asked_for(tmp_path):
    from unet_jax.export.bioimageio import export_bioimageio

    run = random_run()
    with pytest.raises(InputError, match="names a licence and authors: --license"):
        export_bioimageio(run, tmp_path / "m.zip", some_images(run), about=About())
    with pytest.raises(InputError, match=r"bioimageio\.spec does not accept"):
        about = About("no such licence", ("A. Person",))
        export_bioimageio(run, tmp_path / "m.zip", some_images(run, (16, 16)), about=about)
    assert list(tmp_path.iterdir()) == []
