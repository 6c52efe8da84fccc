"""JAX programs of the variants of `gpu_pieces.py`, lowered for given devices, which need not be present.

The benchmark runs these programs, and its rehearsal compiles the same ones for a GPU that is not there.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from gpu_pieces import Variant
from jax.sharding import Mesh
from network import Network
from textbook import TextbookUNet, make_textbook_step

from unet_jax._formulations import FORMULATIONS
from unet_jax.config import Config, LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.config.packing import UNPACKED
from unet_jax.config.presets import PRESETS
from unet_jax.devices.mesh import replicated
from unet_jax.program.batch_shapes import batch_shapes
from unet_jax.program.build import Program, build
from unet_jax.program.initial_state import state_shapes

NUM_STEPS = 1000  # number of steps of the imaginary run that schedules of the optimizer are made for
LEARNING_RATE = 1e-4
NUM_CALLS = 4  # convolutions in one program, so that the time of its launch does not count
SEPARATE_KERNELS = {"xla_gpu_enable_command_buffer": ""}  # launches that a profile shows by name
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Lowered(NamedTuple):
    """A program that is not compiled yet, with the shapes of its arguments."""

    program: jax.stages.Lowered
    arguments: tuple[Any, ...]


def network_of(variant: Variant) -> Network:
    """Return the network of a variant."""
    convs = 2, variant["num_convs_up"]
    return Network(tuple(variant["widths"]), variant["center_width"], variant["num_classes"], *convs)


def config_of(variant: Variant) -> Config:
    """Return the config of a variant: the Keras original's network, trained by Adam as in the other libraries."""
    network = network_of(variant)
    values = {
        "data.image_size": variant["image_size"],
        "train.batch_size": variant["batch_size"],
        "model.widths": network.widths,
        "model.center_width": network.center_width,
        "model.num_convs_down": network.num_convs_down,
        "model.num_convs_up": network.num_convs_up,
        "model.dtype": variant["dtype"],
        # AdamW without weight decay is Adam.
        "optim.name": "adamw",
        "optim.weight_decay": 0.0,
        "optim.schedule": "constant",
        "optim.learning_rate": LEARNING_RATE,
    }
    config = replace(PRESETS["seed"](), {**values, **variant.get("settings", {})})
    terms = (LossTermConfig(variant["loss"]),) if variant.get("loss") else ()
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, terms=terms))


def build_program(variant: Variant, backend: str) -> Program:
    """Build the library's program of a variant for a kind of device."""
    return build(config_of(variant), variant["num_classes"], NUM_STEPS, backend=backend)


def lower(variant: Variant, mesh: Mesh) -> dict[str, Lowered]:
    """Lower the programs of a variant for the devices of a mesh, by name."""
    match variant["kind"]:
        case "convolution":
            return _lower_convolutions(variant, mesh)
        case "ceilings":
            return _lower_ceilings(variant, mesh)
    if variant["implementation"] == "textbook JAX":
        return _lower_textbook(variant, mesh)
    with _formulations_without(variant.get("without", ()), mesh.devices.flat[0].platform):
        return _lower_library(variant, mesh)


@contextlib.contextmanager
def _formulations_without(names: Sequence[str], kind: str) -> Iterator[None]:
    """Lower with the formulations of GPUs except some; without names, with those of the kind of device."""
    if not names:
        yield
        return
    unknown = set(names) - FORMULATIONS["gpu"]
    if unknown:
        raise ValueError(f"{unknown} are not formulations of GPUs, which are {sorted(FORMULATIONS['gpu'])}.")
    own = FORMULATIONS[kind]
    FORMULATIONS[kind] = FORMULATIONS["gpu"] - set(names)
    jax.clear_caches()  # of what was traced with the others
    try:
        yield
    finally:
        FORMULATIONS[kind] = own
        jax.clear_caches()


