import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import distiller
from distiller.ofa import Exit, enhanced_loss
from models import Outputs

S, T = np.random.RandomState(0).standard_normal((2, 6, 5)) * 3
LABEL = np.array([0, 4, 2, -1, 1, 3], np.int32)


def reference(student, teacher, label, gamma, temperature):
    t, log_s = softmax(teacher / temperature, axis=1), log_softmax(student / temperature, axis=1)
    target = (np.arange(t.shape[1]) == label[:, None]).astype(float)
    return -np.mean(np.sum(((t + target) ** gamma - target) * log_s, axis=1))


@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 1.0), (1.5, 1.0), (0.7, 3.0), (4.0, 2.0)])
def test_the_loss_is_the_formulas(gamma, temperature):
    found = enhanced_loss(jnp.float32(S), jnp.float32(T), jnp.asarray(LABEL), gamma, temperature)
    np.testing.assert_allclose(found, reference(S, T, LABEL, gamma, temperature), rtol=1e-5)


def test_with_gamma_one_no_label_is_read_and_the_teacher_is_the_minimum():
    found = enhanced_loss(jnp.float32(S), jnp.float32(T), jnp.asarray(LABEL))
    np.testing.assert_allclose(found, enhanced_loss(jnp.float32(S), jnp.float32(T), jnp.full(6, -1)), rtol=1e-6)
    gradient = jax.grad(enhanced_loss)(jnp.float32(T), jnp.float32(T), jnp.asarray(LABEL))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_a_larger_gamma_weights_the_label_more_the_surer_the_teacher_is():
    """The label's share of the targets is (t_y + 1)^gamma - 1."""
    label = jnp.array([0])
    slopes = []
    for sure in (0.2, 0.9):
        teacher = jnp.log(jnp.array([[sure, 1 - sure]]))
        by_label = jax.grad(lambda z, t=teacher: enhanced_loss(z, t, label, 2.0))(jnp.zeros((1, 2)))[0]
        targets = (sure + 1) ** 2 - 1, (1 - sure) ** 2
        np.testing.assert_allclose(by_label[0], sum(targets) / 2 - targets[0], rtol=1e-5)
        slopes.append(-by_label[0])
    assert slopes[1] > slopes[0]


def test_a_constant_added_to_the_logits_is_not_seen():
    args = jnp.asarray(LABEL), 1.5, 2.0
    expected = enhanced_loss(jnp.float32(S), jnp.float32(T), *args)
    np.testing.assert_allclose(enhanced_loss(jnp.float32(S + 5), jnp.float32(T - 2), *args), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        ((8, 8, 4), 2, [(4, 8), (8, 12)]),
        ((8, 8, 8), 1, [(8, 12)]),
        ((8, 8, 16), 3, [(16, 12), (12, 12), (12, 12)]),  # never wider than the embedding
        ((2, 2, 4), 5, [(4, 12)]),  # a map of one position is not halved again
        ((8, 4, 4), 0, None),
        ((1, 1, 4), 3, None),
    ],
)
def test_an_exits_steps_follow_stage_and_map(shape, steps, expected):
    module = Exit(steps, 12, 5)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, *shape)))["params"]
    if expected is None:
        assert set(variables) == {"project", "linear"}
    else:
        found = [variables[f"step{i}"]["pointwise1"]["kernel"].shape[2:] for i in range(len(expected))]
        assert found == expected
        assert set(variables) == {"linear", *(f"step{i}" for i in range(len(expected)))}
    assert variables["linear"]["kernel"].shape == (12, 5)


def outputs(seed, stages, logits):
    random = np.random.RandomState(seed)
    features = {f"stage{i}": jnp.float32(random.standard_normal(shape)) for i, shape in enumerate(stages, start=1)}
    return Outputs(jnp.float32(logits), {**features, "embedding": jnp.zeros((6, 8))})


@pytest.mark.parametrize(
    "stages",
    [
        [(6, 8, 8, 4), (6, 4, 4, 8)],
        [(6, 17, 8)] * 2,  # a class token and 16 patches
        [(6, 18, 8)] * 3,  # DeiT's two tokens
    ],
    ids=["maps", "tokens", "two tokens"],
)
def test_every_stage_has_an_exit_that_learns(stages, batch):
    method = distiller.create("OFA", weight=2.0)
    batch = batch.replace(label=jnp.asarray(LABEL))
    student, teacher = outputs(0, stages, S), Outputs(jnp.float32(T), {})
    variables = jax.jit(method.init)({"params": jax.random.key(0)}, student, teacher, batch)
    assert set(variables["params"]) == {f"exit{i}" for i in range(1, len(stages) + 1)}

    def loss(params, features):
        return method.apply({"params": params}, student.replace(features=features), teacher, batch)

    (gradients, by_feature), terms = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
        variables["params"], student.features
    )
    np.testing.assert_allclose(terms["OFA_logits"], 2 * reference(S, T, LABEL, 1, 1), rtol=1e-5)
    assert terms["OFA_exits"] > 2 * len(stages)  # about log 5 each at first
    assert all(np.any(g) for g in jax.tree.leaves(gradients["exit1"]["linear"]))
    assert all(np.any(by_feature[f"stage{i}"]) for i in range(1, len(stages) + 1))


def test_exits_have_their_weight(batch):
    student, teacher = outputs(0, [(6, 4, 4, 3)], S), Outputs(jnp.float32(T), {})
    one, three = (distiller.create("OFA", exit_weight=w) for w in (1.0, 3.0))
    variables = one.init({"params": jax.random.key(0)}, student, teacher, batch)
    terms = [method.apply(variables, student, teacher, batch)[1] for method in (one, three)]
    np.testing.assert_allclose(terms[1]["OFA_exits"], 3 * terms[0]["OFA_exits"], rtol=1e-6)
    assert terms[1]["OFA_logits"] == terms[0]["OFA_logits"]


def test_a_student_without_stages_is_refused(batch):
    bare = Outputs(jnp.float32(S), {})
    with pytest.raises(ValueError, match=r"The student has no taps stage1 \.\.\.; it has logits only"):
        distiller.create("OFA").init({"params": jax.random.key(0)}, bare, bare, batch)
