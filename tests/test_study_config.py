"""What a study file may say."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from unet_jax import InputError
from unet_jax.config import DataConfig, LossConfig, LossTermConfig
from unet_jax.data.splits import read_splits
from unet_jax.program.objective import make_loss
from unet_jax.study import config as study_config
from unet_jax.study.study_file import load_studies, load_study

STUDIES = Path(__file__).parent.parent / "docs" / "studies"

GOOD = """
[study]
out = "results"
seeds = [3, 4]
baseline = "bce"
preset = "small"

[config]
"data.image_size" = 64
[config.data]
root = "DATA"
splits = "/elsewhere/splits.csv"
[config.train]
num_epochs = 2
[config.model]
widths = [4, 8]

[[variant]]
name = "bce"
dice_weight = 0.0

[[variant]]
name = "tversky+bce"
[[variant.terms]]
name = "bce"
class_weight = [1.0, 2.0]
[[variant.terms]]
name = "tversky"
weight = 0.5
over = "batch"
label = "t"
options = {fn_weight = 0.8, fp_weight = 0.2}
"""


def written(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_everything_in_the_file_arrives(tmp_path):
    study = load_study(written(tmp_path, GOOD))
    assert (study.seeds, study.baseline, study.split) == ((3, 4), "bce", "auto")
    assert study.out == str(tmp_path / "results")
    assert study.config.data.root == str(tmp_path / "DATA") and study.config.data.splits == "/elsewhere/splits.csv"
    assert (study.config.data.image_size, study.config.train.num_epochs) == (64, 2)
    assert study.config.model.widths == (4, 8) and study.config.train.num_pictures == 0
    bce, tversky = study.variants
    assert bce.loss == LossConfig(dice_weight=0.0)
    assert tversky.loss.terms == (
        LossTermConfig("bce", class_weight=(1.0, 2.0)),
        LossTermConfig("tversky", 0.5, {"fn_weight": 0.8, "fp_weight": 0.2}, over="batch", label="t"),
    )
    run = study.run_config(tversky, 4)
    assert run.seed == 4 and run.loss == tversky.loss and run.data == study.config.data
    assert study.run_path(tversky, 4).parts[-4:] == ("results", "runs", "tversky+bce", "seed4")


def test_arguments_go_before_the_file(tmp_path):
    study = load_study(written(tmp_path, GOOD), out="other", config={"data.root": "MINE", "train.num_epochs": 1})
    assert (study.out, study.config.data.root, study.config.train.num_epochs) == ("other", "MINE", 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[study]", "[study", "is not TOML"),
        ("[study]", "[studi]", "'studi' does not exist. Did you mean 'study'?"),
        ("seeds = ", "seed = ", "'seed' does not exist. Did you mean 'seeds'?"),
        ("[3, 4]", "[3, 3]", "free of repeated seeds"),
        ("[3, 4]", "[]", "at least one seed"),
        ("[3, 4]", "[-1]", "from 0 to 2**31 - 1"),
        ("[3, 4]", "[true]", "whole numbers"),
        ("[3, 4]", "3", "a list of whole numbers"),
        ('out = "results"', "", "the folder that the study is written to"),
        ('out = "results"', "out = 3", "study.out is 3, but must be text"),
        ('baseline = "bce"', 'baseline = "dice"', "one of the variants bce, tversky+bce"),
        ('preset = "small"', 'preset = "smal"', "one of default, seed, small"),
        ('preset = "small"', 'split = "all"', "one of 'train', 'val', 'test', 'auto'"),
        ("num_epochs = 2", "num_epoch = 2", "'train.num_epoch' does not exist. Did you mean 'train.num_epochs'"),
        ("num_epochs = 2", "num_epochs = 0", "train.num_epochs is 0"),
        ("num_epochs = 2", "[config.loss]\nbce_wait = 1.0", "'loss.bce_wait' does not exist"),
        ('"data.image_size" = 64', "seed = 5", "[study] has the seeds"),
        ("dice_weight = 0.0", "dice_wait = 0.0", "variant 'bce': the field 'dice_wait' does not exist"),
        ("dice_weight = 0.0", "dice_weight = -1.0", "variant 'bce': loss.dice_weight is -1.0"),
        ("dice_weight = 0.0", "terms = 3", "a list of tables"),
        ("dice_weight = 0.0", "config = 3", "variant.config is 3"),
        ("dice_weight = 0.0", "config.model.nom = 'group'", "variant 'bce': config field 'model.nom' does not exist"),
        ("dice_weight = 0.0", "config.model.norm = 'gruop'", "variant 'bce': model.norm is 'gruop'"),
        (
            "dice_weight = 0.0",
            "config.seed = 3",
            "config.seed cannot differ between variants: every variant is trained",
        ),
        (
            "dice_weight = 0.0",
            "config.data.root = 'x'",
            "config.data.root cannot differ between variants: all variants",
        ),
        ("dice_weight = 0.0", "config.loss.dice_weight = 0.0", "config.loss.dice_weight cannot differ"),
        ("dice_weight = 0.0", "config.train.devices_per_image = 2", "use the same devices"),
        ("dice_weight = 0.0", 'bce_weight = 1.0\nterms = [{name = "bce"}]', "variant 'bce': terms replaces bce_weight"),
        ('name = "tversky"', 'name = "tverski"', "Did you mean 'tversky'?"),
        ('name = "tversky"', "", "variant 'tversky+bce': terms"),
        ('over = "batch"', 'ower = "batch"', "'ower' does not exist. Did you mean 'over'?"),
        ("{fn_weight = 0.8,", "{fn_wait = 0.8,", "has no option 'fn_wait'"),
        ('name = "tversky+bce"', 'name = "BCE"', "free of repeated names"),
        ('name = "tversky+bce"', 'name = "a/b"', "it is used as a folder"),
        ('name = "tversky+bce"', 'name = ".."', "it is used as a folder"),
        ('name = "tversky+bce"', "", "variant 2: name is '', but must be given"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert GOOD.count(old) >= 1
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_study(path)
    assert str(path) in str(error.value) and said in str(error.value)


def test_variants_have_settings_of_their_own(tmp_path):
    own = "config.model.norm = 'group'\nconfig.data.image_size = [32, 64]\nconfig.augment.rotate = 15.0"
    text = GOOD.replace("dice_weight = 0.0", own).replace(
        "[config.train]", "[config.loss]\nbce_weight = 2.0\n[config.train]"
    )
    study = load_study(written(tmp_path, text))
    bce, tversky = (study.run_config(variant, 3) for variant in study.variants)
    assert (bce.model.norm, bce.data.image_size, bce.augment.rotate) == ("group", (32, 64), 15.0)
    assert bce.loss == LossConfig(bce_weight=2.0)  # that of the study, because the variant names none
    assert (tversky.model, tversky.data, tversky.augment) == (
        study.config.model,
        study.config.data,
        study.config.augment,
    )
    assert tversky.loss == study.variants[1].loss


def test_settings_that_variants_may_have_exist():
    known = {field.name for field in dataclasses.fields(DataConfig)}
    assert set(study_config._VARIED_DATA) <= known


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_studies_of_the_repository_can_be_computed(path):
    study = load_study(path, config={"data.root": "DATA"})
    assert len(study.variants) >= 12 and len(study.seeds) >= 3
    logits = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    labels, weight = (logits[::-1] > 0.3).astype("float32"), jax.numpy.ones(2)
    for variant in study.variants:
        loss_fn = make_loss(variant.loss)
        loss = jax.jit(jax.value_and_grad(lambda x: loss_fn(x, labels, weight, jax.numpy.inf)[0]))  # noqa: B023
        value, gradient = loss(logits)
        assert np.isfinite(value) and np.isfinite(gradient).all() and np.abs(gradient).max() > 0, variant.name
    splits = read_splits(epath.Path(study.config.data.splits))
    assert set(splits.values()) >= {"train", "test"}


SETS = (
    GOOD.replace('root = "DATA"\nsplits = "/elsewhere/splits.csv"', 'classes = ["x"]')
    + """
