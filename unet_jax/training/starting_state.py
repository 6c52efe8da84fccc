"""The state that training goes on from."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.devices.mesh import put_replicated
from unet_jax.program.initial_state import init_state, make_model, with_prior_bias
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.info import RunInfo
from unet_jax.runs.load import Run, abstract_state, load_run
from unet_jax.runs.progress import Progress
from unet_jax.training.goodput import Seconds


def newest_state(info: RunInfo, store: CheckpointStore, mesh: Mesh) -> tuple[TrainState, Progress, Seconds]:
    """Of the newest checkpoint, with the reading of the ledger stored in it; without one, before the first step."""
    step = store.latest_step
    if step is None:
        return put_replicated(initial_state(info, mesh), mesh), Progress(), {}
    saved = store.progress(step)
    return store.load(step, abstract_state(info), mesh), Progress.from_dict(saved), saved.get("goodput", {})


def initial_state(info: RunInfo, mesh: Mesh) -> TrainState:
    """Before the first step: random weights from the seed, or another run's."""
    config = info.config
    model = make_model(config.model, len(info.class_names))
    tx = make_optimizer(config.optim, info.num_steps)
    state = jax.jit(lambda key: init_state(key, model, tx))(jax.random.key(config.seed))
    if config.model.head_bias == "prior":
        params = with_prior_bias(state.params, np.asarray(info.audit["prevalence"]))
        state = dataclasses.replace(state, params=params)
    return _with_weights_of(load_run(config.init_from, mesh=mesh), state, info) if config.init_from else state


def _with_weights_of(source: Run, state: TrainState, info: RunInfo) -> TrainState:
    """The state with another run's parameters and statistics, and its head where the classes are the same."""
    params = dict(source.state.params)
    if source.class_names != info.class_names:
        params["head"] = state.params["head"]
    ours, theirs = (
        jax.tree.map(lambda x: x.shape, tree)
        for tree in ((state.params, state.batch_stats), (params, source.state.batch_stats))
    )
    if ours != theirs:
        raise InputError(
            f"{source.path}: its network is another one (widths {source.config.model.widths}, centre "
            f"{source.config.model.center_width}) than this config's (widths {info.config.model.widths}, centre "
            f"{info.config.model.center_width}). Give the same --model settings, or leave --init-from out."
        )
    return dataclasses.replace(state, params=params, batch_stats=source.state.batch_stats)
