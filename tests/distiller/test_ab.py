import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.ab import boundary_loss
from models import Outputs

RANDOM = np.random.RandomState(0)


def network(channels, seed):
    one, two = jnp.asarray(np.random.RandomState(seed).standard_normal((2, 4, 6, 6, channels)), jnp.float32)
    return Outputs(jnp.zeros((4, 2)), {"stage1_preact": one, "stage2_preact": two})


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_it_is_the_papers_four_cases(margin):
    student, teacher = RANDOM.standard_normal((2, 5, 3, 3, 4))
    teacher[0, 0, 0] = 0.0
    expected = 0.0
    for s, t in zip(student.ravel(), teacher.ravel(), strict=True):
        if t > 0 and s < margin:
            expected += (margin - s) ** 2
        elif t <= 0 and s > -margin:
            expected += (margin + s) ** 2
    found = boundary_loss(jnp.float32(student), jnp.float32(teacher), margin)
    np.testing.assert_allclose(found, expected / 5, rtol=1e-5)


def test_only_the_teachers_signs_count_and_beyond_the_margin_nothing_is_asked():
    student, teacher = RANDOM.standard_normal((2, 5, 3, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(boundary_loss(student, 100 * teacher), boundary_loss(student, teacher), rtol=1e-6)
    assert boundary_loss(1.001 * jnp.sign(teacher), teacher) == 0
    assert boundary_loss(0.9 * jnp.sign(teacher), teacher) > 0


@pytest.mark.slow
def test_after_the_first_phase_there_are_the_labels_alone(batch):
    student, teacher = network(3, 0), network(5, 1)
    method = distiller.create("AB", warmup_epochs=2)
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
    assert (method.first_phase_epochs, method.first_phase_learns) == (2, ("student", "method"))

    @jax.jit
    def slopes(epoch):
        loss = lambda v, s: method.apply(v, s, teacher, batch.replace(epoch=epoch))[0]  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1))(variables, student)

    for epoch, learns in ((0.0, True), (1.9, True), (2.0, False), (50.0, False)):
        loss, gradients = slopes(jnp.float32(epoch))
        assert bool(loss > 0) is learns
        assert [any(np.any(g) for g in jax.tree.leaves(part)) for part in gradients] == [learns, learns]


@pytest.mark.slow
def test_connectors_stand_only_where_shapes_differ(batch):
    key = jax.random.key(0)
    method = distiller.create("AB")
    assert not method.init(key, network(3, 0), network(3, 1), batch)
    assert set(method.init(key, network(3, 0), network(5, 1), batch)["params"]) == {"Connector_0", "Connector_1"}


def test_deeper_stages_weigh_twice_as_much(batch):
    student, teacher = network(3, 0), network(3, 1)
    parts = [boundary_loss(student.features[f"stage{i}_preact"], teacher.features[f"stage{i}_preact"]) for i in (1, 2)]
    loss, _ = distiller.create("AB").apply({}, student, teacher, batch)
    np.testing.assert_allclose(loss, 0.003 * (0.5 * parts[0] + parts[1]), rtol=1e-6)


def test_networks_without_the_taps_are_refused_by_role(batch):
    without = Outputs(jnp.zeros((4, 2)), {"stage1": jnp.zeros((4, 6, 6, 3))})
    with pytest.raises(ValueError, match=r"The teacher has no taps stage1_preact .*'stage1'"):
        jax.jit(distiller.create("AB").init)(jax.random.key(0), network(3, 0), without, batch)
