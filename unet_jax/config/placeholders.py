"""Types of settings that are text, with the placeholder that `--help` prints: --data.root DIR says more than STR."""

from typing import Annotated

import tyro

Dir = Annotated[str, tyro.conf.arg(metavar="DIR")]
OptionalDir = Annotated[str | None, tyro.conf.arg(metavar="DIR")]
File = Annotated[str, tyro.conf.arg(metavar="FILE")]
OptionalFile = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Files = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE...")]
RunDir = Annotated[str, tyro.conf.arg(metavar="RUN")]
Regex = Annotated[str, tyro.conf.arg(metavar="REGEX")]
Pattern = Annotated[str, tyro.conf.arg(metavar="PATTERN")]
Patterns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATTERN...")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")]
Values = Annotated[tuple[str, ...], tyro.conf.arg(metavar="VALUE...")]
Renamings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="OLD=NEW...")]
Address = Annotated[str, tyro.conf.arg(metavar="HOST:PORT")]
Functions = Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:FUNCTION...")]
