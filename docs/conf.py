"""The documentation as a site: `sphinx-build -W -b html docs site`.

The pages are also read on their own, in the repository. So links to files outside of docs/ are plain text on the site.
"""

import ast
import dataclasses
import importlib.metadata
import inspect
import re
from pathlib import Path

import unet_jax
from unet_jax import PRESETS, Config
from unet_jax.config.dicts import flatten_config

DOCS = Path(__file__).parent

project = "unet_jax"
author = "the authors of unet_jax"
release = importlib.metadata.version("unet_jax")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["plans"]
html_theme = "furo"
html_title = "unet_jax"
html_static_path = ["pictures", "style"]
html_css_files = ["site.css"]
copyright = author
highlight_language = "text"  # of blocks that do not say theirs
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True


def setup(app):
    """Write the generated pages before the build, and make links out of docs/ plain text."""
    app.connect("builder-inited", lambda app: write_generated_pages())
    app.connect("source-read", with_titles)
    app.connect("source-read", without_links_out)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon


def without_links_out(app, name, source):
    """Replace links to files outside of docs/, which the site does not have, by their text."""
    if name == "index":
        source[0] += other_pages(source[0])
    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+[^)]*\)", r"\1", source[0])


def with_titles(app, name, source):
    """Give links that show a file's name, as in the repository, the title of their page or section on the site."""
    source[0] = re.sub(r"\[([\w-]+\.md)\]\((\1[^)]*)\)", r"[](\2)", source[0])


def other_pages(index):
    """Return a table of contents of the pages that the index does not name, so that a new page is on the site."""
    named = set(re.findall(r"^[\w/-]+$", index, flags=re.M)) | {"index"}
    others = [path.stem for path in sorted(DOCS.glob("*.md")) if path.stem not in named]
    return "\n".join(["", "```{toctree}", ":caption: More", ":maxdepth: 1", *others, "```", ""]) if others else ""


def as_restructured_text(app, what, name, subject, options, lines):
    """Turn the docstrings' Markdown into reStructuredText: `code`, and letters that mean something there."""
    text, _, examples = "\n".join(lines).partition("Example:")
    parts = re.split(r"`([^`]+)`", text)
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{' '.join(part.split())}``\\ " for part in parts[1::2]]
    lines[:] = ("".join(parts) + (f"Example:{examples}" if examples else "")).splitlines()


def write_generated_pages():
    """Write the reference of settings from the config's fields, and that of functions from their docstrings."""
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "settings.md").write_text(settings_page())
    (folder / "api.md").write_text(api_page())


def settings_page():
    """Return the page of all settings: meaning, default, value in each preset, and when it is used."""
    lines = [
        "# Settings",
        "",
        "Every setting of a run: as a flag (`--data.image-size 256`), in a TOML file (`--config FILE`), or in Python",
        '(`unet_jax.replace(config, {"data.image_size": 256})`). Presets are shown where they differ from the default.',
    ]
    presets = {name: flatten_config(make()) for name, make in PRESETS.items()}
    lines += section_of(Config, "", presets)
    return "\n".join(lines) + "\n"


def section_of(cls, prefix, presets):
    """Return the lines of one class of settings, and of those inside it."""
    texts, lines, inside = field_texts(cls), [], []
    lines += ["", f"## {prefix.rstrip('.') or 'The run'}", "", inspect.getdoc(cls) or ""]
    for field in dataclasses.fields(cls):
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        if dataclasses.is_dataclass(default):
            inside.append((type(default), f"{prefix}{field.name}."))
            continue
        name = prefix + field.name
        values = ", ".join(f"{preset} `{v[name]!r}`" for preset, v in presets.items() if v[name] != default)
        lines += ["", f"**`{name}`** = `{default!r}`{f' ({values})' if values else ''}", ""]
        lines += [texts.get(field.name, ""), *used_when(field, prefix)]
    for each, its_prefix in inside:
        lines += section_of(each, its_prefix, presets)
    return lines


def used_when(field, prefix):
    """Return a line that says when a setting is used and whether it may change, if there is something to say."""
    facts, parts = field.metadata, []
    for other, values in facts.get("only_if", {}).items():
        parts.append(f"used only if `{prefix}{other}` is {' or '.join(f'`{value}`' for value in values)}")
    for other in facts.get("only_with", ()):
        parts.append(f"used only with `{prefix}{other}`")
    for other in facts.get("not_with", ()):
        parts.append(f"not with `{prefix}{other}`")
    if facts.get("may_change") or facts.get("adjustable"):
        parts.append("may change when a run continues")
    return ["", f"*{'; '.join(parts).capitalize()}.*"] if parts else []


def field_texts(cls):
    """Return the string below each field of a class."""
    (body,) = ast.parse(inspect.getsource(cls)).body
    texts = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[field.target.id] = inspect.cleandoc(after.value.value)
    return texts


def api_page():
    """Return the page of public names."""
    lines = ["# Functions and classes", "", "What `import unet_jax` has; the rest is internal.", ""]
    lines += ["`PRESETS` holds a function per preset, by name: `unet_jax.PRESETS['small']()` is a `Config`.", ""]
    for name in sorted(set(unet_jax.__all__) - {"PRESETS"}):
        kind = "autoclass" if inspect.isclass(getattr(unet_jax, name)) else "autofunction"
        lines += ["```{eval-rst}", f".. {kind}:: unet_jax.{name}", "```", ""]
    lines += ["## Losses", "", "[losses.md](../losses.md) has the table.", ""]
    for name in loss_names():
        lines += ["```{eval-rst}", f".. autofunction:: unet_jax.losses.{name}", "```", ""]
    return "\n".join(lines)


def loss_names():
    """Return the public functions of `unet_jax.losses`."""
    return sorted(n for n, value in vars(unet_jax.losses).items() if inspect.isfunction(value) and n[0] != "_")
