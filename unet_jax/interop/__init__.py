"""Import from and export to other programs; the Keras original is the only one so far."""

from unet_jax.interop.keras import export_keras as export_keras
from unet_jax.interop.keras import import_keras as import_keras
from unet_jax.interop.keras_network import Network as Network
from unet_jax.interop.keras_network import read_network as read_network
from unet_jax.interop.keras_network import write_network as write_network
