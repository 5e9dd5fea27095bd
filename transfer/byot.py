"""BYOT: the deepest classifier teaches classifiers at the earlier stages, called exits.

    loss = L(z) + sum_exits [(1 - alpha) L(z_i) + alpha T^2 KL(softmax(z / T) || softmax(z_i / T))
                              + feature_weight * mean_b |F_i - F|^2]

L is the task's loss on labels, z are the logits and F is the last stage; z and F are constants where they teach. z_i
and F_i are the logits and the map of exit i. An exit has bottlenecks down to F's shape, the mean over positions and a
linear layer.

Paper: Zhang, Song, Gao, Chen, Bao, Ma. Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks
via Self Distillation. ICCV 2019. arXiv:1905.08094.

The paper gives no weights. alpha 0.1, T = 3 and feature weight 1e-6 are from later comparisons; code by the authors has
alpha 0.3 and 0.03 times the unsquared distance. Any network with two stages or more works; a transformer's tokens are
read as a square map. Exits are used in training only and not kept, so their batch norms always use the batch's
statistics. The metrics `exit1_correct` ... are shares of the batch, like `correct`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import matched, wide
from distiller.connectors import BatchNorm
from distiller.normalised import Linear
from distiller.soft_logits import kl_divergence
from distiller.spatial import adaptive_average_pool, as_map
from models import Outputs, stages
from models.layers import Conv
from options import between, not_negative, positive
from transfer.alone import Alone


def halvings(side: int, least: int) -> int:
    """How many times `side` can be halved, rounding up, and stay at `least` or above."""
    count = 0
    while side > 1 and -(-side // 2) >= least:
        side, count = -(-side // 2), count + 1
    return count


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm: [B, H, W, C] -> [B, ceil(H / s), ceil(W / s), width], after ReLU.

    The middle has a quarter of the channels.
    """

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        middle = max(self.width // 4, 1)
        for i, (features, size, stride) in enumerate([(middle, 1, 1), (middle, 3, self.stride), (self.width, 1, 1)]):
            x = Conv(features, size, stride, dtype=x.dtype, name=f"conv{i + 1}")(x)
            x = nn.relu(BatchNorm(name=f"bn{i + 1}")(x))
        return x


class Exit(nn.Module):
    """A stage's map -> (map in the shape of the last stage's, logits [B, K]).

    Bottlenecks of stride 2 halve the map while the result is at least as large as the last stage's; the channels
    double, up to the last stage's. If nothing can be halved, there is one bottleneck of stride 1.

    Attributes:
        shape: (H, W, C) of the last stage's map.
        classes: K.
    """

    shape: tuple[int, int, int]
    classes: int

    @nn.compact
    def __call__(self, x):
        height, width, channels = self.shape
        steps = min(halvings(x.shape[1], height), halvings(x.shape[2], width))
        for i in range(max(steps, 1)):
            features = channels if i >= steps - 1 else min(2 * x.shape[-1], channels)
            x = Bottleneck(features, 2 if steps else 1, name=f"block{i + 1}")(x)
        x = x if x.shape[1:3] == (height, width) else adaptive_average_pool(x, height, width)
        return x, Linear(self.classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


class Exits(nn.Module):
    """An exit at every stage but the last: `Outputs` -> [(map, logits), ...]."""

    @nn.compact
    def __call__(self, outputs):
        maps = [wide(as_map(x)) for x in stages(outputs.features)]
        if len(maps) < 2:
            raise ValueError(f"BYOT needs taps stage1, stage2 ...; there are {sorted(outputs.features) or 'none'}.")
        shape, classes = maps[-1].shape[1:], outputs.logits.shape[1]
        return [Exit(shape, classes, name=f"exit{i + 1}")(x) for i, x in enumerate(maps[:-1])]


@dataclasses.dataclass(frozen=True)
class BYOT(Alone):
    """The student's last stage and classifier teach classifiers at its earlier stages.

    Paper: Zhang, Song, Gao, Chen, Bao, Ma, ICCV 2019, arXiv:1905.08094

    Attributes:
        alpha: the soft targets' share of an exit's loss.
        temperature: T, dimensionless.
        feature_weight: of the squared distance of features, summed over positions and channels.
    """

    alpha: float = between(0, 1, 0.1)
    temperature: float = positive(3.0)
    feature_weight: float = not_negative(1e-6)

    def heads(self):
        return Exits()

    def losses(self, params, state, batch, key):
        student, extra = self._student(params, state, batch)
        labels, counts = self.task.loss(student, batch)
        deepest = jax.lax.stop_gradient((wide(as_map(stages(student.features)[-1])), student.logits))
        soft = features = 0.0
        for i, (feature, logits) in enumerate(self._heads(params, student)):
            its_labels, found = self.task.loss(Outputs(logits, {}), batch)
            counts[f"exit{i + 1}_correct"] = found["correct"]
            labels = labels + (1 - self.alpha) * its_labels
            soft = soft + kl_divergence(logits, deepest[1], self.temperature)
            ours, theirs = matched(feature, deepest[0])
            features = features + jnp.sum(jnp.square(ours - theirs)) / len(ours)
        terms = {"BYOT_logits": self.alpha * soft, "BYOT_features": self.feature_weight * features}
        return {self.task.term: labels, **terms}, (extra, counts)
