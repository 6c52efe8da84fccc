"""The notebooks are scripts, and run as such at a tiny size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.py"))


def test_every_notebook_is_in_the_table_and_has_cells():
    table = (FOLDER / "README.md").read_text()
    for name in NAMES:
        text = (FOLDER / name).read_text()
        assert f"`{name}`" in table and text.startswith("# %% [markdown]\n# # ") and text.count("\n# %%\n") >= 3
        compile(text, name, "exec")


# 10 to 30 s each: a process of its own that imports jax, compiles a network and trains it.
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "TINY": "1", "PYTHONPATH": str(FOLDER.parents[1]), "PATH": path}
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
