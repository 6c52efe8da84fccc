"""The state that training starts or continues from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.devices.mesh import put_replicated
from unet_jax.interop.pretrained import read_encoder
from unet_jax.program.initial_state import first_state_of, with_prior_bias
from unet_jax.program.own import OURS, Own
from unet_jax.program.state import TrainState, with_ema
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.info import RunInfo
from unet_jax.runs.load import Run, abstract_state, load_run
from unet_jax.runs.progress import Progress, should_stop
from unet_jax.training.goodput import Seconds

_WITHOUT_SHAPE = ("encoder", "encoder_block", "encoder_input", "activation")
"""Settings of a network that change what it computes, and that the shapes of its parameters may not show."""


def newest_state(
    info: RunInfo, store: CheckpointStore, mesh: Mesh, own: Own = OURS
) -> tuple[TrainState, Progress, Seconds]:
    """Return the state to continue from: that of the newest checkpoint, or a new one if there is none.

    Returns:
      The state, replicated over the mesh; the progress; and the seconds by phase that the checkpoint's ledger had
      counted, which are empty without a checkpoint.

    Raises:
      InputError: the checkpoint, or the run named by `init_from`, cannot be read or has another network.
    """
    step = store.latest_step
    if step is None:
        return put_replicated(initial_state(info, mesh, own), mesh), Progress(), {}
    state = store.load(step, abstract_state(info, own), mesh)
    saved = store.progress(step)
    try:
        progress = Progress.from_dict(saved)
    except (KeyError, TypeError, AttributeError) as error:
        raise store.unreadable(step, error) from error
    # Decided again, because a run that was finished may have become longer or more patient.
    train = info.config.train
    is_over = step >= info.num_steps or should_stop(progress.early_stop, train.early_stop_patience)
    progress = dataclasses.replace(progress, finished=progress.finished and is_over)
    return state, progress, saved.get("goodput", {})


def describe_start(out: epath.Path, info: RunInfo, progress: Progress) -> str:
    """Return the line that says where a run stands that has a checkpoint."""
    at = f"{out} at step {progress.step} of {info.num_steps}"
    if not progress.finished:
        return f"continuing {at}"
    if progress.step < info.num_steps:
        waits = progress.early_stop.num_waits
        return f"finished already: {at}, stopped early after {waits} evaluations without a better validation loss"
    return f"finished already: {at}"


def initial_state(info: RunInfo, mesh: Mesh, own: Own = OURS) -> TrainState:
    """Return the state before the first step: with random weights from the config's seed, or another run's weights.

    Raises:
      InputError: the run named by `init_from` cannot be read, or has another network.
    """
    config = info.config
    first = first_state_of(config, len(info.class_names), info.num_steps, info.num_channels, own)
    state = first(jax.random.key(config.seed))
    if config.model.head_bias == "prior" and own.network is None:
        params = with_prior_bias(state.params, np.asarray(info.audit["prevalence"]))
        state = dataclasses.replace(state, params=params)
    if config.model.encoder_weights:
        state = _with_encoder(state, info)
    if config.init_from:
        state = _with_weights_of(load_run(config.init_from, network=own.network, mesh=mesh), state, info)
    return with_ema(state) if config.train.ema else state


def _with_encoder(state: TrainState, info: RunInfo) -> TrainState:
    """Return the state with the encoder's first weights from the file that the run began with.

    Raises:
      InputError: the file cannot be used, or is another one than when the run began.
    """
    file = info.config.model.encoder_weights
    weights = read_encoder(file, info.config.model, info.num_channels)
    if weights.facts["sha256"] != info.encoder.get("sha256"):
        raise InputError(
            f"{file}: has another content than when the run began. Restore it, or begin again with another --out."
        )
    params, batch_stats = jax.tree.map(jnp.array, (weights.params, weights.batch_stats))
    return dataclasses.replace(
        state, params={**state.params, **params}, batch_stats={**state.batch_stats, **batch_stats}
    )


def _with_weights_of(source: Run, state: TrainState, info: RunInfo) -> TrainState:
    """Return the state with the parameters and running statistics of another run.

    The other run's output layer is used only if its classes are the same.

    Raises:
      InputError: the other run has another network.
    """
    params = {name: layer for name, layer in source.state.params.items() if not name.startswith("head")}
    for name in (name for name in state.params if name.startswith("head")):  # those of deep supervision may be new
        known = source.class_names == info.class_names and name in source.state.params
        params[name] = (source.state if known else state).params[name]
    ours, theirs = (
        jax.tree.map(lambda x: x.shape, tree)
        for tree in ((state.params, state.batch_stats), (params, source.state.batch_stats))
    )
    there, here = (dataclasses.asdict(config.model) for config in (source.config, info.config))
    same = all(there[name] == here[name] for name in _WITHOUT_SHAPE)
    if info.own.get("network") and ours != theirs:
        raise InputError(f"{source.path}: its network has other parameters. Leave --init-from out.")
    if ours != theirs or not same:
        differ = [f"{name} {there[name]!r} there and {here[name]!r} here" for name in here if there[name] != here[name]]
        if source.info.num_channels != info.num_channels:
            differ.append(f"{source.info.num_channels} image channels there and {info.num_channels} here")
        raise InputError(
            f"{source.path}: its network is another one than this config's: {', '.join(differ)}. Give the same "
            f"--model settings and images, or leave --init-from out."
        )
    return dataclasses.replace(state, params=params, batch_stats=source.state.batch_stats)
