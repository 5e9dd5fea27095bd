"""Analyses of a jaxpr: dependencies between variables, readers of each variable, the primitives in it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.extend import core


def readers(jaxpr: core.Jaxpr) -> Counter:
    """Variable -> how many equations read it; being a result counts as one more."""
    read = Counter(v for equation in jaxpr.eqns for v in equation.invars if isinstance(v, core.Var))
    return read + Counter(v for v in jaxpr.outvars if isinstance(v, core.Var))


def reached(jaxpr: core.Jaxpr, ends: Iterable, barrier: core.Var | None = None) -> set:
    """The variables that `ends` depend on, `ends` included.

    An equation that calls a function depends on all of its inputs. The search leaves out `barrier` and stops there.
    """
    found = {v for v in ends if isinstance(v, core.Var)} - {barrier}
    for equation in reversed(jaxpr.eqns):
        if not found.isdisjoint(equation.outvars):
            found.update(v for v in equation.invars if isinstance(v, core.Var) and v is not barrier)
    return found


def read_leaves(function: Callable, tree: Any, *others: Any) -> Any:
    """Which leaves of `tree` the result of `function(tree, *others)` depends on.

    Found by going back through the traced operations, so nothing is computed; a call of a compiled function counts as
    depending on all that it is given.

    Args:
        function: returns arrays.
        tree, others: arrays, or `jax.ShapeDtypeStruct`s in their place.

    Returns:
        A tree of bools like `tree`.
    """
    jaxpr = jax.make_jaxpr(function)(tree, *others).jaxpr
    needed = reached(jaxpr, jaxpr.outvars)
    structure = jax.tree.structure(tree)
    return structure.unflatten([v in needed for v in jaxpr.invars[: structure.num_leaves]])


def inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the jaxprs that an equation calls: those in the parameters of pjit, custom_vjp, scan and cond."""
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def primitives(jaxpr: core.Jaxpr) -> Counter:
    """Name -> how many equations have that primitive, those of called functions included."""
    counts = Counter(equation.primitive.name for equation in jaxpr.eqns)
    for equation in jaxpr.eqns:
        for called in inner(equation):
            counts += primitives(called)
    return counts
