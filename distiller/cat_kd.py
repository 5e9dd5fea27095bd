"""CATKD: the class activation maps of all classes, at low resolution.

    c(m) = pool(m) / ||pool(m)||_2 for each image and class,   loss = weight * mean_bkhw (c(m_s) - c(m_t))^2

m_k is class k's output of the network's classifier, applied to every position of the last map. pool averages the map to
resolution x resolution cells.

Paper: Guo, Yan, Li, Lin. Class Attention Transfer Based Knowledge Distillation. CVPR 2023. arXiv:2304.12777.

The paper's code builds a 1x1 convolution into the network as its classifier. Here the network's own classifier,
without its bias, is applied to the map before pooling. The weight of normalised maps, 400, is the code's.
`normalize=False` with weight 0.7 is the code's recipe for ResNet56 to ResNet20 on CIFAR-100.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.normalised import unit
from distiller.spatial import adaptive_average_pool
from explain.cam import class_maps
from options import not_negative, positive


def class_map_loss(student: jax.Array, teacher: jax.Array, resolution: int = 2, normalize: bool = True) -> jax.Array:
    """Squared difference of pooled class maps.

    Args:
        student: [B, h, w, K].
        teacher: [B, h', w', K].
        resolution: cells along each side after pooling.
        normalize: each image's map of each class has unit L2 norm.

    Returns:
        Scalar: mean over batch, cells and classes.

    Raises:
        ValueError: numbers of classes differ.
    """
    student, teacher = matched(*(adaptive_average_pool(x, resolution, resolution) for x in (student, teacher)))
    if normalize:
        student, teacher = unit(student, (1, 2)), unit(teacher, (1, 2))
    return jnp.mean(jnp.square(student - teacher))


class CATKD(Distiller):
    """Class activation maps of all classes, pooled to a few cells.

    Paper: Guo, Yan, Li, Lin, CVPR 2023, arXiv:2304.12777

    Attributes:
        resolution: cells along each side.
        normalize: scale each map to unit L2 norm.
    """

    weight: float = not_negative(400.0)
    resolution: int = positive(2)
    normalize: bool = True

    @nn.compact
    def __call__(self, student, teacher, batch):
        pair = class_maps(student), class_maps(teacher)
        loss = self.weight * class_map_loss(*pair, self.resolution, self.normalize)
        return loss, {"CATKD": loss}
