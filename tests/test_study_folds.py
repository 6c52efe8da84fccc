"""Studies with folds: each image is scored by a run that has not seen it, and intervals know that runs share images."""

import csv
import dataclasses
import io
import itertools
import shutil

import numpy as np
import pandas
import pytest
from etils import epath
from helpers import ONE_DEVICE, tiny_config
from rich.console import Console
from scipy import stats

from unet_jax import InputError
from unet_jax.config import DataConfig, LossConfig, LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.data.folds import held_out_rows, make_folds
from unet_jax.data.splits import read_splits
from unet_jax.metrics.statistics import fold_interval, seed_interval
from unet_jax.runs.info import load_info
from unet_jax.study import plots, workers
from unet_jax.study.compare import compare
from unet_jax.study.config import Study, Variant
from unet_jax.study.display import GridDisplay
from unet_jax.study.power import Spread, measure_fold_spread, power, seeds_needed
from unet_jax.study.report import write_results
from unet_jax.study.run import run_study, with_split
from unet_jax.study.scores import SCORES, ScoreTable, join_folds, read_scores, read_table, scores_path, stack_scores
from unet_jax.study.study_file import load_study

BCE, BCE_2 = (Variant(n, LossConfig(terms=(LossTermConfig("bce", w),))) for n, w in (("bce", 1.0), ("bce2", 2.0)))


def quiet():
    return GridDisplay(Console(quiet=True))


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    monkeypatch.setattr(workers, "measure_costs", lambda *_: None)  # takes as long as the runs


@pytest.fixture(scope="module")
def in_folds(synthetic_root, tmp_path_factory):
    """A study of two variants and two folds, which are cut from the images of train and val."""
    out = tmp_path_factory.mktemp("folds") / "out"
    config = replace(tiny_config(synthetic_root), {"train.num_epochs": 1})
    study = Study(str(out), config, (BCE, BCE_2), (3,), "bce", split="auto", folds=2)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "measure_costs", lambda *_: None)
        run_study(study, display=GridDisplay(Console(file=said, width=200)), mesh=ONE_DEVICE)
    return study, said.getvalue()


def test_each_fold_is_scored_by_a_run_that_has_not_seen_it(in_folds):
    study, said = in_folds
    assert (
        "WARNING: With 1 seed and 2 folds, hardly any difference can be told from chance: give at least 3 folds."
        in said
    )
    assert "the 6 images of the data set's test split are in no fold" in said and "bce2  seed 3 fold 1  Dice 0." in said
    splits = read_splits(epath.Path(study.config.data.splits))
    pool = sorted(id_ for id_, split in splits.items() if split != "test")
    resolved, scored = with_split(study), []
    for unit in study.units:
        own = [load_info(study.run_path(variant, *unit)).splits for variant in study.variants]
        assert own[0] == own[1] and sorted(itertools.chain(*own[0].values())) == pool and all(own[0].values())
        assert read_scores(scores_path(resolved, BCE, *unit)).ids == tuple(own[0]["test"])
        scored += own[0]["test"]
    assert sorted(scored) == pool
    table = read_table(resolved)
    assert table.ids == tuple(pool) and table.folds.shape == (1, len(pool))
    part = read_scores(scores_path(resolved, BCE_2, 3, 1))
    for id_, values in zip(part.ids, part.values["dice"], strict=True):
        assert table.folds[0, pool.index(id_)] == 1
        np.testing.assert_array_equal(table.values["dice"][1, 0, pool.index(id_)], values)


