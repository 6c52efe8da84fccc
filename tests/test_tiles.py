"""Tiles: positions, weights, blending, and the exactness of a network's logits by tiles."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ONE_DEVICE
from hypothesis import given, settings

from unet_jax import InputError, UNet
from unet_jax.config import ModelConfig
from unet_jax.data.images.rows import ImageRows, rows_of
from unet_jax.data.pixels import BadSampleError
from unet_jax.model.receptive_field import receptive_radius
from unet_jax.program import tiles
from unet_jax.program.predict_step import make_logits_step, make_predict_step
from unet_jax.program.tile_stream import Failure, Network, blended, on_devices, run_batches
from unet_jax.program.tiles import Blender, Tiling

MODEL = ModelConfig(widths=(4, 4), center_width=4, num_convs_down=1, num_convs_up=1)
MULTIPLE = MODEL.size_multiple


def variables_of(model, seed=0):
    """Random parameters and statistics of batch normalisation; all positive, so that no ReLU hides a pixel."""
    shapes = jax.eval_shape(
        lambda key: UNet(model, 2).init(key, jnp.zeros((1, 16, 16, 3)), train=False), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)

    def values(shape):
        size = np.prod(shape[:-1]) if len(shape) == 4 else 1  # kernels are means, so that logits are about 1
        return jnp.asarray(rng.uniform(0.5, 1.5, shape) / size, jnp.float32)

    return jax.tree.map(lambda leaf: values(leaf.shape), shapes)


def network_for(model, variables, batch_size=4, **options):
    step = make_logits_step(UNet(model, 2).apply, size_multiple=model.size_multiple, **options)
    return on_devices(step, variables["params"], variables["batch_stats"], ONE_DEVICE, batch_size=batch_size)


@pytest.fixture(scope="module")
def network():
    return network_for(MODEL, variables_of(MODEL))


def in_blocks(image, num_rows):
    starts = range(0, len(image), num_rows)
    return ImageRows(*image.shape[:2], lambda: (image[i : i + num_rows] for i in starts))


def assemble(parts, size, num_classes=2):
    """Put patches together; every pixel must come once, and the last patch must say so."""
    whole, last = np.full((*size, num_classes), np.nan, np.float32), []
    for part in parts:
        assert not isinstance(part, Failure), part
        rows, columns = part.values.shape[:2]
        target = whole[part.y : part.y + rows, part.x : part.x + columns]
        assert np.isnan(target).all() and target.shape == part.values.shape and target.size
        target[...] = part.values
        last.append(part.is_last)
    assert not np.isnan(whole).any() and last == [False] * (len(last) - 1) + [True]
    return whole


def extended(image, size):
    """The image as far as its tiles reach, mirrored at the end."""
    pads = [(0, max(side, -(-length // MULTIPLE) * MULTIPLE) - length) for length, side in zip(image.shape, size)]  # noqa: B905
    return np.pad(image, (*pads, (0, 0)), mode="symmetric")


SIDES = st.integers(1, 9).map(lambda n: 2 * n)


@given(
    size=st.tuples(SIDES, SIDES),
    image_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    overlap=st.floats(0.0, 0.9),
    blend=st.sampled_from(["gaussian", "trapezoid"]),
    radius=st.sampled_from([None, 0, 1, 3]),
)
def test_blended_tiles_are_the_weighted_mean_at_every_pixel(size, image_size, overlap, blend, radius):
    """Against sums over whole arrays, which divide by the sum of all weights as textbooks do."""
    axes = Tiling(size, overlap, blend, 2, radius).axes(*image_size)
    reach = tuple(axis.starts[-1] + axis.side for axis in axes)
    assert all(start % 2 == 0 for axis in axes for start in axis.starts)
    rng = np.random.default_rng(0)
    total, weights = np.zeros((*reach, 1)), np.zeros((*reach, 1))
    blender, whole = Blender(axes, 1), np.full((*image_size, 1), np.nan)
    for r, y in enumerate(axes[0].starts):
        for c, x in enumerate(axes[1].starts):
            logits = rng.normal(size=(*size, 1)).astype(np.float32)
            weight = (axes[0].weights[r][:, None] * axes[1].weights[c])[..., None].astype(np.float64)
            total[y : y + size[0], x : x + size[1]] += weight * logits
            weights[y : y + size[0], x : x + size[1]] += weight
            top, left, done = blender.add(r, c, logits)
            assert np.isnan(whole[top : top + len(done), left : left + done.shape[1]]).all()
            whole[top : top + len(done), left : left + done.shape[1]] = done
    height, width = image_size
    assert (weights[:height, :width] > 0).all()
    np.testing.assert_allclose(whole, (total / weights)[:height, :width], atol=1e-5)


def test_weights_are_those_of_the_definition():
    """Two tiles of 8 rows share 4: ramps 1/8, 3/8, 5/8, 7/8; with a radius of 2 no row of both is left to blend."""
    ramp = Tiling((8, 8), 0.5, "trapezoid").axes(12, 8)[0].weights
    np.testing.assert_allclose(ramp[0], [1, 1, 1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8])
    np.testing.assert_allclose(ramp[1], ramp[0][::-1])
    hard = Tiling((8, 8), 0.5, "gaussian", radius=2).axes(12, 8)[0].weights
    np.testing.assert_allclose(hard, [[1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]])
    first, second = Tiling((8, 8), 0.5, "gaussian", radius=3).axes(12, 8)[0].weights  # no room for 3 on both sides
    gauss = np.exp(-0.5 * (np.arange(-3.5, 4) / 1.0) ** 2)  # standard deviation 8 / 8
    np.testing.assert_allclose(first[4:], gauss[4:] / (gauss[4:] + gauss[:4]), rtol=1e-6)
    np.testing.assert_allclose(second[:4], 1 - first[4:], atol=1e-6)
    with pytest.raises(InputError, match=r"overlap of tiles is 1.0"):
        Tiling((8, 8), 1.0)


def test_the_receptive_field_is_that_of_the_gradient():
    """The largest distance at which the derivative of a logit by a pixel is not 0."""
    for model in (MODEL, ModelConfig(widths=(2,), center_width=2, num_convs_down=2, num_convs_up=3)):
        variables, side = variables_of(model), 64
        network = UNet(model, 1 + 1)

        @jax.jit
        def by_rows(row, network=network, variables=variables):
            def logit(x):
                return network.apply(variables, x, train=False)[0, row, 0].sum()

            return jnp.abs(jax.grad(logit)(jnp.ones((1, 64, 16, 3)))).sum((0, 2, 3))

        reached = []
        for row in range(side // 2, side // 2 + model.size_multiple):
            rows = np.flatnonzero(np.asarray(by_rows(row)))
            reached += [row - rows[0], rows[-1] - row]
        assert receptive_radius(model) == max(reached)
    assert receptive_radius(dataclasses.replace(MODEL, norm="group", group_size=2)) is None


SIZES = [(33, 90), (70, 41), (64, 64)]


@pytest.fixture(scope="module")
def wholes(network):
    """Random images and the logits of each in one piece."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    pairs = []
    for image in images:
        logits = network.finish(network.start(extended(image, (48, 64))[None]))[0]
        pairs.append((image, logits[: image.shape[0], : image.shape[1]]))
    return pairs


