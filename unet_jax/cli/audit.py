"""The command `unet-jax audit`: parse the options, look through a data set, print the findings, write their page."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro
from etils import epath

from unet_jax._files import replace_text
from unet_jax.cli.options import check_root
from unet_jax.config import DataConfig
from unet_jax.config.placeholders import File
from unet_jax.config.settings import check_used

if TYPE_CHECKING:
    from rich.table import Table

    from unet_jax.report.findings import Findings

NOT_TRAINABLE = 1
"""Exit status if the data set was looked through, and cannot be trained on."""


@dataclasses.dataclass(frozen=True)
class _Audit:
    """Look through a data set as training does before its first step, without training.

    The exit status is 0 if the data set can be trained on, and 1 if not.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    page: File = "audit.html"
    """HTML file to write, which needs no other file: pictures, gray levels, sizes, copies, everything refused by name.
    Empty: none."""


def audit(args: Sequence[str]) -> None:
    """Run `unet-jax audit`."""
    options = tyro.cli(_Audit, args=args, prog="unet-jax audit", config=(tyro.conf.FlagCreatePairsOff,))
    check_used(options, {})
    check_root(options.data.root)
    from unet_jax.report.audit_page import make_page
    from unet_jax.report.audit_text import overview
    from unet_jax.report.display import Display, print_table
    from unet_jax.report.findings import look_through

    page = epath.Path(options.page)
    if options.page:
        page.parent.mkdir(parents=True, exist_ok=True)  # an error before the work instead of after it
    findings = look_through(options.data, Display())
    if findings.audit.ids:
        for line in overview(findings.audit, findings.splits):
            print(line)
        print_table(_table(findings))
    for line in findings.remarks:
        print(line)
    if options.page:
        replace_text(page, make_page(findings))
        print(f"page: {page}")
    for problem in findings.problems:
        print(problem, file=sys.stderr)
    if findings.problems:
        print("cannot be trained on, for the reasons above")
        sys.exit(NOT_TRAINABLE)
    print("can be trained on")
    print(f"next: unet-jax train default {shlex.join(_of_data(args))} --out RUN")


def _of_data(args: Sequence[str]) -> list[str]:
    """Return the arguments without those of the page."""
    is_page = [arg == "--page" or arg.startswith("--page=") for arg in args]
    follows = [False, *(arg == "--page" for arg in args)]
    return [arg for arg, its, after in zip(args, is_page, follows, strict=False) if not its and not after]


def _table(findings: "Findings") -> "Table":
    """Return a table with one row per class and split."""
    from rich.markup import escape
    from rich.table import Table

    from unet_jax.report.audit_text import percent

    size = findings.audit.seen_at
    table = Table()
    annotated = ("annotated",) if findings.audit.is_partial else ()
    titles = ("class", "split", "images", "with the class", f"at {size}", "pixels", *annotated, "objects")
    for title in (*titles, f"vanish at {size}"):
        table.add_column(title, justify="left" if title in ("class", "split") else "right")
    for k, name in enumerate(findings.audit.class_names):
        for split, facts in findings.audit.splits.items():
            table.add_row(
                escape(name),
                split,
                str(facts.num_images),
                str(facts.num_with[k]),
                str(facts.num_seen[k]),
                percent(facts.prevalence[k]),
                *(percent(facts.annotated[k]) for _ in annotated),
                str(facts.num_objects[k]),
                str(facts.num_vanished[k]),
                end_section=split == list(findings.audit.splits)[-1],
            )
    return table
