"""The command `unet-jax report`: write the page of a run."""

import dataclasses
from collections.abc import Sequence

import tyro
from etils import epath

from unet_jax._files import replace_text
from unet_jax.cli.options import RUN
from unet_jax.config.placeholders import File
from unet_jax.runs.folder import check_is_run


@dataclasses.dataclass(frozen=True)
class _Report:
    """Write a page about a run: scores, curves, pictures, settings, time. It needs no other file and no network."""

    run: RUN
    """Run directory. The run may still be training."""
    out: File = ""
    """HTML file to write. By default report.html in the run."""


def report(args: Sequence[str]) -> None:
    """Run `unet-jax report`."""
    options = tyro.cli(_Report, args=args, prog="unet-jax report")
    path = epath.Path(options.run)
    check_is_run(path)
    # Imported here, because it imports jax, and neither help nor a mistake need wait for it.
    from unet_jax.training.report_page import make_page

    out = epath.Path(options.out) if options.out else path / "report.html"
    page = make_page(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, page)
    print(f"wrote {out}")
