"""DOT: an optimizer that gives the gradient of the distillation loss more momentum than that of the label loss.

    v_l <- (momentum - delta) v_l + g_l + weight_decay * w
    v_d <- (momentum + delta) v_d + g_d
    w   <- w - learning_rate * (v_l + v_d)

g_l is the gradient of the weighted label loss, g_d the gradient of the distillation loss.

Paper: Zhao, Cui, Song, Liang. DOT: A Distillation-Oriented Trainer. ICCV 2023. arXiv:2307.08436.

delta is 0.075 for CIFAR-100 and 0.09 for ImageNet. As in the released code and in PyTorch's SGD, weight decay is added
to the label loss's gradient before the momentum, and the learning rate multiplies the result. Dampening and Nesterov's
momentum are not used. With delta 0, DOT is SGD with momentum. Some parameters get a gradient from one loss only:
connectors, or the classifier under a feature loss. As in the released code, these parameters have the plain momentum;
`both` marks the other parameters.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from models import traces
from registry import UserError


class DotState(NamedTuple):
    """The optimizer's state.

    Attributes:
        count: int32 scalar, updates done.
        label_trace, distillation_trace: v_l and v_d, like the parameters.
    """

    count: jax.Array
    label_trace: Any
    distillation_trace: Any


def distillation_oriented_trainer(
    learning_rate: float | optax.Schedule,
    momentum: float = 0.9,
    delta: float = 0.075,
    weight_decay: float = 0.0,
    decay_mask: Any | Callable | None = None,
    both: Any | Callable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with a smaller momentum for the label loss and a larger one for the distillation loss.

    Args:
        learning_rate: a number, or a function of the count of updates so far.
        momentum: the plain momentum.
        delta: subtracted from the momentum for the label loss, added to it for the distillation loss.
        weight_decay: added to the label loss's gradient, times the parameter.
        decay_mask: True for the parameters that decay; None: all decay. A tree of bools like the parameters, a prefix
            of such a tree, or a function that makes one from the parameters.
        both: True for the parameters that get a gradient from both losses; the others have the plain momentum. Given as
            `decay_mask` is.

    Returns:
        An optax transformation: `update(updates, state, params, label_gradients=...)`, where `updates` are the
        gradients of the sum of both losses and `label_gradients` those of the label loss alone.

    Raises:
        UserError: a momentum outside [0, 1).

    Example:
        >>> tx = distillation_oriented_trainer(0.05, delta=0.075, weight_decay=5e-4)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(gradients, state, params, label_gradients=label_gradients)
        >>> params = optax.apply_updates(params, updates)
    """
    if not 0 <= momentum - abs(delta) <= momentum + abs(delta) < 1:
        raise UserError(
            f"DOT's momenta must lie in [0, 1): {momentum} -+ {delta} gives {momentum - delta:g} and "
            f"{momentum + delta:g}. Give a smaller delta."
        )

    def init(params):
        def zeros():
            return jax.tree.map(jnp.zeros_like, params)

        return DotState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(updates, state, params=None, *, label_gradients=None, **_):
        if label_gradients is None:
            raise ValueError("DOT needs `label_gradients`, the gradients of the label loss alone, too.")
        if params is None:
            raise ValueError("DOT needs `params` for its weight decay.")
        distillation = jax.tree.map(jnp.subtract, updates, label_gradients)
        decays, split = _full(decay_mask, params), _full(both, params)
        label = jax.tree.map(lambda g, p, on: g + weight_decay * p if on else g, label_gradients, params, decays)

        def accumulate(trace, gradient, sign):
            return jax.tree.map(
                lambda v, g, on: (momentum + sign * delta if on else momentum) * v + g, trace, gradient, split
            )

        label_trace = accumulate(state.label_trace, label, -1)
        distillation_trace = accumulate(state.distillation_trace, distillation, 1)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        steps = jax.tree.map(lambda a, b: -jnp.asarray(rate, a.dtype) * (a + b), label_trace, distillation_trace)
        return steps, DotState(state.count + 1, label_trace, distillation_trace)

    return optax.GradientTransformationExtraArgs(init, update)


def _full(mask, params):
    """`mask` (None, a function, a tree or a prefix) as a tree of bools like `params`."""
    mask = mask(params) if callable(mask) else True if mask is None else mask
    return jax.tree.map(lambda on, part: jax.tree.map(lambda _: bool(on), part), mask, params)


def reached_by_both(strategy: Any, state: Any, batch: Any, name: str) -> Any:
    """Finds the parameters that get a gradient from both the label loss and the distillation loss.

    Args:
        strategy: a `transfer.Strategy`.
        state, batch: the training state and a batch, or their shapes.
        name: the method's or strategy's name, for messages.

    Returns:
        A tree of bools like `state.params`.

    Raises:
        UserError: there is no label loss or no distillation loss.
    """

    def terms(params, state, batch):
        return strategy.losses(params, state, batch, jax.random.key(0))[0]

    names = jax.eval_shape(terms, state.params, state, batch)
    on_labels = set(filter(strategy.is_label_term, names))
    labels = on_labels and not (strategy.method and strategy.method.ce_weight == 0)
    if not labels or len(names) == len(on_labels):
        raise UserError(
            "Optimizer 'dot' needs both a label loss and a distillation loss, and "
            f"{name} has no {'distillation' if labels else 'label'} loss. Take --config.optimizer=sgd."
        )

    def side(wanted, *parts):
        return {name: value for name, value in terms(*parts).items() if (name in on_labels) == wanted}

    sides = [
        traces.read_leaves(functools.partial(side, wanted), state.params, state, batch) for wanted in (True, False)
    ]
    return jax.tree.map(lambda a, b: a and b, *sides)
