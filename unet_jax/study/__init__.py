"""Studies: losses or settings, each trained with several seeds on one or several data sets, and compared pair by pair.

A study trains every variant with every seed. All else is equal, so runs of the same seed are paired, and
statistics say which conclusions hold (docs/studies.md):

    study = load_study("STUDY.toml")
    run_study(study)  # trains and scores; the same call continues after an interruption
    results = write_results(study)  # tables, pictures and one HTML page in the study's folder

The same without a file, on made-up images (most of the time goes into compilation):

    write_synthetic(epath.Path("DATA"), num_images=20, image_size=32, num_classes=2, seed=0)
    settings = {"data.root": "DATA", "data.splits": "DATA/splits.csv", "data.image_size": 32, "train.num_epochs": 1}
    config = replace(PRESETS["small"](), settings)
    variants = (Variant("bce", LossConfig(dice_weight=0.0)), Variant("bce+dice", LossConfig()))
    study = Study("OUT", config, variants, seeds=(0,), baseline="bce")
    run_study(study)
    results = write_results(study)
    print(results.winner)  # no winner: with one seed nothing is ever called better
"""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):  # a mistake in the TOML file need not wait for jax
    from unet_jax.study.config import Study as Study
    from unet_jax.study.config import Variant as Variant
    from unet_jax.study.over_sets import ResultsOverSets as ResultsOverSets
    from unet_jax.study.over_sets_report import write_over_sets as write_over_sets
    from unet_jax.study.report import write_results as write_results
    from unet_jax.study.results import Results as Results
    from unet_jax.study.run import run_studies as run_studies
    from unet_jax.study.run import run_study as run_study
    from unet_jax.study.study_file import load_studies as load_studies
    from unet_jax.study.study_file import load_study as load_study
