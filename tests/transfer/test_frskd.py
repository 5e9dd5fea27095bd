import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simulation import compiled, cross_entropy, divergence, unlabelled

import transfer
from models import Outputs, stages
from models.resnet import ResNet
from registry import UserError
from transfer.frskd import SelfTeacher, fit

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def run(batch):
    """A two-stage student: the strategy, its first state, the step, and a batch with a withheld label."""
    player = transfer.Player("student", ResNet(blocks=1, widths=(8, 8, 16), num_classes=10), (0.5,), (0.25,))
    strategy = transfer.create("FRSKD", student=player, optimizer=optax.sgd(0.02), weight=1.5, feature_weight=7.0)
    batch = batch.replace(label=batch.label.at[2].set(-1))
    return strategy, jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step), batch


def attention(feature):
    rows = (feature**2).mean(-1).reshape(len(feature), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def equations(strategy, state, batch):
    """Ji et al., equations 4 to 7, on what network and self-teacher answer."""
    student, _ = compiled(strategy.student)(strategy.student_variables(state), batch.image)
    answers = (
        student.logits,
        stages(student.features),
        jax.jit(strategy.heads().apply)({"params": state.params["method"]}, student),
    )
    logits, maps, (refined, auxiliary) = jax.tree.map(lambda x: np.asarray(x, np.float64), answers)
    pairs = list(zip(maps, refined, strict=True))
    assert [r.shape for _, r in pairs] == [(*m.shape[:3], 2 * m.shape[3]) for m, _ in pairs]
    return {
        "cross_entropy": cross_entropy(logits, batch.label) + cross_entropy(auxiliary, batch.label),
        "FRSKD_logits": 1.5 * divergence(logits, auxiliary, 4.0),
        "FRSKD_features": 7.0 * sum(((attention(m) - attention(r)) ** 2).mean() for m, r in pairs),
    }


@pytest.mark.slow
def test_two_steps_are_those_of_the_equations(run):
    strategy, state, step, batch = run
    for _ in range(2):
        expected = equations(strategy, state, batch)
        new, metrics = step(state, batch, KEY)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(metrics["loss"], sum(expected.values()), rtol=1e-4)
        moved = jax.tree.map(lambda a, b: np.any(a != b), state.params, new.params)
        assert all(jax.tree.leaves(moved))
        state = new


def slope(strategy, state, batch, names):
    def term(params):
        terms = strategy.losses(params, state, batch, KEY)[0]
        return sum(terms[name] for name in names)

    return jax.jit(jax.grad(term))(state.params)


@pytest.mark.slow
def test_the_self_teacher_learns_from_labels_alone(run):
    strategy, state, _, batch = run
    found = slope(strategy, state, batch, ("FRSKD_logits", "FRSKD_features"))
    assert float(optax.tree.norm(found["method"])) == 0
    assert float(optax.tree.norm(found["student"])) > 0


@pytest.mark.slow
def test_the_self_teachers_labels_reach_the_stages(run):
    strategy, state, _, batch = run
    found = slope(strategy, state, batch, ("cross_entropy",))
    without = jax.grad(lambda p: strategy.task.loss(strategy._student(p, state, batch)[0], batch)[0])
    alone = jax.jit(without)(state.params)
    assert not np.allclose(found["student"]["stem_conv"]["kernel"], alone["student"]["stem_conv"]["kernel"], rtol=0.01)
    np.testing.assert_allclose(
        found["student"]["classifier"]["kernel"], alone["student"]["classifier"]["kernel"], rtol=1e-4, atol=1e-6
    )


def test_without_labels_the_self_teacher_still_teaches(run):
    _, state, step, batch = run
    _, metrics = step(state, unlabelled(batch), KEY)
    assert metrics["cross_entropy"] == 0 == metrics["auxiliary_correct"]
    assert min(metrics["FRSKD_logits"], metrics["FRSKD_features"]) > 0


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 8, 4), (4, 4, 8), (2, 2, 16)],
        [(7, 9, 4), (4, 5, 8), (2, 3, 8)],
        [(5, 5, 4), (1, 1, 8)],
        [(16, 8), (16, 8), (17, 8)],
    ],
    ids=str,
)
def test_the_pyramid_fits_any_network_with_stages(shapes):
    random = np.random.RandomState(0)
    features = {
        f"stage{i + 1}": jnp.asarray(random.standard_normal((3, *s)), jnp.float32) for i, s in enumerate(shapes)
    }
    outputs = Outputs(logits=jnp.zeros((3, 5)), features=features)
    (refined, logits), _ = jax.eval_shape(SelfTeacher(1).init_with_output, KEY, outputs)
    maps = [s if len(s) == 3 else (4, 4, 8) for s in shapes]
    assert [r.shape for r in refined] == [(3, *s) for s in maps]
    assert logits.shape == (3, 5)


@pytest.mark.slow
def test_maps_are_brought_to_another_size():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(fit(x, 2, 2)[0, :, :, 0], [[10, 11], [14, 15]])  # 3x3 windows
    np.testing.assert_array_equal(
        fit(x[:, :2, :2], 4, 4)[0, :, :, 0], np.repeat(np.repeat([[0, 1], [4, 5]], 2, 0), 2, 1)
    )
    np.testing.assert_array_equal(fit(x, 1, 1)[0, :, :, 0], [[7.5]])


def test_impossible_width_is_refused(run):
    with pytest.raises(UserError, match="got 0"):
        transfer.create("FRSKD", student=run[0].student, optimizer=None, width=0)
