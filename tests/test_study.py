"""A small study from file to scores: paired, resumable, refused before anything is touched."""

import base64
import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import jax
import numpy as np
import pandas
import pytest
import submitit
from etils import epath
from helpers import ONE_DEVICE, tiny_config
from rich.console import Console

from unet_jax import InputError, Preempted, load_run, metrics
from unet_jax.cli.main import main
from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.config.dicts import config_differences, replace
from unet_jax.config.predict import PredictConfig
from unet_jax.data.layout import find_layout
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.calibration_file import save_calibration
from unet_jax.inference.evaluate import evaluate_run, select_records
from unet_jax.metrics.calibration import Calibration, fit_calibration, histogram
from unet_jax.runs.info import load_info
from unet_jax.study import launch, tables, workers
from unet_jax.study import run as running
from unet_jax.study.compare import Winner
from unet_jax.study.config import Study, Variant
from unet_jax.study.cost import read_costs
from unet_jax.study.display import GridDisplay
from unet_jax.study.image_tables import write_image_tables
from unet_jax.study.over_sets import combine
from unet_jax.study.over_sets_words import conclusion_over_sets
from unet_jax.study.page import make_page
from unet_jax.study.pairs import draw_pairs, find_pairs
from unet_jax.study.plots import groups_within
from unet_jax.study.report import write_results
from unet_jax.study.results import read_results
from unet_jax.study.run import examples_path, run_studies, run_study, with_split
from unet_jax.study.scores import read_scores, read_table, scores_path
from unet_jax.study.search import Tune
from unet_jax.study.shared_program import SharedPrograms
from unet_jax.study.study_file import load_studies, load_study
from unet_jax.study.words import conclusion
from unet_jax.training.loop import TrainResult
from unet_jax.training.non_finite import NonFiniteLossError

BCE, FOCAL = (Variant(n, LossConfig(terms=(LossTermConfig(n),))) for n in ("bce", "focal"))
BCE_2 = Variant("bce2", LossConfig(terms=(LossTermConfig("bce", 2.0),)))


class Recording(SharedPrograms):
    """Keeps what each run's first step was given."""

    seen: tuple = ()

    def __call__(self, config, num_classes, num_steps):
        program = super().__call__(config, num_classes, num_steps)
        compile_step = program.train_step.compile

        def compile_recording():
            step, first = compile_step(), [True]

            def recorded(state, batch):
                if first.pop() if first else False:
                    Recording.seen += ((config, jax.device_get((state.params, batch))),)
                return step(state, batch)

            return recorded

        program.train_step.compile = compile_recording
        return program


class Stopping(GridDisplay):
    """Presses Ctrl-C in a run."""

    def __init__(self, name, title, done):
        super().__init__(Console(quiet=True))
        self._when = (name, title, str(done))

    def bar_of(self, run, text):
        if (run, *text.split("/")[0].rsplit(" ", 1)) == self._when:
            raise KeyboardInterrupt


def make_study(root, out):
    return Study(str(out), tiny_config(root, checkpoint_every_steps=1), (BCE, BCE_2, FOCAL), (0, 7), "bce")


def quiet():
    return GridDisplay(Console(quiet=True))


@pytest.fixture(scope="module")
def done(synthetic_root, tmp_path_factory):
    """The study, what its runs began with, and how many steps were compiled."""
    study = make_study(synthetic_root, tmp_path_factory.mktemp("study") / "out")
    made = []
    Recording.seen = ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "SharedPrograms", lambda mesh: made.append(Recording(mesh)) or made[-1])
        run_study(study, display=quiet(), mesh=ONE_DEVICE)
    return study, Recording.seen, made[-1].num_compiled


def copy_but(study, out, *missing):
    """The same study in another folder, without the runs `(variant, seed)` that are to be done again.

    Costs and pictures are there: that they are made once all runs are done is checked by the study that is copied.
    """
    again = dataclasses.replace(study, out=str(out))
    for variant, seed in itertools.product(study.variants, study.seeds):
        if (variant, seed) not in missing:
            shutil.copytree(study.run_path(variant, seed), again.run_path(variant, seed))
    shutil.copy(epath.Path(study.out) / "cost.csv", out)
    shutil.copytree(epath.Path(study.out) / "pictures", epath.Path(out) / "pictures")
    return again


def all_files(study):
    return {(v.name, seed): scores_path(study, v, seed).read_text() for v in study.variants for seed in study.seeds}


def test_variants_of_a_seed_begin_with_the_same_weights_and_batch(done):
    _, seen, _ = done
    assert len(seen) == 6 + 3  # after the runs, costs are measured
    firsts = {}
    for config, arrays in seen[:6]:
        expected = firsts.setdefault(config.seed, arrays)
        jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    (params, batch), (other_params, other_batch) = firsts[0], firsts[7]
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, other_params)), strict=True))
    assert (batch.image != other_batch.image).any()


def test_losses_of_one_structure_share_a_step_and_differ_in_results(done):
    study, _, num_compiled = done
    assert num_compiled == 2  # bce with weights 1 and 2; focal
    files = all_files(study)
    assert len(set(files.values())) == 6
    costs = read_costs(study)
    assert costs.keys() == {"bce", "bce2", "focal"} and costs["bce"].relative_time == 1.0
    for cost in costs.values():
        assert cost.step_bytes > 10_000 and cost.step_ms > 0.0


