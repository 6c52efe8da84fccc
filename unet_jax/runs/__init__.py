"""Run directories: the files in them, and how to load a trained network from one.

RUN/run.json            config, class names, ids of each split, versions: written once, before the first step
RUN/metrics.jsonl       metrics over time, one JSON object per line
RUN/checkpoints/STEP/   Orbax checkpoints: the newest ones and the best one
RUN/pictures/           curves and validation pictures
RUN/goodput.json        wall time by phase (`unet_jax.training.goodput`)
RUN/calibration.json    temperatures and thresholds, after `unet-jax calibrate`
RUN/tensorboard/        TensorBoard files, if the config asks for them
RUN/lock                lock of the process that trains in it, while it trains
"""
