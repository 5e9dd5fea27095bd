"""Muon: the momentum of each matrix, made orthogonal, is its update; AdamW moves everything else.

Source: Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein. Muon: An optimizer for hidden layers in neural networks.
2024. https://kellerjordan.github.io/posts/muon

A kernel of a convolution, [size, size, inputs, outputs], is the matrix [size * size * inputs, outputs], as in the
authors' training of CIFAR-10. AdamW moves biases, scales, tokens and positions, and the kernels of depthwise
convolutions, whose filters are no matrix. The classifier is a matrix like the others.

The momentum is 0.95 and Nesterov's, with five steps of Newton and Schulz. The update of a matrix is multiplied by
0.2 * sqrt(max(rows, columns)), which gives it the size of AdamW's: one learning rate and one weight decay, those that
are good for AdamW, serve both.
Source: Liu et al. Muon is Scalable for LLM Training. 2025. arXiv:2502.16982.

LAMB, for large batches, is AdamW whose update of each tensor, decay included, is scaled to the tensor's norm.
Paper: You et al. Large Batch Optimization for Deep Learning: Training BERT in 76 minutes. ICLR 2020. arXiv:1904.00962.
"""

from collections.abc import Callable

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

SIZE = 0.2  # of AdamW's updates, over the learning rate: the root of the mean square of their numbers


def axes_of(parameter: jax.Array) -> MuonDimensionNumbers | None:
    """Returns which axes of a parameter are the rows and the columns of a matrix; None where it is no matrix."""
    if parameter.ndim == 2:
        return MuonDimensionNumbers(0, 1)
    if parameter.ndim == 4 and parameter.shape[2] > 1:
        return MuonDimensionNumbers((0, 1, 2), 3)
    return None


def muon(
    learning_rate: float | optax.Schedule, weight_decay: float = 0.0, mask: Callable | None = None
) -> optax.GradientTransformation:
    """Muon for the matrices, AdamW for all other parameters.

    Args:
        learning_rate: a number, or a function of the count of updates so far.
        weight_decay: decoupled, as AdamW's: times the rate and the parameter.
        mask: parameters -> a tree of bools, True for those that decay; None: all.

    Returns:
        An optax transformation.
    """

    def kinds(parameters):
        return jax.tree.map(lambda parameter: "matrix" if axes_of(parameter) else "other", parameters)

    def sized(update):
        columns = update.shape[-1]
        return update * np.float32(SIZE * max(columns, update.size // columns) ** 0.5)

    orthogonal = scale_by_muon(weight_dimension_numbers=lambda matrices: jax.tree.map(axes_of, matrices))
    size = optax.stateless(lambda updates, _: jax.tree.map(sized, updates))
    return optax.chain(
        optax.partition({"matrix": optax.chain(orthogonal, size), "other": optax.scale_by_adam()}, kinds),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


# Optimizers whose weight decay does not enter the moments, by their name in a recipe: (rate, weight_decay=, mask=).
DECOUPLED = {"adamw": optax.adamw, "lamb": optax.lamb, "muon": muon}