def test_scores_are_those_of_evaluate(done):
    study, _, _ = done
    run = load_run(study.run_path(FOCAL, 7), mesh=ONE_DEVICE)
    _, layout, records = select_records(run, study.config.data, "test")
    table, expected = read_scores(scores_path(study, FOCAL, 7)), evaluate_run(run, layout, records)
    assert table.ids == expected.ids and table.class_names == expected.class_names == ("disk", "square")
    np.testing.assert_array_equal(table.values["dice"], metrics.dice(expected.counts))
    np.testing.assert_array_equal(table.values["iou"], metrics.iou(expected.counts))
    for name in ("brier", "ece", "surface_dice"):
        assert ((table.values[name] >= 0) & (table.values[name] <= 1)).all() and table.values[name].std() > 0


@pytest.mark.parametrize(
    "stop",
    [
        ("bce2 seed 0", "training", 3),
        ("focal seed 0", "scoring test", 2),
        pytest.param(("bce seed 7", "training", 1), marks=pytest.mark.slow),  # another place of the first kind
    ],
)
def test_interrupted_anywhere_it_ends_with_the_same_scores(done, tmp_path, stop):
    study, _, _ = done
    name, _, seed = stop[0].split()
    (variant,) = (v for v in study.variants if v.name == name)
    again = copy_but(study, tmp_path / "again", (variant, int(seed)))
    with pytest.raises(KeyboardInterrupt):
        run_study(again, display=Stopping(*stop), mesh=ONE_DEVICE)
    assert not scores_path(again, variant, int(seed)).exists()
    run_study(again, display=quiet(), mesh=ONE_DEVICE)
    assert all_files(again) == all_files(study)


def test_variants_of_networks_and_batches(done, tmp_path):
    """The second variant is trained; the run of the first one is there."""
    wide = Variant("wide", BCE.loss, {"model.center_width": 12, "train.batch_size": 4, "data.fit": "pad"})
    study = Study(str(tmp_path / "out"), done[0].config, (BCE, wide), (0,), "bce")
    shutil.copytree(done[0].run_path(BCE, 0), study.run_path(BCE, 0))
    run_study(study, display=quiet(), mesh=ONE_DEVICE)
    configs = [load_run(study.run_path(variant, 0), mesh=ONE_DEVICE).config for variant in study.variants]
    assert [(c.model.center_width, c.train.batch_size) for c in configs] == [(8, 8), (12, 4)]
    costs = read_costs(study)
    # The time per image, and not that of a step, is compared: steps of the two have 8 and 4 images.
    ratio = costs["wide"].step_ms / 4 / (costs["bce"].step_ms / 8)
    assert 0.5 < costs["wide"].relative_time / ratio < 2.0
    assert set(all_files(study)) == {("bce", 0), ("wide", 0)}
    html = make_page(study, read_results(study), dict.fromkeys(("differences", "ranking", "curves"), b""))
    assert "model.center_width = 12, train.batch_size = 4, data.fit = pad" in html and "Study of 2 variants" in html
    assert "began with the same weights" not in html and "saw the same batches" not in html


def test_a_finished_study_trains_nothing(done, monkeypatch):
    study, _, _ = done
    monkeypatch.setattr(workers, "train", lambda *a, **k: pytest.fail("trained"))
    text = io.StringIO()
    run_study(study, display=GridDisplay(Console(file=text, width=200)), mesh=ONE_DEVICE)
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("WARNING: With 2 seeds, hardly any difference can be told from chance")
    assert len(lines) == 7 and lines[1].startswith("1/6  bce  seed 0  Dice 0.") and "focal  seed 7" in lines[-1]
    assert "compiled for 1" in (epath.Path(study.out) / "log.txt").read_text()


def test_the_grid_on_a_terminal(done):
    study, _, _ = done
    text = io.StringIO()
    run_study(study, display=GridDisplay(Console(file=text, width=100, force_terminal=True)), mesh=ONE_DEVICE)
    assert "mean Dice of the runs" in text.getvalue() and "seed 7" in text.getvalue()


def test_runs_of_another_study_are_refused(done):
    study, _, _ = done
    before = all_files(study)
    other = dataclasses.replace(study, variants=(BCE, Variant("focal", BCE_2.loss)))
    with pytest.raises(InputError, match=r"focal/seed0: holds a run with other settings:\n  loss.terms"):
        run_study(other, display=quiet(), mesh=ONE_DEVICE)
    longer = dataclasses.replace(study, config=replace(study.config, {"train.num_epochs": 3}))
    with pytest.raises(InputError, match=r"train\.num_epochs: was 2, now 3"):
        run_study(longer, display=quiet(), mesh=ONE_DEVICE)
    assert all_files(study) == before