def _lower_library(variant: Variant, mesh: Mesh) -> dict[str, Lowered]:
    config, num_classes = config_of(variant), variant["num_classes"]
    program = build_program(variant, mesh.devices.flat[0].platform)
    state = state_shapes(config, num_classes, NUM_STEPS, mesh)
    lowered = {}
    if "train" in variant["programs"]:
        arguments = state, batch_shapes(config, num_classes, program.packing, mesh)
        lowered["train"] = Lowered(program.train_step.lower(*arguments), arguments)  # type: ignore[attr-defined]
    if "predict" in variant["programs"]:
        images = batch_shapes(config, num_classes, UNPACKED, mesh).image
        arguments = state.params, state.batch_stats, images
        lowered["predict"] = Lowered(program.predict_step.lower(*arguments), arguments)  # type: ignore[attr-defined]
    return lowered


def _lower_textbook(variant: Variant, mesh: Mesh) -> dict[str, Lowered]:
    model, tx = textbook_of(variant)
    image, label = (
        (variant["batch_size"], variant["image_size"], variant["image_size"], channels)
        for channels in (3, variant["num_classes"])
    )
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, *image[1:])), False),
        jax.random.key(0),
    )
    params, stats = variables["params"], variables["batch_stats"]
    state = params, stats, jax.eval_shape(tx.init, params)
    arguments = (*state, *(jax.ShapeDtypeStruct(shape, jnp.uint8) for shape in (image, label)))
    arguments = _placed(arguments, mesh)
    return {"train": Lowered(make_textbook_step(model, tx).lower(*arguments), arguments)}


def textbook_of(variant: Variant) -> tuple[TextbookUNet, optax.GradientTransformation]:
    """Return the textbook's network and optimizer of a variant."""
    network = network_of(variant)
    convs = network.num_convs_down, network.num_convs_up
    dtype = jnp.dtype(variant["dtype"])
    model = TextbookUNet(network.widths, network.center_width, network.num_classes, *convs, dtype)
    return model, optax.adam(LEARNING_RATE)


def _lower_convolutions(variant: Variant, mesh: Mesh) -> dict[str, Lowered]:
    """Lower one 3x3 convolution and its two gradients, each as a program that computes it several times."""
    (own, out), side, dtype = variant["channels"], variant["side"], jnp.dtype(variant["dtype"])
    x, y = ((variant["batch_size"], side, side, channels) for channels in (own, out))
    kernel = (3, 3, own, out)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)

    def input_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda a: convolve(a, kernel), jax.ShapeDtypeStruct(x, dtype))(gradient)[0]

    def kernel_gradient(a: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda k: convolve(a, k), jax.ShapeDtypeStruct(kernel, dtype))(gradient)[0]

    lowered = {}
    functions = {"forward": (convolve, x, kernel), "input gradient": (input_gradient, y, kernel),
                 "kernel gradient": (kernel_gradient, x, y)}  # fmt: skip
    for name, (function, *shapes) in functions.items():
        pair = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
        arguments = _placed(([pair[0]] * NUM_CALLS, [pair[1]] * NUM_CALLS), mesh)

        def repeated(a: list[jax.Array], b: list[jax.Array], function=function) -> list[jax.Array]:
            return [function(*pair) for pair in zip(a, b, strict=True)]

        lowered[name] = Lowered(jax.jit(repeated).lower(*arguments), arguments)
    return lowered


def _lower_ceilings(variant: Variant, mesh: Mesh) -> dict[str, Lowered]:
    """Lower a large matrix product of each dtype, in the precision that convolutions have by default, and a copy."""
    side, lowered = variant["matrix"], {}
    product = jax.jit(lambda a, b: a @ b)
    for dtype in ("bfloat16", "float32"):
        arguments = _placed((jax.ShapeDtypeStruct((side, side), jnp.dtype(dtype)),) * 2, mesh)
        lowered[f"matrix product, {dtype}"] = Lowered(product.lower(*arguments), arguments)
    # A negation, because XLA would leave a plain copy out; in place, so that nothing is allocated.
    arguments = _placed((jax.ShapeDtypeStruct((variant["copied_bytes"] // 4,), jnp.float32),), mesh)
    lowered["copy"] = Lowered(jax.jit(lambda x: -x, donate_argnums=0).lower(*arguments), arguments)
    return lowered


def _placed(shapes: Any, mesh: Mesh) -> Any:
    """Return the shapes with shardings: every device has all of them."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
