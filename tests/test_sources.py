"""From files to samples: sizes, class numbers, absent masks, one size, and memory."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath
from PIL import Image

from unet_jax._types import Sample
from unet_jax.config import DataConfig
from unet_jax.data.layout import find_layout
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource, MemorySource, ResizedSource


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def source_of(root, **settings):
    config = DataConfig(root=str(root), **settings)
    layout = find_layout(config)
    return FileSource(layout, layout.records, soft_masks=config.soft_masks)


def image(height=3, width=4):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


class CountingSource:
    """Two samples, and how often each was read."""

    def __init__(self):
        self.reads = [0, 0]

    @property
    def ids(self):
        return ["a", "b"]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.reads[index] += 1
        return Sample(np.full((2, 2, 3), index, np.uint8), np.zeros((2, 2, 1), np.uint8))


def test_sample_is_the_image_and_its_masks_stacked_in_class_order(tmp_path):
    planes = [np.eye(3, 4, k=k, dtype=np.uint8) * np.uint8(255) for k in range(3)]
    save(tmp_path / "images" / "a.png", image())
    for name, plane in zip("xyz", planes, strict=True):
        save(tmp_path / "masks" / name / "a.png", plane)
    source = source_of(tmp_path, classes=("z", "x"))
    sample = source[0]
    assert list(source.ids) == ["a"]
    np.testing.assert_array_equal(sample.image, image())
    np.testing.assert_array_equal(sample.mask, np.stack([planes[2], planes[0]], axis=-1))
    assert sample.mask.dtype == np.uint8


def test_mask_of_another_size_is_an_error_with_both_sizes(tmp_path):
    save(tmp_path / "images" / "a.png", image(3, 4))
    save(tmp_path / "masks" / "cell" / "a.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(BadSampleError, match=r"masks/cell/a\.png: is 6x5 pixels.*its image is 4x3\. Export both"):
        source_of(tmp_path)[0]


def test_turned_mask_error_says_so(tmp_path):
    save(tmp_path / "images" / "a.png", image(3, 4))
    save(tmp_path / "masks" / "cell" / "a.png", np.zeros((4, 3), np.uint8))
    with pytest.raises(BadSampleError, match=r"is 3x4 pixels.*image is 4x3\. One of them is rotated"):
        source_of(tmp_path)[0]


def test_absent_masks_are_zeros(tmp_path):
    save(tmp_path / "images" / "a.png", image())
    save(tmp_path / "images" / "b.png", image())
    save(tmp_path / "masks" / "cell" / "a.png", np.full((3, 4), 255, np.uint8))
    save(tmp_path / "masks" / "nucleus" / "b.png", np.full((3, 4), 255, np.uint8))
    a, b = iter(source_of(tmp_path, missing_masks="empty"))
    np.testing.assert_array_equal(a.mask, np.broadcast_to([255, 0], (3, 4, 2)))
    np.testing.assert_array_equal(b.mask, np.broadcast_to([0, 255], (3, 4, 2)))


def test_soft_masks_reach_the_reader(tmp_path):
    save(tmp_path / "images" / "a.png", image())
    save(tmp_path / "masks" / "cell" / "a.png", np.full((3, 4), 77, np.uint8))
    assert (source_of(tmp_path, soft_masks=True)[0].mask == 77).all()
    with pytest.raises(BadSampleError, match=r"a\.png: has the gray level 77"):
        source_of(tmp_path)[0]


def index_map_source(root, values, *, size=(3, 4), **settings):
    save(root / "images" / "a.png", image(*size))
    save(root / "labels" / "a.png", np.array(values, np.uint8))
    return source_of(root, index_map="labels/{id}.png", **settings)


def test_index_map_gives_overlapping_classes(tmp_path):
    values = [[0, 1, 2, 0], [1, 1, 2, 2], [0, 0, 0, 0]]
    sample = index_map_source(tmp_path, values, index_values=("cell=1,2", "nucleus=2"))[0]
    np.testing.assert_array_equal(sample.mask[..., 0], np.array(values).clip(0, 1) * 255)
    np.testing.assert_array_equal(sample.mask[..., 1], (np.array(values) == 2) * 255)


def test_unknown_index_value_is_an_error_that_lists_the_known(tmp_path):
    source = index_map_source(tmp_path, [[0, 1, 2, 9]] * 3, index_values=("cell=1", "nucleus=2"))
    with pytest.raises(
        BadSampleError, match=r"labels/a\.png: has the value 9 \(row 0, column 3\), .* are 0, 1, 2\. Name the class"
    ):
        source[0]


def test_index_values_of_classes_that_were_not_chosen_are_background(tmp_path):
    source = index_map_source(tmp_path, [[0, 1, 2, 2]] * 3, index_values=("cell=1", "nucleus=2"), classes=("cell",))
    np.testing.assert_array_equal(source[0].mask, np.broadcast_to([[[0], [255], [0], [0]]], (3, 4, 1)))


def test_index_map_of_another_size_is_an_error_with_both_sizes(tmp_path):
    source = index_map_source(tmp_path, [[0, 1]], index_values=("cell=1",))
    with pytest.raises(BadSampleError, match=r"labels/a\.png: is 2x1 pixels .*its image is 4x3"):
        source[0]


def test_absent_index_map_is_zeros_of_every_class(tmp_path):
    save(tmp_path / "images" / "b.png", image())
    values = ("cell=1", "nucleus=2")
    source = index_map_source(tmp_path, [[1] * 4] * 3, index_values=values, missing_masks="empty")
    np.testing.assert_array_equal(source[1].mask, np.zeros((3, 4, 2)))


def test_index_map_with_a_palette_is_read_by_index(tmp_path):
    """Pascal VOC's palette: class 7 is gray (128, 128, 128), class 1 is not gray."""
    palette = [0, 0, 0, 128, 0, 0] + [0, 1, 0] * 5 + [128, 128, 128]
    for name, value in (("a", 7), ("b", 1)):
        save(tmp_path / "images" / f"{name}.png", image())
        picture = Image.fromarray(np.full((3, 4), value, np.uint8))
        picture.putpalette(palette)
        (tmp_path / "labels").mkdir(exist_ok=True)
        picture.save(tmp_path / "labels" / f"{name}.png")
    a, b = iter(source_of(tmp_path, index_map="labels/{id}.png", index_values=("plane=1", "car=7")))
    np.testing.assert_array_equal(a.mask, np.broadcast_to([0, 255], (3, 4, 2)))
    np.testing.assert_array_equal(b.mask, np.broadcast_to([255, 0], (3, 4, 2)))


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_resized_samples_have_the_size_and_keep_their_channels(interpolation, channels):
    rng = np.random.default_rng(0)
    mask = (rng.random((9, 14, channels)) > 0.5).astype(np.uint8) * np.uint8(255)
    source = ResizedSource(
        [Sample(rng.integers(0, 256, (9, 14, 3), dtype=np.uint8), mask)],
        DataConfig(image_size=(6, 10), mask_interpolation=interpolation),
    )
    sample = source[0]
    assert (sample.image.shape, sample.mask.shape) == ((6, 10, 3), (6, 10, channels))
    assert (set(np.unique(sample.mask)) <= {0, 255}) == (interpolation == "nearest")


