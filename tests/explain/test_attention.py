"""Attention maps, rollout, and the propagation of relevance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import explain
from explain import relevance


@pytest.fixture(params=["ViT", "ViT distilled"])
def thing(request, network):
    return network(request.param)


def row_of(matrix, extra):
    """[B, tokens, tokens] -> what the tokens in front take from the patches, [B, 4, 4]."""
    return matrix[:, :extra, extra:].mean(1).reshape(-1, 4, 4)


@pytest.mark.slow
def test_raw_attention_and_rollout_are_numpys(thing):
    outputs, extra = thing.outputs(), thing.model.extra_tokens
    matrices = [np.asarray(outputs.features[f"attention{n}"]).mean(1) for n in (1, 2)]
    raw = explain.create("RawAttention").of(outputs, thing.target)
    np.testing.assert_allclose(raw, row_of(matrices[-1], extra), rtol=1e-5)
    joint = np.eye(matrices[0].shape[-1])
    for matrix in matrices:
        joint = (0.5 * np.eye(len(matrix[0])) + 0.5 * matrix) @ joint
    np.testing.assert_allclose(joint.sum(-1), 1, rtol=1e-5)
    rolled = explain.create("AttentionRollout").of(outputs, thing.target)
    np.testing.assert_allclose(rolled, row_of(joint, extra), rtol=1e-4)


@pytest.mark.slow
def test_relevance_is_conserved(thing):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model = thing.model.clone(dtype=jnp.float64)
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), thing.variables)
        run = jax.jit(lambda v, x: relevance.propagate(model, v, x, jnp.asarray(thing.target)))
        attentions, entering = run(variables, jnp.asarray(thing.images, jnp.float64))
    assert len(attentions) == len(entering) == 2
    for tokens in map(np.asarray, entering):
        assert np.abs(tokens).max() > 1e-3
        np.testing.assert_allclose(tokens.sum((1, 2)), 1.0, rtol=1e-5)


def test_the_rules_conserve_what_they_are_given():
    random = np.random.RandomState(0)
    x, kernel, given = (jnp.asarray(random.standard_normal(s), jnp.float32) for s in ((2, 3, 16), (16, 5), (2, 3, 5)))
    passed = jax.jit(relevance.through_linear)(x, kernel, given)
    np.testing.assert_allclose(passed.sum(-1), given.sum(-1), rtol=1e-4)
    plain = np.zeros((2, 3, 16))
    for o in range(5):
        part = np.maximum(np.asarray(x) * np.asarray(kernel)[:, o], 0)
        plain += part / part.sum(-1, keepdims=True) * np.asarray(given)[..., o : o + 1]
    np.testing.assert_allclose(passed, plain, rtol=1e-4, atol=1e-5)
    a, b = (jnp.asarray(random.uniform(0.1, 1, s), jnp.float32) for s in ((2, 1, 3, 3), (2, 3, 1, 4)))
    given = jnp.asarray(random.standard_normal((2, 3, 1, 4)), jnp.float32)
    of_a, of_b = jax.jit(relevance.through_product, static_argnums=0)("bhqk,bkhd->bqhd", a, b, given)
    for part in (of_a, of_b):
        np.testing.assert_allclose(part.sum((1, 2, 3)), given.sum((1, 2, 3)) / 2, rtol=1e-4)
    a, b, given = (jnp.asarray(random.standard_normal((2, 3, 4)), jnp.float32) for _ in range(3))
    through_sum = jax.jit(relevance.through_sum)
    one, other = through_sum(a, b, given)
    whole = np.asarray(one) + np.asarray(other)
    np.testing.assert_allclose(whole.sum((1, 2)), given.sum((1, 2)), rtol=1e-3, atol=1e-5)
    sums = [np.abs((np.asarray(x) * np.asarray(given) / np.asarray(a + b)).sum((1, 2))) for x in (a, b)]
    expected = sums[0] / (sums[0] + sums[1]) * np.asarray(given).sum((1, 2))
    np.testing.assert_allclose(one.sum((1, 2)), expected, rtol=1e-3)
    # The other images have no effect on an image.
    alone = through_sum(*(np.concatenate([x[:1], 0 * x[1:]]) for x in map(np.asarray, (a, b, given))))
    np.testing.assert_allclose(alone[0][:1], one[:1], rtol=1e-4)


@pytest.mark.slow
def test_the_map_is_the_rollout_of_weighted_relevance(thing):
    outputs, extra = thing.outputs(), thing.model.extra_tokens
    rule, target = explain.create("RelevancePropagation"), jnp.asarray(thing.target)

    @jax.jit
    def run(outputs, variables, images):
        propagated, _ = relevance.propagate(thing.model, variables, images, target)
        return rule.of(outputs, target), propagated, outputs.gradients(jax.nn.one_hot(target, 5))

    found, propagated, gradients = run(outputs, thing.variables, thing.images)
    joint = np.eye(outputs.features["attention1"].shape[-1])
    for number, part in enumerate(propagated, start=1):
        weighted = np.maximum(np.asarray(gradients[f"attention{number}"]) * np.asarray(part), 0).mean(1)
        joint = (np.eye(len(joint)) if joint.ndim == 2 else np.eye(joint.shape[-1])) @ joint + weighted @ joint
    np.testing.assert_allclose(found, row_of(joint, extra), rtol=2e-3, atol=1e-4 * np.abs(found).max())
    assert np.std(found) > 0.05 * np.max(found)


def test_division_is_bounded_near_zero():
    found = relevance.divide(jnp.array([1.0, 1.0, -1.0]), jnp.array([0.0, 1e-30, -1e-30]))
    np.testing.assert_allclose(found, [0.0, 1e9, 1e9], rtol=1e-5)
