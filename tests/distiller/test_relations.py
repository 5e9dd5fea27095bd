"""PKT, RKD, SP, CC and IRG: what methods that compare examples with each other have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
import distiller
from distiller.cc import consecutive_loss, correlation
from distiller.irg import edges, fewer_channels, transformation
from distiller.pkt import neighbour_probabilities
from distiller.rkd import relations
from distiller.sp import similarity
from models import Outputs

OPTIONS = {
    "PKT": ("PKT", {}),
    "RKD": ("RKD", {}),
    "SP": ("SP", {}),
    "IRG": ("IRG", {}),
    "CC": ("CC", {}),
    "CC kernel": ("CC", {"kernel": True}),
}
ROWS = 5
BATCH = data.Batch(jnp.zeros((ROWS, 1, 1, 1)), jnp.arange(ROWS), jnp.arange(ROWS), jnp.float32(0))


def outputs(seed):
    random = np.random.RandomState(seed)
    shapes = {"stage1": (ROWS, 4, 4, 3), "stage2": (ROWS, 2, 2, 6), "embedding": (ROWS, 6)}
    features = {tap: jnp.asarray(random.standard_normal(shape), jnp.float32) for tap, shape in shapes.items()}
    return Outputs(jnp.asarray(random.standard_normal((ROWS, 3)), jnp.float32), features)


@functools.cache
def compiled(which):
    name, options = OPTIONS[which]
    method = distiller.create(name, weight=1.0, **options)
    return jax.jit(jax.value_and_grad(lambda s, t: method.apply({}, s, t, BATCH)[0]))


def rows(outputs, change):
    return jax.tree.map(change, outputs)


SINGULAR = {
    "a zero row": lambda x: x.at[1].set(0),
    "all zero": jnp.zeros_like,
    "two equal rows": lambda x: x.at[3].set(x[0]),
    "all rows equal": lambda x: jnp.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("kind", SINGULAR)
@pytest.mark.parametrize("which", OPTIONS)
def test_numbers_and_gradients_are_finite_and_moderate_at_singular_points(which, kind):
    student, teacher = outputs(0), outputs(1)
    for s, t in ((rows(student, SINGULAR[kind]), teacher), (student, rows(teacher, SINGULAR[kind]))):
        loss, gradient = compiled(which)(s, t)
        assert np.isfinite(loss)
        assert all(np.abs(g).max() < 1e3 for g in jax.tree.leaves(gradient))  # a NaN is not below either
    same = rows(student, SINGULAR[kind])
    loss, gradient = compiled(which)(same, same)
    assert abs(loss) < 1e-12
    assert all(np.abs(g).max() < 1e-3 for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("which", [which for which in OPTIONS if which != "CC"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(ROWS)))
def test_the_order_of_the_examples_does_not_matter(which, seed, order):
    student, teacher = outputs(seed), outputs(seed + 1)
    expected = compiled(which)(student, teacher)[0]
    found = compiled(which)(*(rows(x, lambda a: a[np.array(order)]) for x in (student, teacher)))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected > 1e-5


@pytest.mark.parametrize("which", [which for which in OPTIONS if which != "CC"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_the_scale_of_the_students_features_does_not_matter(which, seed, factor):
    student, teacher = outputs(seed), outputs(seed + 1)
    scaled = student.replace(features={tap: x * factor for tap, x in student.features.items()})
    np.testing.assert_allclose(
        compiled(which)(scaled, teacher)[0], compiled(which)(student, teacher)[0], rtol=1e-3, atol=1e-7
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_distances_and_angles_see_neither_rotation_nor_translation(seed):
    random = np.random.RandomState(seed)
    feature = random.standard_normal((ROWS, 4)).astype(np.float32)
    rotation = np.linalg.qr(random.standard_normal((4, 4)))[0].astype(np.float32)
    moved = jnp.asarray(feature @ rotation + 3)
    for found, expected in zip(relations(moved), relations(jnp.asarray(feature)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(edges(moved), edges(jnp.asarray(feature)), atol=1e-4)


def test_distances_and_angles_are_numpys():
    feature = np.random.RandomState(0).standard_normal((ROWS, 4))
    distance, angle = relations(jnp.asarray(feature, jnp.float32))
    plain = np.linalg.norm(feature[:, None] - feature[None], axis=-1)
    np.testing.assert_allclose(distance, plain / plain[~np.eye(ROWS, dtype=bool)].mean(), rtol=1e-5)
    for i, j, k in ((0, 1, 2), (3, 4, 0), (2, 1, 1)):
        a, b = feature[j] - feature[i], feature[k] - feature[i]
        np.testing.assert_allclose(angle[i, j, k], a @ b / np.linalg.norm(a) / np.linalg.norm(b), rtol=1e-5)
    assert not np.diagonal(angle).any()  # an example's angle with itself


def test_neighbour_probabilities_are_numpys_and_sum_to_one():
    feature = np.random.RandomState(0).standard_normal((ROWS, 4))
    length = np.linalg.norm(feature, axis=1)
    plain = 1 + feature @ feature.T / np.outer(length, length)
    found = neighbour_probabilities(jnp.asarray(feature, jnp.float32))
    np.testing.assert_allclose(found, plain / plain.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_similarity_is_numpys():
    feature = np.random.RandomState(0).standard_normal((ROWS, 2, 2, 3))
    gram = feature.reshape(ROWS, -1) @ feature.reshape(ROWS, -1).T
    found = similarity(jnp.asarray(feature, jnp.float32))
    np.testing.assert_allclose(found, gram / np.linalg.norm(gram, axis=1, keepdims=True), rtol=1e-4)


def test_edges_and_transformation_are_numpys():
    random = np.random.RandomState(0)
    early, late = random.standard_normal((ROWS, 4, 4, 3)), random.standard_normal((ROWS, 2, 2, 6))
    plain = np.square(late[:, None] - late[None]).sum((2, 3, 4))
    np.testing.assert_allclose(edges(jnp.asarray(late, jnp.float32)), plain / plain.max(), atol=1e-5)
    pooled = early.reshape(ROWS, 2, 2, 2, 2, 3).mean((2, 4))
    moved = np.square(pooled - late.reshape(ROWS, 2, 2, 3, 2).mean(-1)).sum((1, 2, 3))
    found = transformation(jnp.asarray(early, jnp.float32), jnp.asarray(late, jnp.float32))
    np.testing.assert_allclose(found, moved / moved.max(), rtol=1e-5)


def test_channels_are_averaged_in_neighbouring_groups():
    x = jnp.arange(6.0).reshape(1, 1, 1, 6)
    np.testing.assert_allclose(fewer_channels(x, 3).ravel(), [0.5, 2.5, 4.5])
    np.testing.assert_allclose(fewer_channels(x, 4).ravel(), [0.5, 1.5, 3.5, 4.5])
    assert fewer_channels(x, 6) is x


def test_neighbours_correlate_as_in_a_loop():
    s, t = np.random.RandomState(0).standard_normal((2, ROWS, 4))
    plain = np.mean([np.abs(s[i] - t[i]) @ np.abs(s[i + 1] - t[i + 1]) for i in range(ROWS - 1)])
    found = consecutive_loss(jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    assert consecutive_loss(jnp.ones((1, 4)), jnp.zeros((1, 4))) == 0


def test_the_expanded_kernel_tends_to_the_gaussian():
    feature = np.random.RandomState(0).standard_normal((ROWS, 4))
    feature /= np.linalg.norm(feature, axis=1, keepdims=True)
    gaussian = np.exp(-0.4 * np.square(feature[:, None] - feature[None]).sum(-1))
    found = functools.partial(correlation, jnp.asarray(7 * feature, jnp.float32), 0.4)
    np.testing.assert_allclose(found(12), gaussian, rtol=1e-5)
    assert np.abs(found(2) - gaussian).max() > 1e-3


@pytest.mark.slow
def test_widths_that_differ_are_projected_and_equal_ones_only_on_request():
    student, teacher = outputs(0), outputs(1)
    wider = teacher.replace(features={**teacher.features, "embedding": jnp.ones((ROWS, 9))})
    key = jax.random.key(0)
    assert not distiller.create("CC").init(key, student, teacher, BATCH)
    assert not distiller.create("CC", kernel=True).init(key, student, wider, BATCH)
    own = distiller.create("CC").init(key, student, wider, BATCH)["params"]
    assert jax.tree.map(jnp.shape, own) == {"student_projection": {"kernel": (6, 9), "bias": (9,)}}
    both = distiller.create("CC", project_to=4).init(key, student, wider, BATCH)["params"]
    assert {name: p["kernel"].shape for name, p in both.items()} == {
        "student_projection": (6, 4),
        "teacher_projection": (9, 4),
    }


def test_only_consecutive_correlation_depends_on_the_order():
    assert distiller.create("CC").order_matters
    assert not distiller.create("CC", kernel=True).order_matters
    assert distiller.create("SP+CC").order_matters
    assert not distiller.create("SP+RKD").order_matters


@pytest.mark.parametrize(
    ("name", "message"), [("PKT", "teacher has no tap 'embedding'"), ("SP", "The teacher has no taps stage1")]
)
def test_networks_without_the_tap_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        distiller.create(name).apply({}, outputs(0), Outputs(jnp.zeros((ROWS, 3)), {}), BATCH)