def test_what_a_study_in_folds_says(in_folds, monkeypatch):
    study, out = with_split(in_folds[0]), epath.Path(in_folds[0].out)
    for name in ("save_differences", "save_ranking", "save_learning_curves"):  # other tests look at pictures
        monkeypatch.setattr(plots, name, lambda path, *_: path.write_bytes(b"png"))
    results = write_results(study)
    rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [row["fold"] for row in rows[::2]][: len(results.scores.ids)] == [str(f) for f in results.scores.folds[0]]
    frame = pandas.read_parquet(out / "results.parquet")
    assert list(frame.columns) == list(rows[0]) and list(frame["fold"]) == [int(row["fold"]) for row in rows]
    (row,) = (r for r in results.primary_rows() if r.variant == "bce2")
    means = [read_scores(scores_path(study, BCE_2, 3, f)).values["dice"].mean() for f in (0, 1)]
    assert row.std == pytest.approx(np.std(means, ddof=1)) and row.comparison.verdict == "unclear"
    columns = next(csv.reader(io.StringIO((out / "table.csv").read_text())))
    assert {"std_over_runs", "run_low", "run_high", "runs_better"} < set(columns) and "seed_low" not in columns
    html, text = (out / "study.html").read_text(), " ".join((out / "methods.md").read_text().split())
    assert (
        "SD over folds and seeds" in (out / "table.md").read_text()
        and "95 \\% over folds" in (out / "table.tex").read_text()
    )
    for said in ("2 variants x 2 folds x 1 seeds (3)", "s^2 (1 / 2 + 1 / 1)", "other first weights", "of 2</td>"):
        assert said in html, said
    for said in (
        "24 images in 2 folds; in the first run",
        "with 2 folds and one seed (3)",
        "Nadeau",
        "about 20% of the others",
    ):
        assert said in text, said
    assert "of the split test" not in html and "of the split test" not in text
    given = {"data.root": study.config.data.root, "data.splits": str(out / "splits.csv")}
    again = load_study(out / "study.toml", out=study.out, config=given)
    assert again.units == study.units
    run_study(again, display=quiet(), mesh=ONE_DEVICE)  # refuses other folds and settings


def test_a_fold_is_done_again_alone_and_other_folds_are_refused(in_folds, tmp_path, monkeypatch):
    study = dataclasses.replace(in_folds[0], out=str(tmp_path / "out"))
    shutil.copytree(in_folds[0].out, study.out)
    before = read_table(with_split(study))
    scores_path(with_split(study), BCE_2, 3, 1).unlink()
    trained, train = [], workers.train
    monkeypatch.setattr(
        workers, "train", lambda config, path, **rest: trained.append(path) or train(config, path, **rest)
    )
    run_study(study, display=quiet(), mesh=ONE_DEVICE)
    assert trained == [study.run_path(BCE_2, 3, 1)]
    np.testing.assert_array_equal(read_table(with_split(study)).values["dice"], before.values["dice"])
    for other in (
        dataclasses.replace(study, folds=3),
        dataclasses.replace(study, config=replace(study.config, {"data.val_fraction": 0.5})),
    ):
        with pytest.raises(InputError, match=r"seed3-fold0.csv: holds other folds than those of these images"):
            run_study(other, display=quiet(), mesh=ONE_DEVICE)


@pytest.mark.parametrize("is_grouped", [False, True])
def test_every_image_is_held_out_once_and_no_group_is_divided(is_grouped):
    config = DataConfig(group_key="^(p[0-9]+)_" if is_grouped else "", val_fraction=0.15)
    groups = {f"p{i // 3}_{i}": f"p{i // 3}" if is_grouped else f"p{i // 3}_{i}" for i in range(36)}
    held_out, trained = [], set()
    for fold in range(4):
        rows = dict(held_out_rows(make_folds(groups, 4, 7), fold, config, 7))
        assert rows.keys() == groups.keys() and set(rows.values()) == {"train", "val", "test"}
        homes = {(groups[id_], split) for id_, split in rows.items()}
        assert len(homes) == len(set(groups.values()))
        held_out += [id_ for id_, split in rows.items() if split == "test"]
        trained |= {id_ for id_, split in rows.items() if split == "train"}
    assert sorted(held_out) == sorted(groups)
    assert trained == groups.keys()  # val is not the same in all folds
    rows = held_out_rows(make_folds(groups, 4, 7), 0, DataConfig(validate_on_train=True), 7)
    assert {split for _, split in rows} == {"train", "test"}


