"""Objectives: weighted sums of losses, and the one place that reduces the values that losses return."""

import dataclasses
import functools
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
from unet_jax.losses._inputs import at_pixels, batch_weight, cell_weight, full_weight

Scalar = Float[Array, ""] | float
Schedule = Callable[[Any], Scalar]
"""Function from the step to a term's factor."""
Objective = Callable[..., tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]
"""Function `(logits, labels, weight=None, step=None, *, num_subpixels=1) -> (scalar, {term: value})`."""

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of an objective: a loss, its weight and its options.

    Numbers may be traced, so a `Term` can be made inside a jitted function.

    Example:
      >>> from unet_jax.losses import Term, ramp
      >>> tversky = Term("tversky", 0.5, {"fn_weight": 0.8, "fp_weight": 0.2}, class_weight=(1.0, 3.0))
      >>> boundary = Term("boundary", 0.01, schedule=ramp(1_000, 5_000))
    """

    loss: str | Callable[..., Array]
    """Name in `unet_jax.config.loss_catalogue.LOSSES`, 'module:function', or a function
    `(logits, labels, *, weight, **options)` that returns `[b h w k]`, `[b k]`, `[b]` or `[]`."""
    weight: Scalar = 1.0
    """Factor of the term in the sum."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the loss."""
    class_weight: Sequence[float] | None = None
    """One factor per class in the weighted mean over classes; 0 leaves a class out. None weights all equally."""
    schedule: Schedule | None = None
    """Function of the step that multiplies `weight`; see `ramp`."""
    over: Literal["image", "batch"] = "image"
    """Scope of a loss per image and class: "image" for each image by itself, "batch" for the whole batch as one tall
    image, which gives one value per class."""
    label: str = ""
    """Key of the term's value among the results; the loss's name if empty."""


