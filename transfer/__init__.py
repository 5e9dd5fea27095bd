"""Strategies: who teaches whom. Each strategy has a file, and a line in this one."""

import options
from registry import Registry
from transfer.accumulation import accumulated
from transfer.averaging import averaged
from transfer.base import PLAYERS, Player, State, Strategy
from transfer.grouping import grouped

__all__ = ["Player", "State", "Strategy", "check", "create", "kind", "names", "registry"]

registry = Registry(
    "transfer",
    {
        "Offline": "transfer.offline:Offline",
        "Labels": "transfer.labels:Labels",
        "Online": "transfer.online:Online",
        "Mutual": "transfer.mutual:Mutual",
        "KDCL": "transfer.kdcl:KDCL",
        "ONE": "transfer.one:ONE",
        "OKDDip": "transfer.okddip:OKDDip",
        "PCL": "transfer.pcl:PCL",
        "BornAgain": "transfer.born_again:BornAgain",
        "EMA": "transfer.ema:EMA",
        "PSKD": "transfer.pskd:PSKD",
        "BYOT": "transfer.byot:BYOT",
        "CSKD": "transfer.cskd:CSKD",
        "DDGSD": "transfer.ddgsd:DDGSD",
        "DLB": "transfer.dlb:DLB",
        "TfKD": "transfer.tfkd:TfKD",
        "USKD": "transfer.uskd:USKD",
        "FRSKD": "transfer.frskd:FRSKD",
    },
    elsewhere={
        "dml": "'Mutual'",
        "ban": "'BornAgain'",
        "none": "'Labels'",
        "scratch": "'Labels'",
        "vanilla": "'Labels'",
        "self": "'BornAgain', 'BYOT', 'PSKD' or another that needs no teacher",
    },
)
names = registry.names


def create(name: str, **players_and_rules) -> Strategy:
    """Builds a strategy.

    Args:
        name: one of `names()`.
        **players_and_rules: the strategy's fields: `student` (a `Player`), `optimizer` (an optax transformation), its
            options, and those of `method` (a distiller), `teacher`, `teacher_variables` and `peers` that it has.

    Raises:
        UserError: an unknown name or option, with the nearest known one; an option's value outside its limit.
    """
    check(name, {key: value for key, value in players_and_rules.items() if key not in PLAYERS})
    return registry.get(name)(**players_and_rules)


def kind(name: str, parts: int = 1, decay: float = 0.0, groups: int = 1) -> type[Strategy]:
    """Returns the class of a strategy, with what a recipe adds to any strategy.

    Args:
        name: one of `names()`.
        parts: in how many parts an update takes its batch (`transfer.accumulation`).
        decay: of the average of the student's weights (`transfer.averaging`); 0: none.
        groups: of rows of a batch, each of which has its own statistics in batch norms (`transfer.grouping`).
    """
    return averaged(grouped(accumulated(registry.get(name), parts), groups), decay)


def check(name: str, given: dict) -> None:
    """Checks values for the options of the strategy `name`.

    Args:
        name: one of `names()`.
        given: name of an option -> value.

    Raises:
        UserError: an unknown name or option, with the nearest known one; a value of another type than the default; a
            value outside the option's limit.
    """
    options.check(f"option of {name}", registry.get(name), given, hidden=PLAYERS)
