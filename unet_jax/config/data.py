"""Settings of the data set."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, is_plain_name, require, require_fraction
from unet_jax.config.placeholders import Dir, Names, OptionalFile, Pattern, Patterns, Regex, Values
from unet_jax.config.settings import setting


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The place of images and masks, and the way they become arrays of one size."""

    root: Dir = setting("", may_change=True)
    """Folder with images/ID.ext and masks/CLASS/ID.ext, or with train/, val/ and test/ folders of that layout."""
    classes: Names = ()
    """Class names in the order of the output channels. Empty: the mask folders, sorted by name."""
    splits: OptionalFile = setting(None, may_change=True)
    """CSV file with the columns id,split (train, val or test). If it names no val, a part of train becomes val."""
    val_fraction: float = 0.2
    """Share of the training images that become val if no split says which. A hash of the id decides."""
    split_seed: int = 0
    """Seed of that hash: another number chooses other val images."""
    group_key: Regex = ""
    """Regular expression that is matched with the id of an image.
    Images that share its first group, such as a patient or a slide, stay together when val is split off.
    Example: '^(patient[0-9]+)_'."""
    validate_on_train: bool = False
    """Use the training images as val too. Meant for trials with very few images: such scores say nothing of others."""
    image_size: int | tuple[int, int] = 256
    """Height and width in pixels of the images that the network sees: one number for a square, or two: 512 768.
    fit says how images and masks come to it."""
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    """Way from an image to image_size. stretch: resized to it, also if that changes the ratio of the sides.
    pad: resized as a whole, with the ratio of the sides kept; the border at the bottom or on the right is ignored.
    crop: parts of that size are cut out, and evaluation and prediction put whole images together from tiles."""
    scale: float = setting(1.0, only_if={"fit": ("crop",)})
    """Resolution that crops are cut at, as a multiple of the files': 0.5 halves height and width first."""
    crop_foreground: float = setting(0.5, only_if={"fit": ("crop",)})
    """Share of the training crops that are placed on a pixel of a class. Every class of the image is equally likely.
    The others may lie anywhere."""
    sample_by_class: bool = setting(False, only_if={"fit": ("crop",)})
    """Choose the image of such a crop by class, each as often, for classes that few images have.
    By default images give crops in proportion to their area."""
    channels: str = setting("", not_with=("image_patterns",))
    """Channels of the images to use, in this order, by their numbers from 0: '0,1,3'. Empty: all."""
    pages: Literal["error", "channels"] = "error"
    """Meaning of the pages of a TIFF file that does not say it: an error, or channels of one image."""
    intensity: Literal["auto", "depth", "percentiles", "image-percentiles", "limits"] = "auto"
    """Numbers in the files that become black and white. depth: 0 and the largest value of the file's type.
    percentiles: those of all training images, per channel. image-percentiles: those of each image.
    limits: given ones. auto: depth for 8 bits, percentiles for all else."""
    intensity_percentiles: tuple[float, ...] = setting(
        (0.1, 99.9), only_if={"intensity": ("percentiles", "image-percentiles", "auto")}
    )
    """Two percentiles that become black and white."""
    intensity_limits: tuple[float, ...] = setting((), only_if={"intensity": ("limits",)})
    """Numbers that become black and white: LOW HIGH for all channels, or for each channel in turn."""
    image_pattern: Pattern = ""
    """Path of an image below root, with {id} in it, if images are not in images/: 'train/IMG_{id}.JPG'."""
    image_patterns: Patterns = setting((), not_with=("image_pattern",))
    """NAME=path with {id}, for images of which each channel is a file of its own, in the order of the channels:
    'dapi=images/{id}_w1.tif' 'gfp=images/{id}_w2.tif'."""
    mask_patterns: Patterns = ()
    """CLASS=path with {id}, one for each class: 'cell=train_mask/{id}_cell.png'.
    All files of one image that match a * are united: 'cell=masks/{id}_*.png'."""
    image_key: Regex = ""
    """Regular expression that is matched with the id of a mask. Its first group is the id of the image."""
    index_map: Pattern = ""
    """Path with {id} of one file per image that holds all classes.
    Its values are class numbers (see index_values), or its colours are classes (see index_colors)."""
    index_values: Values = ()
    """CLASS=values of the index map that belong to the class, also ranges: 'cell=1,2' 'nucleus=2' 'car=26000-26999'."""
    index_colors: Values = ()
    """CLASS=red,green,blue of the index map, from 0 to 255: 'cell=128,64,128'. A class may have several entries.
    Black is outside."""
    ignore_values: Values = setting((), only_with=("index_map",))
    """Values of the index map that mean 'not annotated': '255'. With index_colors they are colours: '224,224,192'.
    Such pixels have no part in loss and scores. Pixels can also be ignored by masks in ignore/ (docs/data.md)."""
    missing_masks: Literal["error", "empty", "unknown"] = "error"
    """Meaning of a mask file that is not there: an error, or a class that does not occur in that image (empty).
    unknown: nobody annotated the class in that image, so that it counts nowhere there."""
    mask_orientation: Literal["auto", "shown", "stored"] = setting("auto", adjustable=True)
    """Pixels that masks were drawn on, where an image is shown turned (EXIF) and its masks carry no orientation.
    shown: those that viewers show. stored: those in the file. auto: what sizes tell, else an error."""
    mask_threshold: float = setting(0.0, not_with=("index_map", "soft_masks", "instance_masks"))
    """Share of white from which a pixel of a mask file is inside, for masks that are JPEG files or blurred: 0.5.
    0: gray levels are an error."""
    soft_masks: bool = setting(False, not_with=("index_map",))
    """Accept gray levels between black and white in mask files as partial membership of a class."""
    instance_masks: bool = setting(False, not_with=("index_map", "soft_masks"))
    """Read the values of mask files as numbers of objects: 0 is outside, 1 to N are objects of the class."""
    mask_interpolation: Literal["nearest", "linear"] = "nearest"
    """Interpolation when masks are resized and warped. linear makes soft borders, as the Keras original did."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """A sample that cannot be used stops the run (error), or is left out, counted and reported (skip)."""
    changed_files: Literal["refuse", "accept"] = setting("refuse", may_change=True)
    """Images or masks of train or val with other content than when the run began (accept: it goes on with them)."""
    cache: Literal["auto", "memory", "disk", "none"] = setting("auto", may_change=True)
    """Place for decoded, resized samples: memory, or files that later runs find again.
    auto is memory below 2 GiB and disk above."""
    cache_dir: Dir = setting("", may_change=True)
    """Folder of the disk cache. Empty: unet_jax in the user's cache folder (XDG_CACHE_HOME or ~/.cache)."""
    rebuild_cache: bool = setting(False, may_change=True, only_if={"cache": ("disk", "auto")})
    """Build the disk cache again, even if there is one. Use it where one is found that cannot be used."""
    num_threads: int = setting(0, may_change=True)
    """Threads that read and augment; 0 measures how many are worth it. The data do not depend on it."""
    num_workers: int = setting(0, may_change=True)
    """Processes that read and augment, each with num_threads threads. The data do not depend on it."""

    def __post_init__(self) -> None:
        check_types(self, "data.")
        _check_image_size(self.image_size)
        if self.image_size == 2 * (
            self.height_and_width[0],
        ):  # one way to write a square, so that equal runs are equal
            object.__setattr__(self, "image_size", self.height_and_width[0])
        require(0.0 < self.scale <= 100.0, "data.scale", self.scale, "above 0 and at most 100")
        require_fraction("data.crop_foreground", self.crop_foreground)
        require_fraction("data.mask_threshold", self.mask_threshold)
        require(0.0 < self.val_fraction < 1.0, "data.val_fraction", self.val_fraction, "between 0 and 1")
        require(self.num_threads >= 0, "data.num_threads", self.num_threads, "at least 0")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "at least 0")
        given = self.intensity_percentiles
        ok = len(given) == 2 and 0.0 <= given[0] < given[1] <= 100.0
        require(ok, "data.intensity_percentiles", given, "two numbers from 0 to 100, the smaller one first")
        needs_limits = self.intensity == "limits" and not self.intensity_limits
        require(not needs_limits, "data.intensity_limits", self.intensity_limits, "given when data.intensity is limits")
        for name in self.classes:
            ok = is_plain_name(name) and name == name.strip()
            require(ok, "data.classes", name, "a plain name (it is used as a folder)")
        duplicates = sorted({name for name in self.classes if self.classes.count(name) > 1})
        require(not duplicates, "data.classes", duplicates, "free of repeated names")
        ways = [bool(self.mask_patterns), bool(self.index_map)]
        require(sum(ways) <= 1, "data.index_map", self.index_map, "left empty when data.mask_patterns is given")
        require(
            bool(self.index_map) == bool(self.index_values or self.index_colors),
            "data.index_values",
            self.index_values,
            "given exactly when data.index_map is, unless data.index_colors is given",
        )
        both = bool(self.index_values and self.index_colors)
        require(not both, "data.index_colors", self.index_colors, "left empty when data.index_values is given")

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Height and width of `image_size`."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)


def _check_image_size(given: object) -> None:
    """Raise `InputError` unless the value is a side of a square, or a height and a width."""
    sides = given if isinstance(given, tuple) else (given,)
    ok = len(sides) in (1, 2) and (len(sides) == 2 or not isinstance(given, tuple))
    wanted = "a whole number, or height and width as two whole numbers"
    require(ok and all(type(side) is int for side in sides), "data.image_size", given, wanted)
    require(all(1 <= side <= 2**15 for side in sides), "data.image_size", given, "from 1 to 32768")  # type: ignore
