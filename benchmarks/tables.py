"""Writer of the tables in benchmarks/README.md, from results/*.json: `python benchmarks/tables.py`.

A marker `<!-- NAME.json -->` on a line of its own begins a table, and `<!-- end -->` ends it. The text between the two
is replaced.
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

# For each benchmark: heading of each column, and the format of its cells. A cell is empty if its row lacks the value.
COLUMNS: dict[str, dict[str, str]] = {
    "peers": {
        "training step": "{variant}",
        "median s per image": "{s_per_image:.3f}",
        "time relative to first row": "{ratio:.2f}",
        "fastest step relative to first row": "{ratio_of_fastest:.2f}",
        "processor ms a step": "{processor_ms:.0f}",
        "share of the machine's FLOP/s": "{of_flops:.0%}",
        "logit difference": "{logits_apart:.0e}",
    },
    "step": {
        "variant": "{variant}",
        "step": "{step}",
        "median ms": "{median_ms:.1f}",
        "p95 ms": "{p95_ms:.1f}",
        "images/s": "{images_per_s:.2f}",
        "share of FLOP/s": "{of_flops:.0%}",
        "share of bytes/s": "{of_bytes:.0%}",
        "compile s": "{compile_s:.1f}",
    },
    "packing": {
        "packing": "{packing}",
        "median ms": "{median_ms:.1f}",
        "relative to first row": "{ratio:.2f}",
        "fastest relative to first row": "{ratio_of_fastest:.2f}",
        "compile s": "{compile_s:.1f}",
    },
    "memory": {
        "variant": "{variant}",
        "median ms": "{median_ms:.1f}",
        "relative to first row": "{ratio:.2f}",
        "temporary bytes": "{temporary_bytes}",
    },
    "convolution": {
        "layer": "{layer}",
        "method": "{way}",
        "median ms": "{median_ms:.1f}",
        "relative to the layer's first method": "{ratio:.2f}",
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
        "relative to first row": "{ratio:.2f}",
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
        "cold, relative to first row": "{cold_ratio:.2f}",
        "cached s": "{cached_s:.1f}",
        "cached, relative to first row": "{cached_ratio:.2f}",
    },
    "input": {
        "loader": "{name}",
        "images/s": "{images_per_s:.0f}",
        "processor ms per image": "{cpu_ms:.1f}",
        "rate relative to the Keras original": "{rate_to_seed:.2f}",
    },
    "depth": {
        "variant": "{name}",
        "images/s": "{images_per_s:.0f}",
        "compared with": "{compared_with}",
        "ratio of rates": "{ratio:.2f}",
        "processor ms per image": "{cpu_ms:.1f}",
        "ratio of rates by processor time": "{cpu_rate_ratio:.2f}",
    },
    "end to end": {
        "input": "{name}",
        "step s": "{step_s:.3f}",
        "share of the pure step's rate": "{fraction_median:.2f}",
        "share of time waiting": "{wait_share:.1%}",
    },
}


def table(report: Mapping[str, Any]) -> str:
    """Return a report as Markdown: its options, device and date, the table, and the variants that were left out."""
    columns, results = COLUMNS[report["benchmark"]], report["results"]
    rows = [{"name": name, **row} for name, row in results.items()] if isinstance(results, dict) else results
    lines = [_source(report), "", _line(columns), _line("---" for _ in columns)]
    lines += [_line(_cell(form, row) for form in columns.values()) for row in rows]
    for name, why in {**report.get("skipped", {}), **report.get("failed", {})}.items():
        lines += ["", f"Left out: {name} ({why})."]
    for name, value in report.get("exponents", {}).items():
        axis, _, quantity = name.partition(": ")
        lines += ["", f"{quantity} grows with the {axis} to the power {value:.2f}."] if value is not None else []
    return "\n".join(lines)


def _source(report: Mapping[str, Any]) -> str:
    wanted = ("jax", "torch", "keras", "albumentations")
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in wanted if report["versions"].get(name))
    options, told = report["options"], []
    for name in ("preset", "image_size", "batch_size", "dtype"):
        value = options.get(name)
        if isinstance(value, list):
            one_size = name == "image_size" and all(isinstance(side, int) for side in value)
            value = ("x" if one_size else ", ").join(map(str, value))  # height x width
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
    """Return the text with every marked table replaced; `read` returns the report of a file name."""
    return _MARKED.sub(lambda match: f"{match[1]}\n{table(read(match[2]))}\n\n{match[3]}", text)


def read_result(name: str) -> Mapping[str, Any]:
    """Read a report from the folder results/."""
    return json.loads((FOLDER / "results" / name).read_text())


def main(arguments: Sequence[str]) -> None:
    """Print the tables of the given report files; without arguments, replace those in the README."""
    for name in arguments:
        print(table(json.loads(pathlib.Path(name).read_text())), end="\n\n")
    if not arguments:
        README.write_text(filled(README.read_text(), read_result))


if __name__ == "__main__":
    main(sys.argv[1:])
