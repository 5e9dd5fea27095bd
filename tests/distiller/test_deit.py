"""DeiT: the label loss reads one head and the teacher's loss the other, alone and in a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_network import answer, make_batch, player

import distiller
from distiller.soft_logits import kl_divergence
from models import Outputs


@pytest.fixture(scope="module")
def student():
    batch = make_batch(distiller.create("DeiT"))
    network, variables = player((3, 4, 5, 6), 5, 1, batch.image, heads=True)
    return answer(network, variables, batch, distiller.create("DeiT"))


@pytest.mark.parametrize("name", ["DeiT", "DeiT+SoftLogits", "SoftLogits+DeiT"])
def test_the_label_loss_reads_the_class_head(name, student):
    np.testing.assert_array_equal(
        distiller.create(name).label_outputs(student).logits, student.features["class_logits"]
    )


def test_other_methods_leave_the_label_loss_the_networks_logits(student):
    assert distiller.create("SoftLogits+AT").label_outputs(student) is student


@pytest.mark.slow
@pytest.mark.parametrize("hard", [True, False])
def test_the_loss_reads_the_distillation_head_alone(hard, student):
    teacher = student.replace(logits=jnp.flip(student.logits, axis=1))
    method = distiller.create("DeiT", hard=hard)

    def loss(student):
        return method.apply({}, student, teacher, batch=None)[0]

    gradients = jax.grad(loss)(student.replace(head=None, source=None))
    read = {tap for tap, g in gradients.features.items() if np.any(g)}
    assert read == {"distill_logits"}
    assert not np.any(gradients.logits)


def test_the_soft_form_is_the_divergence_of_the_paper(student):
    teacher = student.replace(logits=jnp.flip(student.logits, axis=1))
    loss, _ = distiller.create("DeiT", hard=False, weight=1.0).apply({}, student, teacher, batch=None)
    expected = kl_divergence(student.features["distill_logits"], teacher.logits, 3.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_student_with_one_head_is_refused():
    outputs = Outputs(jnp.zeros((2, 3)), {})
    with pytest.raises(ValueError, match=r"two heads(?s:.*)distilled=True, or SoftLogits with hard=True"):
        distiller.create("DeiT").label_outputs(outputs)
