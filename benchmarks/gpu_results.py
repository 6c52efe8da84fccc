"""The one file of results of `gpu.py`: rows, what they were measured with (sessions), and the outcome of each piece."""

import json
import os
import pathlib
from typing import Any

from gpu_pieces import Piece, Variant

SAME = ("worker", "device", "driver", "versions", "code", "small")
"""Facts of a session that decide whether a row need not be measured again."""


class Results:
    """File of results, which is written again, whole, after every row.

    Args:
      path: the file. If it exists, its rows are kept.
      common: facts of this call: date, commit, digest of the code, machine, driver, options.
      again: measure what the file already has.
    """

    def __init__(self, path: pathlib.Path, common: dict[str, Any], *, again: bool = False):
        self.path, self._common, self._again = path, common, again
        self.report: dict[str, Any] = {"sessions": [], "results": [], "failed": {}, "finished": [], "pieces": {}}
        if path.exists():
            self.report |= json.loads(path.read_text())
        self._session = -1

    @property
    def small(self) -> bool:
        """True if sizes are tiny, which a CPU can measure too."""
        return bool(self._common.get("small"))

    def begin(self, worker: str, device: dict[str, Any]) -> None:
        """Begin to write rows of a worker on a device."""
        session = {**self._common, "worker": worker, **device}
        same = [i for i, other in enumerate(self.report["sessions"]) if _same(other) == _same(session)]
        if not same:
            self.report["sessions"].append(session)
        self._session = same[-1] if same else len(self.report["sessions"]) - 1
        versions = {**self.report.get("versions", {}), **device.get("versions", {})}
        self.report = {"benchmark": "gpu", **self.report, **self._common, **device, "versions": versions}

    def left(self, piece: Piece) -> list[Variant]:
        """Return the variants of a piece that are not finished, each with the programs that are left of it."""
        if self._again:
            return list(piece.variants)
        left = []
        for variant in piece.variants:
            if [piece.name, variant["name"], self._session] in self.report["finished"]:
                continue
            done = {row["program"] for row in self._rows(piece.name, variant["name"])}
            if variant["kind"] == "steps":
                variant = {**variant, "programs": [p for p in variant["programs"] if p not in done]}
            left.append(variant)
        return left

    def _rows(self, piece: str, variant: str) -> list[dict[str, Any]]:
        named = {"piece": piece, "variant": variant, "session": self._session}
        return [row for row in self.report["results"] if named.items() <= row.items()]

    def add(self, piece: str, kind: str, values: dict[str, Any]) -> None:
        """Keep what a worker says: a `row`, that a variant `failed`, or that it is `finished`."""
        name = values["variant"]
        match kind:
            case "row":
                old = [row for row in self._rows(piece, name) if row["program"] == values["program"]]
                self.report["results"] = [row for row in self.report["results"] if row not in old]
                self.report["results"].append({"piece": piece, **values, "session": self._session})
                self.report["failed"].pop(f"{piece}: {name}", None)
            case "failed":
                self.report["failed"][f"{piece}: {name}"] = values["why"]
            case "finished" if [piece, name, self._session] not in self.report["finished"]:
                self.report["finished"].append([piece, name, self._session])
        self._write()

    def close(self, piece: str, outcome: str, seconds: float, log: str) -> None:
        """Keep the outcome of a piece, with the end of what its worker said on stderr if something went wrong."""
        said = {"log": log} if log else {}
        self.report["pieces"][piece] = {"outcome": outcome, "seconds": round(seconds, 1), **said}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_text(json.dumps({"benchmark": "gpu", **self._common, **self.report}, indent=1) + "\n")
        os.replace(beside, self.path)


def _same(session: dict[str, Any]) -> dict[str, Any]:
    return {name: session.get(name) for name in SAME}
