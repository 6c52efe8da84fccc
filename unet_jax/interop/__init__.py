"""Import from and export to other programs: weights of the Keras original, masks from annotation files."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):  # annotations need no jax
    from unet_jax.interop.annotations.import_masks import ImportedMasks as ImportedMasks
    from unet_jax.interop.annotations.import_masks import import_masks as import_masks
    from unet_jax.interop.keras import export_keras as export_keras
    from unet_jax.interop.keras import import_keras as import_keras
    from unet_jax.interop.keras_network import Network as Network
    from unet_jax.interop.keras_network import read_network as read_network
    from unet_jax.interop.keras_network import write_network as write_network
