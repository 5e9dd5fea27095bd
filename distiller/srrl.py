"""SRRL: the teacher's embedding, rebuilt from the student's, and the teacher's classifier applied to the result.

    loss = weight * (feature_weight * mean_bd (h - t)^2 + logit_weight * mean_bk (W h - z_t)^2)
    h = ReLU(BN(conv1x1(s))),   s, t the embeddings, z_t the teacher's logits, W its classifier

Paper: Yang, Martinez, Bulat, Tzimiropoulos. Knowledge Distillation via Softmax Regression Representation Learning.
ICLR 2021. OpenReview ZzwDy_wiWv (not on arXiv).

The second term makes h useful to the teacher's classifier. The form is that of the benchmarks (SimKD's code): the
connector maps the student's embedding. With `on_map` the connector maps the student's last map before the mean over its
positions, as in the authors' code; this needs a student whose embedding is such a mean. The connector is used in
training only, so its batch norm uses the batch's own statistics. The benchmarks add KD: `SoftLogits+SRRL` with all
weights 1.
"""

import flax.linen as nn
import jax.numpy as jnp

from distiller.base import Distiller, wide
from distiller.connectors import ConvNorm
from distiller.logits import squared_error
from distiller.normalised import embedding
from options import not_negative


class SRRL(Distiller):
    """Embedding of the teacher, rebuilt from the student's, and the teacher's classifier on the result.

    Paper: Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021, OpenReview ZzwDy_wiWv

    Attributes:
        feature_weight: weight of the embeddings' difference.
        logit_weight: weight of the difference of the teacher's logits.
        on_map: the connector maps the student's last map, before the mean over positions.
    """

    feature_weight: float = not_negative(1.0)
    logit_weight: float = not_negative(1.0)
    on_map: bool = False

    @nn.compact
    def __call__(self, student, teacher, batch):
        target = embedding(teacher, "teacher")
        connected = nn.relu(ConvNorm(target.shape[-1], name="connector")(self._source(student)))
        rebuilt = jnp.mean(connected, axis=(1, 2))
        terms = {
            "SRRL_feature": self.weight * self.feature_weight * squared_error(rebuilt, target),
            "SRRL_logits": self.weight * self.logit_weight * squared_error(teacher.classify(rebuilt), teacher.logits),
        }
        return sum(terms.values()), terms

    def _source(self, student):
        """[B, H, W, D]: the student's last map, or its embedding as a map of one position."""
        if not self.on_map:
            return embedding(student, "student")[:, None, None]
        if "final" not in student.features:
            raise ValueError(
                f"SRRL with on_map=True needs a student whose embedding is the mean of a map (a tap 'final'); this one "
                f"has {sorted(student.features)}.\nUse on_map=False, which takes any student's embedding."
            )
        return wide(student.features["final"])
