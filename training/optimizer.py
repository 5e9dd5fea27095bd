"""SGD with the schedules of the benchmarks, in optax."""

import jax
import optax
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Step (count of updates so far) -> learning rate.

    "step" multiplies by `decay_factor` at each milestone, a share of the training in whole steps; "cosine" reaches 0
    after the last step; "constant" stays.
    """
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


def create(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD as PyTorch's: the decay is added to the gradient before the momentum, the rate multiplies at the end."""
    mask = kernels if config.decay_kernels_only else None
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask),
        optax.sgd(learning_rate(config, steps_per_epoch), config.momentum or None, config.nesterov),
    )
