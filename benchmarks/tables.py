"""Writes the tables of benchmarks/README.md from results/*.json, between markers: `python benchmarks/tables.py`.

A marker is `<!-- NAME.json -->` on a line of its own; what stands between it and `<!-- end -->` is replaced.
"""

import json
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).parent
README = FOLDER / "README.md"
_MARKED = re.compile(r"(<!-- ([\w.]+\.json) -->\n).*?(<!-- end -->)", re.S)

# By benchmark: heading of a column, and how a row fills it. A cell whose value a row does not have stays empty.
COLUMNS: dict[str, dict[str, str]] = {
    "peers": {
        "training step": "{variant}",
        "median s per image": "{s_per_image:.3f}",
        "time, of the first": "{ratio:.2f}",
        "of the fastest steps": "{ratio_of_fastest:.2f}",
        "processor ms a step": "{processor_ms:.0f}",
        "of the machine's FLOP/s": "{of_flops:.0%}",
        "logits apart": "{logits_apart:.0e}",
    },
    "step": {
        "variant": "{variant}",
        "step": "{step}",
        "median ms": "{median_ms:.1f}",
        "p95 ms": "{p95_ms:.1f}",
        "images/s": "{images_per_s:.2f}",
        "of FLOP/s": "{of_flops:.0%}",
        "of bytes/s": "{of_bytes:.0%}",
        "compile s": "{compile_s:.1f}",
    },
    "packing": {
        "packing": "{packing}",
        "median ms": "{median_ms:.1f}",
        "of the first": "{ratio:.2f}",
        "of the fastest": "{ratio_of_fastest:.2f}",
        "compile s": "{compile_s:.1f}",
    },
    "memory": {
        "variant": "{variant}",
        "median ms": "{median_ms:.1f}",
        "of the first": "{ratio:.2f}",
        "temporary bytes": "{temporary_bytes}",
    },
    "convolution": {
        "layer": "{layer}",
        "way": "{way}",
        "median ms": "{median_ms:.1f}",
        "of the first": "{ratio:.2f}",
    },
    "kernel gradient": {
        "size x in x out": "{layer}",
        "gradient": "{way}",
        "median ms": "{median_ms:.1f}",
        "processor ms": "{processor_ms:.1f}",
    },
    "losses": {
        "loss": "{loss}",
        "median ms": "{median_ms:.1f}",
        "of the first": "{ratio:.2f}",
        "compile s": "{compile_s:.1f}",
    },
    "scaling": {
        "axis": "{axis}",
        "value": "{value}",
        "median ms": "{median_ms:.1f}",
        "temporary bytes": "{temporary_bytes}",
    },
    "compile time": {
        "start to first step": "{variant}",
        "cold s": "{cold_s:.1f}",
        "of the first": "{cold_ratio:.2f}",
        "cached s": "{cached_s:.1f}",
        "of the first ": "{cached_ratio:.2f}",
    },
    "input": {
        "loader": "{name}",
        "images/s": "{images_per_s:.0f}",
        "processor ms per image": "{cpu_ms:.1f}",
        "of the Keras original's images/s": "{rate_to_seed:.2f}",
    },
    "end to end": {
        "input": "{name}",
        "step s": "{step_s:.3f}",
        "of the pure step's rate": "{fraction_median:.2f}",
        "waiting": "{wait_share:.1%}",
    },
}


def table(report: Mapping[str, Any]) -> str:
    """Markdown: where it comes from, the rows, and what was left out."""
    columns, found = COLUMNS[report["benchmark"]], report["results"]
    rows = [{"name": name, **row} for name, row in found.items()] if isinstance(found, dict) else found
    lines = [_source(report), "", _line(columns), _line("---" for _ in columns)]
    lines += [_line(_cell(form, row) for form in columns.values()) for row in rows]
    for name, why in {**report.get("skipped", {}), **report.get("failed", {})}.items():
        lines += ["", f"Left out: {name} ({why})."]
    for name, value in report.get("exponents", {}).items():
        lines += ["", f"{name} grows with the power {value:.2f}."] if value is not None else []
    return "\n".join(lines)


def _source(report: Mapping[str, Any]) -> str:
    wanted = ("jax", "torch", "keras", "albumentations")
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in wanted if report["versions"].get(name))
    options, told = report["options"], []
    for name in ("preset", "image_size", "batch_size", "dtype"):
        value = options.get(name)
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if isinstance(value, (str, int)):
            told.append(f"{name} {value}")
    driver = f", driver {report['driver']}" if report.get("driver") else ""
    commit = f", commit {report['commit']}" if report.get("commit") else ""
    where = f"{report['device']}{driver} ({report['machine']})"
    return f"{', '.join(told)}; {where}; {versions}; {report['date']}{commit}."


def _cell(form: str, row: Mapping[str, Any]) -> str:
    try:
        return form.format(**row)
    except KeyError:
        return ""


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def filled(text: str, read: Callable[[str], Mapping[str, Any]]) -> str:
    """The text with every marked table made anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{table(read(found[2]))}\n\n{found[3]}", text)


def read_result(name: str) -> Mapping[str, Any]:
    return json.loads((FOLDER / "results" / name).read_text())


def main(arguments: Sequence[str]) -> None:
    """Tables of the files named are printed; without any, the README's are written."""
    for name in arguments:
        print(table(json.loads(pathlib.Path(name).read_text())), end="\n\n")
    if not arguments:
        README.write_text(filled(README.read_text(), read_result))


if __name__ == "__main__":
    main(sys.argv[1:])
