"""FRSKD: an auxiliary network that refines the student's own feature maps teaches the student.

    loss = L(z) + L(z_a) + weight * T^2 KL(softmax(z_a / T) || softmax(z / T))
           + feature_weight * sum_stages mean (attention(f_i) - attention(r_i))^2

L is the task's loss on labels. z_a and r_i are the logits and refined maps of the auxiliary network: a bidirectional
feature pyramid over the student's stages f_i (BiFPNc, one layer, twice the channels). Where they teach, they are
constants. The gradient of L(z_a) reaches the student's stages through the pyramid. `attention` is AT's.

Paper: Ji, Shin, Hwang, Park, Moon. Refine Myself by Teaching Myself: Feature Refinement via Self-Knowledge
Distillation. CVPR 2021. arXiv:2103.08273.

The weights 2 and 100 (CIFAR-100) are the paper's alpha and beta. As in the released code the pyramid reads the maps
after a ReLU. Here any network with two stages or more works: maps are resized by any ratio, and a transformer's
tokens are read as square maps. The auxiliary network is not kept, so its batch norms always use the batch's
statistics.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.at import attention_loss
from distiller.base import wide
from distiller.connectors import BatchNorm
from distiller.normalised import Linear
from distiller.reviewkd import nearest
from distiller.soft_logits import kl_divergence
from distiller.spatial import adaptive_average_pool, as_map
from models import Outputs, stages
from models.layers import Conv
from options import at_least, not_negative, positive
from transfer.alone import Alone


class Project(nn.Module):
    """1x1 convolution with batch norm, after ReLU: [B, H, W, C] -> [B, H, W, width]."""

    width: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(BatchNorm(name="bn")(Conv(self.width, 1, dtype=x.dtype, name="conv")(x)))


class Separable(nn.Module):
    """`depth` separable 3x3 convolutions with batch norm and ReLU: [B, H, W, C] -> the same shape."""

    depth: int = 2

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        for i in range(self.depth):
            x = Conv(channels, 3, groups=channels, dtype=x.dtype, name=f"depthwise{i + 1}")(x)
            x = Conv(channels, 1, dtype=x.dtype, name=f"pointwise{i + 1}")(x)
            x = nn.relu(BatchNorm(name=f"bn{i + 1}")(x))
        return x


def fit(x: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes a map: 3x3 max pooling for half the size, nearest elements for a larger one, else means over areas.

    Args:
        x: [B, H, W, C].
        height, width: of the result.

    Returns:
        [B, height, width, C].
    """
    rows, columns = x.shape[1:3]
    if (rows, columns) == (height, width):
        return x
    if rows <= height and columns <= width:
        return nearest(x, height, width)
    if (-(-rows // 2), -(-columns // 2)) == (height, width):
        return nn.max_pool(x, (3, 3), (2, 2), "SAME")
    return adaptive_average_pool(x, height, width)


class Fuse(nn.Module):
    """The mean of maps [B, H, W, C] with learned shares that are not negative, then `Separable`."""

    @nn.compact
    def __call__(self, *maps):
        weights = nn.relu(self.param("shares", nn.initializers.ones, (len(maps),), jnp.float32))
        weights = (weights / (jnp.sum(weights) + 1e-6)).astype(maps[0].dtype)
        return Separable(name="conv")(sum(weights[i] * x for i, x in enumerate(maps)))


class SelfTeacher(nn.Module):
    """A bidirectional feature pyramid (BiFPNc) over the student's stages and a classifier on its last map.

    Attributes:
        width: channels of each level, divided by those of the student's stage.

    Returns:
        ([refined map of each stage, [B, H, W, width * C]], logits [B, K]).
    """

    width: int = 2

    @nn.compact
    def __call__(self, outputs):
        found = [nn.relu(wide(as_map(x))) for x in stages(outputs.features)]
        if len(found) < 2:
            raise ValueError(f"FRSKD needs taps stage1, stage2 ...; there are {sorted(outputs.features) or 'none'}.")
        sizes = [(x.shape[1:3], self.width * x.shape[-1]) for x in found]
        lateral = [
            Project(c, name=f"lateral{i + 1}")(x) for i, (x, (_, c)) in enumerate(zip(found, sizes, strict=True))
        ]

        def bring(x, level, name):
            return Project(sizes[level][1], name=name)(fit(x, *sizes[level][0]))

        top_down = [lateral[-1]]
        for i in reversed(range(len(found) - 1)):
            top_down.insert(0, Fuse(name=f"top_down{i + 1}")(lateral[i], bring(top_down[0], i, f"up{i + 1}")))
        refined = [top_down[0]]
        for i in range(1, len(found)):
            own = Project(sizes[i][1], name=f"second_lateral{i + 1}")(found[i])
            middle = [top_down[i]] if i < len(found) - 1 else []
            refined.append(Fuse(name=f"bottom_up{i + 1}")(own, *middle, bring(refined[-1], i, f"down{i + 1}")))
        pooled = jnp.mean(refined[-1], axis=(1, 2))
        return refined, Linear(outputs.logits.shape[1], name="classifier")(pooled)


@dataclasses.dataclass(frozen=True)
class FRSKD(Alone):
    """An auxiliary network that refines the student's stages teaches it, and learns beside it.

    Paper: Ji, Shin, Hwang, Park, Moon, CVPR 2021, arXiv:2103.08273

    Attributes:
        temperature: T, dimensionless.
        weight: of the divergence.
        feature_weight: of the attention's difference.
        width: channels of the auxiliary network, divided by those of the stages.
    """

    temperature: float = positive(4.0)
    weight: float = not_negative(2.0)
    feature_weight: float = not_negative(100.0)
    width: int = at_least(1, 2)

    def heads(self):
        return SelfTeacher(self.width)

    def losses(self, params, state, batch, key):
        student, extra = self._student(params, state, batch)
        refined, logits = self._heads(params, student)
        labels, counts = self.task.loss(student, batch)
        auxiliary, found = self.task.loss(Outputs(logits, {}), batch)
        counts["auxiliary_correct"] = found["correct"]
        refined, logits = jax.lax.stop_gradient((refined, logits))
        maps = [as_map(x) for x in stages(student.features)]
        attention = sum(attention_loss(s, t) for s, t in zip(maps, refined, strict=True))
        terms = {
            self.task.term: labels + auxiliary,
            "FRSKD_logits": self.weight * kl_divergence(student.logits, logits, self.temperature),
            "FRSKD_features": self.feature_weight * attention,
        }
        return terms, (extra, counts)
