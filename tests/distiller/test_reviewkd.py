import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
from distiller.reviewkd import Fusion, hierarchical_context_loss, nearest
from models import Outputs


def outputs(seed, shapes, width, preact=False):
    random = np.random.RandomState(seed)
    features = {"embedding": random.standard_normal((6, width)).astype(np.float32)}
    for i, shape in enumerate(shapes, start=1):
        features[f"stage{i}"] = random.standard_normal((6, *shape)).astype(np.float32)
        if preact:
            features[f"stage{i}_preact"] = features[f"stage{i}"] - 1
    return Outputs(jnp.zeros((6, 3)), jax.tree.map(jnp.asarray, features))


@pytest.mark.slow
def test_nearest_takes_the_floor_as_pytorch_does():
    x = jnp.arange(4.0).reshape(1, 4, 1, 1) + 10 * jnp.arange(2.0).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(nearest(x, 6, 2)[0, :, 0, 0], [0, 0, 1, 2, 2, 3])
    np.testing.assert_array_equal(nearest(x, 2, 2)[0, :, 0, 0], [0, 2])
    np.testing.assert_array_equal(nearest(x, 4, 4)[0, 0, :, 0], [0, 0, 10, 10])
    assert nearest(x, 4, 2) is x


@pytest.mark.slow
def test_the_levels_are_those_smaller_than_the_map():
    """A constant difference is seen by all levels alike, one of mean zero only by the full map."""
    ones, checker = jnp.ones((2, 4, 4, 3)), jnp.float32(np.indices((4, 4)).sum(0) % 2)[None, :, :, None] * 2 - 1
    np.testing.assert_allclose(hierarchical_context_loss(ones, 3 * ones), 4, rtol=1e-6)
    np.testing.assert_allclose(hierarchical_context_loss(checker * ones, 0 * ones), 1 / (1 + 1 / 2 + 1 / 4), rtol=1e-6)
    one = jnp.ones((2, 1, 1, 3))
    np.testing.assert_allclose(hierarchical_context_loss(one, 3 * one), 4, rtol=1e-6)
    with pytest.raises(ValueError, match="differ in shape"):
        hierarchical_context_loss(ones, ones[..., :2])


@pytest.mark.slow
def test_attention_mixes_what_is_here_with_what_comes_from_deeper():
    """With the attention saturated, the fused map is the one or the other."""
    random = np.random.RandomState(0)
    x, deeper = (jnp.asarray(random.standard_normal(s), jnp.float32) for s in ((2, 4, 4, 3), (2, 2, 2, 5)))
    layer = Fusion(5)
    params = layer.init(jax.random.key(0), x, deeper, (4, 4, 7))["params"]

    def fused(bias):
        attention = {"kernel": jnp.zeros((1, 1, 10, 2)), "bias": jnp.asarray(bias, jnp.float32)}
        rebuilt, found = layer.apply({"params": {**params, "attention": attention}}, x, deeper, (4, 4, 7))
        assert rebuilt.shape == (2, 4, 4, 7)
        return np.asarray(found)

    np.testing.assert_allclose(fused([-50, 50]), nearest(deeper, 4, 4), atol=1e-6)
    own = fused([50, -50])
    np.testing.assert_allclose(own.mean((0, 1, 2)), 0, atol=1e-5)  # it comes from the norm of conv1
    np.testing.assert_allclose(fused([0, 0]), (own + nearest(deeper, 4, 4)) / 2, atol=1e-5)


@pytest.mark.slow
def test_a_teachers_stage_is_rebuilt_from_the_same_and_deeper_stages_only(batch):
    student = outputs(0, [(8, 8, 3), (4, 4, 5), (2, 2, 7)], 7)
    teacher = outputs(1, [(4, 4, 4), (2, 2, 6), (2, 2, 8)], 9, preact=True)
    method = distiller.create("ReviewKD")
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)

    @jax.jit
    def reach(changed):
        """How each of the student's stages moves the loss between two versions of the teacher."""

        def loss(features):
            both = (
                method.apply(variables, student.replace(features=features), t, batch)[0] for t in (teacher, changed)
            )
            return jnp.subtract(*both)

        return jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(loss)(student.features))

    for stage, expected in ((1, {"stage1", "stage2", "stage3", "embedding"}), (3, {"stage3", "embedding"})):
        tap = f"stage{stage}_preact"
        found = reach(teacher.replace(features={**teacher.features, tap: teacher.features[tap][::-1]}))
        assert {name for name, size in found.items() if size > 1e-6} == expected


@pytest.mark.slow
def test_the_teacher_is_taken_before_its_relu_where_it_can_be(batch):
    student = outputs(0, [(4, 4, 3), (2, 2, 5)], 7)
    teacher = outputs(1, [(4, 4, 4), (2, 2, 6)], 9, preact=True)
    before = {name.removesuffix("_preact"): x for name, x in teacher.features.items() if name.endswith("_preact")}
    plain = teacher.replace(features={**before, "embedding": teacher.features["embedding"]})
    method = distiller.create("ReviewKD")

    @jax.jit
    def loss(teacher):
        return method.init_with_output(jax.random.key(0), student, teacher, batch)[0][0]

    assert loss(teacher) == loss(plain)


@pytest.mark.slow
def test_unequal_numbers_of_stages_and_tokens_are_matched(batch):
    student = outputs(0, [(10, 8), (10, 8), (10, 8), (10, 8)], 8)  # a class token and 3 x 3 patches
    teacher = outputs(1, [(4, 4, 4), (2, 2, 6)], 9)
    method = distiller.create("ReviewKD")
    variables = jax.jit(method.init)(jax.random.key(0), student, teacher, batch)
    assert sorted(variables["params"]) == ["fusion1", "fusion2", "fusion3"]
    slope = jax.jit(jax.grad(lambda f: method.apply(variables, student.replace(features=f), teacher, batch)[0]))
    assert {name for name, g in slope(student.features).items() if g.any()} == {"stage2", "stage4", "embedding"}


@pytest.mark.slow
def test_the_weight_rises_with_whole_epochs(batch):
    student, teacher = outputs(0, [(2, 2, 3)], 4), outputs(1, [(2, 2, 3)], 4)

    def losses(warmup_epochs):
        method = distiller.create("ReviewKD", warmup_epochs=warmup_epochs)

        def loss(epoch):
            given = batch.replace(epoch=epoch)
            return method.init_with_output(jax.random.key(0), student, teacher, given)[0][0]

        return jax.jit(jax.vmap(loss))(jnp.array([0.0, 0.99, 1.0, 3.0, 9.0]))

    np.testing.assert_allclose(losses(4) / losses(0), [0.25, 0.25, 0.5, 1.0, 1.0], rtol=1e-6)
