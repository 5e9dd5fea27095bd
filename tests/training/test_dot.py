import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from configs.resolve import resolve
from distiller.dot import distillation_oriented_trainer
from models.traces import read_leaves
from registry import UserError
from training.builder import Builder
from training.train import train
from transfer import optimizer

pytestmark = pytest.mark.slow

PARAMS = {
    "student": {"kernel": np.array([[1.0, -2.0], [3.0, 0.5]]), "bias": np.array([0.7, -0.1])},
    "method": np.ones(3),
}


def normal(seed):
    random = np.random.RandomState(seed)
    return jax.tree.map(lambda x: random.standard_normal(x.shape), PARAMS)


def f32(tree):
    return jax.tree.map(jnp.float32, tree)


def run(tx, steps, label_of=lambda step: normal(2 * step), distillation_of=lambda step: normal(2 * step + 1)):
    """Parameters after `steps` updates."""
    params = f32(PARAMS)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        label = f32(label_of(step))
        total = jax.tree.map(jnp.add, label, f32(distillation_of(step)))
        updates, state = update(total, state, params, label_gradients=label)
        params = optax.apply_updates(params, updates)
    return params


def simulate(steps, rates, momentum, delta, decay, split=lambda name: True, decays=lambda name: True):
    """The released code's update rule, in NumPy: two buffers, cloned from the first gradients."""
    flat = {"/".join(k.key for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(PARAMS)}
    label_buffer, distillation_buffer = {}, {}
    for step in range(steps):
        gradients = [
            {"/".join(k.key for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(normal(2 * step + i))}
            for i in (0, 1)
        ]
        for name in flat:
            low, high = (momentum - delta, momentum + delta) if split(name) else (momentum, momentum)
            g = gradients[0][name] + (decay * flat[name] if decays(name) else 0)
            label_buffer[name] = low * label_buffer[name] + g if step else g
            g = gradients[1][name]
            distillation_buffer[name] = high * distillation_buffer[name] + g if step else g
        for name in flat:
            flat[name] = flat[name] - rates[step] * (label_buffer[name] + distillation_buffer[name])
    return flat


def check(params, expected):
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        np.testing.assert_allclose(value, expected["/".join(k.key for k in path)], rtol=2e-5, atol=1e-6)


def test_with_delta_zero_it_is_sgd_with_momentum():
    sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05, 0.9))
    expected = run(optax.with_extra_args_support(sgd), 10)
    found = run(distillation_oriented_trainer(0.05, 0.9, 0.0, 0.1), 10)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), f32(PARAMS), expected)
    assert min(jax.tree.leaves(moved)) > 0.1
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("delta", [0.075, 0.09])
def test_three_steps_are_the_released_codes(delta):
    found = run(distillation_oriented_trainer(0.05, 0.9, delta, 0.1), 3)
    check(found, simulate(3, [0.05] * 3, 0.9, delta, 0.1))
    plain = simulate(3, [0.05] * 3, 0.9, 0.0, 0.1)
    assert np.abs(found["method"] - plain["method"]).max() > 1e-3


def test_the_rate_multiplies_after_the_momenta():
    schedule = optax.piecewise_constant_schedule(0.05, {1: 0.1, 2: 0.1})
    found = run(distillation_oriented_trainer(schedule, 0.9, 0.075, 0.1), 3)
    check(found, simulate(3, [0.05, 0.005, 0.0005], 0.9, 0.075, 0.1))


def test_what_one_loss_alone_reaches_keeps_the_plain_momentum():
    both = {"student": True, "method": False}
    found = run(distillation_oriented_trainer(0.05, 0.9, 0.075, 0.1, both=both), 3)
    check(found, simulate(3, [0.05] * 3, 0.9, 0.075, 0.1, split=lambda name: name.startswith("student")))


def test_the_decay_may_be_for_matrices_only():
    kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    found = run(distillation_oriented_trainer(0.05, 0.9, 0.075, 0.5, decay_mask=kernels), 3)
    check(found, simulate(3, [0.05] * 3, 0.9, 0.075, 0.5, decays=lambda name: name.endswith("kernel")))


def test_a_steady_distillation_gradient_moves_further_than_a_steady_label_gradient():
    ones, zeros = (jax.tree.map(lambda x, v=v: np.full(x.shape, v), PARAMS) for v in (1.0, 0.0))
    tx = distillation_oriented_trainer(0.01, 0.9, 0.09)
    by_label = run(tx, 30, lambda _: ones, lambda _: zeros)
    by_distillation = run(tx, 30, lambda _: zeros, lambda _: ones)
    assert ((PARAMS["method"] - by_distillation["method"]) > 2 * (PARAMS["method"] - by_label["method"])).all()


