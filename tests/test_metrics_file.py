import json
import math
import zlib

from etils import epath

from unet_jax.report.metrics_file import MetricsFile


def new_file(tmp_path):
    return MetricsFile(epath.Path(tmp_path / "metrics.jsonl"))


def test_rows_come_back_and_a_cut_off_line_does_not(tmp_path):
    file = new_file(tmp_path)
    assert file.read() == []
    file.write({"step": 1, "loss": 0.5})
    file.write({"step": 2, "loss": 0.25})
    with (tmp_path / "metrics.jsonl").open("a") as raw:
        raw.write('{"step": 3, "lo')
    assert file.read() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    with (tmp_path / "metrics.jsonl").open("a") as raw:
        raw.write("\n7\n")
    file.write({"step": 4, "loss": 0.125})  # after a broken line, as when a full disk had room again
    assert [row["step"] for row in file.read()] == [1, 2, 4]


def test_rewind_drops_what_a_resumed_run_writes_again(tmp_path):
    file = new_file(tmp_path)
    for step in range(1, 6):
        file.write({"step": step})
    file.rewind(3)
    assert [row["step"] for row in file.read()] == [1, 2, 3]
    file.rewind(0)
    assert file.read() == []


def test_lines_are_json_even_when_a_number_is_not_finite(tmp_path):
    new_file(tmp_path).write({"step": 1, "loss": math.nan})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda _: 1 / 0)
    assert {name: row[name] for name in ("step", "loss")} == {"step": 1, "loss": "nan"}


def test_a_line_whose_digit_changed_cannot_be_read_and_lines_of_earlier_versions_can(tmp_path):
    file, path = new_file(tmp_path), tmp_path / "metrics.jsonl"
    for step in (1, 2):
        file.write({"step": step, "eval/loss": 0.25})
    line = '{"step": 1, "eval/loss": 0.25}'
    assert path.read_text().splitlines()[0] == f'{line[:-1]}, "crc": "{zlib.crc32(line.encode()):08x}"}}'
    path.write_text(path.read_text().replace("0.25", "0.35", 1))
    assert (file.damaged_lines(), file.read()) == ([1], [{"step": 2, "eval/loss": 0.25}])
    path.write_text(line + "\n")
    assert file.read() == [{"step": 1, "eval/loss": 0.25}]


def test_rows_that_are_not_there_any_more_are_said(tmp_path):
    file = new_file(tmp_path)
    for step in (10, 20):
        file.write({"step": step})
    assert file.rewind(29, 20) == ""
    assert "ends at step 20, but training continues from step 31" in file.rewind(31, 30)
