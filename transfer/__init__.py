"""Strategies: who teaches whom. One file a strategy, one line here."""

from registry import Registry
from transfer.base import Player, State, Strategy

__all__ = ["Player", "State", "Strategy", "create", "names", "registry"]

registry = Registry(
    "transfer",
    {
        "Offline": "transfer.offline:Offline",
        "Labels": "transfer.labels:Labels",
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
