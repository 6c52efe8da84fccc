"""The README's Python runs as printed."""

import re
from pathlib import Path

import unet_jax
from unet_jax.data.synthetic import write_synthetic

REPOSITORY = Path(__file__).parent.parent


def test_python_example_runs(tmp_path, monkeypatch, capsys):
    """But with a smaller network, which is compiled sooner."""
    from etils import epath

    network = {"model.widths": (4, 8), "model.center_width": 8, "model.num_convs_down": 1, "model.num_convs_up": 1}
    smaller = unet_jax.replace(unet_jax.PRESETS["small"](), network)
    monkeypatch.setitem(unet_jax.PRESETS, "small", lambda: smaller)
    write_synthetic(epath.Path(tmp_path / "DATA"), num_images=20, image_size=48, num_classes=2, seed=0)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.S)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.split()
    assert said[0] == "disk" and said[2] == "square"
    assert all(0.0 <= float(share) <= 1.0 for share in said[1::2])


def test_every_file_the_readme_links_to_exists():
    text = (REPOSITORY / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (REPOSITORY / target).exists(), target
