import dataclasses
import json

import pytest

from unet_jax import InputError
from unet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    LossTermConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from unet_jax.config.dicts import config_differences, config_from_dict, config_to_dict, replace
from unet_jax.config.presets import PRESETS, check_settings


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = PRESETS[name]()
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_what_they_are_for(name):
    assert len((PRESETS[name].__doc__ or "").strip()) > 40


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataConfig(image_size=0), ["data.image_size", "0", "from 1 to 32768"]),
        (lambda: DataConfig(val_fraction=1.0), ["data.val_fraction", "1.0"]),
        (lambda: DataConfig(classes=("a", "a")), ["data.classes", "'a'", "repeated"]),
        (lambda: DataConfig(classes=("a/b",)), ["data.classes", "a/b", "plain name"]),
        (lambda: DataConfig(index_map="x/{id}.png"), ["data.index_values"]),
        (lambda: AugmentConfig(horizontal_flip_prob=1.5), ["augment.horizontal_flip_prob", "1.5"]),
        (lambda: AugmentConfig(scale=1.0), ["augment.scale", "1.0"]),
        (lambda: AugmentConfig(hue=-1.0), ["augment.hue", "-1.0"]),
        (lambda: ModelConfig(widths=()), ["model.widths"]),
        (lambda: ModelConfig(widths=(12,), center_width=24, norm="group"), ["model.group_size", "12"]),
        (lambda: LossConfig(bce_weight=0.0, dice_weight=0.0), ["loss.bce_weight + loss.dice_weight"]),
        (lambda: LossTermConfig("dise"), ["loss.terms.name", "'dise'", "soft_dice", "'module:function'"]),
        (lambda: LossTermConfig("focal", options={"alpha": 0.25}), ["'focal'", "'alpha'", "gamma"]),
        (lambda: LossTermConfig("focal", options={"gamma": "2"}), ["loss.terms.options.gamma", "'2'", "number"]),
        (lambda: LossTermConfig("bce", -1.0), ["loss.terms.weight", "-1.0"]),
        (lambda: LossTermConfig("bce", class_weight=(0.0, 0.0)), ["loss.terms.class_weight", "not all 0"]),
        (lambda: LossTermConfig("ssim", over="batch"), ["'ssim'", "over must be 'image'"]),
        (lambda: LossTermConfig("my.losses:loss"), ["loss.terms.label", "'loss'", "another name"]),
        (lambda: LossTermConfig("my losses:edge"), ["loss.terms.name", "package.module:function"]),
        (lambda: LossConfig(terms=(LossTermConfig("bce"),) * 2), ["loss.terms", "'bce'", "another label"]),
        (lambda: LossConfig(terms=("bce",)), ["loss.terms", "a tuple of LossTermConfig"]),
        (lambda: OptimConfig(learning_rate=0.0), ["optim.learning_rate"]),
        (lambda: TrainConfig(batch_size=0), ["train.batch_size", "at least 1"]),
        (lambda: TrainConfig(threshold=1.0), ["train.threshold"]),
        (lambda: Config(seed=-1), ["seed", "-1"]),
        (lambda: DataConfig(image_size="64"), ["data.image_size", "'64'", "a whole number"]),
        (lambda: DataConfig(image_size=10**6), ["data.image_size", "32768"]),
        (lambda: DataConfig(mask_interpolation="cubic"), ["data.mask_interpolation", "cubic", "'nearest', 'linear'"]),
        (lambda: ModelConfig(norm="instance"), ["model.norm", "instance", "'group'"]),
        (lambda: ModelConfig(widths=8), ["model.widths", "8", "tuple of int"]),
        (lambda: ModelConfig(widths=(8.0,)), ["model.widths", "tuple of int"]),
        (lambda: TrainConfig(num_epochs=1.5), ["train.num_epochs", "1.5", "type int"]),
        (lambda: OptimConfig(learning_rate=float("inf")), ["optim.learning_rate", "finite"]),
    ],
)
def test_impossible_values_are_refused_by_name(make, words):
    with pytest.raises(InputError) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_image_size_is_a_side_or_height_and_width():
    data = DataConfig(image_size=(64, 96))
    assert data.height_and_width == (64, 96) and DataConfig(image_size=64).height_and_width == (64, 64)
    assert DataConfig(image_size=(64, 64)) == DataConfig(image_size=64)
    config = replace(Config(model=ModelConfig(widths=(4, 8))), {"data.image_size": (64, 96)})
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    for given in ((64,), (64, 96, 3), (64, "96"), (64.0, 64), True):
        with pytest.raises(InputError, match=r"data.image_size is .*, but must be a whole number, or height and width"):
            DataConfig(image_size=given)
    with pytest.raises(InputError, match=r"data.image_size is \(64, 100\).*use --data.image-size 64 96,"):
        replace(config, {"data.image_size": (64, 100), "model.widths": (4, 8, 16, 32)})
    with pytest.raises(InputError, match=r"augment.transpose_prob is 0.5, but data.image_size is \(64, 96\)"):
        replace(config, {"augment.transpose_prob": 0.5})


def test_image_size_that_does_not_divide_names_the_nearest_that_does():
    with pytest.raises(InputError, match=r"data.image_size is 200.*multiple of 128.*--data.image-size 256"):
        Config(data=DataConfig(image_size=200))
    with pytest.raises(InputError, match=r"--data.image-size 128"):
        Config(data=DataConfig(image_size=20))


