"""The plan of the house: import contracts bite, the maps of files are complete, docstrings open as they should."""

import ast
import dataclasses
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unet_jax import Config
from unet_jax.config.settings import iterate_settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unet_jax"

# File, line to plant at its end, contract that must break.
VIOLATIONS = [
    ("program/build.py", "import flax", "Only the model knows Flax"),
    ("program/steps.py", "from unet_jax.model import UNet", "Steps receive an apply_fn, not a model"),
    ("losses/dice.py", "from unet_jax.config import ModelConfig", "Losses and metrics receive numbers, not configs"),
    ("data/splits.py", "import jax", "Data and settings are Python and NumPy: no jax of their own"),
    ("runs/info.py", "from unet_jax.training.loop import train", "Imports point downward"),
]


def lint_imports(folder):
    """The contracts' report on a copy of the package."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "unet_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_planted_violations_break_their_contracts(copy):
    for file, line, _ in VIOLATIONS:
        path = copy / "unet_jax" / file
        path.write_text(path.read_text() + f"\n\n{line}  # planted\n")
    status, report = lint_imports(copy)
    assert status != 0
    for file, _, contract in VIOLATIONS:
        assert re.search(re.escape(contract) + r".* BROKEN", report), report
        module = "unet_jax." + file.removesuffix(".py").replace("/", ".")
        assert re.search(re.escape(module) + r" ->", report), report


def test_a_new_folder_must_say_where_it_stands(copy):
    (copy / "unet_jax" / "extras").mkdir()
    (copy / "unet_jax" / "extras" / "__init__.py").write_text("")
    status, report = lint_imports(copy)
    assert status != 0 and "extras" in report, report


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def test_the_map_of_folders_names_every_folder_and_no_other():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tree = text[text.index("\nunet_jax/\n") :].split("```")[0]
    named = {line.split()[0].strip("/") for line in tree.splitlines() if re.match(r"  [a-z_]+(/|\.py) ", line)}
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    there |= {path.name for path in PACKAGE.glob("_[a-z]*.py")}
    assert named == there


def test_the_architecture_map_names_every_module_and_no_other():
    """Each folder's line in docs/architecture.md lists its modules."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text[text.index("\nunet_jax/\n") :].split("```")[0]
    named, folder = {}, ""
    for line in tree.splitlines()[2:]:
        if match := re.match(r"  ([\w/]+)/ ", line):
            folder = match[1]
            named[folder] = set()
        named.setdefault(folder, set()).update(re.findall(r"\b(_?[a-z]\w*)\.py\b", line))
    folders = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("*/__init__.py")}
    assert named.keys() - {""} == folders - {"."}
    for folder in named.keys() - {""}:
        there = {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__"}
        assert named[folder] == there, folder
    assert named[""] == {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}


def test_paths_that_documents_name_exist():
    documents = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "benchmarks/README.md",
    ]
    for document in documents:
        text = document.read_text()
        for name in re.findall(r"\b(?:unet_jax|tests|benchmarks|scripts|docs)/[\w/.*-]+\w", text):
            if name.startswith("unet_jax/") and "." not in name.rsplit("/", 1)[-1]:
                continue  # a folder, or the cache's
            assert list(ROOT.glob(name)), f"{document.name} names {name}"
        for name in re.findall(r"`(unet_jax(?:\.\w+)+)`", text):
            assert pkgutil.resolve_name(name), f"{document.name} names {name}"


def test_the_documented_settings_that_may_change_are_those_that_may():
    text = (ROOT / "docs" / "architecture.md").read_text()
    paragraph = text[text.index("**What may change when a run continues.**") :].split("\n\n")[0]
    documented = set(re.findall(r"`((?:data|model|train|optim|loss|augment)\.\w+)`", paragraph))
    facts = {name: field.metadata for name, _, field, _ in iterate_settings(Config())}
    assert documented == {name for name, f in facts.items() if f.get("may_change") or f.get("adjustable")}
    before, _, after = paragraph.partition("(`adjustable`)")
    assert all(
        f"`{name}`" in (after if f.get("adjustable") else before) for name, f in facts.items() if f.get("adjustable")
    )


# Openings without a head noun, and third persons: a docstring begins with a verb ("Return") or a noun phrase.
BAD_OPENINGS = set(
    re.findall(
        r"\w+",
        """
        Of As What Where By Who How When Whether Which Why From To In On With Without Because If While
        Between Is Are Gives Returns Reads Writes Raises Makes Runs Computes Says Loads Puts Drops Sets Adds
        Builds Waits Stops Starts Trains Counts Draws Keeps Shows Fetches Compiles Finds Checks Converts
        Expands Prints
        """,
    )
)


def docstrings():
    """Every docstring, and every string below a field or a constant, with its place."""
    for path in modules():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if not isinstance(body, list):
                continue
            for statement in body:
                value = getattr(statement, "value", None)
                is_text = isinstance(statement, ast.Expr) and isinstance(value, ast.Constant)
                if is_text and isinstance(value.value, str):
                    yield f"{path.relative_to(ROOT)}:{statement.lineno}", value.value


def test_docstrings_open_with_a_verb_or_a_noun_phrase():
    bad = []
    for place, text in docstrings():
        first = re.match(r"[A-Za-z']+", text.strip())
        if first and first[0] in BAD_OPENINGS:
            bad.append(f"{place}: {text.strip().splitlines()[0][:80]}")
    assert not bad, "\n".join(bad)


def test_settings_have_a_docstring_each():
    """`--help` prints them."""
    for path in (PACKAGE / "config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Processes"))):
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and node.name != "Config":
                    assert isinstance(after, ast.Expr), f"{path.name}: {node.name}.{field.target.id}"


def test_public_functions_have_an_example():
    import unet_jax

    for name in set(unet_jax.__all__) - {"PRESETS", "Config", "Run"}:
        assert ">>>" in (getattr(unet_jax, name).__doc__ or ""), name
    assert dataclasses.is_dataclass(Config)