[[dataset]]
name = "cells"
root = "CELLS"
splits = "cells.csv"
config.data.image_size = 32
config.train.num_epochs = 5

[[dataset]]
name = "roads"
root = "ROADS"
classes = ["road"]
"""
)


def test_several_data_sets_are_several_studies(tmp_path):
    path = written(tmp_path, SETS)
    cells, roads = load_studies(path, config={"train.batch_size": 3}, roots={"roads": "MINE"})
    assert (cells.dataset, roads.dataset) == ("cells", "roads") and cells.seeds == roads.seeds == (3, 4)
    assert cells.out == str(tmp_path / "results/sets/cells") and roads.out == str(tmp_path / "results/sets/roads")
    assert cells.config.data.root == str(tmp_path / "CELLS") and roads.config.data.root == "MINE"
    assert cells.config.data.splits == str(tmp_path / "cells.csv") and roads.config.data.splits is None
    assert (cells.config.data.classes, roads.config.data.classes) == (("x",), ("road",))
    assert (cells.config.data.image_size, roads.config.data.image_size) == (32, 64)
    assert (cells.config.train.num_epochs, roads.config.train.num_epochs) == (5, 2)
    assert cells.config.train.batch_size == roads.config.train.batch_size == 3
    assert cells.variants == roads.variants and cells.run_path(cells.variants[0], 3).parts[-5:-3] == ("sets", "cells")
    (single,) = load_studies(written(tmp_path, GOOD))
    assert single == load_study(written(tmp_path, GOOD)) and single.dataset == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "roads"', 'name = "cells"', "dataset.name is 'cells', but must be a name that no other data set has"),
        ('name = "roads"', 'name = "Cells"', "dataset.name is ['Cells', 'cells'], but must be free of repeated names"),
        ('name = "roads"', 'name = "a/b"', "it is used as a folder name"),
        ('name = "roads"', "", "dataset 2: name is '', but must be given"),
        ('root = "ROADS"', 'roots = "ROADS"', "'roots' does not exist. Did you mean 'root'"),
        ('root = "ROADS"', "root = 3", "dataset 'roads': root is 3, but must be text"),
        ('root = "ROADS"', 'root = "R"\nconfig.data.root = "S"', "given once: either as a field or in config"),
        ('root = "ROADS"', 'root = "CELLS"\nsplits = "cells.csv"', "'cells' and 'roads' have the same images"),
        ('classes = ["road"]', 'classes = "road"', "dataset 'roads': classes is 'road', but must be a list of names"),
        ('classes = ["road"]', "config.seed = 1", "dataset 'roads': config.seed cannot differ between data sets"),
        (
            'classes = ["road"]',
            "config.loss.bce_weight = 1.0",
            "config.loss.bce_weight cannot differ between data sets",
        ),
        ('classes = ["road"]', "config.train.batch = 1", "dataset 'roads': config field 'train.batch' does not exist"),
        ('classes = ["x"]', 'root = "ALL"', "data.root cannot be one for all 2 data sets"),
    ],
)
def test_what_is_wrong_with_data_sets_is_named(tmp_path, old, new, said):
    assert SETS.count(old) == 1
    path = written(tmp_path, SETS.replace(old, new))
    with pytest.raises(InputError) as error:
        load_studies(path)
    assert str(path) in str(error.value) and said in str(error.value)


def test_data_sets_that_are_not_in_the_file_are_named(tmp_path):
    path = written(tmp_path, SETS)
    with pytest.raises(InputError, match=r"there is no data set 'road' in the file .* Did you mean 'roads'"):
        load_studies(path, roots={"road": "R"})
    with pytest.raises(InputError, match=r"names data sets \(cells, roads\)"):
        load_study(path)
    with pytest.raises(InputError, match=r"data\.root cannot be one for all 2 data sets.*--roots NAME=DIR"):
        load_studies(path, config={"data.root": "R"})
    with pytest.raises(InputError, match=r"it has none, because it has no tables \[\[dataset\]\]"):
        load_studies(written(tmp_path, GOOD), roots={"road": "R"})


def test_the_example_has_everything():
    cells, roads = load_studies(STUDIES.parent.parent / "examples" / "study.toml")
    assert (cells.config.train.num_epochs, roads.config.train.num_epochs) == (40, 60) and cells.tune == roads.tune
    draws = [cells.draws(variant) for variant in cells.variants]
    assert {len(of_one) for of_one in draws} == {13} and cells.tune.rungs(13) == [(1 / 3, 13), (1.0, 4)]
    assert {"loss.tversky.options.fn_weight", "config.optim.learning_rate"} == set(draws[1][1])


def test_one_variant_is_no_study(tmp_path):
    with pytest.raises(InputError, match="at least two tables"):
        load_study(written(tmp_path, GOOD[: GOOD.index('[[variant]]\nname = "tversky')]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.toml: cannot be read"):
        load_study(tmp_path / "nothing.toml")
