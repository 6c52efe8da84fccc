"""Masks from annotation files of other programs: `unet-jax import-masks`."""
