"""SGD with the schedules of the benchmarks, AdamW, LAMB, Muon and DOT, in optax."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import FrozenConfigDict

from distiller.dot import distillation_oriented_trainer
from transfer.muon import muon

DECOUPLED = {"adamw": optax.adamw, "lamb": optax.lamb, "muon": muon}  # their weight decay goes past the gradient


def learning_rate(config: FrozenConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Step (count of updates so far) -> learning rate.

    "step" multiplies by `decay_factor` at each milestone, a share of the training in whole steps; "cosine" reaches 0
    after the last step; "constant" stays. In the first `ramp_epochs` it is multiplied by a factor that grows from
    step to step by the same amount, and is 1 in the last of them.
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
    """True for what has two axes or more: weight matrices and convolutions, not biases and batch norm."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def create(config: FrozenConfigDict, steps_per_epoch: int, both=None) -> optax.GradientTransformation:
    """The optimizer of everything that learns.

    "sgd" is PyTorch's: the decay is added to the gradient before the momentum, the rate multiplies at the end.
    "adamw" (Loshchilov, Hutter, ICLR 2019, arXiv:1711.05101) is PyTorch's, too: the decay goes past the moments and is
    multiplied by the rate; betas 0.9 and 0.999, epsilon 1e-8. "muon" (`transfer.muon`) has the same decay. "lamb" (You
    et al., ICLR 2020, arXiv:1904.00962) scales AdamW's update of a tensor, decay included, to the tensor's norm. With
    `clip_norm` the gradient, of all parameters together and before any decay, is scaled down to that norm if longer.

    "dot" (`distiller.dot`) is "sgd" with `dot_delta` less momentum for the label loss and as much more for the
    distillation loss; `both` is a tree of bools like the parameters, True for those that both losses reach.
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