def test_runs_on_other_images_are_not_compared(done, tmp_path):
    study, _, _ = done
    again = copy_but(study, tmp_path / "again")
    path = again.run_path(BCE_2, 0) / "run.json"
    values = json.loads(path.read_text())
    values["splits"]["train"] = values["splits"]["train"][1:]
    del values["digest"]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="begun with different images"):
        run_study(again, display=quiet(), mesh=ONE_DEVICE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"variants": (BCE, Variant("x", LossConfig(terms=(LossTermConfig("bce", class_weight=(1.0,)),))))},
            "2 classes",
        ),
        ({"variants": (BCE, Variant("x", LossConfig(terms=(LossTermConfig("no.where:f"),))))}, "cannot be imported"),
        ({"split": "test", "no_test": True}, "the split 'test', which the study scores, is empty"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(synthetic_root, tmp_path, change, said):
    study = make_study(synthetic_root, tmp_path / "out")
    if change.pop("no_test", False):
        ids = [r.id for r in find_layout(study.config.data).records]
        (tmp_path / "s.csv").write_text("id,split\n" + "".join(f"{i},train\n" for i in ids))
        study = dataclasses.replace(study, config=replace(study.config, {"data.splits": str(tmp_path / "s.csv")}))
    with pytest.raises(InputError, match=said):
        run_study(dataclasses.replace(study, **change), display=quiet(), mesh=ONE_DEVICE)
    assert not (tmp_path / "out").exists()


TOML = """
[study]
out = "{out}"
seeds = [0, 7]
[config.data]
root = "{root}"
splits = "{root}/splits.csv"
image_size = 32
[config.model]
widths = [4]
center_width = 8
num_convs_down = 1
num_convs_up = 1
head_bias = "zero"
[config.optim]
learning_rate = 1e-2
warmup_fraction = 0.0
[config.train]
num_epochs = 2
checkpoint_every_steps = 1
[[variant]]
name = "bce"
terms = [{{name = "bce"}}]
[[variant]]
name = "bce2"
terms = [{{name = "bce", weight = 2.0}}]
[[variant]]
name = "focal"
terms = [{{name = "focal"}}]
"""


@pytest.fixture(scope="module")
def page(done, synthetic_root, tmp_path_factory):
    """The same study as a file, through the command; its runs are done. What was printed, and the page."""
    study, _, _ = done
    path = tmp_path_factory.mktemp("file") / "study.toml"
    path.write_text(TOML.format(out=study.out, root=synthetic_root))
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "train", lambda *a, **k: pytest.fail("trained"))
        with contextlib.redirect_stdout(said):
            main(["study", str(path)])
    return said.getvalue(), (epath.Path(study.out) / "study.html").read_text()


