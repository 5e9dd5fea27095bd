"""FitNet: hints: the feature map of one of the teacher's middle stages, regressed from the student's map.

    loss = weight * mean_{b,h,w,c} (r(f_s) - f_t)^2,   r = ReLU(BN(conv(.)))

Paper: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio. FitNets: Hints for Thin Deep Nets. ICLR 2015.
arXiv:1412.6550, equation 3.

The paper first trains the student up to the hint on this loss alone, and then the whole student on labels and soft
logits. Here, as in the benchmarks, this loss is added to the cross-entropy from the start, with weight 100. The
regressor has batch norm. The loss is the mean of the squares; the paper halves it. The regressor ends in a ReLU, as the
hint's stage does. The stages of some networks end without a ReLU (WRN, MobileNetV2, ViT, ConvNeXt); with `relu=False`
the regressor can reach their negative values (the benchmarks keep the ReLU).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.connectors import Connector
from distiller.spatial import as_map, paired_stages, stage_pairs
from options import not_negative, positive


def hint_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared error of a hint.

    Args:
        student: [B, H, W, C], the regressor's output.
        teacher: [B, H, W, C].

    Returns:
        Scalar: mean over all entries.

    Raises:
        ValueError: shapes differ.
    """
    student, teacher = matched(student, teacher)
    return jnp.mean(jnp.square(student - teacher))


class FitNet(Distiller):
    """Hints: the feature map of a middle stage, regressed from the student's by a convolution.

    Paper: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio, ICLR 2015, arXiv:1412.6550

    Attributes:
        stage: number of the pair of stages that is the hint, from 1; the benchmarks take the second.
        stages: pairs "STUDENT:TEACHER,..." of stages (spatial.py), each one a hint; "": `stage` chooses the hint.
        relu: whether the regressor ends in a ReLU.
    """

    weight: float = not_negative(100.0)
    stage: int = positive(2)
    stages: str = paired_stages()
    relu: bool = True

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features, self.stages)
        if not self.stages:
            if self.stage > len(pairs):
                raise ValueError(f"FitNet: stage={self.stage}, but these networks pair stages 1 to {len(pairs)} only.")
            pairs = [pairs[self.stage - 1]]
        total = 0.0
        for feature, hint in pairs:
            hint = as_map(hint)
            guess = Connector(hint.shape[3], *hint.shape[1:3])(feature)
            total = total + hint_loss(nn.relu(guess) if self.relu else guess, hint)
        loss = self.weight * total
        return loss, {"FitNet": loss}
