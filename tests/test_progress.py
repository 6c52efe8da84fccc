"""Early stopping and reduce-on-plateau on curves that Keras's callbacks saw (scripts/make_golden_keras.py)."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from unet_jax.runs.progress import Patience, Plateau, should_stop


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "keras_callbacks.npz") as file:
        return dict(file)


def through_json(memory):
    """As training keeps it in a checkpoint."""
    values = json.loads(json.dumps(dataclasses.asdict(memory)))
    if isinstance(memory, Plateau):
        return Plateau(Patience(**values["patience"]), values["lr_scale"])
    return Patience(**values)


@pytest.mark.parametrize("setting", range(3))
def test_twenty_curves_stop_and_slow_down_where_they_do_in_keras(golden, setting):
    stop_patience, stop_delta, plateau_patience, factor, plateau_delta = golden["settings"][setting].tolist()
    assert len(golden["curves"]) == 20
    for number, curve in enumerate(golden["curves"].tolist()):
        patience, plateau = Patience(), Plateau()
        stopped_at, rates = -1, []
        for epoch, value in enumerate(curve):
            patience = through_json(patience.seen(value, min_delta=stop_delta))
            plateau = through_json(
                plateau.seen(value, min_delta=plateau_delta, max_waits=int(plateau_patience), factor=factor)
            )
            rates.append(1e-4 * plateau.lr_scale)
            if stopped_at < 0 and should_stop(patience, int(stop_patience)):
                stopped_at = epoch
        assert stopped_at == golden[f"stop/{setting}"][number], f"curve {number}"
        wanted = golden[f"learning_rate/{setting}"][number]
        np.testing.assert_allclose(rates, wanted, rtol=2e-6, err_msg=f"curve {number}")  # Keras's rate is float32


def test_the_recorded_curves_hold_every_case(golden):
    curves = golden["curves"]
    assert np.isnan(curves[:, 0]).any() and np.isnan(curves[:, 5]).any() and np.isinf(curves).any()
    assert -1 in golden["stop/0"]  # some never stop
    for setting in range(3):
        assert len(np.unique(golden[f"stop/{setting}"])) > 3
        assert len(np.unique(golden[f"learning_rate/{setting}"])) > 3


def test_patience_zero_never_stops():
    patience = Patience()
    for _ in range(100):
        patience = patience.seen(1.0, min_delta=0.0)
    assert patience.num_waits == 99
    assert not should_stop(patience, 0)
    assert should_stop(patience, 99)


def test_the_first_value_is_the_best_one_so_far_whatever_it_is():
    assert Patience().seen(math.inf, min_delta=0.0) == Patience(math.inf, 0)
    assert Patience().seen(5.0, min_delta=0.1).seen(4.95, min_delta=0.1) == Patience(5.0, 1)
    assert Patience().seen(5.0, min_delta=0.1).seen(4.8, min_delta=0.1) == Patience(4.8, 0)