def test_the_interval_is_nadeaus_and_bengios():
    rng = np.random.default_rng(0)
    for num_folds, num_seeds in ((5, 1), (5, 3), (10, 2)):
        x, same = rng.normal(0.01, 0.02, num_folds * num_seeds), np.full(num_folds * num_seeds, 6)
        j = len(x)
        error = np.sqrt((1 / j + 1 / (num_folds - 1)) * x.var(ddof=1))
        expected = stats.t.interval(0.95, j - 1, x.mean(), error)
        np.testing.assert_allclose(fold_interval(x, same, 6 * num_folds), expected)
    # By hand: means 1 and 4 of 3 and 1 images. Weights 3/4 and 1/4: mean 7/4, sum of squares 5/8,
    # variance (3/4 * 9/16 + 1/4 * 81/16) / (1 - 5/8) = 9/2, n2 / n1 = 3/4 * 3 + 1/4 * 1/3 = 7/3, and 3/5 degrees.
    reach = stats.t.ppf(0.975, 0.6) * np.sqrt(4.5 * (5 / 8 + 7 / 3))
    found = fold_interval(np.array([1.0, 4.0]), np.array([3, 1]), 4)
    np.testing.assert_allclose(found, [1.75 - reach, 1.75 + reach])
    assert fold_interval(np.array([0.1]), np.array([5]), 10) == (-np.inf, np.inf)
    assert fold_interval(np.array([0.1, 0.2]), np.array([5, 5]), 5) == (-np.inf, np.inf)  # all images in one fold


