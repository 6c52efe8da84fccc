"""The network: the only part that knows Flax."""

from unet_jax.model.unet import UNet as UNet