def test_sample_that_has_the_size_already_is_left_alone():
    sample = Sample(np.zeros((6, 6, 3), np.uint8), np.zeros((6, 6, 2), np.uint8))
    assert ResizedSource([sample], DataConfig(image_size=6))[0].mask is sample.mask


def test_memory_reads_each_sample_once_and_returns_the_same_object():
    counting = CountingSource()
    memory = MemorySource(counting)
    first = memory[1]
    assert memory[1] is first
    assert memory[0] is memory[0]
    assert counting.reads == [1, 1]
    assert (list(memory.ids), len(memory)) == (["a", "b"], 2)


def test_threads_agree_on_one_object():
    memory = MemorySource(CountingSource())
    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(lambda _: memory[0], range(64)))
    assert all(sample is memory[0] for sample in samples)


def test_memory_is_pickled_without_its_samples():
    memory = MemorySource(CountingSource())
    assert memory[0].image.shape == (2, 2, 3)
    copy = pickle.loads(pickle.dumps(memory))
    assert copy[1].image[0, 0, 0] == 1
    assert copy._source.reads == [1, 1]  # 0 was read before pickling, 1 after; 0 is not kept
    assert copy[0].image[0, 0, 0] == 0
    assert copy._source.reads == [2, 1]


def test_wbc_masks_hold_nuclei_inside_cells():
    """Real data; shared/data/README.md says that the nucleus lies inside the cell."""
    root = epath.Path(__file__).parent.parent.parent / "shared" / "data" / "wbc_d1"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    source = source_of(root)
    assert len(source) == 300
    for index in range(0, 300, 30):
        cell, nucleus = np.moveaxis(source[index].mask > 0, -1, 0)
        assert nucleus.any()
        assert (nucleus & cell).sum() > 0.95 * nucleus.sum()
