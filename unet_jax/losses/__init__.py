"""Loss functions of logits and labels: pure, with channels last, and not reduced to one number.

Logits and labels have the shape `[*b h w k]`: any leading axes, height, width, and one independent channel per class.
Labels are membership in [0, 1]. `weight=` is None or an array that broadcasts to the logits: per pixel (`[b h w 1]`),
class (`[k]`) or image (`[b 1 1 1]`); 0 = ignored.

A loss returns values per pixel (`[*b h w k]`; their mean is their sum divided by the sum of the weights) or per image
and class (`[*b k]`), unless its docstring says otherwise. The losses of the catalogue compute in float32, and raise
`ValueError` if logits and labels differ in shape.

`unet_jax.config.loss_catalogue.LOSSES` lists the losses, docs/losses.md compares them, and `make_objective` reduces
them and adds them up. `bce_dice_loss` is the default objective. The losses in `carvana_border` are not in the
catalogue: each returns one number for the batch and takes no weight, as in the program that it comes from.
"""

from unet_jax.losses.bce_dice import PUBLIC_BCE_DICE as PUBLIC_BCE_DICE
from unet_jax.losses.bce_dice import bce_dice_loss as bce_dice_loss
from unet_jax.losses.boundary import border_bce_loss as border_bce_loss
from unet_jax.losses.boundary import boundary_loss as boundary_loss
from unet_jax.losses.boundary import hausdorff_dt_loss as hausdorff_dt_loss
from unet_jax.losses.boundary import hausdorff_erosion_loss as hausdorff_erosion_loss
from unet_jax.losses.carvana_border import BORDER_SIZES as BORDER_SIZES
from unet_jax.losses.carvana_border import asanakoy_border_loss as asanakoy_border_loss
from unet_jax.losses.carvana_border import killthekitten_bce_border_loss as killthekitten_bce_border_loss
from unet_jax.losses.carvana_border import killthekitten_dice_border_loss as killthekitten_dice_border_loss
from unet_jax.losses.carvana_border import lyakaap_border_loss as lyakaap_border_loss
from unet_jax.losses.carvana_border import petrosgk_border_loss as petrosgk_border_loss
from unet_jax.losses.compound import asymmetric_unified_focal_loss as asymmetric_unified_focal_loss
from unet_jax.losses.compound import combo_loss as combo_loss
from unet_jax.losses.compound import symmetric_unified_focal_loss as symmetric_unified_focal_loss
from unet_jax.losses.confusion import mcc_loss as mcc_loss
from unet_jax.losses.confusion import sensitivity_specificity_loss as sensitivity_specificity_loss
from unet_jax.losses.deep_supervision import deep_supervision as deep_supervision
from unet_jax.losses.dice import batch_soft_dice_loss as batch_soft_dice_loss
from unet_jax.losses.dice import class_soft_dice_loss as class_soft_dice_loss
from unet_jax.losses.dice import soft_dice_loss as soft_dice_loss
from unet_jax.losses.distance import euclidean_distance as euclidean_distance
from unet_jax.losses.distance import signed_distance as signed_distance
from unet_jax.losses.focal import asymmetric_loss as asymmetric_loss
from unet_jax.losses.focal import focal_loss as focal_loss
from unet_jax.losses.focal import poly1_bce_loss as poly1_bce_loss
from unet_jax.losses.focal import poly1_focal_loss as poly1_focal_loss
from unet_jax.losses.l1_overlap import l1_dice_loss as l1_dice_loss
from unet_jax.losses.l1_overlap import l1_jaccard_loss as l1_jaccard_loss
from unet_jax.losses.l1_overlap import l1_tversky_loss as l1_tversky_loss
from unet_jax.losses.objective import Term as Term
from unet_jax.losses.objective import make_objective as make_objective
from unet_jax.losses.objective import ramp as ramp
from unet_jax.losses.objective import ramp_factor as ramp_factor
from unet_jax.losses.objective import stack_images as stack_images
from unet_jax.losses.overlap import focal_tversky_loss as focal_tversky_loss
from unet_jax.losses.overlap import generalized_dice_loss as generalized_dice_loss
from unet_jax.losses.overlap import jaccard_loss as jaccard_loss
from unet_jax.losses.overlap import log_cosh_dice_loss as log_cosh_dice_loss
from unet_jax.losses.overlap import log_dice_loss as log_dice_loss
from unet_jax.losses.overlap import squared_dice_loss as squared_dice_loss
from unet_jax.losses.overlap import tversky_loss as tversky_loss
from unet_jax.losses.pixel import balanced_bce_loss as balanced_bce_loss
from unet_jax.losses.pixel import bce_loss as bce_loss
from unet_jax.losses.pixel import hard_bootstrapped_bce_loss as hard_bootstrapped_bce_loss
from unet_jax.losses.pixel import soft_bootstrapped_bce_loss as soft_bootstrapped_bce_loss
from unet_jax.losses.pixel import weighted_bce_loss as weighted_bce_loss
from unet_jax.losses.ranking import lovasz_hinge_loss as lovasz_hinge_loss
from unet_jax.losses.ranking import topk_bce_loss as topk_bce_loss
from unet_jax.losses.structure import MS_SSIM_WEIGHTS as MS_SSIM_WEIGHTS
from unet_jax.losses.structure import active_contour_loss as active_contour_loss
from unet_jax.losses.structure import ms_ssim_loss as ms_ssim_loss
from unet_jax.losses.structure import soft_cldice_loss as soft_cldice_loss
from unet_jax.losses.structure import ssim_loss as ssim_loss
from unet_jax.losses.term_gradients import TermGradients as TermGradients
from unet_jax.losses.term_gradients import term_gradients as term_gradients
