"""Terms of a loss as text: what is read, what is written, and what is refused without being computed."""

import re

import pytest
import tyro

from unet_jax import InputError
from unet_jax.cli.flags import TERMS, config_and_flags
from unet_jax.config import Config, LossTermConfig
from unet_jax.config.loss import RampConfig
from unet_jax.config.loss_catalogue import LOSSES
from unet_jax.config.loss_terms import format_term, parse_term

TERMS_OF_TEXTS = {
    "bce": LossTermConfig("bce"),
    "bce()": LossTermConfig("bce"),
    " tversky ( weight=0.5, fn_weight=0.8 ) ": LossTermConfig("tversky", 0.5, {"fn_weight": 0.8}),
    "bce(class_weight=[1.0, 2.0], label='b')": LossTermConfig("bce", class_weight=(1.0, 2.0), label="b"),
    "boundary(weight=2e-2, ramp={'stop': 0.5})": LossTermConfig("boundary", 0.02, ramp=RampConfig(stop=0.5)),
    'tversky(over="batch", smooth=-1)': LossTermConfig("tversky", 1.0, {"smooth": -1}, over="batch"),
    "my.losses:edge(weight=3)": LossTermConfig("my.losses:edge", 3),
    "ms_ssim(scale_weights=(0.5, 0.5))": LossTermConfig("ms_ssim", 1.0, {"scale_weights": (0.5, 0.5)}),
}


@pytest.mark.parametrize("text", TERMS_OF_TEXTS)
def test_texts_are_terms_and_back(text):
    term = TERMS_OF_TEXTS[text]
    assert parse_term(text) == term and parse_term(text).options == term.options
    again = parse_term(format_term(term))
    assert again == term and again.options == term.options


def test_every_loss_of_the_catalogue_is_a_term():
    for name, entry in LOSSES.items():
        text = f"{name}({', '.join(f'{option}=2' for option in entry.numbers)})"
        assert parse_term(text).options == dict.fromkeys(entry.numbers, 2)


REFUSED = {
    "": "is not NAME",
    "bce,dice": "is not NAME",
    "bce(": "is not NAME",
    "bce(0.5)": "every value needs a name",
    "bce(weight=0.5": "is not NAME",
    "bce(weight=__import__('os').getcwd())": "malformed",
    "bce(weight=0.5)(weight=1)": "is not NAME or NAME(option=number, ...)",
    "bce(weight=0.5); print(1)": "is not NAME",
    "bce(**{'weight': 1})": "** is not a name",
    "bce(weight=1, weight=2)": "repeated",
    "tversky(fn_wight=0.8)": "has no option 'fn_wight': it has fp_weight, fn_weight, smooth. Besides",
    "tverski": "Did you mean 'tversky'?",
    "bce(weight='much')": "loss.terms.weight",
    "bce(weight=-1)": "must be at least 0",
    "boundary(ramp=0.5)": "ramp is 0.5, but must be a table of start, stop",
    "boundary(ramp={'end': 0.5})": "must be a table of start, stop",
    "tversky(smooth='a')": "loss.terms.options.smooth",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_term_is_refused_by_name(text):
    with pytest.raises(InputError, match=re.escape(REFUSED[text])) as refused:
        parse_term(text)
    assert repr(text) in str(refused.value) and "\n" not in str(refused.value)


def test_terms_on_the_command_line():
    words = ["--loss.terms", "bce", "tversky(weight=0.5, fn_weight=0.8)", "--seed", "3"]
    config, flags, _ = config_and_flags(Config(), words)
    assert flags == words
    parsed = tyro.cli(Config, args=flags, default=config, registry=TERMS)
    assert parsed.loss.terms == (LossTermConfig("bce"), LossTermConfig("tversky", 0.5, {"fn_weight": 0.8}))
    assert parsed.seed == 3
    with pytest.raises(InputError, match="has no option 'x'"):
        config_and_flags(Config(), ["--loss.terms=bce(x=1)"])
    with pytest.raises(InputError, match=r"--loss is not an option\. Use --loss\.terms"):
        config_and_flags(Config(), ["--loss", "bce"])
