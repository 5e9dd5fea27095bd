"""IRG: a graph of the batch: logits (vertices), distances (edges), movement between stages (transformations).

    E_ij = ||f_i - f_j||^2 / max_ij,   M_i = ||pool(f1_i) - f2_i||^2 / max_i   (f1, f2: the last two stages)
    loss = weight * (vertex_weight * mean_bk (z^s - z^t)^2 + transformation_weight * mean_i (M^s - M^t)^2
                     + edge_weight * mean over embedding, f1, f2 of mean_ij (E^s - E^t)^2)

Paper: Liu, Cao, Li, Yuan, Hu, Li, Duan. Knowledge Distillation via Instance Relationship Graph. CVPR 2019. (Not on
arXiv.)

The form and the weights 0.1, 5 and 5 are Knowledge-Distillation-Zoo's: the authors' code is Caffe, and the paper does
not fix layers and weights. For the transformation the earlier stage is average-pooled to the later stage's resolution.
If the channels of the two stages differ, groups of channels of the wider stage are averaged to the number of the
narrower stage. The Zoo does so for twice the channels; adaptive pooling makes such groups for any two numbers.
Student's and teacher's maps are not compared with each other, so their resolutions, channels and tokens may differ.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, wide
from distiller.logits import squared_error
from distiller.normalised import embedding, flat, last_stages, off_diagonal
from distiller.spatial import adaptive_average_pool, match_resolution, paired_stages, stage_pairs
from options import not_negative

SMALLEST = 1e-12  # smallest divisor, so that the edges of equal examples are zero


def relative(distance: jax.Array) -> jax.Array:
    """Distances divided by the largest one."""
    return distance / jnp.maximum(jnp.max(distance), SMALLEST)


def edges(feature: jax.Array) -> jax.Array:
    """Squared distances between the examples of [B, ...]: [B, B] in [0, 1], zero on the diagonal."""
    feature = flat(feature)
    feature = feature - jnp.mean(feature, axis=0)  # changes no distance, and loses fewer digits below
    products = feature @ feature.T
    square = jnp.diagonal(products)
    distance = jnp.maximum(square[:, None] + square[None] - 2 * products, 0)
    return relative(jnp.where(off_diagonal(len(feature)), distance, 0))


def transformation(earlier: jax.Array, later: jax.Array) -> jax.Array:
    """How far each example moves from one stage, [B, H, W, C] or tokens, to a later one: [B] in [0, 1]."""
    earlier, later = match_resolution(wide(earlier), wide(later))
    channels = min(earlier.shape[-1], later.shape[-1])
    difference = flat(fewer_channels(earlier, channels)) - flat(fewer_channels(later, channels))
    return relative(jnp.sum(jnp.square(difference), axis=1))


def fewer_channels(x: jax.Array, channels: int) -> jax.Array:
    """[B, H, W, C] -> [B, H, W, channels]: means of neighbouring channels; `x` unchanged for its own number."""
    if x.shape[-1] == channels:
        return x
    return adaptive_average_pool(x.reshape(-1, x.shape[-1], 1, 1), channels, 1).reshape(*x.shape[:-1], channels)


class IRG(Distiller):
    """Graph of the batch: logits, distances between examples, and movement between stages.

    Paper: Liu, Cao, Li, Yuan, Hu, Li, Duan, CVPR 2019

    Attributes:
        vertex_weight, edge_weight, transformation_weight: weights of the three terms.
        stages: two pairs "STUDENT:TEACHER,STUDENT:TEACHER" of stages (spatial.py); "" takes each network's last two.
    """

    vertex_weight: float = not_negative(0.1)
    edge_weight: float = not_negative(5.0)
    transformation_weight: float = not_negative(5.0)
    stages: str = paired_stages()
    least_batch: ClassVar[int] = 3

    @nn.compact
    def __call__(self, student, teacher, batch):
        maps_s, maps_t = self._maps(student, teacher)
        layers_s, layers_t = [embedding(student, "student"), *maps_s], [embedding(teacher, "teacher"), *maps_t]
        edge = sum(jnp.mean(jnp.square(edges(s) - edges(t))) for s, t in zip(layers_s, layers_t, strict=True)) / 3
        movement = jnp.mean(jnp.square(transformation(*maps_s) - transformation(*maps_t)))
        terms = {
            "IRG_vertex": self.weight * self.vertex_weight * squared_error(student.logits, teacher.logits),
            "IRG_edge": self.weight * self.edge_weight * edge,
            "IRG_transformation": self.weight * self.transformation_weight * movement,
        }
        return sum(terms.values()), terms

    def _maps(self, student, teacher):
        if not self.stages:
            return last_stages(student, "student", 2), last_stages(teacher, "teacher", 2)
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        if len(pairs) != 2:
            raise ValueError(f"IRG compares two pairs of stages; stages='{self.stages}' names {len(pairs)}.")
        return zip(*pairs, strict=True)
