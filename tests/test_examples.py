"""The examples in docstrings run as printed."""

import doctest
import importlib
import pkgutil

import pytest

import unet_jax

# These train or compile for seconds; the others run with every test.
LONG = ("interop.", "model.", "program.", "study.", "training.", "losses.", "devices.", "plan.")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(unet_jax.__path__, "unet_jax.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.removeprefix("unet_jax.").startswith(LONG) else ())
        for name in MODULES
    ],
)
def test_examples_run_as_printed(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0
