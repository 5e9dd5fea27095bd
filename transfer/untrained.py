"""Which layers of a student nothing trains: under a method that reads features, those behind the features."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from models.traces import read_leaves
from transfer.base import Strategy


def untrained(strategy: Strategy, state: Any, batch: Any) -> tuple[str, ...]:
    """Returns the student's layers that no term of the loss depends on and that start from random weights.

    Found by tracing, so nothing is computed. With labels the label loss reaches every layer. A layer that starts from
    trained weights (`Player.start`) is left out.

    Args:
        strategy: with its players.
        state, batch: shapes of them.

    Returns:
        Sorted names of the outermost modules of the student's parameters.
    """
    started = {path[1] for path in strategy.student.start if path[0] == "params"}

    def terms(student, state, batch):
        params = {**state.params, "student": student}
        return strategy.losses(params, state, batch, jax.random.key(0))[0]

    found = read_leaves(terms, state.params["student"], state, batch)
    return tuple(name for name, layer in found.items() if name not in started and not any(jax.tree.leaves(layer)))


def without_labels(strategy: Strategy, state: Any, batch: Any, say: Callable[[str], None]) -> Strategy:
    """Returns the strategy with a task that knows the `untrained` layers of the student; says which layers these are.

    Args:
        strategy, state, batch: as in `untrained`; the task has no labels.
        say: takes a line for the user.
    """
    layers = untrained(strategy, state, batch)
    if layers:
        say(
            f"No loss reaches the student's {', '.join(layers)}: without labels, these keep their random weights.\n"
            "So no test compares the student's logits with the teacher's, and best/ is last/. "
            "`python evaluate.py --probe knn` measures the embedding."
        )
    return dataclasses.replace(strategy, task=dataclasses.replace(strategy.task, untrained=layers))
