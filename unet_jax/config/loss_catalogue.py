"""The closed table of losses: the name, output and options of each. It holds names only and needs no jax.

Entry `NAME` is the function `unet_jax.losses.NAME_loss`. A new loss is added here and nowhere else (docs/losses.md).
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Collection
from typing import Any, Literal

from unet_jax._types import InputError
from unet_jax.config.checks import did_you_mean

Output = Literal["pixel", "image_class", "image", "class", "scalar"]


@dataclasses.dataclass(frozen=True)
class LossEntry:
    """Facts that `unet_jax.losses.objective` needs about a loss."""

    output: Output
    """Shape of the values: `[*b h w k]`, `[*b k]`, `[*b]`, `[k]` or `[]`."""
    numbers: tuple[str, ...] = ()
    """Options that may be traced numbers: another value needs no new compilation."""
    static: tuple[str, ...] = ()
    """Options that change the computation itself: another value is another program."""
    accepts_packed: bool = False
    """True if packed logits give the same value (with `num_subpixels`, unless the output is per pixel)."""
    spatial: bool = False
    """True if the loss compares neighbouring pixels, so that images cannot be stacked into one."""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options."""
        return (*self.numbers, *self.static)


_FOCAL = ("gamma", "pos_weight", "neg_weight")
_TVERSKY = ("fp_weight", "fn_weight", "smooth")
_UNIFIED = ("delta", "gamma", "focal_weight", "smooth")
_SSIM = ("sigma", "k1", "k2")

LOSSES: dict[str, LossEntry] = {
    "bce": LossEntry("pixel", accepts_packed=True),
    "weighted_bce": LossEntry("pixel", ("pos_weight", "label_smoothing"), accepts_packed=True),
    "balanced_bce": LossEntry("pixel"),
    "border_bce": LossEntry("pixel", ("border_weight", "border_width"), spatial=True),
    "soft_bootstrapped_bce": LossEntry("pixel", ("label_weight",), accepts_packed=True),
    "hard_bootstrapped_bce": LossEntry("pixel", ("label_weight",), accepts_packed=True),
    "topk_bce": LossEntry("image_class", ("fraction",)),
    "focal": LossEntry("pixel", _FOCAL, accepts_packed=True),
    "poly1_bce": LossEntry("pixel", ("epsilon",), accepts_packed=True),
    "poly1_focal": LossEntry("pixel", (*_FOCAL, "epsilon"), accepts_packed=True),
    "asymmetric": LossEntry("pixel", ("gamma_pos", "gamma_neg", "clip"), accepts_packed=True),
    "soft_dice": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "class_soft_dice": LossEntry("class", ("smooth",), accepts_packed=True),
    "batch_soft_dice": LossEntry("scalar", ("smooth",), accepts_packed=True),
    "squared_dice": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "log_dice": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "log_cosh_dice": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "generalized_dice": LossEntry("image", ("smooth", "volume_power"), accepts_packed=True),
    "jaccard": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "tversky": LossEntry("image_class", _TVERSKY, accepts_packed=True),
    "focal_tversky": LossEntry("image_class", (*_TVERSKY, "gamma"), accepts_packed=True),
    "l1_dice": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "l1_jaccard": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "l1_tversky": LossEntry("image_class", _TVERSKY, accepts_packed=True),
    "lovasz_hinge": LossEntry("image_class"),
    "mcc": LossEntry("image_class", ("smooth",), accepts_packed=True),
    "sensitivity_specificity": LossEntry("image_class", ("sensitivity_weight", "smooth"), accepts_packed=True),
    "combo": LossEntry("image_class", ("ce_weight", "pos_weight", "smooth"), accepts_packed=True),
    "symmetric_unified_focal": LossEntry("image_class", _UNIFIED, accepts_packed=True),
    "asymmetric_unified_focal": LossEntry("image_class", _UNIFIED, accepts_packed=True),
    "boundary": LossEntry("pixel", spatial=True),
    "hausdorff_dt": LossEntry("pixel", ("distance_power",), spatial=True),
    "hausdorff_erosion": LossEntry("pixel", ("distance_power",), ("num_erosions",), spatial=True),
    "soft_cldice": LossEntry("image_class", ("smooth",), ("num_iterations",), spatial=True),
    "active_contour": LossEntry("image_class", ("region_weight", "eps"), spatial=True),
    "ssim": LossEntry("image_class", _SSIM, ("window_size",), spatial=True),
    "ms_ssim": LossEntry("image_class", _SSIM, ("window_size", "scale_weights"), spatial=True),
}


_OTHER_NAMES = {
    **dict.fromkeys(("dice", "dice_loss", "softdice"), "soft_dice"),
    **dict.fromkeys(("ce", "cross_entropy", "binary_cross_entropy", "bce_loss"), "bce"),
    **dict.fromkeys(("iou", "soft_iou"), "jaccard"),
    "lovasz": "lovasz_hinge",
    "cldice": "soft_cldice",
    "hausdorff": "hausdorff_dt",
    "gdl": "generalized_dice",
}
"""Names that other programs use for losses of the table."""


def is_user_loss(name: str) -> bool:
    """Return whether a name means a Python function, as in 'package.module:function'."""
    return ":" in name


def name_of_function(function: Callable[..., Any]) -> str:
    """Return the name 'module:function' under which a run finds a function again.

    Raises:
      InputError: it is not found under its own name, as a lambda or a function inside of another one.
    """
    module, name = getattr(function, "__module__", "?"), getattr(function, "__qualname__", repr(function))
    if getattr(sys.modules.get(module), name, None) is not function:
        raise InputError(
            f"loss {name!r} of {module!r} cannot be found again under its name. Define it with def at the top of a "
            f"module."
        )
    return f"{module}:{name}"


def check_loss(
    name: str, options: Collection[str], over: str = "image", has_class_weight: bool = False, field: str = "loss"
) -> None:
    """Raise `InputError` for a name that is not in the table, or for an option that its loss does not have.

    A 'module:function' is checked for its form only: nothing is imported.
    """
    if is_user_loss(name):
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", name):
            raise InputError(f"{field} is {name!r}, but a function is written as 'package.module:function'.")
        return
    if name not in LOSSES:
        meant = _OTHER_NAMES.get(name.lower())
        hint = f" Did you mean {meant!r}?" if meant else did_you_mean(name, LOSSES)
        raise InputError(
            f"{field} is {name!r}, which is no loss.{hint} It must be one of "
            f"{', '.join(LOSSES)}, or 'module:function' for your own."
        )
    for option in options:
        if option not in LOSSES[name].options:
            known = ", ".join(LOSSES[name].options) or "no options"
            raise InputError(f"{field} {name!r} has no option {option!r}: it has {known}.")
    entry = LOSSES[name]
    if over == "batch" and (entry.spatial or entry.output in ("class", "scalar")):
        why = "looks at neighbouring pixels" if entry.spatial else "is one over the batch already"
        raise InputError(f"{field} {name!r} {why}: over must be 'image'.")
    if has_class_weight and entry.output == "image":
        raise InputError(f"{field} {name!r} adds its classes up itself: it cannot have a class_weight.")
