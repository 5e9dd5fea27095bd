import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simulation import compiled, cross_entropy, divergence, unlabelled

import transfer
from models import Outputs, stages
from models.resnet import ResNet
from transfer.byot import Exits

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def run(batch):
    """A three-stage student: the strategy, its first state, the step, and a batch with a withheld label."""
    player = transfer.Player("student", ResNet(blocks=1, widths=(8, 8, 8, 16), num_classes=10), (0.5,), (0.25,))
    strategy = transfer.create(
        "BYOT", student=player, optimizer=optax.sgd(0.1), alpha=0.3, temperature=2.0, feature_weight=0.01
    )
    batch = batch.replace(label=batch.label.at[2].set(-1))
    return strategy, jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step), batch


def equations(strategy, state, batch):
    """Zhang et al., equation 5, on what network and exits answer."""
    student, _ = compiled(strategy.student)(strategy.student_variables(state), batch.image)
    exits = jax.jit(Exits().apply)({"params": state.params["method"]}, student)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (student.logits, stages(student.features)[-1], exits))
    logits, deepest, exits = wide
    assert len(exits) == 2
    return {
        "cross_entropy": cross_entropy(logits, batch.label)
        + 0.7 * sum(cross_entropy(z, batch.label) for _, z in exits),
        "BYOT_logits": 0.3 * sum(divergence(z, logits, 2.0) for _, z in exits),
        "BYOT_features": 0.01 * sum(((f - deepest) ** 2).sum() / len(f) for f, _ in exits),
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


@pytest.mark.slow
def test_the_deepest_teaches_and_does_not_learn_from_the_exits(run):
    strategy, state, _, batch = run

    def term(params):
        terms = strategy.losses(params, state, batch, KEY)[0]
        return terms["BYOT_logits"] + terms["BYOT_features"]

    slope = jax.jit(jax.grad(term))(state.params)
    reached = {name: float(optax.tree.norm(part)) for name, part in slope["student"].items()}
    assert reached["classifier"] == 0
    assert all(value == 0 for name, value in reached.items() if name.startswith("stage3"))
    assert all(value > 0 for name, value in reached.items() if name.startswith(("stem", "stage1", "stage2")))


def test_without_labels_the_deepest_still_teaches(run):
    _, state, step, batch = run
    _, metrics = step(state, unlabelled(batch), KEY)
    assert metrics["cross_entropy"] == 0 == metrics["exit1_correct"]
    assert metrics["BYOT_logits"] > 0


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 8, 4), (4, 4, 8), (2, 2, 16)],
        [(7, 9, 4), (4, 5, 8), (2, 3, 8)],
        [(5, 5, 4), (1, 1, 8)],
        [(6, 6, 4), (5, 4, 6)],
        [(16, 8), (16, 8), (17, 8)],
    ],
    ids=str,
)
def test_exits_fit_any_network_with_stages(shapes):
    random = np.random.RandomState(0)
    features = {
        f"stage{i + 1}": jnp.asarray(random.standard_normal((3, *s)), jnp.float32) for i, s in enumerate(shapes)
    }
    outputs = Outputs(logits=jnp.zeros((3, 5)), features=features)
    exits, _ = jax.eval_shape(Exits().init_with_output, KEY, outputs)
    last = shapes[-1] if len(shapes[-1]) == 3 else (4, 4, 8)
    assert [(f.shape, z.shape) for f, z in exits] == [((3, *last), (3, 5))] * (len(shapes) - 1)


def test_a_network_of_one_stage_has_nobody_to_teach():
    outputs = Outputs(logits=jnp.zeros((3, 5)), features={"stage1": jnp.zeros((3, 2, 2, 4))})
    with pytest.raises(ValueError, match="stage2"):
        Exits().init(KEY, outputs)
