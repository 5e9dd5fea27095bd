import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

import distiller
from distiller.sdd import cell_logits
from models import Outputs

SCALES = (1, 2, 4)


def made_outputs(seed, width):
    """A network whose preactivation is random: 4 examples, 8x8 map, 5 classes."""
    random = np.random.RandomState(seed)
    preact = jnp.float32(random.standard_normal((4, 8, 8, width)) * 3)
    rows = jnp.float32(random.standard_normal((width, 5)) * 2)
    features = {"stage1_preact": preact, "stage1": jax.nn.relu(preact)}
    features["final"] = features["stage1"]
    features["embedding"] = features["stage1"].mean((1, 2))
    head = jax.tree_util.Partial(lambda w, x: x @ w + 0.5, rows)
    return Outputs(head(features["embedding"]), features, head=head)


STUDENT, TEACHER = made_outputs(0, 6), made_outputs(1, 7)
LABEL = np.array([0, 4, 2, 1], np.int32)


def cells_of(outputs):
    """[cells, 4, 5] in NumPy, by slicing."""
    x = np.asarray(outputs.features["stage1"], np.float64)
    rows = np.asarray(outputs.head.args[0], np.float64)
    pooled = []
    for m in SCALES:
        side = 8 // m
        pooled += [
            x[:, i * side : (i + 1) * side, j * side : (j + 1) * side].mean((1, 2)) for i in range(m) for j in range(m)
        ]
    return np.stack(pooled) @ rows + 0.5


def dkd(student, teacher, label, temperature, alpha, beta):
    def kl(t, s):
        return np.sum(t * (np.log(t) - np.log(s)))

    s, t = softmax(student / temperature), softmax(teacher / temperature)
    rest = np.arange(len(s)) != label
    target = kl(np.array([t[label], 1 - t[label]]), np.array([s[label], 1 - s[label]]))
    others = kl(t[rest] / t[rest].sum(), s[rest] / s[rest].sum())
    return temperature**2 * (alpha * target + beta * others)


def test_cells_are_the_classifiers_logits_of_pooled_regions():
    found = jax.jit(lambda x: cell_logits(x, "student", SCALES))(STUDENT)
    assert found.shape == (21, 4, 5)
    np.testing.assert_allclose(found, cells_of(STUDENT), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], STUDENT.logits, rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_scales_cells_is_the_networks_own_answer():
    found = jax.jit(lambda x: cell_logits(x, "student", SCALES))(STUDENT)
    for cells in (found[1:5], found[5:]):
        np.testing.assert_allclose(cells.mean(0), STUDENT.logits, rtol=1e-4, atol=1e-5)


def test_it_is_dkd_of_every_cell_and_twice_that_where_the_teacher_sees_another_class(batch):
    s, t = cells_of(STUDENT), cells_of(TEACHER)
    other = t.argmax(-1) != np.asarray(TEACHER.logits).argmax(-1)
    assert 0 < other.sum() < other.size
    losses = np.array(
        [[dkd(a, b, y, 4.0, 1.0, 8.0) for a, b, y in zip(x, z, LABEL, strict=True)] for x, z in zip(s, t, strict=True)]
    )
    batch = batch.replace(label=jnp.asarray(LABEL), epoch=jnp.float32(9))
    found, _ = jax.jit(distiller.create("SDD").apply)({}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(found, np.mean(losses * np.where(other, 2.0, 1.0)) / 3, rtol=1e-4)
    plain, _ = jax.jit(distiller.create("SDD", complementary=1.0, warmup_epochs=0).apply)({}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(plain, losses.mean(), rtol=1e-4)


def test_at_scale_one_it_is_dkd(batch):
    batch = batch.replace(label=jnp.asarray(LABEL))
    one, _ = jax.jit(distiller.create("SDD", scales=(1,), warmup_epochs=0).apply)({}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(
        one, jax.jit(distiller.create("DKD", warmup_epochs=0).apply)({}, STUDENT, TEACHER, batch)[0], rtol=1e-4
    )


def test_networks_without_maps_are_refused(batch):
    with pytest.raises(ValueError, match="The student's embedding is not the mean"):
        distiller.create("SDD").apply({}, Outputs(STUDENT.logits, {}), TEACHER, batch)