class Tags(HTMLParser):
    """Every tag with its attributes; whatever was opened is closed."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(done, page):
    _, html = page
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert {tag for tag, _ in tags.found}.isdisjoint({"link", "iframe"}) and "@import" not in html
    script = html.partition("<script>")[2].partition("</script>")[0]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.count("<script") == 1 and f"script-src 'sha256-{allowed}'\"" in html and "onclick" not in html
    targets = [attrs["href"] for tag, attrs in tags.found if tag == "a"]
    assert targets == [f"#{attrs['id']}" for tag, attrs in tags.found if tag == "h2"] and len(targets) > 10
    names = [attrs.get("name") for tag, attrs in tags.found if tag == "meta"]
    assert "prefers-color-scheme: dark" in html and "viewport" in names and "<details" in html
    images = [attrs["src"] for tag, attrs in tags.found if tag == "img"]
    assert len(images) == 3 + 3 + 2  # and the errors of each variant, and where pairs differ most
    for source in images:
        assert source.startswith("data:image/png;base64,")
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape[1] > 100 and pixels.std() > 5
    assert "://" not in html and "url(" not in html
    assert done[0].out not in html and done[0].config.data.root not in html  # where it was made is nobody's business
    for text in (
        "focal",
        "bce2",
        "disk",
        "square",
        "mean of classes",
        "HD95",
        "calibration",
        "unet-jax study study.toml",
    ):
        assert text in html


def test_two_seeds_and_few_images_give_no_winner_and_say_why(page):
    said, html = page
    assert "difference, 95 %" in said and "over seeds" in said and "baseline" in said
    for text in (said, html):
        assert "No winner." in text and "has the best" not in text
    assert "give at least 3" in html and "6 images are few" in html


def test_tables_are_the_runs_scores(done, page):
    study, _, _ = done
    rows = list(csv.DictReader(io.StringIO((epath.Path(study.out) / "results.csv").read_text())))
    assert len(rows) == 3 * 2 * 6 * 2
    mine = [float(r["dice"]) for r in rows if (r["variant"], r["seed"], r["class"]) == ("focal", "7", "square")]
    table = read_scores(scores_path(study, FOCAL, 7))
    np.testing.assert_allclose(mine, table.values["dice"][:, 1], atol=1e-6)
    summary = list(csv.DictReader(io.StringIO((epath.Path(study.out) / "table.csv").read_text())))
    assert len(summary) == 3 * 6 * 3
    (line,) = (r for r in summary if (r["variant"], r["score"], r["class"]) == ("focal", "hd95", "disk"))
    values = [[read_scores(scores_path(study, v, s)).values["hd95"][:, 0].mean() for s in (0, 7)] for v in (BCE, FOCAL)]
    assert float(line["mean"]) == pytest.approx(np.mean(values[1]), abs=1e-5)
    assert float(line["std_over_seeds"]) == pytest.approx(np.std(values[1], ddof=1), abs=1e-5)
    assert float(line["difference"]) == pytest.approx(np.mean(values[1]) - np.mean(values[0]), abs=1e-5)
    costs = (epath.Path(study.out) / "cost.csv").read_text().splitlines()
    assert len(costs) == 4 and all(float(x) > 0 for line in costs[1:] for x in line.split(",")[1:4])
    assert costs[1].split(",")[2] == "1.000"  # the baseline's own


def test_the_most_different_images_of_each_pair(done, page, monkeypatch):
    study, out = done[0], epath.Path(done[0].out)
    pairs = find_pairs(("bce", "bce2", "focal"), read_table(study), "bce")
    assert [(pair.first, pair.second) for pair in pairs] == [("bce", "focal"), ("bce2", "focal")]  # bce, bce2: equal
    mean = {
        v.name: np.mean([read_scores(scores_path(study, v, s)).values["dice"] for s in (0, 7)], axis=(0, 2))
        for v in study.variants
    }
    ids = read_scores(scores_path(study, FOCAL, 0)).ids
    for pair in pairs:
        distance = np.abs(mean[pair.first] - mean[pair.second])
        assert set(pair.ids) == {ids[i] for i in np.argsort(-distance)[:3]} and len(pair.ids) == 3
        signed = [(mean[pair.second] - mean[pair.first])[ids.index(i)] for i in pair.ids]
        assert [b - a for a, b in pair.scores] == pytest.approx(signed)
        strip = cv2.imread(str(pair.path(out)))
        assert strip.shape == (200, 6 * 200 + 5 * 6, 3) and (strip[:, :200] != strip[:, 206:406]).any()
    many = find_pairs(tuple("abcde"), _repeated(read_table(study)), "c")
    assert [(pair.first, pair.second) for pair in many] == [("c", "a"), ("c", "b"), ("c", "e")]  # d is c, so no pair
    monkeypatch.setattr("unet_jax.study.pairs.load_run", lambda *_, **__: pytest.fail("drawn again"))
    draw_pairs(study, pairs, ONE_DEVICE, quiet())
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        draw_pairs(study, pairs[:1], ONE_DEVICE, quiet())
    draw_pairs(dataclasses.replace(study, out="/nowhere"), [], ONE_DEVICE, quiet())  # all variants are equal


def _repeated(table):
    """Five variants of three."""
    values = {name: array[[0, 1, 2, 2, 0]] for name, array in table.values.items()}
    return dataclasses.replace(table, values=values)


def test_every_image_in_parquet(done, page, tmp_path, monkeypatch):
    frame = pandas.read_parquet(epath.Path(done[0].out) / "results.parquet")
    text = pandas.read_csv(epath.Path(done[0].out) / "results.csv", dtype={"id": str})
    assert list(frame.columns) == list(text.columns) and len(frame) == len(text) == 72
    for name in ("variant", "seed", "id", "class"):
        assert list(frame[name]) == list(text[name])
    np.testing.assert_allclose(frame["hd95"], text["hd95"], atol=1e-6)
    table = read_table(done[0])
    np.testing.assert_array_equal(frame["dice"].to_numpy().reshape(3, 2, 6, 2), table.values["dice"])
    values = {name: np.where(np.arange(2) == 1, np.nan, array) for name, array in table.values.items()}
    unknown = dataclasses.replace(table, values=values)
    write_image_tables(epath.Path(tmp_path), ("bce", "bce2", "focal"), (0, 7), unknown)
    assert pandas.read_parquet(tmp_path / "results.parquet")["dice"].isna().sum() == 36
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # not installed
    write_image_tables(epath.Path(tmp_path), ("bce", "bce2", "focal"), (0, 7), table)
    assert not (tmp_path / "results.parquet").exists() and (tmp_path / "results.csv").exists()


def test_tables_for_papers_have_the_numbers_of_the_table(done, page):
    out = epath.Path(done[0].out)
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    rows = {row["variant"]: row for row in rows if (row["score"], row["class"]) == ("dice", "mean of classes")}
    markdown = [[c.strip() for c in line.split("|")[1:-1]] for line in (out / "table.md").read_text().splitlines()]
    lines = (out / "table.tex").read_text().splitlines()
    latex = [[c.strip() for c in line.removesuffix(r"\\").split("&")] for line in lines if line.endswith(r"\\")]
    assert [line[0] for line in latex[1:]] == [line[0] for line in markdown[2:]] and len(latex) == 1 + len(rows)
    assert len({len(line) for line in (*markdown, *latex)}) == 1 and len(markdown[0]) == 7 + 2
    for name, mean, std, difference, *_ in (*markdown[2:], *latex[1:]):
        row = rows[name]
        assert abs(float(mean) - float(row["mean"])) < 1e-4 and abs(float(std) - float(row["std_over_seeds"])) < 1e-4
        assert difference == "baseline" if name == "bce" else abs(float(difference) - float(row["difference"])) < 1e-4
    assert lines[0] == r"\begin{tabular}{lrrrrrrrr}" and lines[-1] == r"\end{tabular}"


def test_power_from_the_folder_of_a_finished_study(page, done, capsys):
    main(["study", done[0].out, "--power", "--data.root", done[0].config.data.root])
    said = capsys.readouterr().out
    assert said.startswith("Pilot of 3 variants, 2 seeds and 6 images.") and "(2 degrees of freedom)" in said
    assert all(number in said for number in ("0.005", "0.02", " 24 "))


def test_two_of_the_runs_are_compared_by_the_command(done, tmp_path, capsys):
    study, _, _ = done
    # Calibrated runs with the thresholds that they had anyway, of which one was fitted in another way than it is used.
    fit = fit_calibration(np.stack([histogram(np.zeros((4, 2)), np.arange(8).reshape(4, 2) > 3)]), 0.5)
    fit = dataclasses.replace(fit, calibration=Calibration((1.0, 1.0), (0.5, 0.5)))
    runs = []
    for variant, how in ((BCE, PredictConfig()), (FOCAL, PredictConfig(tta="flips"))):
        runs.append(str(tmp_path / variant.name))
        shutil.copytree(study.run_path(variant, 0), runs[-1])
        save_calibration(load_run(runs[-1], mesh=ONE_DEVICE), fit, split="val", num_images=1, how=how)
    options = ["--split", "test", "--scores", "dice", "--csv", str(tmp_path / "d.csv"), "--calibrated"]
    main(["compare", *runs, *options])
    said, warned = capsys.readouterr()
    (warning,) = (line for line in warned.splitlines() if "calibration.json" in line)
    assert "focal" in warning and "--tta flips (now none)" in " ".join(warned.split())
    result = json.loads(said.splitlines()[-1])
    tables = [read_scores(scores_path(study, variant, 0)).values["dice"] for variant in (BCE, FOCAL)]
    assert result["num_images"] == 6 and len((tmp_path / "d.csv").read_text().splitlines()) == 13
    (row,) = (row for row in result["pairs"] if row["class"] == "mean of classes")
    assert [row["first"], row["second"]] == pytest.approx([table.mean() for table in tables])
    assert "one seed each: this says nothing of the method" in said and "most different images in dice" in said


def test_methods_in_prose_have_the_numbers_of_the_table(done, page):
    out = epath.Path(done[0].out)
    text = " ".join((out / "methods.md").read_text().split())
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    for row in rows:
        if (row["score"], row["class"]) == ("dice", "mean of classes"):
            said = f"{row['variant']} reached a mean Dice of {float(row['mean']):.4f} (standard deviation over seeds"
            assert said in text
            if row["variant"] != "bce":
                assert f"a difference of {float(row['difference']):+.4f} (95 % interval over images" in text
    for part in ("2 seeds (0, 7) for 2 epochs in batches of 8", "adamw (learning rate 0.01)", "No variant was tuned"):
        assert part in text
    assert (
        "Holm's correction for 2 comparisons" in text
        and "p = <" not in text
        and "the 6 images of the split test" in text
    )


def test_the_written_file_and_splits_are_the_same_study(done, page, tmp_path):
    study, out = done[0], epath.Path(done[0].out)
    given = {"data.root": study.config.data.root, "data.splits": str(out / "splits.csv")}
    again = load_study(out / "study.toml", out=study.out, config=given)
    for variant, other in zip(study.variants, again.variants, strict=True):
        config = again.run_config(other, 7)
        assert not config_differences(study.run_config(variant, 7), config)
    run_study(again, display=quiet(), mesh=ONE_DEVICE)  # refuses runs of other settings or images
    script = (out / "reproduce.sh").read_text()
    assert "jax==" in script and study.config.data.root not in script
    help_said = subprocess.run(["bash", str(out / "reproduce.sh")], capture_output=True, text=True)
    assert help_said.returncode != 0 and "usage: bash reproduce.sh DATA" in help_said.stderr
    subprocess.run(["bash", "-n", str(out / "reproduce.sh")], check=True)


def test_a_study_without_a_test_split_scores_val_and_says_so(done, synthetic_root, tmp_path):
    study = dataclasses.replace(done[0], split="auto", out=str(tmp_path / "new"))
    assert with_split(study).split == "test"
    ids = [r.id for r in find_layout(study.config.data).records]
    (tmp_path / "s.csv").write_text(
        "id,split\n" + "".join(f"{i},{'val' if n < 5 else 'train'}\n" for n, i in enumerate(ids))
    )
    no_test = dataclasses.replace(study, config=replace(study.config, {"data.splits": str(tmp_path / "s.csv")}))
    assert with_split(no_test).split == "val" and with_split(dataclasses.replace(no_test, split="test")).split == "test"
    resolved = dataclasses.replace(done[0], split="val")
    said = conclusion(resolved, read_results(done[0]))
    assert "of the split val and were not held out: the best checkpoints were chosen by them" in said
    assert examples_path(done[0], BCE, 0).exists()


def test_a_tuned_study_from_trials_to_page(done, tmp_path, monkeypatch):
    """Training is replaced: trials have made-up scores, and runs are those of the finished study."""
    rates = {"config.optim.learning_rate": (0.01, 0.02)}
    study = dataclasses.replace(done[0], out=str(tmp_path / "tuned"), tune=Tune(rates, "grid"))
    trained = []

    def train(config, path, **_):
        trained.append(path.relative_to(study.out).parts)
        rate = config.optim.learning_rate
        if len(trained) == 3:
            raise Preempted(path, 2)
        if "tune" in trained[-1]:
            path.mkdir(parents=True)
            assert config.seed == 1_000_000 and scores_path(study, BCE, 0).exists() is False
            if (path.parts[-2], rate) == ("focal", 0.02):
                raise NonFiniteLossError("step 3: loss is nan")
            return TrainResult(path, 4, 4, {"dice": 0.5 + 0.01 * rate, "loss": 0.1})
        shutil.copytree(epath.Path(done[0].out) / path.relative_to(study.out), path)
        values = json.loads((path / "run.json").read_text())
        del values["digest"]
        values["config"]["optim"]["learning_rate"] = rate
        (path / "run.json").write_text(json.dumps(values))
        return None

    monkeypatch.setattr(workers, "train", train)
    monkeypatch.setattr(workers, "measure_costs", lambda *_: None)
    monkeypatch.setattr(workers, "draw_pairs", lambda *_: None)
    monkeypatch.setattr(running, "_score", lambda *_: None)  # the scores were copied with the run
    text = io.StringIO()
    with pytest.raises(Preempted):
        run_study(study, display=quiet(), mesh=ONE_DEVICE)
    run_study(study, display=GridDisplay(Console(file=text, width=200)), mesh=ONE_DEVICE)
    first = [("tune", name, "trial0") for name in ("bce", "bce2", "focal", "focal")]  # the last one was stopped
    assert len(trained) == 1 + 9 + 6 and trained[:4] == first
    said = text.getvalue()
    assert "tuning, round 1 of 1: 9 trials, scored on val" in said and "9/9  focal  trial 2  diverged" in said
    chosen = {v.name: load_info(study.run_path(v, 7)).config.optim.learning_rate for v in study.variants}
    assert chosen == {"bce": 0.02, "bce2": 0.02, "focal": 0.01}
    monkeypatch.setattr(workers, "train", lambda *_, **__: pytest.fail("trained"))
    run_study(study, display=quiet(), mesh=ONE_DEVICE)
    results = write_results(study)
    assert [found.chosen for found in results.tuning] == [2, 2, 0]
    out = epath.Path(study.out)
    html, methods = (out / "study.html").read_text(), " ".join((out / "methods.md").read_text().split())
    for part in ("Tuning</h2>", "optim.learning_rate = 0.02", "+0.0001", "diverged", "moved by"):
        assert part in html
    assert "No variant was tuned" not in html + methods and "2 combinations of a grid besides" in methods
    assert "Tuning chose optim.learning_rate = 0.02 for bce (+0.0001 Dice on val)" in methods
    rows = list(csv.DictReader(io.StringIO((out / "tuning.csv").read_text())))
    assert len(rows) == 9 and sum(row["chosen"] == "chosen" for row in rows) == 3
    again = load_study(out / "study.toml", out="x", config={"data.root": "R"})
    assert again.tune == study.tune and again.config.optim.learning_rate == 0.01
    moved = dataclasses.replace(study, tune=Tune({"config.optim.learning_rate": (0.01, 0.03)}, "grid"))
    (out / "tune/bce/trial2").mkdir(exist_ok=True)
    shutil.copy(out / "runs/bce/seed0/run.json", out / "tune/bce/trial2")
    with pytest.raises(
        InputError, match=r"(?s)bce/trial2: holds a run with other settings:.*learning_rate: was 0.02, now 0.03"
    ):
        run_study(moved, display=quiet(), mesh=ONE_DEVICE)


@pytest.fixture(scope="module")
def over_sets(done, synthetic_root, tmp_path_factory):
    """Two data sets with the same images, whose runs are done, through the command: folder, file, what was printed."""
    folder = tmp_path_factory.mktemp("sets")
    head, tables = TOML.format(out="out", root=synthetic_root).split("[[variant]]", 1)
    for name in ("first", "second"):
        (folder / f"{name}.csv").write_bytes((synthetic_root / "splits.csv").read_bytes())
        shutil.copytree(epath.Path(done[0].out) / "runs", folder / "out/sets" / name / "runs")
        shutil.copy(epath.Path(done[0].out) / "cost.csv", folder / "out/sets" / name)
        shutil.copytree(epath.Path(done[0].out) / "pictures", folder / "out/sets" / name / "pictures")
        head += f'[[dataset]]\nname = "{name}"\nsplits = "{name}.csv"\n'
        head += "root = 'R'\n" if name == "first" else f"root = '{synthetic_root}'\n"
    lines = [line for line in head.splitlines() if not line.startswith(('root = "', 'splits = "/'))]
    (folder / "study.toml").write_text("\n".join(lines) + "\n[[variant]]" + tables)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "train", lambda *a, **k: pytest.fail("trained"))
        with contextlib.redirect_stdout(said):
            main(["study", str(folder / "study.toml"), "--roots", f"first={synthetic_root}"])
    return folder / "out", folder / "study.toml", said.getvalue()


def test_several_data_sets_have_a_page_each_and_one_over_them(over_sets, done, page, synthetic_root):
    out, _, said = over_sets
    few = (
        "With 2 data sets nothing can be concluded over data sets: even if all agreed, Wilcoxon's p-value would be "
        "0.5, and 1 after Holm's correction for 2 variants. At least 7 data sets are needed."
    )
    html, text = (out / "study.html").read_text(), " ".join((out / "methods.md").read_text().split())
    assert few in said and few in html.replace("&#x27;", "'") and few in text
    tags = Tags()
    tags.feed(html)
    links = {attrs["href"] for tag, attrs in tags.found if tag == "a" and not attrs["href"].startswith("#")}
    assert links == {"sets/first/study.html", "sets/second/study.html"} and all((out / link).exists() for link in links)
    assert str(synthetic_root) not in html and "--roots first=" in html
    for name in ("first", "second"):
        own = out / "sets" / name
        assert (own / "results.csv").read_text() == (epath.Path(done[0].out) / "results.csv").read_text()
        assert f"on the data set {name} (" in (own / "methods.md").read_text()
    rows = list(csv.DictReader(io.StringIO((out / "sets.csv").read_text())))
    assert len(rows) == 6 * 3 * (2 + 1)
    single = csv.DictReader(io.StringIO((epath.Path(done[0].out) / "table.csv").read_text()))
    means = {(r["score"], r["variant"]): r["mean"] for r in single if r["class"] == "mean of classes"}
    for row in rows:
        if row["dataset"] == "over data sets":
            assert row["verdict_over_sets"] == ("baseline" if row["variant"] == "bce" else "unclear")
        else:
            assert row["mean"] == means[row["score"], row["variant"]]
    markdown = (out / "table.md").read_text().splitlines()
    assert "Friedman&#x27;s test, by permutations, of whether any variants differ in rank: p = 0.3" in html
    assert len(markdown) == 2 + 3 and markdown[0].count("|") == 8 and "average rank" in markdown[0]


def test_a_study_of_several_data_sets_is_repeated_from_its_folder(over_sets, synthetic_root):
    out, file, _ = over_sets
    roots = dict.fromkeys(("first", "second"), str(synthetic_root))
    again, studies = load_studies(out / "study.toml", out=str(out), roots=roots), load_studies(file, roots=roots)
    for study, other in zip(studies, again, strict=True):
        assert (study.dataset, study.out) == (other.dataset, other.out) and other.split == "test"
        for a, b in zip(study.variants, other.variants, strict=True):
            assert not config_differences(study.run_config(a, 7), other.run_config(b, 7))
    usage = subprocess.run(["bash", str(out / "reproduce.sh")], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage: bash reproduce.sh first=DIR second=DIR" in usage.stderr


def test_conclusions_over_enough_data_sets(done):
    study, part = done[0], read_results(done[0])

    def shifted(by):
        rows = [dataclasses.replace(row, mean=row.mean + by * (row.variant == "focal")) for row in part.rows]
        return dataclasses.replace(part, rows=rows)

    studies = [dataclasses.replace(study, dataset=f"d{i}") for i in range(8)]
    results = combine(studies, [shifted(5.0 + i) for i in range(8)])
    said = conclusion_over_sets(study, results)
    assert said.startswith("Over 8 data sets, focal is better in Dice than every other variant. Better than bce over")
    assert results.winner == Winner("focal", "focal", ()) and results.scores["hd95"].comparisons[2].verdict == "worse"
    mixed = combine(studies, [shifted(5.0 * (-1) ** i) for i in range(8)])
    assert conclusion_over_sets(study, mixed).startswith("No winner over 8 data sets.")
    with pytest.raises(InputError, match="give two studies or more"):
        combine(studies[:1], [part])


def test_special_characters_in_latex():
    assert tables._escape("a_b & 5 %") == r"a\_b \& 5 \%" and tables._escape("\\{") == r"\textbackslash{}\{"


def test_a_winner_is_named_where_there_is_one(done):
    study, _, _ = done
    results = read_results(study)
    winner = dataclasses.replace(results, winner=Winner("focal", "focal", ()))
    assert conclusion(study, winner).startswith("focal has the best Dice and is better than every other variant.")
    none = dataclasses.replace(results, winner=Winner(None, "focal", ("bce",)))
    assert conclusion(study, none).startswith(
        "With 2 seeds, hardly any difference can be told from chance: give at least 3. "
        "No winner. focal has the highest mean Dice, but cannot be distinguished from bce."
    )


def test_a_study_that_is_not_done_has_no_results(done, tmp_path):
    with pytest.raises(InputError, match=r"seed0/test\.csv: is not there yet"):
        read_results(dataclasses.replace(done[0], out=str(tmp_path)))


def test_names_in_the_page_are_text_and_not_html(done):
    study, _, _ = done
    results = dataclasses.replace(read_results(study), winner=Winner("<b>", "<b>", ()))
    html = make_page(study, results, dict.fromkeys(("differences", "ranking", "curves"), b""))
    assert "&lt;b&gt;" in html and "<b>" not in html


def test_groups_of_ranks_by_hand():
    assert groups_within(np.array([3.0, 1.0, 1.5, 2.9]), 1.0) == [(1.0, 1.5), (2.9, 3.0)]
    assert groups_within(np.array([1.0, 1.8, 2.5]), 1.0) == [(1.0, 1.8), (1.8, 2.5)]
    assert groups_within(np.array([1.0, 1.8, 2.0]), 1.0) == [(1.0, 2.0)]
    assert groups_within(np.array([1.0, 3.0]), 1.0) == []


def test_a_run_that_diverges_does_not_stop_the_others(done, tmp_path, monkeypatch):
    study = copy_but(done[0], tmp_path / "again", (BCE_2, 0))

    def diverge(config, path, **_):
        shutil.copytree(done[0].run_path(BCE_2, 0), path)
        scores_path(study, BCE_2, 0).unlink()
        raise NonFiniteLossError("step 3: loss is nan")

    monkeypatch.setattr(workers, "train", diverge)
    text = io.StringIO()
    message = r"1 of 6 runs diverged, and the others are done:\n  bce2, seed 0: step 3"
    with pytest.raises(NonFiniteLossError, match=message):
        run_study(study, display=GridDisplay(Console(file=text, width=200)), mesh=ONE_DEVICE)
    assert "bce2  seed 0  diverged" in text.getvalue() and len(text.getvalue().splitlines()) == 7


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("4711 on elsewhere", file=file, flush=True)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_of_another_process_is_waited_for_and_taken_over_if_that_is_killed(done, tmp_path, monkeypatch, finishes):
    study = copy_but(done[0], tmp_path / "again", (BCE_2, 0))
    missing, trained = study.run_path(BCE_2, 0), []
    missing.parent.mkdir(exist_ok=True)
    other = subprocess.Popen([sys.executable, "-c", HOLD, f"{missing}.lock"], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"

    def copy_run(*_, **__):
        shutil.copytree(done[0].run_path(BCE_2, 0), missing)

    def train(*_, **__):
        trained.append(True)
        copy_run()

    def score(*_, **__):
        return read_scores(scores_path(done[0], BCE_2, 0))

    looks = []

    class Ending(GridDisplay):
        """Ends the other process when this one has seen that it holds the run."""

        def elsewhere(self, name, column, holder):
            super().elsewhere(name, column, holder)
            looks.append(holder)
            if finishes:
                copy_run()
            other.kill()
            other.wait()

    monkeypatch.setattr(workers, "train", train)
    monkeypatch.setattr(running, "score_run", score)
    monkeypatch.setattr(running, "save_examples", lambda *_: None)
    monkeypatch.setattr(workers, "_POLL_S", 0.01)
    text = io.StringIO()
    try:
        run_study(study, display=Ending(Console(file=text, width=200)), mesh=ONE_DEVICE)
    finally:
        other.kill()
        other.stdout.close()
    assert looks == ["4711 on elsewhere"] and trained == ([] if finishes else [True])
    assert "bce2  seed 0  is done by another process (4711 on elsewhere)" in text.getvalue()
    assert all_files(study) == all_files(done[0])
    assert epath.Path(f"{missing}.lock").exists() == finishes  # a killed process leaves its file, which locks nothing


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
def test_runs_as_jobs_of_a_cluster(done, tmp_path, monkeypatch):
    """With submitit's executor for debugging, which calls the function of a job in this process."""
    study = copy_but(done[0], tmp_path / "again", (BCE_2, 0), (FOCAL, 0), (FOCAL, 7))
    (epath.Path(study.out) / "cost.csv").unlink()
    trained = []

    def train(config, path, **_):
        trained.append(path.relative_to(study.out).parts[1:])
        if len(trained) == 1:
            raise Preempted(path, 3)  # the cluster wants the node: the run is submitted again
        if trained[-1] == ("focal", "seed0"):
            raise NonFiniteLossError("step 3: loss is nan")
        shutil.copytree(epath.Path(done[0].out) / path.relative_to(study.out), path)

    monkeypatch.setattr(workers, "train", train)
    monkeypatch.setattr(running, "_score", lambda *_: None)
    monkeypatch.setattr(workers, "measure_costs", lambda *_: trained.append("costs"))
    monkeypatch.setattr(workers, "draw_pairs", lambda *_: None)
    monkeypatch.setattr(launch, "_POLL_S", 0.0)
    text = io.StringIO()

    def run():
        def crew(study, display):
            return launch.Cluster(study, display, {"timeout_min": 5}, cluster="debug")

        run_studies((study,), display=GridDisplay(Console(file=text, width=200)), make_crew=crew)

    with pytest.raises(NonFiniteLossError, match=r"1 of 6 runs diverged, and the others are done:\n  focal, seed 0"):
        run()
    assert trained == [("bce2", "seed0"), ("focal", "seed0"), ("focal", "seed7"), ("bce2", "seed0")]
    said = text.getvalue()
    assert "3 jobs submitted" in said and "1 jobs submitted" in said and "6/6  bce2  seed 0  Dice 0." in said
    shutil.copytree(done[0].run_path(FOCAL, 0), study.run_path(FOCAL, 0))
    run()
    assert trained[4:] == ["costs"] and all_files(study) == all_files(done[0])
    shutil.copy(epath.Path(done[0].out) / "cost.csv", study.out)
    shutil.copytree(epath.Path(done[0].out) / "pictures", epath.Path(study.out) / "pictures", dirs_exist_ok=True)
    run()
    assert trained[5:] == [] and "3 jobs" in (submitted := text.getvalue()) and submitted.count("submitted") == 3
    with pytest.raises(InputError, match=r"--slurm: .*partitio"):
        launch.Cluster(study, quiet(), {"slurm_partitio": "gpu"}, cluster="debug")
    with pytest.raises(InputError, match=r"--launcher slurm cannot be used here: .*srun"):
        launch.Cluster(study, quiet(), {})


