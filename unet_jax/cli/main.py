"""The entry point of the command line, which finds a command, runs it, and reports how it ended."""

import errno
import importlib.metadata
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence

from unet_jax._types import InputError, Preempted
from unet_jax.devices.huge_pages import restart_with_huge_pages

_USAGE = """usage: unet-jax COMMAND ...

  synth --out DIR              make a data set of overlapping shapes to try things on
  import-masks FILE... --out DATA [--images DIR]
                               make a data set from annotations: COCO, LabelMe, Label Studio, VIA, QuPath, YOLO, Kaggle
  audit --data.root DIR        look through a data set before training, and write a page of what is found
  folds DIR 5 [--group-key REGEX]
                               write a file of splits for each fold of a cross-validation
  auto --data.root DIR [--minutes 10]
                               show the settings that `train auto` would choose for the data and this machine
  train PRESET --data.root DIR --out RUN
                               train a run, or continue it; presets: auto, {presets}
  evaluate RUN [RUN...] [--data.root DIR] [--split test]
                               score the best checkpoint, or several runs together
  compare RUN RUN [--split test]
                               compare two runs on the same images, image by image
  fold-scores RUN RUN...       score each fold of a cross-validation on the images that were held out from it
  calibrate RUN [--data.root DIR]
                               fit temperatures and thresholds to the split val, and keep them in the run
  predict RUN [RUN...] INPUT... --out DIR
                               write a mask per class and an overlay for each image, of one run or several together
  info RUN                     show what a run holds and how far it has got
  report RUN                   write a page: scores, curves, pictures, settings
  verify RUN|FILE              look whether the files of a run, or an exported file, are as they were written
  study STUDY.toml             train several losses with several seeds on one data set, and compare them
  plan PRESET [--topology v5e:2x2|h100] [--sweep]
                               estimate what a step costs on a TPU or GPU, by its compiler; none is needed
  export RUN --to onnx --out FILE
                               write the network as a file that other programs open
  import-keras FILE --out RUN  make a run from weights of the Keras original
  export-keras RUN --out FILE  write the weights of a run for Keras 3
  doctor                       show devices, versions and caches of this machine, and what a run would use

To use several machines, start the same command on each of them (docs/scaling.md).
`unet-jax COMMAND --help` lists the options of a command. `unet-jax train PRESET --help` lists the settings
that people change first, with their values in the preset, and `--help-all` lists every one.
`unet-jax --version` prints the version."""


# Module and function of each command. A module is imported when its command is used, so that the help above need not
# wait for the import of jax.
_COMMANDS = {
    "synth": "unet_jax.cli.synth:synth",
    "import-masks": "unet_jax.cli.import_masks:import_masks_command",
    "audit": "unet_jax.cli.audit:audit",
    "folds": "unet_jax.cli.folds:folds",
    "fold-scores": "unet_jax.cli.fold_scores:fold_scores",
    "auto": "unet_jax.cli.auto:auto",
    "train": "unet_jax.cli.train:train",
    "evaluate": "unet_jax.cli.evaluate:evaluate",
    "compare": "unet_jax.cli.compare:compare",
    "calibrate": "unet_jax.cli.calibrate:calibrate",
    "predict": "unet_jax.cli.predict:predict",
    "info": "unet_jax.cli.info:info",
    "report": "unet_jax.cli.report:report",
    "verify": "unet_jax.cli.verify:verify",
    "plan": "unet_jax.cli.plan:plan",
    "study": "unet_jax.cli.study:study",
    "import-keras": "unet_jax.cli.keras:import_command",
    "export": "unet_jax.cli.export:export",
    "export-keras": "unet_jax.cli.keras:export_command",
    "doctor": "unet_jax.cli.doctor:doctor",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
      argv: name of the command and its options; by default the arguments of the process.

    Raises:
      SystemExit: the command failed. docs/faults.md lists the exit statuses.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(args, is_process=argv is None)
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
    except BrokenPipeError:  # the reader of standard output, such as `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write goes nowhere
        sys.exit(0)
    except (InputError, OSError) as error:  # OSError: a folder without permission, a bucket that does not answer
        print(f"unet-jax: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as error:
        print(f"unet-jax: there is not enough memory. {error}".rstrip(), file=sys.stderr)
        sys.exit(2)
    except Preempted as stopped:
        print(f"unet-jax: {stopped}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        hint = " The same command continues from the last checkpoint." if args[0] in ("train", "study") else ""
        print(f"\nunet-jax: interrupted.{hint}", file=sys.stderr)
        sys.exit(130)


def _run(args: list[str], *, is_process: bool) -> None:
    """Run the command that the arguments name, or print the help or the version."""
    if args == ["--version"]:
        print(f"unet_jax {importlib.metadata.version('unet_jax')}")
        return
    wants_help = not args or args[0] in ("-h", "--help", "help")
    if is_process and not wants_help:
        restart_with_huge_pages()
        sys.path.append(os.getcwd())  # losses and writers of one's own; at the end, so that it hides no package
    # Imported here, because a restart would throw the imports away.
    from unet_jax.cli.preset import unknown
    from unet_jax.config.presets import PRESETS

    if wants_help:
        print(_USAGE.format(presets=", ".join(PRESETS)))
        return
    if args[0] not in _COMMANDS:
        raise InputError(unknown("command", args[0], list(_COMMANDS)))
    _quiet_libraries()
    pkgutil.resolve_name(_COMMANDS[args[0]])([_with_home(arg) for arg in args[1:]])


def _one_line(error: InputError | OSError) -> str:
    """Return the message of an error, with the remedy for a full disk, and with nothing that controls a terminal."""
    from unet_jax.data.listing import printable_lines

    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = ". Make room there; the same command then continues" if is_full else ""
    return printable_lines(f"{error}{remedy}")


def _with_home(arg: str) -> str:
    """Expand the home folder in arguments such as `~/x` and `--out=~/x`. Shells expand only the first."""
    try:
        arg.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the argument {arg!a} is not UTF-8 text. Rename the file or folder.") from error
    option, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    expanded = os.path.expanduser(value)
    if expanded == value and (value == "~" or value.startswith("~/")):
        raise InputError(
            f"{arg}: there is no home folder (HOME is not set, and the password file does not know this user). Write "
            f"the whole path instead of ~."
        )
    return option + equals + expanded


def _quiet_libraries() -> None:
    """Hide messages of libraries that are less severe than errors."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    import absl.logging

    # Orbax logs each exception with a traceback, of every thread, and raises it: it is said once, by our own message.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("jax").setLevel(logging.ERROR)
