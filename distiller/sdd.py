"""SDD: the teacher's class scores for each region of the image, at several scales.

    loss = weight * ramp * mean_b mean_cells c_b,cell * DKD(z_s[b, cell], z_t[b, cell])
    z[b, cell]: the network's classifier on the mean of its last map over the cell; m x m cells for every m in scales
    c: `complementary` if the teacher predicts another class for the cell than for the whole image, else 1

Paper: Wei, Luo, Luo. Scale Decoupled Distillation. CVPR 2024. arXiv:2403.13512; its SD-DKD.

`scales` are (1, 2, 4) for networks of different families, (1, 2) for networks of the same family. alpha, beta and
temperature are DKD's (dkd.py); the warm-up of 30 epochs is the paper's. The mean is over the labelled rows of the
batch.

Deviations. The paper sums the cells' losses; its code averages them, as here. `weight` = number of cells (21) gives the
paper's sum. The paper compares the classes of cell and image, as here. Its code compares whether both are right; this
differs if the teacher is wrong about cell and image in different ways. The code pools the coarser cells from the 4x4
ones; this differs if 4 does not divide the map.

SDD needs networks whose embedding is the mean of a map over its positions, the tap `final`. ViT (a class token) and
ConvNeXt (a norm after the mean) raise an error.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched, wide
from distiller.dkd import decoupled_rows
from distiller.spatial import adaptive_average_pool
from distiller.target import labelled_mean, ramp, refuse_two_classes
from models import Outputs
from options import not_negative, positive


def pooled_map(outputs: Outputs, who: str) -> jax.Array:
    """The map [B, H, W, D] whose mean is the embedding.

    Args:
        outputs: a network's outputs.
        who: "student" or "teacher", for the message.

    Raises:
        ValueError: the network's embedding is not the mean of a map.
    """
    if "final" not in outputs.features:
        raise ValueError(
            f"The {who}'s embedding is not the mean of a map (a tap 'final'), which SDD needs. The taps are "
            f"{sorted(outputs.features)}.\nUse a network that pools one, such as a ResNet, or DKD, which needs no map."
        )
    return wide(outputs.features["final"])


def cell_logits(outputs: Outputs, who: str, scales: tuple[int, ...]) -> jax.Array:
    """The classifier's logits for each cell of each scale.

    Args:
        outputs: a network's outputs.
        who: "student" or "teacher", for the message.
        scales: m for m x m cells.

    Returns:
        [cells, B, K]: one scale after the other, the cells of a scale row by row.
    """
    x = pooled_map(outputs, who)
    cells = [adaptive_average_pool(x, m, m).reshape(x.shape[0], m * m, x.shape[-1]) for m in scales]
    cells = jnp.swapaxes(jnp.concatenate(cells, axis=1), 0, 1)
    return outputs.classify(cells.reshape(-1, x.shape[-1])).reshape(*cells.shape[:2], -1)


class SDD(Distiller):
    """Class scores of image regions at several scales, each distilled by DKD.

    Paper: Wei, Luo, Luo, CVPR 2024, arXiv:2403.13512

    Attributes:
        scales: m for m x m cells.
        complementary: weight of cells for which the teacher predicts another class than for the image.
        alpha, beta: weights of DKD's target-class and non-target-class divergences.
        temperature: T, dimensionless.
        warmup_epochs: epochs over which the loss rises to its weight.
    """

    needs_labels = True
    scales: tuple[int, ...] = positive((1, 2, 4))
    complementary: float = not_negative(2.0)
    alpha: float = not_negative(1.0)
    beta: float = not_negative(8.0)
    temperature: float = positive(4.0)
    warmup_epochs: int = not_negative(30)

    @nn.compact
    def __call__(self, student, teacher, batch):
        refuse_two_classes("SDD", student.logits)
        cells = matched(cell_logits(student, "student", self.scales), cell_logits(teacher, "teacher", self.scales))
        other = jnp.argmax(cells[1], axis=-1) != jnp.argmax(teacher.logits, axis=-1)
        emphasis = jnp.where(other, self.complementary, 1.0).astype(cells[0].dtype)

        def losses(student, teacher):
            target, others = decoupled_rows(student, teacher, batch.label, self.temperature)
            return self.alpha * target + self.beta * others

        rows = jnp.mean(emphasis * jax.vmap(losses)(*cells), axis=0)
        factor = self.weight * ramp(batch.epoch, self.warmup_epochs).astype(rows.dtype)
        loss = factor * labelled_mean(rows, batch.label)
        return loss, {"SDD": loss}