@settings(max_examples=15)
@given(
    which=st.integers(0, len(SIZES) - 1),
    overlap=st.floats(0.0, 0.9),
    blend=st.sampled_from(["gaussian", "trapezoid"]),
    block=st.integers(1, 70),
)
def test_with_a_halo_tiles_are_the_whole_image(network, wholes, which, overlap, blend, block):
    image, expected = wholes[which]
    tiling = Tiling((48, 64), overlap, blend, MULTIPLE, receptive_radius(MODEL))
    parts = list(blended(network, [(in_blocks(image, block), "name")], tiling))
    assert {part.image for part in parts} == {"name"}
    got = assemble(parts, image.shape[:2])
    assert tiling.is_exact() == (48 - tiles._stride(48, overlap, MULTIPLE) >= 2 * receptive_radius(MODEL))
    if tiling.is_exact():
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    else:
        assert np.abs(got - expected).max() < np.abs(expected).max()


@pytest.mark.parametrize("packing", ["2,1", "1x2,2"])
def test_packed_networks_are_exact_too(wholes, packing):
    model = dataclasses.replace(MODEL, packing=packing)
    network = network_for(model, variables_of(MODEL))
    image, expected = wholes[0]
    tiling = Tiling((48, 64), 0.75, "gaussian", MULTIPLE, receptive_radius(model))
    got = assemble(blended(network, [(rows_of(image), None)], tiling), image.shape[:2])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (7, 100), (3, 3), (49, 65)])
