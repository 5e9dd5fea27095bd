"""MiniLM: the loss is NumPy's; with "qk" and the networks' heads the relation is the attention map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distiller
import models
from distiller.minilm import common_tokens, relation
from models import Outputs
from registry import UserError


def outputs(seed, width, tokens=5, blocks=2):
    random = np.random.RandomState(seed)
    features = {
        f"qkv{n}": jnp.asarray(random.standard_normal((3, tokens, 3 * width)), jnp.float32)
        for n in range(1, blocks + 1)
    }
    return Outputs(jnp.zeros((3, 4)), features)


def numpys(a, b, heads):
    """softmax(a b' / sqrt(d)) of [N, D], one head after the other: [R, N, N]."""
    size, found = a.shape[1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = np.exp(a[:, part] @ b[:, part].T / np.sqrt(size))
        found.append(scores / scores.sum(1, keepdims=True))
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("relations", ["qq,kk,vv", "qk,vv"])
def test_the_loss_is_numpys(relations):
    student, teacher = outputs(0, 8), outputs(1, 12, blocks=3)
    method = distiller.create("MiniLM", relation_heads=4, relations=relations, weight=2.0)
    loss, terms = method.apply({}, student, teacher, None)
    own, its = (
        np.split(np.asarray(x, np.float64), 3, axis=-1) for x in (student.features["qkv2"], teacher.features["qkv3"])
    )
    for pair in relations.split(","):
        i, j = ("qkv".index(v) for v in pair)
        rows = []
        for image in range(3):
            s, t = (numpys(x[i][image], x[j][image], 4) for x in (own, its))
            rows.append(np.sum(t * np.log(t / s), axis=-1))
        np.testing.assert_allclose(terms[f"MiniLM_{pair}"], 2 * np.mean(rows), rtol=1e-5)
    np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-6)


def test_queries_and_keys_of_a_vit_give_its_attention():
    model = models.create("ViT_Ti", 5, width=12, heads=3, depth=2, stages=2, patch_size=4)
    image = np.random.RandomState(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    random = np.random.RandomState(1)
    variables = jax.tree.map(lambda x: 0.4 * random.standard_normal(x.shape).astype(np.float32), shapes)
    features = jax.jit(lambda v, x: models.forward(model, v, x)[0].features)(variables, image)
    for block in (1, 2):
        q, k, _ = np.split(features[f"qkv{block}"], 3, axis=-1)
        np.testing.assert_allclose(np.exp(relation(q, k, 3)), features[f"attention{block}"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(features["block2"], features["stage2"])


def test_tokens_that_one_network_has_are_left_out():
    plain, distilled = np.arange(17.0).reshape(1, 17, 1), 100 + np.arange(18.0).reshape(1, 18, 1)
    own, its = common_tokens(distilled, plain)
    assert list(own[0, :, 0]) == [100, *range(102, 118)]
    np.testing.assert_array_equal(its, plain)
    with pytest.raises(ValueError, match=r"the student has 16 patches, the teacher 4\.\nGive the student"):
        common_tokens(plain, plain[:, :5])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"5 does not divide the student's 8\.\nGive --config"):
        distiller.create("MiniLM", relation_heads=5).apply({}, outputs(0, 8), outputs(1, 10), None)
    with pytest.raises(
        ValueError, match=r"MiniLM reads the blocks of a transformer \(taps qkv1, ...\); the teacher has"
    ):
        distiller.create("MiniLM").apply({}, outputs(0, 48), Outputs(jnp.zeros((3, 4)), {"stage1": jnp.zeros(3)}), None)
    for relations in ("", "q", "qx", "qq,", "qq,qq", "qkv"):
        with pytest.raises(UserError, match="'relations' must name different pairs of q, k and v"):
            distiller.create("MiniLM", relations=relations)
