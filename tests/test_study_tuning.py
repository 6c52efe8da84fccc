"""Tuning of studies: what is tried, the same effort for each variant, and what is chosen; without training."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from unet_jax import InputError
from unet_jax._files import replace_text
from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.devices.mesh import make_mesh
from unet_jax.study.checked_table import checked_csv
from unet_jax.study.display import GridDisplay
from unet_jax.study.reproduce import study_toml
from unet_jax.study.search import Range, Tune, with_loss_values
from unet_jax.study.study_file import load_study
from unet_jax.study.tuning import check_trials, list_trials, read_tuning, with_tuning
from unet_jax.study.tuning_words import tuned_how, tuning_found, tuning_limits, tuning_rows
from unet_jax.study.workers import Workers

FILE = """
[study]
out = "out"
seeds = [0, 1, 2]
[config.train]
num_epochs = 9
[tune]
trials = 8
halving = 3
[tune.config]
optim.learning_rate = { low = 1e-4, high = 1e-1, log = true }
augment.rotate = [0.0, 15.0]
[[variant]]
name = "bce"
terms = [{ name = "bce" }]
[[variant]]
name = "tversky"
terms = [{ name = "bce" }, { name = "tversky", options = { fn_weight = 0.5 } }]
tune.loss.tversky.weight = { low = 0.1, high = 2.0 }
tune.loss.tversky.options.fn_weight = [0.5, 0.7, 0.9]
"""


def loaded(tmp_path, text=FILE):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return load_study(path)


def write_results(study, values):
    """Write the results of trials as if they were trained: `values` is a function of variant, trial and length."""
    for variant in study.variants:
        for part, _ in study.tune.rungs(len(study.draws(variant))):
            for number, job in enumerate(list_trials(study, variant, part, range(len(study.draws(variant))))):
                row = (number, repr(float(values(variant.name, number, part))))
                job.path.mkdir(parents=True, exist_ok=True)
                replace_text(job.result, checked_csv(("trial", "val_dice"), [row]))


def test_every_variant_has_the_same_number_of_trials_and_the_same_values_of_shared_settings(tmp_path):
    bce, tversky = (loaded(tmp_path).draws(variant) for variant in loaded(tmp_path).variants)
    assert len(bce) == len(tversky) == 9 and bce[0] == tversky[0] == {}
    for a, b in zip(bce[1:], tversky[1:], strict=True):
        assert a == {name: b[name] for name in a} and set(a) == {"config.optim.learning_rate", "config.augment.rotate"}
        assert 1e-4 <= a["config.optim.learning_rate"] <= 1e-1 and a["config.augment.rotate"] in (0.0, 15.0)
        assert 0.1 <= b["loss.tversky.weight"] <= 2.0 and b["loss.tversky.options.fn_weight"] in (0.5, 0.7, 0.9)
    rates = [draw["config.optim.learning_rate"] for draw in bce[1:]]
    assert len(set(rates)) == 8 and min(rates) < 1e-3 < 1e-2 < max(rates)
    assert (
        loaded(tmp_path, FILE.replace("trials = 8", "trials = 8\nseed = 5")).draws(loaded(tmp_path).variants[0]) != bce
    )


def test_a_range_is_drawn_evenly_or_evenly_in_the_logarithm():
    rng = np.random.default_rng(0)
    plain, log, whole = (
        [Range(*ends).draw(rng) for _ in range(600)] for ends in ((1.0, 3.0), (1e-4, 1.0, True), (2, 5))
    )
    assert np.mean(plain) == pytest.approx(2.0, abs=0.1) and min(plain) >= 1.0 and max(plain) <= 3.0
    assert np.mean(np.log10(log)) == pytest.approx(-2.0, abs=0.2) and set(whole) == {2, 3, 4, 5}
    assert all(type(value) is int for value in (*whole, Range(1, 100, True).draw(rng)))


def test_settings_are_drawn_independently():
    draws = Tune({"config.a": Range(0.0, 1.0), "config.b": Range(0.0, 1.0)}, trials=200).draws("x", {})[1:]
    assert abs(np.corrcoef([list(draw.values()) for draw in draws], rowvar=False)[0, 1]) < 0.25


def test_a_grid_tries_all_combinations():
    tune = Tune({"config.a": (1, 2)}, method="grid")
    found = tune.draws("x", {"loss.b": (0.1, 0.2, 0.3)})
    assert len(found) == 1 + 6 and found[0] == {} and {"config.a": 2, "loss.b": 0.3} in found


@pytest.mark.parametrize(
    ("num_trials", "halving", "expected"),
    [
        (9, 3, [(1 / 3, 9), (1.0, 3)]),
        (27, 3, [(1 / 9, 27), (1 / 3, 9), (1.0, 3)]),
        (8, 2, [(1 / 4, 8), (1 / 2, 4), (1.0, 2)]),
        (5, 0, [(1.0, 5)]),
        (2, 3, [(1.0, 2)]),
    ],
)
def test_successive_halving_by_hand(num_trials, halving, expected):
    assert Tune(trials=1, halving=halving).rungs(num_trials) == expected


def test_trials_are_runs_of_the_file_with_their_values(tmp_path):
    study = loaded(tmp_path)
    tversky = study.variants[1]
    short, *_ = list_trials(study, tversky, 1 / 3, [4])
    assert short.path.parts[-3:] == ("tune", "tversky", "trial4-1of3") and short.config.train.num_epochs == 3
    values, (job,) = study.draws(tversky)[4], list_trials(study, tversky, 1.0, [4])
    assert job.path.name == "trial4" and job.config.train.num_epochs == 9 and job.config.seed == 1_000_000
    assert job.config.optim.learning_rate == values["config.optim.learning_rate"]
    bce, changed = job.config.loss.terms
    assert bce == tversky.loss.terms[0] and changed.weight == values["loss.tversky.weight"]
    assert changed.options == {"fn_weight": values["loss.tversky.options.fn_weight"]}
    (own,) = list_trials(study, tversky, 1.0, [0])
    assert own.config.loss == tversky.loss and own.config.optim == study.config.optim
    steps = loaded(tmp_path, FILE.replace("num_epochs = 9", "num_steps = 100\neval_every_steps = 10"))
    assert list_trials(steps, steps.variants[0], 1 / 3, [1])[0].config.train.num_steps == 33


def test_the_best_trial_of_the_whole_length_is_chosen(tmp_path):
    study = loaded(tmp_path)
    with pytest.raises(InputError, match=r"trial0-1of3/trial\.csv: is not there yet"):
        read_tuning(study)
    rates = [draw.get("config.optim.learning_rate", math.inf) for draw in study.draws(study.variants[0])]
    best, second, third = np.argsort(rates)[:3]

    def values(name, number, part):
        if name == "tversky":  # the settings of the file are the best; short trials mislead
            return 0.9 if (number, part) == (0, 1.0) else 0.5 + 0.01 * number * (1 if part < 1.0 else -1)
        if number == third:
            return math.nan if part == 1.0 else 0.8  # diverges later
        return {best: 0.81, second: 0.82}.get(number, 0.4) + (0.05 * (number == second) if part == 1.0 else 0.0)

    write_results(study, values)
    bce, tversky = read_tuning(study)
    assert bce.chosen == second and bce.val_dice(second) == 0.87 and bce.gain == pytest.approx(0.47)
    assert sorted({trial.number for trial in bce.trials if trial.part == 1.0}) == sorted({0, best, second, third})
    assert tversky.chosen == 0 and tversky.gain == 0.0 and tversky.values == {}
    assert {trial.number for trial in tversky.trials if trial.part == 1.0} == {0, 8, 7, 6}
    tuned = with_tuning(study)
    assert (
        tuned.run_config(tuned.variants[0], 2).optim.learning_rate == rates[second]
        and tuned.variants[1] == study.variants[1]
    )
    assert with_tuning(tuned) == tuned  # so what is written of a tuned study reads the same
    assert "8 random draws besides the settings of the file" in tuned_how(study) and "in 2 rounds" in tuned_how(study)
    assert f"learning_rate = {rates[second]}" in tuning_found(
        [bce, tversky]
    ) and "(+0.4700 Dice on val)" in tuning_found([bce])
    assert "the settings of the file for tversky (+0.0000" in tuning_found([bce, tversky])
    assert any("Some trials diverged" in line and "bce" in line for line in tuning_limits([bce, tversky]))
    rows = list(tuning_rows([bce, tversky]))
    assert len(rows) == (9 + 4) * 2 and [row[1] for row in rows if row[-1]] == [second, 0]


def test_a_value_at_an_end_of_what_was_tried_is_said(tmp_path):
    study = loaded(tmp_path)
    rates = [draw.get("config.optim.learning_rate", 0.0) for draw in study.draws(study.variants[0])]
    write_results(study, lambda name, number, part: 0.1 + 0.01 * rates[number])
    bce, _ = read_tuning(study)
    assert bce.chosen == int(np.argmax(rates)) and bce.at_ends == ("config.optim.learning_rate",)
    assert any("a wider search may find a better one: bce (config.optim" in line for line in tuning_limits([bce]))


def test_a_damaged_result_is_named(tmp_path):
    study = loaded(tmp_path)
    write_results(study, lambda *_: 0.5)
    (job,) = list_trials(study, study.variants[0], 1 / 3, [2])
    text = job.result.read_text()
    for broken in (text.replace("0.5", "0.6"), "", "trial,val_dice\n2,1.5\n"):
        job.result.write_text(broken)
        with pytest.raises(InputError, match=r"trial2-1of3/trial\.csv: is not the result of the trial"):
            read_tuning(study)
    write_results(study, lambda name, *_: math.nan if name == "bce" else 0.5)
    with pytest.raises(InputError, match="all trials of the variant 'bce' diverged"):
        read_tuning(study)


def test_the_written_file_tunes_the_same(tmp_path):
    study = loaded(tmp_path)
    again = loaded(tmp_path, study_toml(study).replace("[study]", '[study]\nout = "out"', 1))
    assert again.tune == study.tune
    for a, b in zip(study.variants, again.variants, strict=True):
        assert study.draws(a) == again.draws(b) and a.loss == b.loss
    grid = FILE.replace("trials = 8\nhalving = 3", 'method = "grid"').replace(
        "{ low = 1e-4, high = 1e-1, log = true }", "[0.1]"
    )
    grid = "\n".join(line for line in grid.splitlines() if not line.startswith("tune.loss"))
    study = loaded(tmp_path, grid)
    assert loaded(tmp_path, study_toml(study).replace("[study]", '[study]\nout = "out"', 1)).tune == study.tune


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trials = 8", "trial = 8", "the tune field 'trial' does not exist. Did you mean 'trials'?"),
        ("trials = 8", "", "tune.trials is 0, but must be at least 1"),
        ("trials = 8", 'method = "grid"\ntrials = 8', "tune.trials is 8, but must be left out"),
        ("trials = 8", 'method = "bayes"', "one of 'grid', 'random'"),
        ("trials = 8\nhalving = 3", 'method = "grid"', "tune.config.optim.learning_rate is a range, of which a grid"),
        ("halving = 3", "halving = 1", "tune.halving is 1, but must be 2 or more"),
        ("halving = 3", "seed = 2", "tune.seed is 2, but must be none of the seeds of the study"),
        ("[0.0, 15.0]", "[]", "tune.config.augment.rotate is [], but must be a list of values"),
        ("[0.0, 15.0]", "15.0", "must be a list of values, or {low = ..., high = ...}"),
        ("[0.0, 15.0]", '["x"]', "augment.rotate is 'x'"),
        ("augment.rotate", "augment.rotat", "'augment.rotat' does not exist. Did you mean 'augment.rotate'?"),
        ("high = 1e-1, log", "hi = 1e-1, log", "'hi' does not exist"),
        ("low = 1e-4", "low = 1.0", "tune: low, high is (1.0, 0.1), but must be two finite numbers"),
        ("low = 1e-4", "low = 0.0", "tune: low is 0.0, but must be above 0, as log = true needs"),
        ("tune.loss.tversky.weight", "tune.loss.tverski.weight", "has no term 'tverski'. Did you mean 'tversky'?"),
        ("tversky.options.fn_weight = [", "tversky.options.fn_wait = [", "has no option 'fn_wait'"),
        ("tune.loss.tversky.weight", "tune.los.tversky.weight", "'los' does not exist. Did you mean 'loss'?"),
        ("tune.loss.tversky.weight", "tune.loss.tversky.label", "only weight, class_weight and options.NAME"),
        ("tune.loss.tversky.weight", "tune.config.data.val_fraction", "cannot differ between variants"),
        ("[tune]\ntrials = 8\nhalving = 3\n[tune.config]", "[config]", "config field"),
    ],
)
def test_what_is_wrong_with_tuning_is_named(tmp_path, old, new, said):
    assert FILE.count(old) == 1
    with pytest.raises(InputError) as error:
        loaded(tmp_path, FILE.replace(old, new))
    assert said in str(error.value)


def test_unequal_effort_is_refused(tmp_path):
    own = FILE[: FILE.index("[tune.config]")] + FILE[FILE.index("[[variant]]") :]
    with pytest.raises(InputError, match="variant 'bce' has nothing to tune, so that it would not get the effort"):
        loaded(tmp_path, own)
    grid = own.replace("trials = 8\nhalving = 3", 'method = "grid"').replace("{ low = 0.1, high = 2.0 }", "[1.0]")
    grid = grid.replace('terms = [{ name = "bce" }]\n', 'terms = [{ name = "bce" }]\ntune.loss.bce.weight = [1.0]\n')
    with pytest.raises(InputError, match="variants 'bce' and 'tversky' would have 1 and 3 trials"):
        loaded(tmp_path, grid)
    untuned = own.replace("[tune]\ntrials = 8\nhalving = 3\n", "")
    with pytest.raises(InputError, match=r"variant 'tversky': tune is .* but must be left out, or the study needs"):
        loaded(tmp_path, untuned)


def test_settings_without_effect_are_refused_before_a_trial_is_trained(tmp_path):
    text = FILE.replace("augment.rotate = [0.0, 15.0]", "augment.blur = [2.0]")
    with pytest.raises(InputError, match=r"trial 1 of the variant 'bce': .*augment\.blur"):
        check_trials(loaded(tmp_path, text))


def test_batches_of_trials_are_checked_before_the_first(tmp_path):
    study = loaded(tmp_path, FILE.replace("augment.rotate = [0.0, 15.0]", "train.batch_size = [8, 9]"))
    study = dataclasses.replace(study, devices_per_run=2)
    with pytest.raises(InputError, match=r"batch_size.* 9"):
        Workers(study, make_mesh(jax.devices()[:2]), GridDisplay())


def test_numbers_of_losses_by_name():
    loss = LossConfig(terms=(LossTermConfig("bce", label="a.b"), LossTermConfig("bce", label="c")))
    changed = with_loss_values(loss, {"a.b.weight": 3.0, "c.class_weight": (1.0, 2.0)})
    assert [term.weight for term in changed.terms] == [3.0, 1.0] and changed.terms[1].class_weight == (1.0, 2.0)
    with pytest.raises(InputError, match=r"loss\.dice_wait does not exist.* Did you mean 'dice_weight'"):
        with_loss_values(LossConfig(), {"dice_wait": 1.0})
