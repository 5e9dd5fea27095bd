import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distiller
from distiller.kdsvd import eigenvectors, singular, singular_vector_loss
from models import Outputs

SHAPES = [(6, 6, 5), (4, 4, 7), (2, 2, 9)]  # the last has more channels than positions

loss_of = jax.jit(singular_vector_loss, static_argnames="top_k")


def maps(seed, shapes=SHAPES, batch=3):
    random = np.random.RandomState(seed)
    return [np.maximum(random.standard_normal((batch, *shape)), 0) for shape in shapes]


def reference(student, teacher, k):
    """The paper's steps with NumPy's SVD, one image after the other."""
    total = 0.0
    for b in range(len(student[0])):
        before = None
        for s, t in zip(student, teacher, strict=True):
            s, t = (x[b].reshape(-1, x.shape[-1]) for x in (s, t))
            vs = np.linalg.svd(s, full_matrices=False)[2][: k + 3]
            _, values, vt = np.linalg.svd(t, full_matrices=False)
            values, vt = values[:k], np.array([v * np.sign(v[np.abs(v).argmax()]) for v in vt[:k]])
            cosine = vs @ vt.T
            nearest = np.abs(cosine).argmax(0)
            vs = vs[nearest] * np.sign(cosine[nearest, range(len(vt))])[:, None]
            scale = (values / np.linalg.norm(values))[:, None]
            here = vs * scale, vt * scale
            if before is not None:
                rbf = []
                for x, y in zip(here, before, strict=True):
                    n = min(len(x), len(y))
                    rbf.append(np.exp(-((x[:n, :, None] - y[:n, None, :]) ** 2) / 8))
                total += ((rbf[0] - rbf[1]) ** 2).sum()
            before = here
    return total / len(student[0])


def as_float32(features):
    return [jnp.float32(x) for x in features]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_is_the_papers_steps_with_numpys_svd(k):
    """The teacher is near the student, or the closest of the student's vectors would be a matter of rounding."""
    student = maps(0)
    teacher = [x + 0.1 * y for x, y in zip(student, maps(1), strict=True)]
    found = loss_of(as_float32(student), as_float32(teacher), k)
    np.testing.assert_allclose(found, reference(student, teacher, k), rtol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_are_numpys_up_to_sign(shape):
    (x,) = maps(2, [shape], batch=2)
    values, vectors = singular(jnp.float32(x), 3)
    for b in range(2):
        _, s, v = np.linalg.svd(x[b].reshape(-1, shape[-1]), full_matrices=False)
        np.testing.assert_allclose(values[b], s[:3] ** 2, rtol=1e-4)
        np.testing.assert_allclose(np.abs(np.sum(v[:3].T * vectors[b], axis=0)), 1, rtol=1e-3)


@pytest.mark.parametrize(("place", "found"), [(1, True), (4, True), (5, False)])
def test_the_teachers_vector_is_looked_for_among_k_plus_3_of_the_students(place, found):
    """Channel c answers at position c alone, so the singular vectors are the channels in order of their size."""
    strengths = np.arange(9.0, 0.0, -1.0)
    weaker = np.concatenate([[strengths[place - 1]], np.delete(strengths, place - 1)])  # the first is now in this place
    teacher, student = (jnp.float32(np.diag(x).reshape(1, 3, 3, 9)) for x in (strengths, weaker))
    assert bool(loss_of([student] * 2, [teacher] * 2) < 1e-9) is found


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 100))
def test_it_sees_neither_the_scale_nor_the_order_of_positions(seed, scale):
    student, teacher = maps(seed), maps(seed + 1)
    order = np.random.RandomState(seed).permutation(16)
    moved = [scale * x for x in student]
    moved[1] = moved[1].reshape(3, 16, 7)[:, order].reshape(3, 4, 4, 7)
    expected = loss_of(as_float32(student), as_float32(teacher))
    np.testing.assert_allclose(loss_of(as_float32(moved), as_float32(teacher)), expected, rtol=2e-3)


@pytest.mark.parametrize("k", [1, 2])
def test_the_gradient_is_that_of_finite_differences(k):
    """In float64, in random directions; eigenvalues of random maps are apart, so nothing is damped."""
    with jax.enable_x64(True):
        student = [jnp.asarray(x) for x in maps(3)]
        teacher = [jnp.asarray(x + 0.3 * y) for x, y in zip(maps(3), maps(4), strict=True)]

        @jax.jit
        def loss(student):
            return singular_vector_loss(student, teacher, k)

        gradient = jax.grad(loss)(student)
        for seed in (5, 6):
            way = [jnp.asarray(np.random.RandomState(seed).standard_normal(x.shape)) for x in student]
            ahead, behind = ([x + h * w for x, w in zip(student, way, strict=True)] for h in (1e-6, -1e-6))
            expected = (loss(ahead) - loss(behind)) / 2e-6
            found = sum(jnp.vdot(g, w) for g, w in zip(gradient, way, strict=True))
            assert abs(expected) > 1e-6
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_derivatives_of_eigenvectors_are_jaxs_where_eigenvalues_are_apart_and_finite_where_they_meet():
    with jax.enable_x64(True):
        random = np.random.RandomState(0)
        basis = np.linalg.qr(random.standard_normal((4, 4)))[0]
        way = random.standard_normal((4, 4))
        way = jnp.asarray(way + way.T)
        matrix = jnp.asarray(basis * [1.0, 2.0, 4.0, 8.0] @ basis.T)
        found = jax.jvp(eigenvectors, (matrix,), (way,))[1]
        expected = jax.jvp(jnp.linalg.eigh, (matrix,), (way,))[1]
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)
        equal = jnp.asarray(basis * [1.0, 1.0, 1.0, 8.0] @ basis.T)
        for same in (equal, jnp.eye(4), jnp.zeros((4, 4))):
            assert all(np.isfinite(x).all() for x in jax.jvp(eigenvectors, (same,), (way,))[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal channels", "one position", "zero", "rank one"])
def test_degenerate_maps_have_finite_gradients(kind):
    teacher = as_float32(maps(0))
    student = {
        "equal channels": [jnp.ones_like(x) for x in teacher],
        "one position": [jnp.zeros_like(x).at[:, 0, 0].set(1.0) for x in teacher],
        "zero": [jnp.zeros_like(x) for x in teacher],
        "rank one": [x[..., :1] * jnp.arange(1.0, 1 + x.shape[-1]) for x in teacher],
    }[kind]
    loss, gradient = jax.jit(jax.value_and_grad(lambda s: singular_vector_loss(s, teacher, 2)))(student)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradient)


def test_channels_are_taken_to_the_teachers_only_where_they_differ(batch):
    def network(seed, shapes):
        return Outputs(jnp.zeros((3, 2)), {f"stage{i + 1}": x for i, x in enumerate(as_float32(maps(seed, shapes)))})

    method, teacher = distiller.create("KDSVD"), network(1, SHAPES)
    assert not jax.eval_shape(method.init, jax.random.key(0), network(0, SHAPES), teacher, batch)
    other = network(0, [(6, 6, 4), *SHAPES[1:]])
    (kernel,) = jax.tree.leaves(jax.eval_shape(method.init, jax.random.key(0), other, teacher, batch))
    assert kernel.shape == (1, 1, 4, 5)
    with pytest.raises(ValueError, match="pair only one"):
        jax.eval_shape(method.init, jax.random.key(0), network(0, SHAPES[:1]), teacher, batch)
