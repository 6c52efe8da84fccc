"""Estimates of a device's compiler: of this machine's, and of a TPU's where libtpu is installed."""

import dataclasses
import importlib.util
import io
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from rich.console import Console

from unet_jax import InputError, UNet
from unet_jax.cli.main import main
from unet_jax.config import ModelConfig
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.model.architecture import list_convolutions
from unet_jax.plan import estimate as estimate_module
from unet_jax.plan import sweep as sweep_module
from unet_jax.plan.estimate import LABEL, DoesNotFitError, Estimate, estimate
from unet_jax.plan.floor import floor
from unet_jax.plan.show import show, show_sweep, size
from unet_jax.plan.sweep import overrides_of, recommend, sweep
from unet_jax.plan.targets import Chip, Target, local_target, tpu_target

SETTINGS = {
    "model.widths": (4,),
    "model.center_width": 4,
    "model.num_convs_down": 1,
    "model.num_convs_up": 1,
    "data.image_size": 16,
    "train.batch_size": 8,
}
TINY = replace(PRESETS["seed"](), SETTINGS)
FLAGS = [
    word
    for name, value in SETTINGS.items()
    for word in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value]))
]


def stage_names(config):
    """Names of the convolutions in the order in which the network runs them."""
    levels = range(len(config.widths))
    down = [(f"down{level}", f"conv{i}") for level in levels for i in range(config.num_convs_down)]
    center = [("center", f"conv{i}") for i in range(config.num_convs_down)]
    up = [(f"up{level}", f"conv{i}") for level in levels for i in range(config.num_convs_up)]
    return [*down, *center, *up, ("head",)]


def at(tree, names):
    for name in names:
        tree = tree[name]
    return tree


