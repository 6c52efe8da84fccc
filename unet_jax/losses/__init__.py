"""Losses: pure functions of logits and labels in [0, 1], channels last, unreduced.

`bce_dice_loss` reduces them to the scalar a training step differentiates; the losses in `boundary_weighted` are scalars
of their own, as in the programs they come from.
"""

from unet_jax.losses.boundary_weighted import BORDER_SIZES as BORDER_SIZES
from unet_jax.losses.boundary_weighted import asanakoy_border_loss as asanakoy_border_loss
from unet_jax.losses.boundary_weighted import killthekitten_bce_border_loss as killthekitten_bce_border_loss
from unet_jax.losses.boundary_weighted import killthekitten_dice_border_loss as killthekitten_dice_border_loss
from unet_jax.losses.boundary_weighted import lyakaap_border_loss as lyakaap_border_loss
from unet_jax.losses.boundary_weighted import petrosgk_border_loss as petrosgk_border_loss
from unet_jax.losses.combined import PUBLIC_BCE_DICE as PUBLIC_BCE_DICE
from unet_jax.losses.combined import bce_dice_loss as bce_dice_loss
from unet_jax.losses.overlap import batch_soft_dice_loss as batch_soft_dice_loss
from unet_jax.losses.overlap import class_soft_dice_loss as class_soft_dice_loss
from unet_jax.losses.overlap import soft_dice_loss as soft_dice_loss
from unet_jax.losses.pixel import bce_loss as bce_loss
