"""The stages of the U-Net: convolutions, normalisations, activations and residual connections, packed or not."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unet_jax.config import ModelConfig
from unet_jax.config.packing import Factor
from unet_jax.model.architecture import Block, Convolution, Stage
from unet_jax.model.conv import KERNEL_INITS, Conv
from unet_jax.model.convolution import repack_by_convolution
from unet_jax.model.normalization import STATISTICS, BatchNorm, GroupNorm, activate, add_bias
from unet_jax.model.packing import halve, unpack
from unet_jax.model.pooling import max_pool, max_pool_3x3

CONVOLUTION = "convolution"
"""Name of convolutions' results for rematerialisation policies (`jax.checkpoint_policies`), which may keep them."""


class ConvStage(nn.Module):
    """One stage: its blocks of convolutions, normalisations and activations.

    If `below` is given (half the resolution, packed by `below_factor`), the first convolution reads x concatenated with
    the up-sampled `below`, or `below` alone if x is None.

    Attributes:
      config: settings of the whole network.
      stage: convolutions of the stage, and what it reads.
      factor: packing of the result.
      factor_in: packing of x, before pooling if the stage reads pooled activations.
      below_factor: packing of `below`; by default `halve(factor)`.
    """

    config: ModelConfig
    stage: Stage
    factor: Factor
    factor_in: Factor
    below_factor: Factor | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"] | None, train: bool, below: Float[Array, "b h2 w2 c2"] | None = None
    ) -> Float[Array, "b h w d"]:
        y: Any = x
        factor, is_pooled = self.factor_in, self.stage.reads == "pooled"
        if is_pooled and self.stage.blocks[0].is_residual:  # pooling is fused with one convolution, and here are two
            y, factor, is_pooled = max_pool(y, factor), halve(factor), False
        if self.stage.reads == "pooled 3x3":
            y, factor = max_pool_3x3(unpack(y, factor)), (1, 1)
        for block in self.stage.blocks:
            if block.is_residual:
                y = self._residual(block, y, factor, train)
            else:
                for conv in block.convs:
                    y = self._layer(conv, y, factor, train, is_pooled=is_pooled, below=below)
                    factor, is_pooled, below = self.factor, False, None
            factor = self.factor
        return y

    def _residual(self, block: Block, x: Array, factor: Factor, train: bool) -> Array:
        """Compute a residual block, whose input is packed by `factor`."""
        if block.shortcut is None:
            shortcut = repack_by_convolution(x, factor, self.factor)
        else:
            shortcut = self._layer(block.shortcut, x, factor, train, is_linear=True)
        for conv in block.convs:
            x = self._layer(conv, x, factor, train, is_linear=conv is block.convs[-1])
            factor = self.factor
        return activate(x + shortcut.astype(x.dtype), self.config.negative_slope)

    def _layer(
        self,
        conv: Convolution,
        x: Array,
        factor: Factor,
        train: bool,
        *,
        is_pooled: bool = False,
        below: Array | None = None,
        is_linear: bool = False,
    ) -> Array:
        """Convolve x, which is packed by `factor`, normalise it, and activate it unless `is_linear`."""
        config, slope = self.config, 1.0 if is_linear else self.config.negative_slope
        convolve = Conv(
            conv.outputs,
            kernel_size=conv.kernel_size,
            kernel_init=KERNEL_INITS[config.kernel_init],
            dtype=jnp.dtype(config.dtype),
            factor=self.factor,
            factor_in=factor,
            pooled_from=factor if is_pooled else None,
            below_factor=self.below_factor,
            stride=conv.stride,
            name=conv.name,
        )
        if config.norm == "batch":
            how = config.batch_norm_momentum, conv.norm_eps, config.batch_norm_variance, self.factor, slope
            norm = BatchNorm(conv.outputs, *how, name=conv.norm)
            if not train:
                return norm.normalize(*convolve(x, below, norm.slope()))
            y, bias = convolve(x, below)
            return norm(checkpoint_name(y, CONVOLUTION), bias)
        y, bias = convolve(x, below)
        y = checkpoint_name(y, CONVOLUTION)
        if config.norm == "group":
            group_norm = GroupNorm(
                num_groups=None,
                group_size=min(config.group_size, conv.outputs),
                epsilon=conv.norm_eps,
                dtype=y.dtype,
                factor=self.factor,
                name=conv.norm,
            )
            return activate(group_norm(add_bias(y, bias)), slope)
        return activate(add_bias(y, bias), slope)


def rematerialized(remat: str) -> type[ConvStage]:
    """Return a `ConvStage` class that keeps for its gradient what `ModelConfig.remat` says (see docs/memory.md).

    "conv" keeps the results of convolutions and the small statistics of batch normalisation; everything else is
    computed again from them by passes over the activations. "block" keeps only the input of each stage. "full" is
    "conv" inside "block": the backward pass computes one stage at a time again from its input, and keeps for this
    stage what "conv" keeps.
    """
    # `static_argnums` counts `self` as 0, so 2 is `train`, which must stay a Python bool.
    remat_stage = functools.partial(nn.remat, static_argnums=(2,))
    keep = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS)
    match remat:
        case "conv":
            return remat_stage(ConvStage, policy=keep)
        case "block":
            return remat_stage(ConvStage)
        case "full":
            return remat_stage(remat_stage(ConvStage, policy=keep))
        case _:
            return ConvStage
