"""SGD with the schedules of the benchmarks, AdamW, LAMB, Muon and DOT, in optax."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import FrozenConfigDict

from distiller.dot import distillation_oriented_trainer
from transfer.muon import DECOUPLED


def learning_rate(config: FrozenConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Returns a function: number of updates so far -> learning rate.

    "step" multiplies by `decay_factor` at each milestone, a share of the training in whole steps. "cosine" reaches 0
    after the last step. "constant" does not change. In the first `ramp_epochs` the rate is also multiplied by a factor
    that grows linearly and is 1 in the last of their steps.
    """
    schedule = _schedule(config, steps_per_epoch)
    ramp = round(config.ramp_epochs * steps_per_epoch)
    if not ramp:
        return schedule
    return lambda step: schedule(step) * jnp.minimum((step + 1) / ramp, 1.0)


def _schedule(config: FrozenConfigDict, steps_per_epoch: int) -> optax.Schedule:
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, config.train_epoch * steps_per_epoch)
    if config.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    scales: dict[int, float] = {}
    for share in config.milestones:
        boundary = round(share * config.train_epoch * steps_per_epoch)
        scales[boundary] = scales.get(boundary, 1.0) * config.decay_factor
    return optax.piecewise_constant_schedule(config.learning_rate, scales)


def kernels(params) -> dict:
    """Returns a tree of bools, True for parameters with two axes or more: not for biases and batch norm."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def create(config: FrozenConfigDict, steps_per_epoch: int, both=None) -> optax.GradientTransformation:
    """Returns the optimizer of all parameters that learn.

    "sgd" is PyTorch's: the decay is added to the gradient before the momentum, and the rate multiplies at the end.
    "adamw" (Loshchilov, Hutter, ICLR 2019, arXiv:1711.05101) is PyTorch's, too: the decay is not in the moments and is
    multiplied by the rate; betas 0.9 and 0.999, epsilon 1e-8. "lamb" and "muon" are described in `transfer.muon`.
    `clip_norm` is the largest norm of the gradient of all parameters, before any decay: a larger one is scaled down.

    "dot" (`distiller.dot`) is "sgd" with `dot_delta` less momentum for the label loss and `dot_delta` more for the
    distillation loss. `both` is a tree of bools like the parameters, True for those that both losses reach.
    """
    mask = kernels if config.decay_kernels_only else None
    rate = learning_rate(config, steps_per_epoch)
    if config.optimizer == "dot":
        return distillation_oriented_trainer(
            rate, config.momentum, config.dot_delta, config.weight_decay, decay_mask=mask, both=both
        )
    if config.optimizer in DECOUPLED:
        parts = [DECOUPLED[config.optimizer](rate, weight_decay=config.weight_decay, mask=mask)]
    else:
        parts = [
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.sgd(rate, config.momentum or None, config.nesterov),
        ]
    return optax.chain(*[optax.clip_by_global_norm(config.clip_norm)] * bool(config.clip_norm), *parts)
