"""Losses put together: terms of a weighted sum, and the one place that reduces what the losses return."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax import losses
from unet_jax._types import InputError
from unet_jax.config.loss_catalogue import LOSSES, LossEntry, Output, check_loss, is_user_loss
from unet_jax.losses._inputs import full_weight

Scalar = Float[Array, ""] | float
Schedule = Callable[[Any], Scalar]
"""A term's factor as a function of the step."""
Objective = Callable[..., tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]
"""`(logits, labels, weight=None, step=None, *, num_subpixels=1) -> (scalar, {term: value})`."""

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of an objective. Numbers may be traced: a `Term` can be made inside of a jitted function."""

    loss: str | Callable[..., Array]
    """A name of `unet_jax.config.loss_catalogue.LOSSES`, 'module:function', or a function
    `(logits, labels, *, weight, **options)` that returns `[b h w k]`, `[b k]`, `[b]` or `[]`."""
    weight: Scalar = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_weight: Sequence[float] | None = None
    """One factor per class, in the weighted mean over classes; 0 leaves a class out."""
    schedule: Schedule | None = None
    """Multiplies `weight`; see `ramp`."""
    over: Literal["image", "batch"] = "image"
    """A loss per image and class sees each image by itself, or the batch as one image per class."""
    label: str = ""
    """Key of the term's value; the loss's name if empty."""


def ramp(first_step: int, last_step: int, first: Scalar = 0.0, last: Scalar = 1.0) -> Schedule:
    """`first` until first_step, then in a straight line to `last` at last_step, and that from there on."""
    if not 0 <= first_step < last_step:
        raise InputError(f"a ramp from step {first_step} to step {last_step} is empty: the first must be smaller.")
    return lambda step: ramp_factor(step, first_step, last_step, first, last)


def ramp_factor(position: Any, start: Scalar, stop: Scalar, first: Scalar, last: Scalar) -> Scalar:
    """Of `ramp`, at any unit of position; all numbers may be traced, and the position may be infinite."""
    part = jnp.clip((position - start) / (stop - start), 0.0, 1.0)
    return first + part * (last - first)


def stack_images(x: Float[Array, "b h w k"]) -> Float[Array, "b*h w k"]:
    """The batch as one tall image, so that `loss(stack_images(logits), stack_images(labels))` is a ratio or a ranking
    per class over the whole batch."""
    return x.reshape(-1, *x.shape[-2:])


def make_objective(terms: Sequence[Term]) -> Objective:
    """The weighted sum of terms, each reduced to its weighted mean.

    Pixel losses are averaged over pixels with the pixels' weights; losses per image and class over images and
    classes, each with the largest weight of its pixels (so an ignored region leaves its image's weight alone).

    Returns:
      `objective(logits, labels, weight=None, step=None, *, num_subpixels=1) -> (scalar, {term: value})`, all float32.
      `weight` with one axis is one number per image; otherwise it broadcasts to the logits. `step` is needed where a
      term has a schedule. Values of terms are those before their weights.

    Raises:
      InputError: for a loss or an option that does not exist.
    """
    if not terms:
        raise InputError("an objective needs at least one term.")
    resolved = [(term, *_resolve(term)) for term in terms]
    labels_of_terms = [term.label or _name(term) for term in terms]
    for name in labels_of_terms:
        if labels_of_terms.count(name) > 1:
            raise InputError(f"two terms are called {name!r}: give one of them another label.")

    def objective(
        logits: Float[Array, "b h w k"],
        labels: Float[Array, "b h w k"],
        weight: Float[Array, "..."] | None = None,
        step: Any = None,
        *,
        num_subpixels: int = 1,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        if logits.ndim != 4:
            raise InputError(f"an objective takes logits [b h w k], not of shape {logits.shape}.")
        full = _full_weight(weight, logits.shape, num_subpixels)
        total, values = jnp.float32(0.0), {}
        for name, (term, function, entry) in zip(labels_of_terms, resolved, strict=True):
            values[name] = _value(name, term, function, entry, logits, labels, full, num_subpixels)
            total = total + values[name] * term.weight * _factor(name, term, step)
        return total, values

    return objective


def deep_supervision(objective: Objective, scale_weights: Sequence[float]) -> Objective:
    """The objective at several resolutions: logits are a sequence, finest first, and so are scale_weights.

    The result is the weighted mean over scales. Labels and weights of a coarser scale are means over blocks of pixels,
    so labels may lie between 0 and 1 there. Terms are named NAME/0, NAME/1, ... by scale.
    """

    def supervised(
        logits: Sequence[Float[Array, "b h w k"]],
        labels: Float[Array, "b h w k"],
        weight: Float[Array, "..."] | None = None,
        step: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        if len(logits) != len(scale_weights):
            raise InputError(f"there are {len(logits)} resolutions, but {len(scale_weights)} scale_weights.")
        full = _full_weight(weight, labels.shape, 1)
        total, values = jnp.float32(0.0), {}
        for i, (scale_logits, scale_weight) in enumerate(zip(logits, scale_weights, strict=True)):
            scale_full = _block_mean(full, scale_logits.shape)
            known = jnp.where(scale_full > 0.0, scale_full, 1.0)
            scale_labels = _block_mean(full * labels, scale_logits.shape) / known
            value, terms = objective(scale_logits, scale_labels, scale_full, step)
            total = total + value * (scale_weight / sum(scale_weights))
            values |= {f"{name}/{i}": term for name, term in terms.items()}
        return total, values

    return supervised


def _name(term: Term) -> str:
    return term.loss.partition(":")[2] or term.loss if isinstance(term.loss, str) else term.loss.__name__


def _resolve(term: Term) -> tuple[Callable[..., Array], LossEntry | None]:
    """The function of a term, and its entry in the table if it has one."""
    if isinstance(term.loss, str):
        check_loss(term.loss, term.options, term.over, term.class_weight is not None)
        if not is_user_loss(term.loss):
            return getattr(losses, f"{term.loss}_loss"), LOSSES[term.loss]
        module, _, attribute = term.loss.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(f"loss {term.loss!r} cannot be imported: {error}.") from error
    else:
        function = term.loss
    _check_signature(function, term)
    return function, None


def _check_signature(function: Callable[..., Array], term: Term) -> None:
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in ("weight", *term.options):
        if option not in parameters:
            known = ", ".join(parameters)
            raise InputError(f"loss {_name(term)!r} does not take {option!r}, only {known}: it must.")


def _full_weight(weight: Any, shape: tuple[int, ...], num_subpixels: int) -> Float[Array, "b h w k"]:
    """A weight per image, or one that broadcasts, at the shape of the logits."""
    if weight is not None and jnp.ndim(weight) == 1:
        weight = jnp.asarray(weight)[:, None, None, None]
    return full_weight(weight, shape, num_subpixels)


def _factor(name: str, term: Term, step: Any) -> Scalar:
    if term.schedule is None:
        return 1.0
    if step is None:
        raise InputError(f"loss {name!r} has a schedule: the objective must be called with the step.")
    return term.schedule(step)


def _value(
    name: str,
    term: Term,
    function: Callable[..., Array],
    entry: LossEntry | None,
    logits: Float[Array, "b h w k"],
    labels: Float[Array, "b h w k"],
    weight: Float[Array, "b h w k"],
    num_subpixels: int,
) -> Float[Array, ""]:
    """One term, reduced."""
    options = dict(term.options)
    if num_subpixels > 1:
        if entry is None or not entry.accepts_packed:
            raise InputError(f"loss {name!r} cannot be computed from packed logits: unpack them.")
        if entry.output != "pixel":
            options["num_subpixels"] = num_subpixels
    if term.class_weight is not None:
        num_classes = logits.shape[-1] // num_subpixels
        if len(term.class_weight) != num_classes:
            found = len(term.class_weight)
            raise InputError(f"class_weight of loss {name!r} has {found} values, but there are {num_classes} classes.")
        per_class = jnp.asarray(term.class_weight, jnp.float32)
        weight = weight * full_weight(per_class, weight.shape, num_subpixels)
    if term.over == "batch":
        logits, labels, weight = (stack_images(x) for x in (logits, labels, weight))
    output = entry.output if entry else _output(name, function, logits, labels, weight, options)
    if output in ("pixel", "scalar"):
        values = function(logits, labels, weight=weight, **options)
        return values if output == "scalar" else jnp.sum(values) / jnp.maximum(jnp.sum(weight), _TINY)
    # Ratios see weights relative to the largest of their own pixels, so that `smooth` is worth the same everywhere.
    cell = _cell_weight(weight, output, num_subpixels)
    values = function(logits, labels, weight=weight / _spread(cell, weight, output, num_subpixels), **options)
    return jnp.sum(cell * values) / jnp.maximum(jnp.sum(cell), _TINY)


def _cell_weight(weight: Float[Array, "*b h w k"], output: Output, num_subpixels: int) -> Array:
    """The largest weight of the pixels behind each value of a loss."""
    cell = jnp.max(weight, axis=(-3, -2))
    cell = jnp.max(cell.reshape(*cell.shape[:-1], num_subpixels, -1), axis=-2)
    if output == "image":
        return jnp.max(cell, axis=-1)
    return jnp.max(cell, axis=0) if output == "class" else cell


def _spread(cell: Array, weight: Float[Array, "*b h w k"], output: Output, num_subpixels: int) -> Array:
    """Each value's weight at its pixels; 1 for 0, which is divided by."""
    cell = jnp.where(cell > 0.0, cell, 1.0)
    if output == "image":
        cell = cell[..., None]
    else:
        cell = jnp.tile(cell, num_subpixels)
    return jnp.broadcast_to(cell if output == "class" else cell[..., None, None, :], weight.shape)


def _output(
    name: str, function: Callable[..., Array], logits: Array, labels: Array, weight: Array, options: dict[str, Any]
) -> Output:
    """What a user's function returns, by its shape."""
    shape = jax.eval_shape(lambda x, t, w: function(x, t, weight=w, **options), logits, labels, weight).shape
    leading = logits.shape[:-3]
    shapes: dict[tuple[int, ...], Output] = {
        logits.shape: "pixel",
        (*leading, logits.shape[-1]): "image_class",
        leading: "image",
    }
    if shape not in shapes and shape != ():
        raise InputError(f"loss {name!r} returns the shape {shape}, but must return one of {[*shapes, ()]}.")
    return shapes.get(shape, "scalar")


def _block_mean(x: Float[Array, "b h w k"], shape: tuple[int, ...]) -> Float[Array, "b h2 w2 k"]:
    (b, height, width, k), (_, rows, columns, _) = x.shape, shape
    if height % rows or width % columns:
        raise InputError(f"logits of {rows}x{columns} pixels do not divide labels of {height}x{width}.")
    return jnp.mean(x.reshape(b, rows, height // rows, columns, width // columns, k), axis=(2, 4))
