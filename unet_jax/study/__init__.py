"""Studies: variants of the loss x seeds on one data set, paired, with conclusions that hold (docs/studies.md).

study = load_study("STUDY.toml")
run_study(study)
results = write_results(study)
"""

from unet_jax.study.config import Study as Study
from unet_jax.study.config import Variant as Variant
from unet_jax.study.config import load_study as load_study
from unet_jax.study.report import write_results as write_results
from unet_jax.study.results import Results as Results
from unet_jax.study.run import run_study as run_study
