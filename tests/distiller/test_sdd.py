import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from scipy.special import softmax

import distiller
import models
from distiller.sdd import cell_logits, pooled_map
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
    found = cell_logits(STUDENT, "student", SCALES)
    assert found.shape == (21, 4, 5)
    np.testing.assert_allclose(found, cells_of(STUDENT), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], STUDENT.logits, rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_scales_cells_is_the_networks_own_answer():
    found = cell_logits(STUDENT, "student", SCALES)
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
    found, _ = distiller.create("SDD").apply({}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(found, np.mean(losses * np.where(other, 2.0, 1.0)) / 3, rtol=1e-4)
    plain, _ = distiller.create("SDD", complementary=1.0, warmup_epochs=0).apply({}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(plain, losses.mean(), rtol=1e-4)


def test_at_scale_one_it_is_dkd(batch):
    batch = batch.replace(label=jnp.asarray(LABEL))
    one, _ = distiller.create("SDD", scales=(1,), warmup_epochs=0).apply({}, STUDENT, TEACHER, batch)
    np.testing.assert_allclose(
        one, distiller.create("DKD", warmup_epochs=0).apply({}, STUDENT, TEACHER, batch)[0], rtol=1e-4
    )


@pytest.mark.parametrize("name", ["ResNet8", "WRN_16_1", "VGG8", "MobileNetV2", "CNN"])
def test_the_pooled_maps_mean_is_the_embedding(name):
    model = models.create(name, 4)
    images = jnp.asarray(np.random.RandomState(0).standard_normal((2, 8, 8, 1)), jnp.float32)
    random = np.random.RandomState(1)
    variables = jax.tree.map(  # statistics and biases that a batch norm cannot pass over
        lambda x: x + 0.2 * np.abs(random.standard_normal(x.shape)).astype(x.dtype), drawn(model, images, 0)
    )
    outputs = jax.jit(lambda v, x: models.forward(model, v, x)[0])(variables, images)
    embedding = outputs.features["embedding"]
    assert np.abs(embedding).max() > 1e-4
    np.testing.assert_allclose(pooled_map(outputs, "student").mean((1, 2)), embedding, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ConvNeXt_T", "ViT_Ti"])
def test_networks_with_another_embedding_are_refused(name):
    model = models.create(name, 4)
    images = jnp.zeros((2, 32, 32, 3))

    def ask(key, images):
        return pooled_map(models.forward(model, model.init(key, images), images)[0], "teacher")

    with pytest.raises(ValueError, match=r"The teacher's embedding is not the mean of a map .*\nUse a network"):
        jax.eval_shape(ask, jax.random.key(0), images)


def test_networks_without_maps_are_refused(batch):
    with pytest.raises(ValueError, match="The student's embedding is not the mean"):
        distiller.create("SDD").apply({}, Outputs(STUDENT.logits, {}), TEACHER, batch)
