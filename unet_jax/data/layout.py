"""Layout of a data set: image and mask files are joined to samples by id, never by position in a listing."""

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.folder_layout import folder_layout
from unet_jax.data.listing import check_name
from unet_jax.data.pattern_layout import index_map_layout, pattern_layout
from unet_jax.data.records import Layout


def find_layout(config: DataConfig) -> Layout:
    """List the files of the data set that the config describes, and join them to samples.

    Raises:
      InputError: a folder or file is missing, an id occurs twice, or no sample was found. The message names the path.
    """
    if not config.root:
        raise InputError("data.root is empty: say where the data set is with --data.root DIR.")
    root = epath.Path(config.root)
    for part in (root, *root.parents):
        check_name(part)
    if not root.is_dir():
        unpack = " Unpack it first." if root.name.lower().endswith((".zip", ".tar", ".gz", ".7z", ".rar")) else ""
        raise InputError(f"{root}: is not a folder.{unpack} --data.root must name one with images/ and masks/CLASS/.")
    if config.index_map:
        return index_map_layout(root, config)
    if config.mask_patterns:
        return pattern_layout(root, config)
    for name in ("image_pattern", "image_patterns", "image_key"):
        if getattr(config, name):
            raise InputError(
                f"data.{name} is {getattr(config, name)!r}, but does nothing without data.mask_patterns or "
                f"data.index_map. Say where the masks are: --data.mask-patterns 'CLASS=masks/CLASS/{{id}}.png'."
            )
    return folder_layout(root, config)
