"""The command line: finds the command, runs it, and says how it ended."""

import importlib.metadata
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence

from unet_jax._types import InputError, Preempted
from unet_jax.cli.preset import unknown
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages

_USAGE = """usage: unet-jax COMMAND ...

  synth --out DIR              make a data set of overlapping shapes to try things on
  train PRESET --data.root DIR --out RUN
                               train, or continue, a run; presets: {presets}
  evaluate RUN --data.root DIR [--split test]
                               score the best checkpoint; the last line is JSON
  calibrate RUN --data.root DIR
                               fit probabilities and thresholds to val; kept in the run
  predict RUN INPUT... --out DIR
                               write a mask per class and an overlay for each image
  info RUN                     what a run is and how far it got
  study STUDY.toml             train losses x seeds on one data set and compare them
  plan PRESET [--topology v5e:2x2] [--sweep]
                               what a step costs on a TPU, by its compiler: no TPU is needed
  import-keras FILE --out RUN  a run from weights of the Keras original
  export-keras RUN --out FILE  Keras 3 weights from a run

Several machines: start the same command on each (docs/scaling.md).
`unet-jax COMMAND --help` lists every option; `unet-jax train PRESET --help` every setting with the preset's value."""


# Where each command is. Its module is imported when it is used, so that help need not wait for jax.
_COMMANDS = {
    "synth": "unet_jax.cli.synth:synth",
    "train": "unet_jax.cli.train:train",
    "evaluate": "unet_jax.cli.evaluate:evaluate",
    "calibrate": "unet_jax.cli.calibrate:calibrate",
    "predict": "unet_jax.cli.predict:predict",
    "info": "unet_jax.cli.info:info",
    "plan": "unet_jax.cli.plan:plan",
    "study": "unet_jax.cli.study:study",
    "import-keras": "unet_jax.cli.keras:import_command",
    "export-keras": "unet_jax.cli.keras:export_command",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; docs/faults.md lists how the process can end.

    Args:
      argv: the command and its options; by default those of the process.
    """
    args = [_with_home(arg) for arg in (sys.argv[1:] if argv is None else argv)]
    if args == ["--version"]:
        print(f"unet_jax {importlib.metadata.version('unet_jax')}")
        return
    if not args or args[0] in ("-h", "--help", "help"):
        print(_USAGE.format(presets=", ".join(PRESETS)))
        return
    if argv is None:
        restart_with_huge_pages()
    _quiet_libraries()
    try:
        if args[0] not in _COMMANDS:
            raise InputError(unknown("command", args[0], list(_COMMANDS)))
        pkgutil.resolve_name(_COMMANDS[args[0]])(args[1:])
    except InputError as error:
        print(f"unet-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a place that cannot be written, a full disk, a bucket that does not answer
        print(f"unet-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except Preempted as stopped:
        print(f"unet-jax: {stopped}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        hint = " The same command continues from the last checkpoint." if args[0] in ("train", "study") else ""
        print(f"\nunet-jax: interrupted.{hint}", file=sys.stderr)
        sys.exit(130)


def _with_home(arg: str) -> str:
    """Expand the home folder in `~/x` and in `--out=~/x`; shells do the first only."""
    option, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return option + equals + os.path.expanduser(value)


def _quiet_libraries() -> None:
    """Keep messages of libraries below ERROR off the user's terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("jax").setLevel(logging.ERROR)
