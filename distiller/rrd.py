"""RRD: how an example relates to many earlier ones, by a queue of the teacher's embeddings.

    u = unit(W_s f_s + b_s), v = unit(W_t f_t),   Q [queue, 128]: the v of the last examples, this batch's among them
    loss = weight * mean_i -sum_k a_ik log b_ik,   a_i = softmax(Q v_i / T_t), b_i = softmax(Q u_i / T_s)

Paper: Giakoumoglou, Stathaki. Relational Representation Distillation. 2024. arXiv:2407.12073.

Unlike in CRD no example is a negative: the student matches the teacher's distribution over the queue. A step first
writes this batch's v over the oldest rows of the queue, and then compares. The queue starts with random directions of
unit length. The teacher's relations are the target and get no gradient. So W_t is drawn once and does not learn; random
projections keep angles approximately. T_s = 0.1, T_t = 0.02 and 16384 rows are the defaults of the authors' code. Their
commands add the cross-entropy with weight 1, and KD with weight 1 for RRD+KD (`SoftLogits+RRD`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from distiller.memory import remember
from distiller.normalised import Linear, embedding, unit
from models.layers import uniform_fan_in
from options import not_negative, positive


def relation_loss(
    student: jax.Array, teacher: jax.Array, queue: jax.Array, temperature: float, teacher_temperature: float
) -> jax.Array:
    """Cross-entropy of the relations to the queue.

    Args:
        student, teacher: [B, D] float32, rows of unit length.
        queue: [N, D], rows of unit length; gets no gradient.
        temperature, teacher_temperature: T_s and T_t, dimensionless, above 0.

    Returns:
        Scalar: sum over the queue, mean over the batch, natural log.
    """
    queue = jax.lax.stop_gradient(queue.astype(student.dtype))
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher) @ queue.T / teacher_temperature)
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(student @ queue.T / temperature), axis=1))


class RRD(Distiller):
    """Relations of each example to a queue of earlier ones, as a distribution over the queue.

    Paper: Giakoumoglou, Stathaki, 2024, arXiv:2407.12073

    Attributes:
        queue: number of embeddings in the queue; at least the batch.
        temperature: T_s, of the student's relations, dimensionless.
        teacher_temperature: T_t, of the teacher's, dimensionless.
        feat_dim: width of the embeddings that are compared.
    """

    weight: float = not_negative(1.0)
    queue: int = positive(16384)
    temperature: float = positive(0.1)
    teacher_temperature: float = positive(0.02)
    feat_dim: int = positive(128)

    @nn.compact
    def __call__(self, student, teacher, batch):
        f_s, f_t = embedding(student, "student"), embedding(teacher, "teacher")
        count = f_t.shape[0]
        if count > self.queue:
            raise ValueError(
                f"RRD's queue has {self.queue} rows, and a batch has {count}.\n"
                f"Give --config.distiller_options.queue={count} or more; the default is 16384."
            )

        def draw(init, *shape):
            return lambda: init(self.make_rng("method"), shape, jnp.float32)

        directions = draw(lambda *x: unit(jax.random.normal(*x)), self.queue, self.feat_dim)
        queue = self.variable("memory", "queue", directions)
        oldest = self.variable("memory", "oldest", lambda: jnp.zeros((), jnp.int32))
        width = f_t.shape[-1]
        kernel = self.variable("memory", "embed_teacher", draw(uniform_fan_in(width), width, self.feat_dim))
        u = unit(Linear(self.feat_dim, name="embed_student")(f_s))
        v = unit(f_t @ kernel.value.astype(f_t.dtype))
        places = (oldest.value + jnp.arange(count, dtype=jnp.int32)) % self.queue
        rows = remember(queue.value, places, jax.lax.stop_gradient(v))
        if self.is_mutable_collection("memory") and not self.is_initializing():
            queue.value, oldest.value = rows, (oldest.value + count) % self.queue
        loss = self.weight * relation_loss(u, v, rows, self.temperature, self.teacher_temperature)
        return loss, {"RRD": loss}
