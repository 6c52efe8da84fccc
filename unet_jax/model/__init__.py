"""The network. This is the only package of the library that imports Flax."""

from unet_jax.model.unet import UNet as UNet
