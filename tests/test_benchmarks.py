"""Every benchmark runs in small; the README's tables are what the script makes of the results; peers are named."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from export_runs import random_run, save_run
from helpers import environment

from unet_jax._formulations import FORMULATIONS
from unet_jax.data.images.format import RGB8

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))  # where scripts find their neighbours

measure, network, tables = (importlib.import_module(name) for name in ("measure", "network", "tables"))

SMALL = network.Network((2, 4), 4, 2)
TINY = ("--widths", "2", "4", "--center-width", "4", "--image-size", "16", "--num-rounds", "1")


RECTANGLE = ("--image-size", "16", "32")


def run(script, *arguments, **variables):
    """What the last line says."""
    own = environment(**{"PYTHONPATH": str(FOLDER.parent), **variables})
    done = subprocess.run([sys.executable, FOLDER / script, *arguments], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_readme_has_the_tables_that_the_script_makes():
    text = (FOLDER / "README.md").read_text()
    assert tables.filled(text, tables.read_result) == text, "run `python benchmarks/tables.py`"
    assert re.findall(r"<!-- ([\w.]+\.json) -->\n[^|<]*\|", text), "no table is in it"


def test_results_say_where_and_when():
    for file in (FOLDER / "results").glob("*.json"):
        report = json.loads(file.read_text())
        assert {"benchmark", "date", "versions", "options", "results"} <= set(report), file.name
        assert "device" in report or "compiler" in report, file.name


@pytest.mark.slow  # five exports, each with its own programs
def test_exports_are_timed(tmp_path):
    save_run(random_run(RGB8), epath.Path(tmp_path / "run"))
    report = run("bench_export.py", str(tmp_path / "run"), "--image-sizes", "16", "--num-rounds", "1")
    assert {row["runtime"] for row in report["results"]} >= {"jitted step", "onnxruntime", "StableHLO"}
    assert report["file_bytes"]["onnx, float16"] < report["file_bytes"]["onnxruntime"]


def test_a_table_by_hand():
    report = {
        "benchmark": "losses",
        "device": "a chip",
        "machine": "m",
        "driver": "7.1",
        "versions": {"jax": "1"},
        "date": "2026-01-02",
        "commit": "abc",
        "options": {"image_size": [8, 16], "losses": ("x",)},
        "results": [{"loss": "bce", "median_ms": 1.25, "ratio": 2.0}],
        "failed": {"focal": "too large"},
    }
    assert tables.table(report).splitlines() == [
        "image_size 8x16; a chip, driver 7.1 (m); jax 1; 2026-01-02, commit abc.",
        "",
        "| loss | median ms | relative to first row | compile s |",
        "| --- | --- | --- | --- |",
        "| bce | 1.2 | 2.00 |  |",
        "",
        "Left out: focal (too large).",
    ]


def test_variants_take_turns_and_warm_up_is_not_counted(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def step(name, seconds):
        def take():
            calls.append(name)
            now[0] += 100.0 if calls.count(name) == 1 else seconds

        return take

    times = measure.time_in_turns({"a": step("a", 1.0), "b": step("b", 3.0)}, 4)
    assert [sorted(calls[i : i + 2]) for i in range(0, 10, 2)] == [["a", "b"]] * 5
    assert times == {"a": [1.0] * 4, "b": [3.0] * 4}
    assert measure.summary(times["b"], times["a"])["ratio"] == 3.0
    assert measure.summary([1.0, 9.0, 2.0], [1.0, 3.0, 1.0]) == {
        "median_ms": 2000.0,
        "p95_ms": pytest.approx(8300.0),
        "fastest_ms": 1000.0,
        "ratio": 2.0,  # of 1, 3, 2: of the same round
        "ratio_of_fastest": 1.0,
        "num_rounds": 3,
    }


def test_the_work_of_a_network_by_hand():
    one = network.Network((2,), 4, 1, 1, 1)  # 3->2, 2->4 at half the size, 6->2, head 2->1
    per_pixel = 9 * (3 * 2 + 2 * 4 / 4 + 6 * 2) + 2
    assert network.forward_flops(one, 8) == 2 * 64 * per_pixel
    assert network.training_flops(one, 8) == 3 * 2 * 64 * per_pixel - 2 * 64 * 9 * 3 * 2
    assert network.num_parameters(network.Network()) == 34_623_090  # as Keras counts the original's
    assert sum(a.size for a in network.random_weights(one)) == network.num_parameters(one) + 2 * (2 + 4 + 2)


@pytest.mark.slow  # the way a benchmark ends is in test_step
def test_missing_peers_are_named(tmp_path):
    """A `torch` that cannot be imported, as where it is not installed."""
    for name in ("torch", "keras"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name={name!r})\n")
    path = f"{tmp_path}{os.pathsep}{FOLDER.parent}"
    report = run("bench_peers.py", *TINY, "--small-ceilings", "--batch-size", "1", PYTHONPATH=path)
    assert [row["variant"] for row in report["results"]] == ["unet_jax", "textbook JAX"]
    missing = {"PyTorch": "torch", "PyTorch compiled": "torch", "Keras on JAX": "keras", "Keras on PyTorch": "keras"}
    assert report["skipped"] == {variant: f"not installed: {name}" for variant, name in missing.items()}
    ours, textbook = report["results"]
    assert ours["num_parameters"] == textbook["num_parameters"] == network.num_parameters(SMALL)
    assert textbook["logits_apart"] < report["tolerance"] == 1e-4
    np.testing.assert_allclose(ours["losses"], textbook["losses"], rtol=1e-5)


def test_a_program_that_measured_nothing_fails():
    measure = importlib.import_module("measure")
    with pytest.raises(SystemExit, match=r"nothing could be measured.*why"):
        measure.finish({"results": [], "failed": {"a": "why"}}, "")


def test_memory_in_huge_pages_is_asked_for_by_name():
    peer = importlib.import_module("peer")
    assert peer.environment_of("unet_jax packing 2,2, huge pages")["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert peer.environment_of("Keras on JAX") == {"KERAS_BACKEND": "jax", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}


def test_another_network_is_refused(monkeypatch):
    peers = importlib.import_module("bench_peers")
    right = {"num_parameters": network.num_parameters(SMALL), "losses": [1.0, 0.9]}
    peers.same({"a": right, "b": {**right, "logits_apart": 9e-5}}, SMALL, 1e-4)
    for wrong in ({"num_parameters": 7}, {"logits_apart": 2e-4}, {"losses": [1.0, 0.8]}):
        with pytest.raises(SystemExit, match="not the same network:\nb"):
            peers.same({"a": right, "b": {**right, **wrong}}, SMALL, 1e-4)


def test_step():
    arguments = ("--preset", "small", "--image-size", "16", "--batch-size", "1", "2", "--num-rounds", "1")
    report = run("bench_step.py", *arguments, "--small-ceilings", "--kinds", "predict")
    done = [(row["variant"], row["step"]) for row in report["results"]]
    assert done == [(f"small, batch_size {count}", "predict") for count in (1, 2)]
    assert all(row["flops_per_s_per_device"] > 0 and row["of_flops"] > 0 for row in report["results"])
    assert not report["failed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("bench_step.py", ("--preset", "small", "--image-size", "16", "--batch-size", "2", "--small-ceilings")),
        ("bench_packing.py", (*TINY, *RECTANGLE, "--batch-size", "1", "--packing", "textbook", "none", "1x2")),
        ("bench_memory.py", (*RECTANGLE, "--batch-size", "2", "--remat", "none", "--accumulation", "2")),
        ("bench_losses.py", ("--preset", "small", *RECTANGLE, "--batch-size", "2", "--losses", "", "focal")),
        ("bench_convolution.py", ("--layers", "4x8x40", "--joined", "8x2", "--num-rounds", "1")),
        ("bench_kernel_gradient.py", ("--layers", "8x2x3", "16x6x2", "--batch-size", "2", "--num-rounds", "1")),
        ("bench_scaling.py", ("--image-sizes", "16", "32", "--batch-sizes", "1", "--classes", "1", "--depths", "2",
                              "--preset", "small", *RECTANGLE, "--num-rounds", "2")),
        ("bench_compile_time.py", (*TINY, *RECTANGLE, "--variants", "unet_jax", "textbook JAX")),
        ("bench_end_to_end.py", ("--preset", "small", *RECTANGLE, "--batch-size", "2", "--num-images", "4",
                                 "--num-rounds", "1", "--num-steps", "1", "--cache", "memory", "--where", "host")),
        ("bench_depth.py", ("--num-images", "2", "--image-size", "64", "96", "--batch-size", "2", "--seconds", "0.1",
                            "--num-rounds", "1")),
        ("bench_input.py", ("--num-images", "4", "--image-size", "128", "256", "--batch-size", "2",
                            "--num-threads", "1", "--seconds", "0.1", "--num-rounds", "1")),
    ],
)  # fmt: skip
def test_in_small(script, arguments, tmp_path):
    saved = tmp_path / "report.json"
    report = run(script, *arguments, "--save", str(saved))
    assert report["results"] and not report.get("failed")
    assert json.loads(saved.read_text()) == report
    assert tables.table(report).count("\n|") == 2 + len(report["results"])


@pytest.mark.slow
def test_prediction_in_small(tmp_path):
    saved = tmp_path / "report.json"
    size = ("--size", "40", "72", "--tile", "32", "--widths", "4", "8")
    report = run("bench_predict.py", *size, "--num-rounds", "1", "--d4", "--save", str(saved))
    assert {"step", "command", "loop", "D4", "8 calls"} <= set(report["results"]) and "loop" not in report["failed"]
    assert json.loads(saved.read_text()) == report


@pytest.mark.slow
def test_the_gpu_command_keeps_what_is_done(tmp_path):
    """Without PYTHONPATH; a second call finds everything done."""
    out = tmp_path / "gpu.json"
    options = ("--small", "--minutes", "20", "--out", str(out), "--cache", str(tmp_path / "cache"))
    report = run("gpu.py", *options, "--only", "profile", "losses", "end", PYTHONPATH="")
    assert report["pieces"] == {"profile": "done", "losses": "done", "end_to_end": "done"}
    kept = json.loads(out.read_text())
    assert [row["variant"] for row in kept["results"] if row["piece"] == "losses"][:2] == ["4 levels", "focal"]
    assert all(row["ms"] > 0 for row in kept["results"]) and kept["results"][0]["top"][0]["ms"] > 0
    run("gpu.py", *options, "--only", "losses")
    assert json.loads(out.read_text())["results"] == kept["results"]


WORKER = """
import json, os, sys, time
sys.path.insert(0, {folder!r})
from gpu_worker import end_with_parent

