"""FitNet: hints, what one of the teacher's middle stages answers, regressed from the student's.

    loss = weight * mean_{b,h,w,c} (r(f_s) - f_t)^2,   r = ReLU(BN(conv(.)))

Paper: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio. FitNets: Hints for Thin Deep Nets. ICLR 2015.
arXiv:1412.6550, equation 3.

The paper first trains the student up to the hint on this loss alone and then all of it on labels and soft logits. Here,
as in every benchmark since, the hint stands beside the cross-entropy from the start, with weight 100, batch norm in
the regressor and the mean of the squares where the paper halves their sum. The regressor ends in the ReLU that the
hint is taken behind; some networks' stages are linear (WRN, MobileNetV2, ViT, ConvNeXt), for which `relu=False` can
reach the teacher's negative values (the benchmarks keep the ReLU).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller, matched
from distiller.connectors import Connector
from distiller.spatial import as_map, stage_pairs


def hint_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared error of a hint.

    Args:
        student: [B, H, W, C], what the regressor makes of the student's feature map.
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
        stage: which of the paired stages is the hint, from 1; the benchmarks take the second.
        relu: the regressor ends in a ReLU.
    """

    weight: float = 100.0
    stage: int = 2
    relu: bool = True

    @nn.compact
    def __call__(self, student, teacher, batch):
        pairs = stage_pairs(student.features, teacher.features)
        if not 1 <= self.stage <= len(pairs):
            raise ValueError(f"FitNet: stage={self.stage}, but these networks pair stages 1 to {len(pairs)} only.")
        feature, hint = pairs[self.stage - 1]
        hint = as_map(hint)
        guess = Connector(hint.shape[3], *hint.shape[1:3])(feature)
        loss = self.weight * hint_loss(nn.relu(guess) if self.relu else guess, hint)
        return loss, {"FitNet": loss}