def test_the_trace_stays_in_the_parameters_type():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    tx = distillation_oriented_trainer(optax.constant_schedule(0.1))
    updates, state = tx.update(params, tx.init(params), params, label_gradients=params)
    assert {x.dtype for x in jax.tree.leaves((updates, state.label_trace, state.distillation_trace))} == {
        jnp.dtype("bfloat16")
    }
    assert state.count == 1


@pytest.mark.parametrize(("momentum", "delta"), [(0.9, 0.1), (0.05, 0.09), (1.0, 0.0), (0.9, -0.2)])
def test_momenta_outside_their_range_are_refused(momentum, delta):
    with pytest.raises(UserError, match=r"DOT's momenta must lie in \[0, 1\)"):
        distillation_oriented_trainer(0.1, momentum, delta)


def test_a_missing_gradient_is_named():
    tx = distillation_oriented_trainer(0.1)
    params = f32(PARAMS)
    with pytest.raises(ValueError, match="label_gradients"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params), label_gradients=params)


def test_what_a_loss_depends_on_is_found_without_computing_it():
    def losses(params, x):
        feature = jnp.tanh(params["body"] * x)
        logits = jax.nn.relu(params["head"] * feature)
        return logits.sum(), {"hint": jnp.square(feature - params["connector"])}

    shapes = {name: jax.ShapeDtypeStruct((3,), jnp.float32) for name in ("body", "head", "connector", "unused")}
    x = jnp.ones(3)
    label = read_leaves(lambda p, x: losses(p, x)[0], shapes, x)
    hint = read_leaves(lambda p, x: losses(p, x)[1], shapes, x)
    assert label == {"body": True, "head": True, "connector": False, "unused": False}
    assert hint == {"body": True, "head": False, "connector": True, "unused": False}
    assert read_leaves(lambda p: jnp.ones(()), shapes) == dict.fromkeys(shapes, False)


RECIPE = {"teacher_param": "tests/teacher", "student_arch": "CNN", "train_epoch": 1, "batch_size": 400, "eval_every": 1}


def test_a_run_with_dot_moves_otherwise_than_one_with_sgd_and_equals_it_without_delta(tmp_path, monkeypatch):
    """FitNet has a connector, which the label loss does not reach, and leaves the classifier to the labels."""
    seen = []
    create = optimizer.create

    def recording(config, steps, both=None):
        seen.append(both)
        return create(config, steps, both)

    monkeypatch.setattr(optimizer, "create", recording)

    def run(name, **changes):
        recipe = {**RECIPE, **changes, "distiller": "FitNet", "train_path": str(tmp_path / name)}
        train(recipe, quiet=True)
        return safetensors.numpy.load_file(tmp_path / name / "last" / "weights.safetensors")

    dot, still, sgd = run("dot", optimizer="dot"), run("still", optimizer="dot", dot_delta=0.0), run("sgd")
    kernel = next(name for name in sgd if "stem" in name and "kernel" in name)
    for name in sgd:
        np.testing.assert_allclose(still[name], sgd[name], rtol=1e-3, atol=2e-5, err_msg=name)
    assert np.abs(dot[kernel] - sgd[kernel]).max() > 1e-3
    both = seen[1]
    assert both["student"]["stem_conv"]["kernel"] is True
    assert both["student"]["classifier"] == {"kernel": False, "bias": False}
    assert jax.tree.leaves(both["method"])
    assert not any(jax.tree.leaves(both["method"]))


def test_peers_have_both_losses_too(monkeypatch):
    """Equal peers must not learn by two different optimizers."""
    seen, create = [], optimizer.create
    monkeypatch.setattr(optimizer, "create", lambda *args: seen.append(args[2:]) or create(*args))
    recipe = {**RECIPE, "student_arch": "CNN", "transfer": "Mutual", "optimizer": "dot", "train_path": "nowhere"}
    Builder(resolve(recipe)[0])
    (both,) = seen[-1]
    assert jax.tree.leaves(both["student"])
    assert both["student"] == both["peer1"]
    assert all(jax.tree.leaves(both["peer1"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": "Labels"}, "Labels has no distillation loss"),
        ({"distiller_options": {"ce_weight": 0.0}}, "SoftLogits has no label loss"),
        ({"dot_delta": 0.2}, "DOT's momenta must lie"),
        ({"clip_norm": 1.0}, "'clip_norm' 1.0 clips"),
        ({"nesterov": True}, "--nesterov True has no effect: 'optimizer' is 'dot', not 'sgd'"),
    ],
    ids=str,
)
def test_dot_is_refused_with_the_reason_where_it_has_no_meaning(changes, message, tmp_path):
    recipe = {**RECIPE, "optimizer": "dot", **changes, "train_path": str(tmp_path / "run")}
    with pytest.raises(UserError, match=message):
        train(recipe, quiet=True, typed=tuple(changes))
    assert not (tmp_path / "run").exists()
