"""Reading of Keras files in a process of its own, with limits of time and memory.

HDF5 is a large C library, and files of unknown origin can crash it, keep it busy for ever or make it ask for hundreds
of gigabytes. In another process, each of these is an error message.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from etils import epath

from unet_jax._types import InputError
from unet_jax.interop.keras_files import WANTED, KerasFile, KerasLayer, import_h5py, read_content

_REFUSED = 2  # exit status with a message for the user
_SECONDS = 60
_BYTES_PER_S = 10 * 2**20
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from unet_jax.interop.keras_reader import serve; serve(sys.argv[2])"
)
_KINDS = ("convs", "norms", "others")


def read_keras_file(file: epath.Path) -> KerasFile:
    """Read all weights of a Keras file, in a process of its own.

    Raises:
      InputError: the file does not exist, is damaged, or is not one in which Keras saves weights.
    """
    import_h5py()  # whether it is there is told here
    if file.is_dir():
        raise InputError(f"{file}: is a folder (a TensorFlow SavedModel?), but must be {WANTED}: use save_weights.")
    if not file.exists():
        raise InputError(f"{file}: there is no such file.")
    return _read_apart(file.read_bytes(), file)


def _read_apart(content: bytes, file: epath.Path) -> KerasFile:
    """Read the content of a file in a process of its own."""
    # -P: no module of the current folder is imported.
    command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), str(file)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    limit = _SECONDS + len(content) // _BYTES_PER_S
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{file}: is damaged: reading it took more than {limit} s.") from error
    if done.returncode == _REFUSED:
        raise InputError(done.stderr.decode(errors="replace").strip())
    if done.returncode != 0:
        raise InputError(
            f"{file}: is damaged: HDF5 could not read it (the reader ended with status {done.returncode})."
        )
    return _received(done.stdout)


def serve(file: str) -> None:
    """Read the content of a Keras file from standard input, and write its arrays to standard output.

    This runs in the other process. A file that cannot be used ends it with a message on standard error.
    """
    content = sys.stdin.buffer.read()
    _limit_memory(len(content))
    try:
        found = read_content(content, file)
    except InputError as error:
        message = str(error)
    except Exception as error:  # whatever h5py, zipfile and json raise for damaged files
        message = f"{file}: is damaged ({type(error).__name__}: {error})."
    else:
        sys.stdout.buffer.write(_sent(found))
        return
    print(message, file=sys.stderr)
    sys.exit(_REFUSED)


def _limit_memory(num_bytes: int) -> None:
    """Let this process have no more memory than weights in a file of this size can need."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):  # not Linux
        now = 2**32
    most = now + 2**32 + 16 * num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _sent(found: KerasFile) -> bytes:
    """Return the contents of a file as bytes: a line of JSON with names, then the arrays in NumPy's format."""
    layers = {kind: getattr(found, kind) for kind in _KINDS}
    names = {kind: [[layer.name, len(layer.arrays)] for layer in of_kind] for kind, of_kind in layers.items()}
    stream = io.BytesIO()
    stream.write(json.dumps({**names, "model_config": found.model_config, "keras1": found.keras1}).encode() + b"\n")
    for of_kind in layers.values():
        for layer in of_kind:
            for array in layer.arrays:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def _received(sent: bytes) -> KerasFile:
    """Return the contents that `_sent` wrote."""
    stream = io.BytesIO(sent)
    values = json.loads(stream.readline())
    layers = {
        kind: [
            KerasLayer(name, tuple(np.lib.format.read_array(stream, allow_pickle=False) for _ in range(count)))
            for name, count in values[kind]
        ]
        for kind in _KINDS
    }
    return KerasFile(**layers, model_config=values["model_config"], keras1=values["keras1"])
