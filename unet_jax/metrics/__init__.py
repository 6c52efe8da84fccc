"""Evaluation scores from pixel counts: `Counts`, functions that count pixels, and the scores of the counts.

Modules of this package: `counts`; `scores`, the scores of a set of images; `calibration`, temperatures and thresholds;
`image_scores`, calibration errors and distances between borders for one image.
"""

from unet_jax.metrics.counts import Counts as Counts
from unet_jax.metrics.counts import accuracy as accuracy
from unet_jax.metrics.counts import counts_from_logits as counts_from_logits
from unet_jax.metrics.counts import counts_from_masks as counts_from_masks
from unet_jax.metrics.counts import dice as dice
from unet_jax.metrics.counts import iou as iou
from unet_jax.metrics.counts import precision as precision
from unet_jax.metrics.counts import recall as recall
from unet_jax.metrics.counts import sum_counts as sum_counts
