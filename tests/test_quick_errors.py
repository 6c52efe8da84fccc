"""Mistakes on the command line are answered before jax and other large packages are imported."""

import json
import subprocess
import sys

from unet_jax import PRESETS
from unet_jax.data.images.format import RGB8
from unet_jax.runs.info import RunInfo, save_info

HEAVY = ("flax", "grain", "jax", "matplotlib", "optax", "orbax", "scipy")

MISTAKES = {
    "frobnicate": "is not a command",
    "train defalt": "Did you mean 'default'?",
    "train small --data.rot DATA --out RUN": "--data.root",
    "train small --data.root nosuch --out RUN": "nosuch: is not a folder",
    "train small --data.root . --out RUN --loss.terms tversky(fn_wight=1)": "has no option 'fn_wight'",
    "plan defalt": "Did you mean 'default'?",
    "plan small --topologi v5e:2x2": "--topology",
    "study nosuch.toml": "nosuch.toml: cannot be read",
    "study study.toml": "nosuch: is not a folder",
    "audit --data.root nosuch": "nosuch: is not a folder",
    "import-masks nosuch.json --out DATA": "nosuch.json: there is no such file",
    "synth --num-image 3 --out DATA": "--num-images",
    "info nosuch": "nosuch: is not a run",
    "evaluate nosuch --data.root .": "nosuch: is not a run",
    "evaluate run": "it was trained on no data",
    "evaluate run --scores dise": "--scores",
    "evaluate run --nsd-tolerance 1": "no effect without the score nsd",
    "evaluate run --data.root nosuch": "nosuch: is not a folder",
    "compare run nosuch --data.root .": "nosuch: is not a run",
    "calibrate nosuch --data.root .": "nosuch: is not a run",
    "predict nosuch x.png --out MASKS": "nosuch: is not a run",
    "export nosuch --to onnx --out x.onnx": "nosuch: is not a run",
    "import-keras nosuch.h5 --out RUN": "nosuch.h5: there is no such file",
    "export-keras nosuch --out x.weights.h5": "nosuch: is not a run",
}

CODE = f"""
import contextlib, io, json, sys
from unet_jax.cli.main import main

for command in json.loads(sys.argv[1]):
    said = io.StringIO()
    status = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main(command.split())
        except SystemExit as error:
            status = error.code
    heavy = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([status, said.getvalue(), heavy]))
"""


def test_mistakes_do_not_wait_for_jax(tmp_path):
    """One process for all, so that the first command that imports too much is the one that is named."""
    study = '[study]\nout = "out"\n[config]\ndata.root = "nosuch"\n[[variant]]\nname = "a"\n[[variant]]\nname = "b"\n'
    (tmp_path / "study.toml").write_text(study)
    facts = RunInfo(PRESETS["small"](), ("cell",), {"train": [], "val": [], "test": []}, {}, {}, RGB8)
    save_info(tmp_path / "run", facts)
    command = [sys.executable, "-c", CODE, json.dumps(list(MISTAKES))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for (mistake, expected), line in zip(MISTAKES.items(), done.stdout.splitlines(), strict=True):
        status, said, heavy = json.loads(line)
        assert status == 2, (mistake, said)
        assert expected in " ".join(said.replace("\u2502", " ").split()), (mistake, said)
        assert not heavy, f"{mistake!r} imports {heavy}"