end_with_parent()
say = lambda **message: print(json.dumps(message), flush=True)
say(facts={{"device": os.environ.get("CHIP", "a chip"), "versions": {{"jax": "1"}}, "pid": os.getpid()}})
for line in sys.stdin:
    for variant in json.loads(line)["variants"]:
        for program in variant["programs"]:
            time.sleep(variant["sleep_s"].get(program, 0))
            if variant["name"] == "wrong":
                sys.exit("it went wrong")
            say(row={{"variant": variant["name"], "program": program, "ms": 1.0}})
        say(finished={{"variant": variant["name"]}})
    say(done=True)
"""


@pytest.fixture
def gpu_worker(tmp_path):
    """A script that answers like `gpu_worker.py`, and a function that makes a piece of it."""
    gpu = importlib.import_module("gpu")
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(folder=str(FOLDER)))

    def piece(name, limit_s, **variants):
        both = {"kind": "steps", "programs": ["train", "predict"]}
        made = [{"name": n, **both, "sleep_s": seconds} for n, seconds in variants.items()]
        return gpu.Piece(name, str(script), tuple(made), limit_s)

    return gpu, piece


def test_a_piece_that_is_late_or_fails_keeps_what_it_has_and_stops_no_other(gpu_worker, tmp_path, monkeypatch):
    gpu, piece = gpu_worker
    slow = piece("slow", 3.0, first={}, second={"predict": 60.0}, third={})
    pieces = [slow, piece("bad", 60.0, good={}, wrong={}), piece("last", 60.0, only={})]
    results = gpu.Results(tmp_path / "out.json", {"code": "abc"})
    outcomes = gpu.run(gpu.Options(), pieces, results, tmp_path)
    assert outcomes == {"slow": "stopped after 3 s", "bad": "failed: its process ended with status 1", "last": "done"}
    kept = json.loads((tmp_path / "out.json").read_text())
    measured = [(row["piece"], row["variant"], row["program"]) for row in kept["results"]]
    of_slow = [("slow", "first", "train"), ("slow", "first", "predict"), ("slow", "second", "train")]
    assert measured[:3] == of_slow and len(measured) == 3 + 2 + 2
    assert "it went wrong" in kept["pieces"]["bad"]["log"] and kept["device"] == "a chip"
    # Another call takes up what is left; with other code, everything.
    for code, left in (("abc", {"second": ["predict"], "third": ["train", "predict"]}), ("new", 3)):
        again = gpu.Results(tmp_path / "out.json", {"code": code})
        again.begin(slow.worker, {"device": "a chip", "versions": {"jax": "1"}, "pid": 0})
        variants = again.left(slow)
        assert left == (len(variants) if code == "new" else {v["name"]: v["programs"] for v in variants})
    monkeypatch.setenv("CHIP", "cpu")
    assert "finds no GPU" in gpu.run(gpu.Options(), [slow], results, tmp_path)["slow"]


def test_killing_the_gpu_command_ends_its_worker(gpu_worker, tmp_path):
    worker = gpu_worker[1]("any", 1.0, only={}).worker
    driver = f"""