def test_small_odd_and_thin_images_are_mirrored_to_whole_tiles(network, size):
    """One pixel row, and sizes below a tile, against the same network on np.pad's mirror image in the same tiles."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    tiling = Tiling((48, 64), 0.5, "gaussian", MULTIPLE, receptive_radius(MODEL))
    got = assemble(blended(network, [(in_blocks(image, 5), None)], tiling), size)
    mirrored = extended(image, (48, 64))
    axes = tiling.axes(*mirrored.shape[:2])
    total = np.zeros((*mirrored.shape[:2], 2))
    for r, y in enumerate(axes[0].starts):
        for c, x in enumerate(axes[1].starts):
            tile = mirrored[y : y + 48, x : x + 64]
            weight = axes[0].weights[r][:, None, None] * axes[1].weights[c][None, :, None]
            total[y : y + 48, x : x + 64] += weight * network.finish(network.start(tile[None]))[0]
    np.testing.assert_allclose(got, total[: size[0], : size[1]], rtol=1e-5, atol=1e-5)


def seams(network, blend="gaussian", overlap=0.5):
    """Largest step of the logits between neighbouring rows, on an image that gets lighter row by row."""
    image = np.repeat(np.repeat(np.arange(120, dtype=np.uint8)[:, None, None], 64, 1), 3, -1)
    logits = assemble(blended(network, [(rows_of(image), None)], Tiling((48, 64), overlap, blend, MULTIPLE)), (120, 64))
    return np.abs(np.diff(logits[20:100], axis=0)).max()


def context(images):
    """A network that sees the whole tile, as deep ones nearly do: the mean of the tile, for two classes."""
    return np.broadcast_to(images.mean((1, 2, 3), keepdims=True)[..., :1], (*images.shape[:3], 2)).astype(np.float32)


@pytest.mark.parametrize("blend", ["gaussian", "trapezoid"])
def test_tiles_leave_no_seams_and_would_without_blending(network, monkeypatch, blend):
    """Tiles start 24 rows apart, so their means differ by 24: a step of 24 at once, or of 1 in each of 24 rows."""
    of_context = Network(lambda images: images, context, 4)
    blended_step, real = seams(of_context, blend), seams(network, blend, overlap=0.25)
    assert blended_step == pytest.approx(1.0, abs=1e-3) if blend == "trapezoid" else blended_step < 6
    monkeypatch.setattr(tiles, "_window", lambda side, blend: np.ones(side))
    hard = lambda side, shared, cut, blend: (side - np.arange(side) > shared // 2).astype(float)  # noqa: E731
    monkeypatch.setattr(tiles, "_falling", hard)
    assert seams(of_context) == pytest.approx(24.0)
    monkeypatch.setattr(tiles, "_falling", lambda side, shared, cut, blend: np.ones(side))
    assert real < 0.2 * seams(network, overlap=0.25)  # every tile counts alike, to its edges


def test_tta_is_the_mean_of_separate_calls():
    """D4 and flips, against NumPy's rotations of the image and of the logits."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 3), np.uint8)
    variables = variables_of(MODEL)
    plain = network_for(MODEL, variables, batch_size=1)

    def logits(view):
        return plain.finish(plain.start(np.ascontiguousarray(view)[None]))[0]

    flips = [lambda a: a, np.flipud, np.fliplr, lambda a: np.flipud(np.fliplr(a))]
    expected = np.mean([flip(logits(flip(image))) for flip in flips], axis=0)
    with_flips = network_for(MODEL, variables, batch_size=2, tta="flips")
    two = with_flips.finish(with_flips.start(np.stack([image, image[::-1]])))
    np.testing.assert_allclose(two[0], expected, atol=1e-5)
    np.testing.assert_allclose(two[1], expected[::-1], atol=1e-5)
    views = [(k, flip) for k in range(4) for flip in (False, True)]
    turned = [np.rot90(image, k)[:, ::-1] if flip else np.rot90(image, k) for k, flip in views]
    back = [np.rot90(a[:, ::-1] if flip else a, -k) for (k, flip), a in zip(views, map(logits, turned), strict=True)]
    d4 = network_for(MODEL, variables, batch_size=1, tta="d4")
    np.testing.assert_allclose(d4.finish(d4.start(image[None]))[0], np.mean(back, axis=0), atol=1e-5)
    step = make_predict_step(UNet(MODEL, 2).apply, size_multiple=MULTIPLE, tta="flips")
    probs = step(variables["params"], variables["batch_stats"], image[None])
    np.testing.assert_allclose(probs[0], 1 / (1 + np.exp(-expected)), atol=1e-5)


