"""Strategies: who teaches whom. One file a strategy, one line here."""

from distiller import check_options
from registry import Registry
from transfer.base import PLAYERS, Player, State, Strategy

__all__ = ["Player", "State", "Strategy", "check", "create", "names", "registry"]

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
        **players_and_rules: the strategy's fields: `student` and, where it has one, `teacher` (`Player`s),
            `teacher_variables`, `method` (a distiller), `optimizer` (an optax transformation).

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    return registry.get(name)(**players_and_rules)


def check(name: str, options: dict) -> None:
    """Raises `UserError` unless each of `options` is an option of strategy `name`, of its default's type."""
    check_options(f"option of {name}", registry.get(name), options, hidden=PLAYERS)