@pytest.mark.parametrize(
    ("config", "num_classes", "image_size"),
    [
        (ModelConfig(widths=(4,), center_width=5, num_convs_down=1, num_convs_up=1), 2, 16),
        (ModelConfig(widths=(3, 7), center_width=2, num_convs_down=1, num_convs_up=3), 1, 8),
        (ModelConfig(), 5, 128),
        (PRESETS["small"]().model, 3, 32),
    ],
)
def test_convolutions_are_those_of_the_network(config, num_classes, image_size):
    """Against the shapes of the kernels and of the convolutions' results, by jax."""
    model = UNet(dataclasses.replace(config, packing="none"), num_classes)
    images = jnp.zeros((1, image_size, image_size, 3))

    def call(key):
        variables = model.init(key, images, False)
        return variables["params"], model.apply(variables, images, False, capture_intermediates=True)[1]

    params, state = jax.eval_shape(call, jax.random.key(0))
    expected = []
    for names in stage_names(config):
        rows, columns, inputs, outputs = at(params, names)["kernel"].shape
        result = at(state["intermediates"], names)["__call__"][0]
        result = result[0] if isinstance(result, tuple) else result  # layers but the output return their bias, too
        assert rows == columns and result.shape == (1, result.shape[2], result.shape[2], outputs)
        index = int(names[1].removeprefix("conv")) if len(names) > 1 else 0
        level = (image_size // result.shape[1]).bit_length() - 1
        expected.append((names[0], index, level, rows, inputs, outputs))
    found = list_convolutions(config, num_classes)
    assert [(c.stage, c.index, c.level, c.kernel_size, c.inputs, c.outputs) for c in found] == expected
    kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    assert len(kernels) == len(expected)


def test_floor_by_hand():
    """Four convolutions: 3 to 4 channels and 8 to 4 at 16x16, 4 to 4 at 8x8, and the 1x1 one, 4 to 2 at 16x16."""
    flops = 2 * (9 * 3 * 4 * 256 + 9 * 4 * 4 * 64 + 9 * 8 * 4 * 256 + 4 * 2 * 256)
    num_bytes = 4 * (4 * 256 + 4 * 64 + 4 * 256 + 2 * 256)
    assert floor(TINY, 2, "train", 1.0, None) == {"flops": 3 * flops, "bytes": 8 * num_bytes}
    assert floor(TINY, 2, "predict", 3.0, None) == {"flops": 3 * flops, "bytes": 3 * 2 * num_bytes}
    in_bfloat16 = replace(TINY, {"model.dtype": "bfloat16"})
    assert floor(in_bfloat16, 2, "predict", 1.0, None)["bytes"] == num_bytes
    moves = Chip(hbm_bytes=1.0, flops_per_s=1e12, bytes_per_s=1e6, clock_hz=1e9)
    found = floor(TINY, 2, "predict", 1.0, moves)  # 2 x 11264 bytes at a million in a second
    assert found["ms"] == pytest.approx(22.528) and found["cycles"] == pytest.approx(22.528e6)
    computes = Chip(hbm_bytes=1.0, flops_per_s=1e6, bytes_per_s=1e12, clock_hz=None)
    found = floor(TINY, 2, "predict", 1.0, computes)
    assert found["ms"] == pytest.approx(225.280) and "cycles" not in found


@pytest.fixture(scope="module")
def target():
    return local_target("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return epath.Path(tmp_path_factory.mktemp("plan")) / "cache"


@pytest.fixture(scope="module")
def found(target, cache):
    """The training step of the tiny network on eight devices."""
    return estimate(TINY, 2, target, cache=cache)


@pytest.fixture
def no_compiler(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise AssertionError("compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)


def test_estimate_on_this_machine(found):
    assert (found.target, found.num_devices, found.images_per_device, found.packing) == ("cpu", 8, 1.0, "1x1")
    assert found.cycles is None and found.fits is None and found.top == [] and found.padding == []
    parameters = (9 * 3 * 4 + 4) + (9 * 4 * 4 + 4) + (9 * 8 * 4 + 4) + (4 * 2 + 2) + 3 * (4 + 4)
    statistics = 3 * (4 + 4)
    # Parameters and RMSprop's squares, statistics, a step of 4 bytes, and one image, its label and its weight.
    state = 4 * (2 * parameters + statistics) + 4
    batch = 16 * 16 * (3 + 2) + 4
    scalars = found.argument_bytes - state - batch  # of the optimizer: its counter and the schedule's factor
    assert scalars in (4, 8)
    assert 0 < found.output_bytes < state / 2  # the new state takes the old one's place
    assert found.temporary_bytes >= 4 * 16 * 16 * 4  # one activation at least
    assert found.total_bytes == found.argument_bytes + found.temporary_bytes + found.output_bytes
    assert found.flops > found.floor["flops"] / 3 and found.bytes_accessed > found.argument_bytes
    (reduced,) = found.collectives
    assert reduced["opcode"] == "all-reduce" and reduced["num_bytes"] >= 4 * (parameters - 3 * 4)  # without the biases
    assert found.compile_s > 0.0 and found.lower_s > 0.0 and found.compiler.startswith("jaxlib ")


def test_the_second_time_nothing_is_compiled(found, target, cache, no_compiler, monkeypatch):
    (file,) = cache.iterdir()  # and no half of a file
    assert file.suffix == ".json"
    content = file.read_text()
    half = file.with_suffix(".123.tmp")
    half.write_text(content[:100])  # what a kill leaves
    assert estimate(TINY, 2, target, cache=cache) == found
    half.unlink()
    assert file.read_text() == content
    for other in ({"model.norm": "none"}, {"optim.learning_rate": 0.5}, {"train.batch_size": 16}):
        with pytest.raises(AssertionError, match="compiled"):
            estimate(replace(TINY, other), 2, target, cache=cache)
    with pytest.raises(AssertionError, match="compiled"):
        estimate(TINY, 2, target)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_of_another_kind")
    with pytest.raises(AssertionError, match="compiled"):
        estimate(TINY, 2, target, cache=cache)


def test_an_estimate_of_another_version_is_not_read(found, target, cache, monkeypatch, no_compiler):
    """Its fields are part of what a file is found by."""
    extended = dataclasses.make_dataclass("Extended", [("news", int, 0)], bases=(Estimate,), frozen=True)
    monkeypatch.setattr(estimate_module, "Estimate", extended)
    with pytest.raises(AssertionError, match="compiled"):
        estimate(TINY, 2, target, cache=cache)


def test_a_kill_while_writing_leaves_no_estimate(found, target, tmp_path, monkeypatch):
    def killed(self, *args):
        raise KeyboardInterrupt

    compiled = jax.jit(lambda x: x + 1.0).lower(jnp.zeros(3)).compile()
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: compiled)
    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        estimate(TINY, 2, target, cache=epath.Path(tmp_path))
    assert not list(tmp_path.glob("*.json"))


def test_prediction_of_this_machine(found, target):
    predicted = estimate(replace(TINY, {"model.norm": "none"}), 2, target, program="predict")
    assert predicted.program == "predict" and predicted.collectives == []
    assert predicted.flops < found.flops and predicted.floor["flops"] == found.floor["flops"] / 3
    assert predicted.output_bytes >= 16 * 16 * 2 * 4  # one image's probabilities


def test_a_batch_that_does_not_divide_is_refused(target):
    with pytest.raises(InputError, match=r"train.batch_size is 3.*--train.batch-size 8"):
        estimate(replace(TINY, {"train.batch_size": 3}), 2, target)


def test_what_the_compiler_says_about_memory_is_one_line(target, monkeypatch):
    page = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 23.92G of "
        "15.75G hbm. Exceeded hbm capacity by 8.17G.\n\nTotal hbm usage >= 24.17G:\n    reserved 258.00M\n"
    )

    def too_much(self):
        raise jax.errors.JaxRuntimeError(page)

    monkeypatch.setattr(jax.stages.Lowered, "compile", too_much)
    with pytest.raises(DoesNotFitError, match=r"needs 23.92G of 15.75G.*--train.batch-size") as error:
        estimate(TINY, 2, target)
    assert "\n" not in str(error.value)
    page = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        estimate(TINY, 2, target)


def test_targets_that_are_not_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package libtpu.*unet_jax\[tpu\].*--platform cpu"):
        tpu_target("v5e:2x2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for topology in ("v9z:2x2", "v5e", ""):
        with pytest.raises(
            InputError, match=rf"--topology is '{topology}', but must be a TPU as KIND:SHAPE.*v6e:2x2.*h100:8"
        ):
            tpu_target(topology)
    with pytest.raises(InputError, match=r"--platform is 'gpu', but jax finds no such device"):
        local_target("gpu")


ESTIMATE = Estimate(
    target="v5e:2x2",
    num_devices=4,
    program="train",
    images_per_device=8.0,
    packing="4x4",
    cycles=123_400_000,
    flops=4.2e12,
    bytes_accessed=43.9e9,
    argument_bytes=500_000_000,
    temporary_bytes=4_000_000_000,
    output_bytes=12,
    hbm_bytes=17.2e9,
    collectives=[{"opcode": "all-reduce", "count": 3, "num_bytes": 138_000_000}],
    padding=[{"level": 0, "num_bytes": 250_000, "stored_bytes": 1_000_000}],
    top=[{"cycles": 1_234_000, "instruction": "f.1", "operation": "jit(f)/down0/max", "source": "layers.py:9"}],
    kernels={},
    traffic_ms=None,
    floor={"flops": 1e12, "bytes": 1e9, "ms": 21.5, "cycles": 32.1e6},
    compile_s=111.0,
    lower_s=1.0,
    compiler="libtpu 1.2",
)


def drawn(renderable):
    file = io.StringIO()
    Console(file=file, width=110).print(renderable)
    return file.getvalue()


def test_tables():
    said = drawn(show(ESTIMATE))
    wanted = "123.4 million;32.1 million;43.90 GB;all-reduce;138 MB;75%;1.23;1.0%;layers.py:9;down0/max;4.50 GB of"
    for part in (LABEL, "17.20 GB: fits", "21.50 ms", "libtpu 1.2", *wanted.split(";")):
        assert part in said, part
    assert "DOES NOT FIT" in drawn(show(dataclasses.replace(ESTIMATE, temporary_bytes=17_000_000_000)))
    bare = dataclasses.replace(ESTIMATE, cycles=None, hbm_bytes=None, collectives=[], padding=[], top=[])
    said = drawn(show(dataclasses.replace(bare, floor={"flops": 1e12, "bytes": 1e9})))
    assert "cycles" not in said and "fit" not in said
    gpu = dataclasses.replace(
        bare, target="h100", flops=None, traffic_ms=13.1, kernels={"count": 830, "small": 435, "copies": 129},
        top=[{"num_bytes": 439_000_000, "instruction": "f", "operation": "jit(f)/up0/max", "source": "layers.py:9"}],
    )  # fmt: skip
    said = drawn(show(gpu))
    for part in ("13.10 ms", "830; 435 move under 1 MB, 129 copy", "439.00", "1.0%", "kernels that move most"):
        assert part in said, part
    assert "4.200 T" not in said and "FLOPs of the convolutions alone" in said
    variant = {"images_per_device": 8, "packing": "4", "remat": "none"}
    said = drawn(show_sweep([(variant, ESTIMATE), (variant, "does not fit")]))
    assert LABEL in said and "15.43" in said and "5.49" in said and "does not fit" in said  # 123.4 / 8 and 43.9 / 8
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 5e9)] == ["0 B", "999 B", "1 kB", "1.23 MB", "5.00 GB"]


def row(images, packing, **changes):
    variant = {"images_per_device": images, "packing": packing, "remat": "none"}
    return variant, dataclasses.replace(ESTIMATE, images_per_device=float(images), **changes)


def test_recommended_is_the_cheapest_image_that_fits():
    rows = [row(4, "none", cycles=400), row(8, "2", cycles=720), row(8, "none", cycles=796)]
    assert recommend(rows)["packing"] == "2"  # 90 for an image, against 100 and 99.5
    too_much = row(16, "4", cycles=16, temporary_bytes=10**12)
    refused = ({"images_per_device": 32, "packing": "4", "remat": "none"}, "does not fit")
    assert recommend([too_much, refused, *rows])["packing"] == "2"
    with pytest.raises(InputError, match=r"none of the variants fits.*--model.remat full"):
        recommend([too_much, refused])
    # Other compilers give no cycles, and their devices no size of memory.
    rows = [
        row(4, "none", cycles=None, hbm_bytes=None, bytes_accessed=4e9),
        row(8, "2", cycles=None, hbm_bytes=None, bytes_accessed=9e9),
    ]
    assert recommend(rows)["images_per_device"] == 4


def test_micro_batches_are_counted(target, found):
    """Two images on a device, one after the other: twice one, but for what the optimizer does."""
    both = estimate(replace(TINY, {"train.batch_size": 16, "train.accumulation": 2}), 2, target)
    assert both.images_per_device == 2.0
    assert both.flops == pytest.approx(2 * found.flops, rel=0.1)
    # The second image's arguments, and the gradients that are added up.
    assert both.total_bytes < 1.5 * found.total_bytes


@pytest.fixture
def made_up(monkeypatch):
    """Estimates at once: packing halves the cycles, remat adds a tenth, and more than 8 images fit only with it."""

    def fake(config, num_classes, target, *, num_channels, cache):
        images = config.train.batch_size / len(target.devices)
        if images > (8 if config.model.remat == "none" else 16):
            raise DoesNotFitError("no")
        cycles = 1000 * images * (0.5 if config.model.packing == "2" else 1.0)
        cycles *= 1.0 if config.model.remat == "none" else 1.1
        return dataclasses.replace(ESTIMATE, cycles=round(cycles + 100), images_per_device=images)

    monkeypatch.setattr(sweep_module, "estimate", fake)


def test_sweep_computes_more_again_where_less_does_not_fit(made_up):
    seen = []
    rows = sweep(
        TINY,
        2,
        Target("v5e:2x2", "tpu", [None] * 4, None, "libtpu"),
        images_per_device=(4, 8, 16, 32),
        packings=("none", "2"),
        remats=("none", "block", "full"),
        on_variant=seen.append,
    )
    assert [variant for variant, _ in rows] == seen
    tried = {4: ["none"], 8: ["none"], 16: ["none", "block"], 32: ["none", "block", "full"]}
    assert [tuple(v.values()) for v in seen] == [(i, p, r) for i in tried for p in ("none", "2") for r in tried[i]]
    refused = [tuple(v.values())[::2] for v, found in rows if found == "does not fit"]
    assert set(refused) == {(16, "none"), (32, "none"), (32, "block"), (32, "full")}
    best = recommend(rows)
    assert best == {"images_per_device": 8, "packing": "2", "remat": "none"}
    overrides = overrides_of(best, 4)
    assert overrides == {"train.batch_size": 32, "model.packing": "2", "model.remat": "none"}
    assert replace(TINY, overrides).train.batch_size == 32


def test_sweep_tries_all_where_memory_is_not_known(monkeypatch):
    """Other compilers do not say how much there is."""
    bare = dataclasses.replace(ESTIMATE, hbm_bytes=None)
    monkeypatch.setattr(sweep_module, "estimate", lambda *args, **kwargs: bare)
    target = Target("cpu", "cpu", [None], None, "jaxlib")
    rows = sweep(TINY, 2, target, images_per_device=(4, 8), packings=("none",), remats=("none", "conv", "full"))
    assert len(rows) == 6


def call(capsys, *args):
    """What the command prints, as lines."""
    capsys.readouterr()
    main(["plan", *map(str, args)])
    return capsys.readouterr().out.splitlines()


def test_the_command_prints_a_table_and_json(found, cache, tmp_path, capsys, no_compiler):
    """The same program as the fixture's, so it is found in the cache."""
    out = tmp_path / "new" / "plan.json"
    said = call(capsys, "seed", *FLAGS, "--platform", "cpu", "--cache", cache, "--out", out)
    values = json.loads(said[-1])
    assert values == json.loads(out.read_text()) == {"what": LABEL, **dataclasses.asdict(found)}
    assert any("train step on cpu" in line and LABEL in line for line in said)
    again = call(capsys, "seed", *FLAGS, "--train.batch-size", 24, "--images-per-device", 1, "--platform", "cpu",
                 "--cache", cache)  # fmt: skip
    assert json.loads(again[-1]) == values


def test_the_command_recommends_settings_that_it_takes(made_up, tmp_path, capsys, monkeypatch):
    out = tmp_path / "sweep.json"
    said = call(capsys, "seed", *FLAGS, "--platform", "cpu", "--sweep", "--sweep-images", 4, 16, "--sweep-packings",
                "none", "2", "--out", out)  # fmt: skip
    best = {"train.batch_size": 32, "model.packing": "2", "model.remat": "none"}
    assert json.loads(said[-1]) == {"recommended": best}
    (use,) = [line for line in said if line.startswith("use: ")]
    assert use == "use: --train.batch-size 32 --model.packing 2 --model.remat none"
    values = json.loads(out.read_text())
    assert values["what"] == LABEL and values["recommended"] == best and len(values["variants"]) == 6
    assert [v["estimate"] == "does not fit" for v in values["variants"]] == [False, False, True, False, True, False]
    taken = []

    def take(config, *args, **kwargs):
        taken.append(config)
        return ESTIMATE

    monkeypatch.setattr("unet_jax.plan.estimate.estimate", take)
    call(capsys, "seed", *FLAGS, "--platform", "cpu", *use.removeprefix("use: ").split())
    assert taken == [replace(TINY, best)]


def test_help_and_mistakes(capsys):
    assert any("seed" in line for line in call(capsys, "--help"))
    with pytest.raises(SystemExit) as end:
        main(["plan", "seed", "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "--topology" in said and "--sweep-packings" in said
    for args, message in (
        (["sede"], "Did you mean 'seed'"),
        (["seed", "--platform", "gpu"], "--platform is 'gpu'"),
        (["seed", *FLAGS, "--platform", "cpu", "--images-per-device", "1", "--model.packing", "3"], "powers of two"),
        (["seed", "--platform", "cpu", "--train.batch-size", "3"], "train.batch_size is 3"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["plan", *args])
        captured = capsys.readouterr()
        assert end.value.code == 2 and message in captured.err and "Traceback" not in captured.err


TPU_PROGRAM = """
import json, sys
from unet_jax.cli.main import main
for args in json.load(sys.stdin):
    try:
        main(["plan", "seed", *args])
    except SystemExit as end:
        print(json.dumps({"code": end.code}))
"""


def tpu_plans(*several):
    """The last line of each command, as JSON; in a process of its own, because libtpu stays and writes to stderr."""
    pytest.importorskip("libtpu", reason="TPU programs need the package libtpu")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    commands = [[*FLAGS, "--model.dtype", "bfloat16", *map(str, args)] for args in several]
    process = subprocess.run(
        [sys.executable, "-c", TPU_PROGRAM],
        input=json.dumps(commands),
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    found = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert len(found) == len(several), process.stdout
    return found, process.stderr


NO_NORM = ("--model.norm", "none", "--images-per-device")


def test_compiling_for_a_tpu_that_is_not_here(tmp_path):
    cache = ("--cache", tmp_path)
    step = (*NO_NORM, 1, "--model.packing", "none", *cache)
    prediction = (*NO_NORM, 8, "--program", "predict", "--model.widths", 8, "--data.image-size", 32, *cache)
    (one, four, plain, packed, unknown), stderr = tpu_plans(
        ("--topology", "v5e:1x1", *step),
        ("--topology", "v5e:2x2", *step),
        ("--topology", "v5e:1x1", *prediction, "--model.packing", "none"),
        ("--topology", "v5e:1x1", *prediction, "--model.packing", "2"),
        ("--topology", "v5e:7x9", *step),
    )
    assert one["what"] == LABEL and one["compiler"].startswith("libtpu ")
    assert (one["num_devices"], four["num_devices"]) == (1, 4)
    assert one["images_per_device"] == four["images_per_device"] == 1.0
    # The gradients of all kernels at least, of 2 bytes or more.
    assert one["collectives"] == [] and [c["opcode"] for c in four["collectives"]] == ["all-reduce"]
    assert four["collectives"][0]["num_bytes"] >= 2 * (9 * (3 * 4 + 4 * 4 + 8 * 4) + 4 * 2)
    for found in (one, four, plain, packed):
        assert found["cycles"] > found["floor"]["cycles"] > 0
        assert found["hbm_bytes"] == pytest.approx(16 * 2**30, rel=0.01)  # a v5e has 16 GiB
        costs = [row["cycles"] for row in found["top"]]
        assert len(costs) == 10 and costs == sorted(costs, reverse=True) and sum(costs) <= found["cycles"]
        assert found["argument_bytes"] > 0 and found["bytes_accessed"] > found["argument_bytes"]
    assert any(re.fullmatch(r"\w+\.py:[1-9]\d*", row["source"]) for row in one["top"])
    assert {row["level"] for row in one["padding"]} == {0, 1}
    assert all(row["stored_bytes"] >= row["num_bytes"] for row in one["padding"])
    assert packed["cycles"] < plain["cycles"]
    assert unknown == {"code": 2} and "--topology is 'v5e:7x9', which libtpu refuses" in stderr


@pytest.mark.slow
def test_packing_halves_cycles_and_traffic_of_a_training_step(tmp_path):
    """Eight channels fill 8 of 128 lanes; blocks of four pixels, 32."""
    step = (*NO_NORM, 1, "--model.widths", 8, "--data.image-size", 256, "--cache", tmp_path)
    (plain, packed), _ = tpu_plans(
        *(("--topology", "v5e:1x1", *step, "--model.packing", packing) for packing in ("none", "2"))
    )
    for name in ("cycles", "bytes_accessed"):
        assert packed[name] < plain[name] / 2, name