def counting(batch_size, sizes):
    """A network that returns the first channel plus 1, and notes the sizes of its batches."""

    def start(images):
        sizes.append(len(images))
        return images

    return Network(start, lambda images: images[..., :1].astype(np.float32) + 1, batch_size)


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (3, [1] * 3), (4, [4]), (9, [4, 4, 4]), (0, [])])
def test_batches_have_one_size_and_few_images_are_not_filled_up(count, expected):
    sizes = []
    items = [(np.full((2, 2, 3), i, np.uint8), i) for i in range(count)]
    items.insert(count // 2, (None, "between"))
    done = list(run_batches(counting(4, sizes), items))
    assert sizes == expected
    assert [companion for _, companion in done] == [companion for _, companion in items]
    assert all(values is None if c == "between" else (values == c + 1).all() for values, c in done)


def test_images_share_batches_and_one_that_breaks_off_ends_alone():
    sizes = []
    network = counting(4, sizes)
    tiling = Tiling((8, 8), 0.0, "gaussian")

    def breaks():
        yield np.full((8, 16, 3), 1, np.uint8)
        raise BadSampleError("b.tif: cannot be decoded")

    good = [rows_of(np.full((8, 8 * n, 3), n, np.uint8)) for n in (3, 2)]
    images = [(good[0], "a"), (ImageRows(24, 16, breaks), "b"), (good[1], "c")]
    parts = list(blended(network, images, tiling))
    assert sizes == [4, 4]  # 3 + 2 + 2 tiles
    failures = [part for part in parts if isinstance(part, Failure)]
    assert [(f.image, str(f.error)) for f in failures] == [("b", "b.tif: cannot be decoded")]
    for name, n in (("a", 3), ("c", 2)):
        whole = assemble([part for part in parts if part.image == name], (8, 8 * n), 1)
        np.testing.assert_array_equal(whole, n + 1)


@pytest.mark.parametrize(("length", "multiple"), [(9000, 16), (4500, 4), (520, 8), (12001, 1), (513, 16)])
def test_tiles_are_spread_evenly(length, multiple):
    """At most as far apart as the overlap says, in as few tiles; no pair shares much more than the others."""
    rows, _ = Tiling((512, 512), 0.25, "gaussian", multiple).axes(length, 512)
    gaps = np.diff(rows.starts)
    assert gaps.max() <= 384 and gaps.max() - gaps.min() <= multiple
    assert len(gaps) == np.ceil((np.ceil(length / multiple) * multiple - 512) / 384)
    assert rows.starts[0] == 0 and length <= rows.starts[-1] + 512 < length + multiple
