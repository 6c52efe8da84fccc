"""Losses: pure functions of logits and labels in [0, 1], channels last, unreduced.

`bce_dice_loss` is the one place that reduces them to the scalar a training step differentiates.
"""

from unet_jax.losses.combined import bce_dice_loss as bce_dice_loss
from unet_jax.losses.overlap import batch_soft_dice_loss as batch_soft_dice_loss
from unet_jax.losses.overlap import class_soft_dice_loss as class_soft_dice_loss
from unet_jax.losses.overlap import soft_dice_loss as soft_dice_loss
from unet_jax.losses.pixel import bce_loss as bce_loss