def shares_of_intervals(num_sets, num_folds, num_seeds, num_images=50):
    """Shares of data sets for which the interval over folds, and Student's, hold the true difference of two recipes.

    The recipes are real: ridge regressions of 8 features with a weak and a strong penalty, trained on each fold's
    images. The truth is their mean difference in squared error on other data, over all data sets.
    """
    rng = np.random.default_rng(3)
    truth = rng.normal(size=8) * 0.4
    intervals, true = [], []

    def make(count):
        x = rng.normal(size=(count, 8))
        return x, x @ truth + rng.normal(size=count)

    for _ in range(num_sets):
        (x, y), (new_x, new_y) = make(num_images), make(2000)
        by_run = []
        for _ in range(num_seeds):
            fold = rng.permutation(np.arange(num_images) % num_folds)
            for f in range(num_folds):
                a, b = x[fold != f], y[fold != f]
                fits = [np.linalg.solve(a.T @ a + k * np.eye(8), a.T @ b) for k in (0.1, 60.0)]
                errors = [
                    ((z @ w - v) ** 2).mean() for z, v in ((x[fold == f], y[fold == f]), (new_x, new_y)) for w in fits
                ]
                by_run.append(errors[1] - errors[0])
                true.append(errors[3] - errors[2])
        count = np.full(len(by_run), num_images // num_folds)
        intervals.append((*fold_interval(np.array(by_run), count, num_images), *seed_interval(np.array(by_run))))
    low, high, student_low, student_high = np.array(intervals).T
    mean = np.mean(true)
    return np.mean((low <= mean) & (mean <= high)), np.mean((student_low <= mean) & (mean <= student_high))


def test_the_interval_over_folds_holds_the_truth_where_students_does_not():
    corrected, student = shares_of_intervals(120, num_folds=5, num_seeds=6)
    assert corrected >= 0.93 and student < 0.85, (corrected, student)


def simulate(rng, num_variants, num_seeds, num_folds, num_images, effects=0.0, run=0.008, image=0.02, rest=0.02):
    """Scores `[v s n]` of a study with folds `[s n]`, with these standard deviations of one variant's score."""
    folds = np.stack([rng.permutation(np.arange(num_images) % num_folds) for _ in range(num_seeds)])
    by_run = rng.normal(0, run, (num_variants, num_seeds, num_folds))
    values = rng.normal(0, image, (num_variants, 1, num_images)) + np.take_along_axis(by_run, folds[None], axis=2)
    values = values + rng.normal(0, rest, values.shape) + rng.normal(0.8, 0.1, num_images)
    return values + np.broadcast_to(effects, num_variants)[:, None, None], folds


def test_power_of_a_study_in_folds():
    rng = np.random.default_rng(0)
    found = [measure_fold_spread(*simulate(rng, 4, 3, 5, 60, [0.0, 0.1, 0.0, 0.0])) for _ in range(100)]
    for name, sigma in (("seed", 0.008), ("image", 0.02), ("rest", 0.02)):
        assert np.mean([getattr(f, name) for f in found]) == pytest.approx(2 * sigma**2, rel=0.06), name
    assert found[0].num_free == 3 * 14 and 0.72 < np.mean([f.seed_upper > 2 * 0.008**2 for f in found]) < 0.88
    with pytest.raises(InputError, match="the pilot has 1 seeds"):
        measure_fold_spread(*simulate(rng, 4, 1, 5, 60))
    spread = Spread(2 * 0.008**2, 2 * 0.02**2, 2 * 0.02**2, 2 * 0.008**2, 42)
    hits = []
    for repeat in range(25):
        values, folds = simulate(rng, 2, 3, 5, 60, [0.0, 0.016])
        hits.append(compare(values, 0, more_is_better=True, seed=repeat, folds=folds)[1].verdict == "better")
    predicted = power(spread, 0.016, 3, 60, 1, num_folds=5)
    assert 0.3 < predicted < 0.9 and abs(predicted - np.mean(hits)) < 4 * np.sqrt(0.25 / 25)
    needed = seeds_needed(spread, 0.03, 60, 2, num_folds=5)
    assert power(spread, 0.03, needed, 60, 2, num_folds=5) >= 0.8
    # With equal scores in all folds but for the mean, nothing but images matters: one seed is enough.
    assert seeds_needed(Spread(0.0, 1e-8, 0.0, 0.0, 9), 0.02, 60, 2, num_folds=5) == 1


def test_scores_that_do_not_belong_together_are_refused():
    def part(ids, class_names=("a",)):
        return ScoreTable(tuple(ids), class_names, {name: np.zeros((len(ids), 1)) for name in SCORES})

    assert join_folds([part("ca"), part("b")]).ids == ("a", "b", "c")
    assert join_folds([part("ca"), part("b")]).folds.tolist() == [[0, 1, 0]]
    with pytest.raises(InputError, match="'b' is in two folds"):
        join_folds([part("ab"), part("bc")])
    with pytest.raises(InputError, match="other classes"):
        join_folds([part("ab"), part("c", ("b",))])
    with pytest.raises(InputError, match="on other folds"):
        stack_scores([[join_folds([part("ab"), part("c")])], [join_folds([part("a"), part("bc")])]])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("folds = 1", "study.folds"),
        ("folds = 2.0", "study.folds"),
        ('folds = 3\nsplit = "val"', "left out with study.folds"),
        ("folds = 3\n[tune]\ntrials = 2\nconfig.optim.learning_rate = [1e-3, 1e-2]", "trials would see images"),
    ],
)
def test_what_is_wrong_with_folds_is_named(tmp_path, line, said):
    text = (
        '[study]\nout = "o"\n{}\n[[variant]]\nname = "a"\nbce_weight = 1.0\n[[variant]]\nname = "b"\nbce_weight = 2.0\n'
    )
    (tmp_path / "s.toml").write_text(text.format("folds = 3"))
    assert len(load_study(tmp_path / "s.toml").units) == 9
    (tmp_path / "s.toml").write_text(text.format(line))
    with pytest.raises(InputError, match=said):
        load_study(tmp_path / "s.toml")
