"""Keras files as attackers make them, read in a process of their own as users read them."""

import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from etils import epath

from unet_jax import InputError
from unet_jax.interop import keras_reader
from unet_jax.interop.keras_files import read_content
from unet_jax.interop.keras_reader import read_keras_file

GOLDEN = Path(__file__).parent / "golden"
KERNEL = "layers/conv2d/vars/0"


@pytest.fixture
def file(tmp_path):
    shutil.copy(GOLDEN / "keras3.weights.h5", tmp_path / "x.weights.h5")
    return tmp_path / "x.weights.h5"


def external_storage(h5, folder):
    """The bytes of another file of the reader's become weights."""
    (folder / "secret").write_bytes(bytes(10_000))
    shape = h5[KERNEL].shape
    del h5[KERNEL]
    h5.create_dataset(KERNEL, shape, "f4", external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)])


def external_link(h5, folder):
    shutil.copy(GOLDEN / "keras3.weights.h5", folder / "other.h5")
    del h5[KERNEL]
    h5[KERNEL] = h5py.ExternalLink("other.h5", KERNEL)


def soft_link(h5, folder):
    del h5[KERNEL]
    h5[KERNEL] = h5py.SoftLink("/layers/conv2d_1/vars/0")


def linked_group(h5, folder):
    h5.move("layers", "elsewhere")
    h5["layers"] = h5py.SoftLink("/elsewhere")


def virtual(h5, folder):
    shape = h5[KERNEL].shape
    del h5[KERNEL]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(folder / "other.h5"), KERNEL, shape)
    h5.create_virtual_dataset(KERNEL, layout)


def references(h5, folder):
    del h5[KERNEL]
    h5.create_dataset(KERNEL, data=np.array([h5.ref] * 4, dtype=h5py.ref_dtype))


def texts(h5, folder):
    del h5[KERNEL]
    h5.create_dataset(KERNEL, data=["a", "b"])


def huge(h5, folder):
    """A shape of 216 GiB in a file of some kilobytes: no block of it was ever written."""
    del h5[KERNEL]
    h5.create_dataset(KERNEL, (3, 3, 80_000, 80_000), "f4", chunks=(1, 1, 64, 64))


def huge_with_one_block(h5, folder):
    huge(h5, folder)
    h5[KERNEL][0, 0, :64, :64] = 1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (external_storage, "external or virtual storage"),
        (external_link, "is a link to another place"),
        (soft_link, "is a link to another place"),
        (linked_group, "is a link to another place"),
        (virtual, "external or virtual storage"),
        (references, "not numbers"),
        (texts, "not numbers"),
        (huge, "no numbers"),
        (huge_with_one_block, "more than the file can hold"),
    ],
)
def test_files_that_take_numbers_from_elsewhere_are_refused(file, tmp_path, damage, message):
    with h5py.File(file, "a") as h5:
        damage(h5, tmp_path)
    with pytest.raises(InputError, match=message):
        read_content(file.read_bytes(), str(file))


def test_what_the_other_process_says_is_one_message(file, tmp_path):
    whole = read_keras_file(epath.Path(file))
    here = read_content(file.read_bytes(), str(file))
    assert [x.name for x in whole.convs] == [x.name for x in here.convs]
    for a, b in zip(whole.convs + whole.norms, here.convs + here.norms, strict=True):
        for x, y in zip(a.arrays, b.arrays, strict=True):
            np.testing.assert_array_equal(x, y)
    with h5py.File(file, "a") as h5:
        external_storage(h5, tmp_path)
    with pytest.raises(InputError, match=r"x\.weights\.h5: /layers/conv2d/vars/0 takes its numbers from elsewhere"):
        read_keras_file(epath.Path(file))


def test_a_crash_and_a_hang_of_the_other_process_are_errors(file, monkeypatch):
    monkeypatch.setattr(keras_reader, "_START", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(InputError, match=r"is damaged: HDF5 could not read it .*status -11"):
        read_keras_file(epath.Path(file))
    monkeypatch.setattr(keras_reader, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(keras_reader, "_SECONDS", 0.2)
    with pytest.raises(InputError, match="is damaged: reading it took more than"):
        read_keras_file(epath.Path(file))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("model.weights.h5", "w") as member,
    ):
        for _ in range(160):
            member.write(bytes(2**20))
    content = (tmp_path / "bomb.keras").read_bytes()
    assert len(content) < 300_000
    with pytest.raises(InputError, match=r"would have 0\.2 GiB: it is no file of Keras"):
        read_content(content, "bomb.keras")