def ramp(first_step: int, last_step: int, first: Scalar = 0.0, last: Scalar = 1.0) -> Schedule:
    """Return a schedule that goes in a straight line from `first` to `last`, and is constant before and after.

    Args:
      first_step: step, at least 0, up to which the factor is `first`.
      last_step: step from which on the factor is `last`; it must be larger than `first_step`.
      first, last: factors.

    Returns:
      A function from the step to the factor.

    Raises:
      InputError: not 0 <= first_step < last_step.

    Example:
      >>> from unet_jax.losses import ramp
      >>> schedule = ramp(10, 20)
      >>> print([float(schedule(step)) for step in (0, 10, 15, 20, 1000)])
      [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    if not 0 <= first_step < last_step:
        raise InputError(
            f"a ramp from step {first_step} to step {last_step} is not possible: the first step must be at least 0 and "
            "smaller than the last."
        )
    return lambda step: ramp_factor(step, first_step, last_step, first, last)


def ramp_factor(position: Any, start: Scalar, stop: Scalar, first: Scalar, last: Scalar) -> Scalar:
    """Return the factor of `ramp` at `position`.

    Args:
      position: where on the ramp, in the unit of `start` and `stop` (steps, or parts of the run); it may be infinite.
      start, stop: positions where the ramp starts and stops.
      first, last: factors up to `start` and from `stop` on.

    Returns:
      The factor. All arguments may be traced.

    Example:
      >>> from unet_jax.losses import ramp_factor
      >>> print(float(ramp_factor(0.25, 0.0, 0.5, 1.0, 3.0)))
      2.0
    """
    part = jnp.clip((position - start) / (stop - start), 0.0, 1.0)
    return first + part * (last - first)


def stack_images(x: Float[Array, "b h w k"]) -> Float[Array, "b*h w k"]:
    """Return the batch as one tall image, so that a loss per image and class becomes one per class over the batch.

    `loss(stack_images(logits), stack_images(labels))` is a ratio or a ranking per class over the whole batch. Losses
    that look at neighbouring pixels must not be used like this.

    Args:
      x: `[b h w k]`.

    Returns:
      `[b*h w k]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import losses
      >>> losses.stack_images(jnp.zeros((2, 4, 6, 3))).shape
      (8, 6, 3)
    """
    return x.reshape(-1, *x.shape[-2:])


def make_objective(terms: Sequence[Term]) -> Objective:
    """Make an objective: the weighted sum of terms, each reduced to its weighted mean.

    Values of a loss per pixel are averaged over pixels, with the pixels' weights. Values per image and class are
    averaged over images and classes; each counts with the largest weight among its pixels, so that an ignored region
    does not make its image less important.

    Args:
      terms: terms of the sum, at least one, with different names.

    Returns:
      `objective(logits, labels, weight=None, step=None, *, num_subpixels=1) -> (scalar, {term: value})`, all float32.
      Logits and labels are `[b h w k]`. `weight` with one axis is one number per image; otherwise it broadcasts to the
      logits. `step` is required if a term has a schedule. The values of the terms are those before their weights.

    Raises:
      InputError: there are no terms, two terms have the same name, or a loss or an option does not exist. The objective
        itself raises it for logits that are not `[b h w k]`, for packed logits where a loss cannot take them, for a
        `class_weight` of the wrong length, for a missing step, and for a loss that returns another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.losses import Term, make_objective
      >>> objective = make_objective([Term("bce"), Term("soft_dice", 0.5)])
      >>> logits = jnp.array([20.0, 20.0, -20.0]).reshape(1, 1, 3, 1)  # one hit, one false positive
      >>> labels = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 3, 1)
      >>> total, values = objective(logits, labels)
      >>> print(f"{float(total):.3f}", {name: f"{float(value):.3f}" for name, value in values.items()})
      6.792 {'bce': '6.667', 'soft_dice': '0.250'}
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
            raise InputError(f"an objective takes logits of shape [b h w k], but these have shape {logits.shape}.")
        full = batch_weight(weight, logits.shape, num_subpixels)
        total, values = jnp.float32(0.0), {}
        for name, (term, function, entry) in zip(labels_of_terms, resolved, strict=True):
            values[name] = _value(name, term, function, entry, logits, labels, full, num_subpixels)
            total = total + values[name] * term.weight * _factor(name, term, step)
        return total, values

    return objective


def _name(term: Term) -> str:
    """Return the name of a term's loss: that of the table, or that of the user's function."""
    if isinstance(term.loss, str):
        return term.loss.partition(":")[2] or term.loss
    function = term.loss.func if isinstance(term.loss, functools.partial) else term.loss
    return getattr(function, "__name__", type(function).__name__)


def _resolve(term: Term) -> tuple[Callable[..., Array], LossEntry | None]:
    """Return the function of a term, and its entry in the table of losses if it has one."""
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
    """Raise `InputError` if a user's function does not accept `weight` or one of the term's options."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in ("weight", *term.options):
        if option not in parameters:
            known = ", ".join(parameters)
            raise InputError(f"loss {_name(term)!r} does not take {option!r}, only {known}: it must accept it.")


def _factor(name: str, term: Term, step: Any) -> Scalar:
    """Return the factor of a term's schedule at the step; 1 without a schedule."""
    if term.schedule is None:
        return 1.0
    if step is None:
        raise InputError(f"loss {name!r} has a schedule: the objective must be called with the step.")
    return term.schedule(step)


# Losses return unreduced values, so this function alone decides what a weight means. A cell is the set of pixels behind
# one value (an image, a class, or both). It counts with its largest weight, and not with the sum, so that an image of
# which a part is ignored counts as much as any other.


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
    """Return the value of one term, reduced to a scalar, before its weight."""
    options = dict(term.options)
    if num_subpixels > 1:
        if entry is None or not entry.accepts_packed:
            raise InputError(f"loss {name!r} cannot be computed from packed logits: unpack them.")
        if entry.output != "pixel":
            options["num_subpixels"] = num_subpixels
    if term.class_weight is not None:
        num_classes = logits.shape[-1] // num_subpixels
        if len(term.class_weight) != num_classes:
            num_weights = len(term.class_weight)
            raise InputError(
                f"class_weight of loss {name!r} has {num_weights} values, but there are {num_classes} classes."
            )
        per_class = jnp.asarray(term.class_weight, jnp.float32)
        weight = weight * full_weight(per_class, weight.shape, num_subpixels)
    if term.over == "batch":
        logits, labels, weight = (stack_images(x) for x in (logits, labels, weight))
    output = entry.output if entry else _output(name, function, logits, labels, weight, options)
    if output in ("pixel", "scalar"):
        values = function(logits, labels, weight=weight, **options)
        return values if output == "scalar" else jnp.sum(values) / jnp.maximum(jnp.sum(weight), _TINY)
    cell = _cell_weight(weight, output, num_subpixels)
    values = function(logits, labels, weight=weight / _spread(cell, weight, output, num_subpixels), **options)
    return jnp.sum(cell * values) / jnp.maximum(jnp.sum(cell), _TINY)


def _cell_weight(weight: Float[Array, "*b h w k"], output: Output, num_subpixels: int) -> Array:
    """Return the largest weight among the pixels behind each value of a loss."""
    cell = cell_weight(weight, num_subpixels)
    if output == "image":
        return jnp.max(cell, axis=-1)
    return jnp.max(cell, axis=0) if output == "class" else cell


# A ratio adds `smooth`, a number of pixels, to sums of weighted pixels. Divided by this, the weights of a cell have the
# largest value 1, so that `smooth` is worth the same in a cell of low weight; `_value` multiplies the weight in again,
# in its mean over cells.


def _spread(cell: Array, weight: Float[Array, "*b h w k"], output: Output, num_subpixels: int) -> Array:
    """Return the weight of each value (`cell`) at all of its pixels; 0 is replaced by 1, because it is divided by."""
    cell = jnp.where(cell > 0.0, cell, 1.0)
    if output == "image":
        return jnp.broadcast_to(cell[..., None, None, None], weight.shape)
    return at_pixels(cell, weight.shape, num_subpixels)


def _output(
    name: str, function: Callable[..., Array], logits: Array, labels: Array, weight: Array, options: dict[str, Any]
) -> Output:
    """Return what a user's function returns per value (pixel, image, ...), by the shape of its result.

    With as many images as classes, `[k]` could not be told from `[b]`: then one image more is asked about.
    """
    leading = logits.shape[:-3]
    if leading == logits.shape[-1:]:
        leading = (leading[0] + 1,)
    inputs = [jax.ShapeDtypeStruct((*leading, *x.shape[-3:]), x.dtype) for x in (logits, labels, weight)]
    shape = jax.eval_shape(lambda x, t, w: function(x, t, weight=w, **options), *inputs).shape
    shapes: dict[tuple[int, ...], Output] = {
        inputs[0].shape: "pixel",
        (*leading, logits.shape[-1]): "image_class",
        leading: "image",
    }
    if shape not in shapes and shape != ():
        raise InputError(f"loss {name!r} returns the shape {shape}, but must return one of {[*shapes, ()]}.")
    return shapes.get(shape, "scalar")
