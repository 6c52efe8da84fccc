import cv2
import numpy as np
import pytest
from etils import epath

from unet_jax.report import pictures
from unet_jax.report.pictures import class_color, render_errors, render_overlay, save_curves, save_grid

IMAGE = np.full((40, 50, 3), 100, np.uint8)


def square(top):
    mask = np.zeros((40, 50), bool)
    mask[top : top + 20, 10:30] = True
    return mask


def test_overlay_tints_inside_outlines_in_class_colour_and_leaves_the_rest():
    mask = np.stack([square(5), square(15)], axis=-1)
    overlay = render_overlay(IMAGE, mask)
    assert tuple(overlay[0, 0]) == (100, 100, 100)
    assert tuple(overlay[5, 15]) == class_color(0)  # the first row of class 0 is its outline
    expected = 0.65 * 100 + 0.35 * np.array(class_color(0))
    np.testing.assert_allclose(overlay[10, 20], expected, atol=1)


def test_errors_are_red_where_too_much_and_cyan_where_missed():
    errors = render_errors(IMAGE, square(5)[..., None], square(15)[..., None])
    red, cyan = errors[30, 20], errors[7, 20]
    assert red[0] > 200 and red[1] < 50
    assert cyan[0] < 50 and cyan[1] > 200
    assert len(set(errors[20, 20])) == 1  # right in both: gray


def test_pictures_are_written(tmp_path):
    mask = square(5)[..., None].repeat(9, axis=-1)  # more classes than colours
    save_grid(
        epath.Path(tmp_path / "a" / "grid.png"),
        images=[IMAGE, IMAGE],
        truths=[mask, mask],
        predictions=[mask, ~mask],
        titles=["one", "two"],
        class_names=[f"class{k}" for k in range(9)],
    )
    rows = [
        {"step": 1},
        {"step": 2, "epoch": 1, "train/loss": 1.0, "eval/loss": "nan", "eval/dice/a": 0.5},
        {"step": 4, "epoch": 2, "train/loss": 0.5, "eval/loss": 0.7, "eval/dice/a": 0.6},
    ]
    save_curves(epath.Path(tmp_path / "curves.png"), rows, ["a"])
    for name in ("a/grid.png", "curves.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None and picture.std() > 5


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    """Matplotlib would refuse this one as TeX, and set the other in italics."""
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), bool)
    path = epath.Path(tmp_path)
    settings = {"images": [image], "truths": [mask], "predictions": [mask]}
    save_grid(path / "dollar.png", **settings, titles=["US$\\x$ 3"], class_names=["$\\frac$"])
    save_grid(path / "plain.png", **settings, titles=["id"], class_names=["cell"])
    save_curves(path / "c.png", [{"epoch": 1, "eval/loss": 1, "train/loss": 1, "eval/dice/$x$": 0.5}], ["$x$"])
    assert cv2.imread(str(path / "dollar.png")).shape[1] == cv2.imread(str(path / "plain.png")).shape[1]


@pytest.mark.parametrize("has_font", [False, True])
def test_names_that_the_font_lacks_are_drawn_without_a_warning(tmp_path, monkeypatch, has_font):
    """Warnings are errors in the tests. The second font stands for an installed one: DejaVu's own file."""
    own = pictures._characters(pictures.font_manager.findfont(pictures._FONT))
    assert "a" in own and "細" not in own and pictures._BOX in own
    monkeypatch.setattr(pictures, "_FALLBACKS", ("No Such Font", "DejaVu Serif") if has_font else ())
    if has_font:
        monkeypatch.setattr(pictures, "_characters", lambda path: own if "Serif" in path else own - {"a"})
    figure = pictures.mpl_figure.Figure()
    text = figure.text(0.5, 0.5, "a" if has_font else "細胞 a")
    pictures.save_figure(figure, epath.Path(tmp_path / "a.png"))
    assert text.get_text() == ("a" if has_font else "□□ a")
    assert text.get_fontfamily() == (["DejaVu Sans", "DejaVu Serif"] if has_font else ["sans-serif"])