def test_the_error_of_a_failed_job_is_its_last_line(tmp_path):
    """A process of its own, by submitit's local executor; without jax, which `OnNode` would import."""
    executor = submitit.AutoExecutor(folder=str(tmp_path), cluster="local")
    outcome = launch._outcome(executor.submit(int, "no number"))
    assert outcome.kind == "refused" and str(tmp_path) in outcome.text
    assert outcome.text.startswith("ValueError: invalid literal for int() with base 10: 'no number' (log: ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--slurm", "timeout_min"], "--slurm timeout_min: is not KEY=VALUE"),
        (["--slurm", "a=1"], "has no effect without --launcher"),
        (["--roots", "=R"], "--roots =R: is not NAME=DIR"),
    ],
)
def test_options_that_cannot_be_used_are_named(tmp_path, capsys, given, said):
    (tmp_path / "study.toml").write_text(TOML.format(out="out", root="R"))
    with pytest.raises(SystemExit):
        main(["study", str(tmp_path / "study.toml"), *given])
    assert said in capsys.readouterr().err


def test_a_missing_file_ends_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["study", str(tmp_path / "none.toml")])
    assert end.value.code == 2 and "none.toml: cannot be read" in capsys.readouterr().err


# Without a stop it repeats what is checked with one: there, too, two runs are made side by side and then a third.
@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_runs_side_by_side_are_the_same(done, tmp_path, stopped):
    """Two devices, six runs; or three, with an error in one of the two first, after which the others continue."""
    mesh = make_mesh(jax.devices()[:2])
    study = dataclasses.replace(done[0], out=str(tmp_path / "again"))
    if stopped:
        study = copy_but(done[0], tmp_path / "again", (BCE_2, 0), (FOCAL, 0), (FOCAL, 7))
        with pytest.raises(KeyboardInterrupt):
            run_study(study, display=Stopping("focal seed 0", "training", 2), mesh=mesh)
        assert not all(scores_path(study, v, s).exists() for v, s in itertools.product(study.variants, study.seeds))
    run_study(study, display=quiet(), mesh=mesh)
    assert all_files(study) == all_files(done[0])


def test_devices_of_a_run(done):
    for size, count in ((1, 5), (2, 2), (4, 1)):
        study = dataclasses.replace(done[0], devices_per_run=size)
        meshes = [w.mesh for w in workers.Workers(study, make_mesh(jax.devices()[:5]), quiet()).workers]
        assert [m.size for m in meshes] == [size] * count
        assert len({d.id for m in meshes for d in m.devices.flat}) == size * count
    with pytest.raises(InputError, match="devices_per_run is 4, but there are 3 devices"):
        workers.Workers(dataclasses.replace(done[0], devices_per_run=4), make_mesh(jax.devices()[:3]), quiet())
