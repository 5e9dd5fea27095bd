"""options.py: fields with limits, in linen Modules and in frozen dataclasses, and the messages of their check."""

import dataclasses
import math

import flax.linen as nn
import pytest

import options
from registry import UserError


class Module(nn.Module):
    weight: float = options.not_negative(1000.0)
    temperature: float = options.positive(4.0)
    p: int = options.positive(2)
    branches: int = options.at_least(2, 3)
    share: float = options.between(0.0, 1.0, 0.5)
    decay: float = options.between(0.0, 1.0, 0.9, with_low=False, with_high=False)
    schedule: str = options.one_of("cosine", "linear", "none")
    scales: tuple[int, ...] = options.positive((1, 2))
    weights: tuple[float, ...] = options.not_negative(())
    relu: bool = True
    tap: str = ""
    free: float = 1.0


@dataclasses.dataclass(frozen=True)
class Strategy:
    player: object
    weight: float = options.not_negative(1.0)
    temperature: float = options.positive(4.0)


@dataclasses.dataclass(frozen=True)
class Colder(Strategy):
    temperature: float = options.positive(1.0)


@pytest.mark.parametrize(
    "given",
    [
        {"weight": 0.0, "temperature": 1, "p": 1, "branches": 2, "share": 0.0, "decay": 0.5, "schedule": "none"},
        {"share": 1.0, "scales": [3], "weights": (), "relu": False, "tap": "stage1", "free": -1.0},
        {"weights": [0.0, 2.0]},
    ],
    ids=str,
)
def test_values_within_their_limits_pass(given):
    options.check("option of Module", Module, given)
    assert dataclasses.asdict(Module(**given, parent=None)).items() >= given.items()


def test_fields_keep_their_defaults_in_modules_and_in_dataclasses():
    assert Module().weight == 1000.0
    assert Module().scales == (1, 2)
    assert (Strategy(None).temperature, Colder(None).temperature, Colder(None).weight) == (4.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wieght": 1.0}, "Unknown option of Module 'wieght'. Did you mean 'weight'?\nKnown: weight, temperature, "),
        ({"parent": None}, "Unknown option of Module 'parent'."),
        ({"weight": -1.0}, "'weight' must not be negative (default 1000.0); got -1.0."),
        ({"weight": "3"}, "'weight' must be a number (default 1000.0); got '3'."),
        ({"weight": True}, "'weight' must be a number (default 1000.0); got True."),
        ({"weight": None}, "'weight' must be a number (default 1000.0); got None."),
        ({"weight": math.nan}, "'weight' must be a finite number (default 1000.0); got nan."),
        ({"free": math.inf}, "'free' must be a finite number (default 1.0); got inf."),
        ({"temperature": 0.0}, "'temperature' must be above 0 (default 4.0); got 0.0."),
        ({"p": 2.5}, "'p' must be a whole number (default 2); got 2.5."),
        ({"branches": 1}, "'branches' must be at least 2 (default 3); got 1."),
        ({"share": 1.5}, "'share' must be from 0.0 to 1.0 (default 0.5); got 1.5."),
        ({"decay": 0.0}, "'decay' must be above 0.0 and below 1.0 (default 0.9); got 0.0."),
        ({"decay": 1.0}, "'decay' must be above 0.0 and below 1.0 (default 0.9); got 1.0."),
        ({"schedule": "cos"}, "'schedule' must be 'cosine', 'linear' or 'none' (default 'cosine'); got 'cos'."),
        ({"schedule": 1}, "'schedule' must be a string (default 'cosine'); got 1."),
        ({"relu": 1}, "'relu' must be True or False (default True); got 1."),
        ({"tap": None}, "'tap' must be a string (default ''); got None."),
        ({"scales": ()}, "'scales' must be a list of one or more numbers (default (1, 2)); got ()."),
        ({"scales": 2}, "'scales' must be a list of one or more numbers (default (1, 2)); got 2."),
        ({"scales": (1, 0)}, "'scales' must be above 0 (default (1, 2)); got 0."),
        ({"scales": (1.5,)}, "'scales' must be a whole number (default (1, 2)); got 1.5."),
        ({"weights": (1.0, -1.0)}, "'weights' must not be negative (default ()); got -1.0."),
        ({"weights": "12"}, "'weights' must be a list of numbers (default ()); got '12'."),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_that_cannot_be_raises(given, message):
    with pytest.raises(UserError) as raised:
        options.check("option of Module", Module, given)
    assert str(raised.value).startswith(message)


def test_hidden_fields_are_no_options():
    options.check("option of Colder", Colder, {"temperature": 0.1}, hidden=("player",))
    with pytest.raises(UserError, match="Unknown option of Colder 'player'"):
        options.check("option of Colder", Colder, {"player": 1}, hidden=("player",))
