"""Every command in README and docs is one that the command line takes: parsed, not run."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

from unet_jax.cli import flags
from unet_jax.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]


class ParsedError(Exception):
    """Raised in the place of the work, after the options were parsed."""


def commands(page):
    """Commands `unet-jax ...` in the page's code blocks, with continued lines joined."""
    for block in re.findall(r"^ *```(?:bash|sh|console|text)?\n(.*?)^ *```", page.read_text(), flags=re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;|\||\bdo\b", line):
                command = re.sub(r"^\s*(\$ |srun |\w+=\S+ )*", "", part)
                if command.startswith(("unet-jax ", "python -m unet_jax ")):
                    yield re.sub(r"^(unet-jax|python -m unet_jax)\s+", "", command).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_are_taken(page, monkeypatch):
    parse = tyro.cli

    def parse_only(*args, **kwargs):
        parse(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", parse_only)
    monkeypatch.setattr(flags, "read_settings", lambda file: {})
    for command in commands(page):
        if "..." in command:
            continue
        with pytest.raises((ParsedError, SystemExit)) as end:
            main([word for word in shlex.split(command, comments=True) if word not in ("&", ">")])
            raise ParsedError  # help of a command that has presets
        assert end.type is ParsedError or end.value.code == 0, f"{page.name}: unet-jax {command}"


def test_commands_are_found():
    found = [command.split()[0] for page in PAGES for command in commands(page)]
    assert len(found) > 30 and {"train", "evaluate", "predict", "study", "plan", "export", "audit"} <= set(found)