import pathlib, sys, time
sys.path.insert(0, {str(FOLDER)!r})
import gpu, os
worker = gpu.Worker({worker!r}, dict(os.environ), pathlib.Path({str(tmp_path / "log")!r}))
print(worker.next_message(time.monotonic() + 60.0)["facts"]["pid"], flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()
        process.wait()
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                break
            time.sleep(0.05)
        else:
            pytest.fail("the worker still runs")


def test_every_formulation_of_gpus_is_left_out_once():
    assert set(importlib.import_module("gpu_pieces").FORMULATIONS) == FORMULATIONS["gpu"]


def test_another_network_in_pytorch_is_named():
    table = importlib.import_module("gpu_table")
    ours = {"piece": "seed", "variant": "unet_jax, batch 8", "program": "train", "images_per_s": 600.0}
    ours["losses"] = [1.0, 0.9]
    theirs = {**ours, "piece": "seed_torch", "variant": "PyTorch, batch 8", "images_per_s": 300.0}
    theirs["losses"] = [1.01, 0.91]
    rates = "unet_jax, batch 8: 600 images/s; PyTorch, batch 8: 300 images/s"
    assert table.summary({"results": [ours, theirs]}) == [f"seed, train: 2.00 times the best of PyTorch ({rates})"]
    wrong = {**theirs, "losses": [1.01, 0.99]}
    assert any(line.startswith("NOT THE SAME: losses") for line in table.summary({"results": [ours, wrong]}))