def test_terms_of_a_loss_survive_json():
    terms = (
        LossTermConfig("ms_ssim", 0.5, {"window_size": 7, "scale_weights": (0.5, 0.5)}),
        LossTermConfig("my.losses:edge", class_weight=(1, 2.0), label="mine"),
    )
    config = Config(loss=LossConfig(terms=terms))
    assert config_from_dict(config_to_dict(config)) == config
    assert replace(config, {"seed": 3}).loss == config.loss
    assert replace(Config(), {"loss.terms": terms}).loss == config.loss
    assert list(config_differences(Config(), config)) == ["loss.terms"]
    values = config_to_dict(config)
    values["loss"]["terms"][0]["wait"] = 1.0
    with pytest.raises(InputError, match=r"loss\.terms\.wait is not known"):
        config_from_dict(values)


def test_unknown_field_is_refused():
    values = config_to_dict(Config())
    values["model"]["depth"] = 3
    with pytest.raises(InputError, match=r"model\.depth"):
        config_from_dict(values)


def test_differences_leave_out_what_does_not_change_numbers():
    old = Config()
    new = dataclasses.replace(
        old,
        seed=1,
        data=dataclasses.replace(old.data, root="elsewhere", num_threads=9),
        loss=LossConfig(bce_weight=0.5),
    )
    assert config_differences(old, new) == {"seed": (0, 1), "loss.bce_weight": (1.0, 0.5)}


def test_replace_by_dotted_name_changes_things_together():
    config = replace(Config(), {"model.widths": (4, 8), "data.image_size": 12, "seed": 3})
    assert (config.model.widths, config.data.image_size, config.seed) == ((4, 8), 12, 3)
    with pytest.raises(InputError, match=r"'data.image_sise' does not exist. Did you mean 'data.image_size'"):
        replace(Config(), {"data.image_sise": 1})


def test_length_of_a_run_in_epochs_or_in_updates():
    assert TrainConfig(num_epochs=3).total_steps(7) == 21
    assert TrainConfig(num_epochs=3, num_steps=10).total_steps(7) == 10
    assert TrainConfig(eval_every_epochs=2).steps_between_evaluations(7) == 14
    assert TrainConfig(eval_every_epochs=2, eval_every_steps=5).steps_between_evaluations(7) == 5
    assert TrainConfig(num_steps=1000).steps_between_evaluations(7) == 50  # 20 evaluations, however small the set
    assert TrainConfig(num_steps=21).steps_between_evaluations(7) == 2
    assert TrainConfig(num_steps=10, eval_every_steps=4).steps_between_evaluations(7) == 4


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_in_a_preset_is_without_effect(name):
    check_settings(PRESETS[name]())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim.name": "sgd", "optim.weight_decay": 0.5}, "weight_decay is 0.5, but optim.name 'sgd' does not use it"),
        ({"optim.momentum": 0.5}, "momentum is 0.5, but optim.name 'adamw' does not use it.*--optim.name sgd"),
        ({"optim.plateau_patience": 2}, "plateau_patience is 2.*'cosine' does not use it.*--optim.schedule plateau"),
        ({"optim.rmsprop_variant": "keras3"}, "rmsprop_variant is 'keras3'.*--optim.name rmsprop"),
        ({"optim.polynomial_power": 2.0}, "polynomial_power"),
        ({"model.group_size": 4}, "group_size is 4, but model.norm 'batch' does not use it.*--model.norm group"),
        ({"model.norm": "none", "model.norm_eps": 0.1}, "norm_eps is 0.1.*'none'.*batch or group"),
        ({"model.norm": "group", "model.batch_norm_momentum": 0.5}, "batch_norm_momentum is 0.5"),
        ({"augment.blur": 3.0}, "blur is 3.0, but augment.blur_prob is 0.*--augment.blur-prob"),
        ({"augment.geometry_prob": 0.0, "augment.rotate": 7.0}, "rotate is 7.0, but augment.geometry_prob is 0"),
        ({"loss.terms": ({"name": "focal"},), "loss.dice_smooth": 0.5}, "dice_smooth is 0.5, but loss.terms takes"),
        ({"loss.dice_weight": 0.0, "loss.dice_reduction": "image"}, "dice_reduction is 'image', but loss.dice_weight"),
        ({"train.early_stop_min_delta": 0.5}, "early_stop_min_delta is 0.5, but train.early_stop_patience is 0"),
        ({"train.num_steps": 100, "train.num_epochs": 3}, "num_epochs is 3, but train.num_steps takes its place"),
        ({"train.num_steps": 9, "train.eval_every_epochs": 3}, "eval_every_epochs is 3, but train.num_steps takes"),
        ({"train.eval_every_steps": 9, "train.eval_every_epochs": 3}, "but train.eval_every_steps takes its place"),
        ({"data.cache": "memory", "data.rebuild_cache": True}, "rebuild_cache is True, but data.cache 'memory'"),
        ({"data.intensity_limits": (0.0, 9.0)}, "intensity_limits is .*'auto' does not use it.*limits"),
    ],
)
def test_settings_without_effect_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        check_settings(replace(PRESETS["default"](), given))


def test_what_a_preset_leaves_over_is_not_taken_for_given():
    check_settings(replace(PRESETS["default"](), {"model.norm": "group"}))  # its momentum of batch normalisation
    check_settings(replace(PRESETS["seed"](), {"optim.schedule": "constant", "optim.name": "sgd"}))
