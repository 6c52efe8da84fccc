"""Settings of the data set."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images and masks are and how they become arrays of one size."""

    root: str = ""
    """Folder with images/ID.ext and masks/CLASS/ID.ext (or train/ val/ test/ folders of that layout)."""
    classes: tuple[str, ...] = ()
    """Class order, which is the order of the output channels. Empty: the mask folders, sorted by name."""
    splits: str | None = None
    """CSV file with the columns id,split (train, val, test). Without val, a part of train becomes val."""
    val_fraction: float = 0.2
    """Part of the training ids, chosen by hashed id, that becomes val when no split says which."""
    split_seed: int = 0
    """Another number, another choice of val ids."""
    image_size: int = 256
    """Images and masks are resized to a square of this many pixels."""
    image_pattern: str = ""
    """Path below root with {id}, when the images do not lie in images/: 'train/IMG_{id}.JPG'."""
    mask_patterns: tuple[str, ...] = ()
    """CLASS=path with {id}, one for each class: 'cell=train_mask/{id}_cell.png'."""
    image_key: str = ""
    """Regular expression applied to a mask's id; its first group is the {id} of the image."""
    index_map: str = ""
    """Path with {id} of one file per image whose pixel values are class numbers (see index_values)."""
    index_values: tuple[str, ...] = ()
    """CLASS=values of the index map that belong to the class: 'cell=1,2' 'nucleus=2'."""
    missing_masks: Literal["error", "empty"] = "error"
    """What an absent mask file means: a mistake, or that the class does not occur in that image."""
    soft_masks: bool = False
    """Accept gray levels between black and white in mask files as partial membership."""
    mask_interpolation: Literal["nearest", "linear"] = "nearest"
    """How masks are resized and warped; linear makes soft borders, as the Keras original did."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A sample that cannot be used stops the run, or is left out, counted and reported."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Keep decoded, resized samples in memory, or in files that later runs find again; auto means memory below 2 GiB
    and disk above."""
    cache_dir: str = ""
    """Folder for the files of the disk cache. Empty: unet_jax in the user's cache folder (XDG_CACHE_HOME or
    ~/.cache)."""
    rebuild_cache: bool = False
    """Build the disk cache anew, also where one is found that cannot be used."""
    num_threads: int = 0
    """Threads that read and augment; 0 measures how many are worth it. Does not change the data."""
    num_workers: int = 0
    """Processes that read and augment, each with num_threads threads. Does not change the data."""

    def __post_init__(self) -> None:
        check_types(self, "data.")
        require(1 <= self.image_size <= 2**15, "data.image_size", self.image_size, "from 1 to 32768")
        require(0.0 < self.val_fraction < 1.0, "data.val_fraction", self.val_fraction, "between 0 and 1")
        require(self.num_threads >= 0, "data.num_threads", self.num_threads, "at least 0")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "at least 0")
        for name in self.classes:
            ok = bool(name) and "/" not in name and name == name.strip() and name not in (".", "..")
            require(ok, "data.classes", name, "a plain name (it is used as a folder)")
        duplicates = sorted({name for name in self.classes if self.classes.count(name) > 1})
        require(not duplicates, "data.classes", duplicates, "free of repeated names")
        ways = [bool(self.mask_patterns), bool(self.index_map)]
        require(sum(ways) <= 1, "data.index_map", self.index_map, "left empty when data.mask_patterns is given")
        require(
            bool(self.index_map) == bool(self.index_values),
            "data.index_values",
            self.index_values,
            "given exactly when data.index_map is",
        )
