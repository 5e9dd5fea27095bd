import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.fsp import flow, flow_loss
from models import Outputs

RANDOM = np.random.RandomState(0)


def maps(*shapes, seed=0):
    random = np.random.RandomState(seed)
    return [jnp.asarray(random.standard_normal((3, *shape)), jnp.float32) for shape in shapes]


def network(*shapes, seed=0):
    return Outputs(jnp.zeros((3, 2)), {f"stage{i + 1}": x for i, x in enumerate(maps(*shapes, seed=seed))})


def plain_flow(lower, upper):
    """Mean over positions of every channel of one times every channel of the other; `lower` is twice as large."""
    lower, upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    b, h, w, _ = upper.shape
    lower = lower.reshape(b, h, 2, w, 2, -1).mean((2, 4))
    return (lower[..., :, None] * upper[..., None, :]).mean((1, 2))


def test_a_matrix_is_the_mean_of_products_at_the_smaller_maps_resolution():
    lower, upper = maps((8, 8, 3), (4, 4, 5))
    np.testing.assert_allclose(flow(lower, upper), plain_flow(lower, upper), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(flow(upper, lower), plain_flow(lower, upper).swapaxes(1, 2), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_loss_is_the_sum_over_neighbours_and_resolutions_may_differ():
    student, teacher = maps((8, 8, 3), (4, 4, 5), (2, 2, 6)), maps((16, 16, 3), (8, 8, 5), (4, 4, 6), seed=1)
    expected = sum(((plain_flow(*student[i : i + 2]) - plain_flow(*teacher[i : i + 2])) ** 2).mean() for i in range(2))
    np.testing.assert_allclose(flow_loss(student, teacher), expected, rtol=1e-4)


def test_other_channels_are_named():
    with pytest.raises(ValueError, match=r"\(3, 3, 5\).*\(3, 3, 6\)"):
        flow_loss(maps((4, 4, 3), (4, 4, 5)), maps((4, 4, 3), (4, 4, 6)))


@pytest.mark.slow
def test_channels_are_taken_to_the_teachers_only_where_they_differ(batch):
    student, teacher = network((4, 4, 3), (2, 2, 5)), network((4, 4, 3), (2, 2, 6), seed=1)
    method = distiller.create("FSP", weight=1.0)
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
    (connector,) = variables["params"].values()
    kernel = connector["Conv_0"]["kernel"]
    assert kernel.shape == (1, 1, 5, 6)
    (s1, s2), (t1, t2) = student.features.values(), teacher.features.values()
    loss, _ = method.apply(variables, student, teacher, batch)
    s2 = s2 @ kernel[0, 0]
    s2 = (s2 - s2.mean((0, 1, 2))) / np.sqrt(s2.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(loss, flow_loss([s1, s2], [t1, t2]), rtol=1e-4)
    assert not jax.jit(method.init)(jax.random.key(0), student, student, batch)


@pytest.mark.slow
def test_a_student_that_does_not_normalise_its_stages_does_not_diverge(batch):
    """SGD on a residual layer before the student's maps and on the connectors; without batch norm, NaN in step 5."""
    teacher = network((8, 8, 8), (4, 4, 8), (4, 4, 8), seed=1)
    teacher = teacher.replace(features={name: 3 * jnp.abs(x) for name, x in teacher.features.items()})
    student = network((4, 4, 16), (4, 4, 16), (4, 4, 16))
    method = distiller.create("FSP")
    learned = jax.jit(method.init)(jax.random.key(0), student, teacher, batch), jnp.zeros((16, 16))

    @jax.jit
    def step(learned):
        def loss(learned):
            maps = {name: x + x @ learned[1] for name, x in student.features.items()}
            return method.apply(learned[0], student.replace(features=maps), teacher, batch)[0]

        value, gradients = jax.value_and_grad(loss)(learned)
        return value, jax.tree.map(lambda p, g: p - jnp.float32(0.02) * g, learned, gradients)

    found = []
    for _ in range(6):
        value, learned = step(learned)
        found.append(float(value))
    assert found[-1] < found[0] / 2


@pytest.mark.slow
def test_after_the_first_phase_there_are_the_labels_alone(batch):
    student, teacher = network((4, 4, 3), (2, 2, 5)), network((4, 4, 3), (2, 2, 5), seed=1)
    method = distiller.create("FSP", warmup_epochs=2)
    assert (method.first_phase_epochs, method.first_phase_learns) == (2, ("student", "method"))
    slope = jax.value_and_grad(lambda s, e: method.apply({}, s, teacher, batch.replace(epoch=jnp.float32(e)))[0])
    for epoch, learns in ((1.99, True), (2.0, False)):
        loss, gradients = slope(student, epoch)
        assert bool(loss > 0) is learns
        assert any(np.any(g) for g in jax.tree.leaves(gradients)) is learns


def test_one_stage_has_no_neighbour(batch):
    with pytest.raises(ValueError, match="pair only one"):
        jax.jit(distiller.create("FSP").init)(
            jax.random.key(0), network((4, 4, 3)), network((4, 4, 3), (2, 2, 3)), batch
        )
