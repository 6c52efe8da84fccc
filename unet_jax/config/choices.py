"""A setting that was chosen for a data set and a machine, with the reason."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Choice:
    """One row of the table that `unet-jax auto` prints and run.json keeps."""

    name: str
    """Dotted name of a setting, or a fact that was found, such as the channels of the images."""
    value: Any
    """Value of the setting."""
    reason: str
    """Sentence that says why."""
    given: bool = False
    """True if somebody gave the value, so that nothing was chosen."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Choice":
        """Make a choice from the values of `to_dict`. What was a tuple is a tuple again."""
        value = values["value"]
        return cls(**{**values, "value": tuple(value) if isinstance(value, list) else value})
