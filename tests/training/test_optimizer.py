import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import FrozenConfigDict

from configs.default import get_config
from transfer import optimizer

STEPS = 7  # per epoch


def config(**changes):
    """The defaults, for 240 epochs."""
    return FrozenConfigDict({**get_config(), "train_epoch": 240, **changes})


def rates(steps=STEPS, **changes):
    """epoch -> the learning rate of its first update."""
    schedule = optimizer.learning_rate(config(**changes), steps)
    return lambda epoch: float(schedule(jnp.asarray(round(epoch * steps), jnp.int32)))


@pytest.mark.parametrize(
    ("changes", "milestones", "factor"),
    [
        ({}, [150, 180, 210], 0.1),  # the CIFAR-100 distillation benchmark
        (
            {"train_epoch": 200, "milestones": (0.3, 0.6, 0.8), "decay_factor": 0.2, "learning_rate": 0.1},
            [60, 120, 160],
            0.2,
        ),  # the older cookbook's
    ],
)
def test_step_schedules_fall_at_the_benchmarks_epochs(changes, milestones, factor):
    rate = rates(**changes)
    expected = config(**changes).learning_rate
    assert rate(0) == pytest.approx(expected)
    for milestone in milestones:
        assert rate(milestone - 1 / STEPS) == pytest.approx(expected)
        expected *= factor
        assert rate(milestone) == pytest.approx(expected)
    assert rate(config(**changes).train_epoch) == pytest.approx(expected)


def test_milestones_are_shares_of_the_training_in_whole_steps():
    rate = rates(train_epoch=30, milestones=(0.625, 0.875))  # epochs 18.75 and 26.25
    first, second = round(18.75 * STEPS) / STEPS, round(26.25 * STEPS) / STEPS
    assert rate(first - 1 / STEPS) == pytest.approx(0.05)
    assert rate(first) == rate(second - 1 / STEPS) == pytest.approx(0.005)
    assert rate(second) == pytest.approx(0.0005)


def test_milestones_of_one_short_epoch_do_not_decay_from_the_start():
    rate = rates(train_epoch=1, milestones=(0.3, 0.6))
    assert rate(0) == pytest.approx(0.05)
    assert rate(1 - 1 / STEPS) == pytest.approx(0.0005)


def test_milestones_that_fall_on_one_step_all_count():
    rate = rates(train_epoch=1, milestones=(0.5, 0.501))
    assert rate(round(0.5 * STEPS) / STEPS) == pytest.approx(0.0005)


def test_cosine_falls_from_the_rate_to_zero():
    rate = rates(schedule="cosine", train_epoch=10)
    assert rate(0) == pytest.approx(0.05)
    assert rate(5) == pytest.approx(0.025)
    assert rate(2.5 * 4 / 3) == pytest.approx(0.025 * (1 + np.cos(np.pi * round(10 / 3 * STEPS) / 70)), rel=1e-5)
    assert rate(10) == pytest.approx(0, abs=1e-9)


def test_constant_stays():
    rate = rates(schedule="constant")
    assert rate(0) == rate(239) == pytest.approx(0.05)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_the_rate_ramps_up_step_by_step_and_then_is_the_schedules(schedule):
    kind = {"schedule": schedule, "train_epoch": 10}
    rate, plain = rates(ramp_epochs=2.0, **kind), rates(**kind)
    for step in range(10 * STEPS):
        factor = min((step + 1) / (2 * STEPS), 1)
        assert rate(step / STEPS) == pytest.approx(factor * plain(step / STEPS), rel=1e-5)


PARAMS = {"kernel": np.array([[1.0, -2.0], [3.0, 0.5]]), "bias": np.array([0.7, -0.1]), "scale": np.array([1.5])}
GRADIENTS = [
    {
        name: np.random.RandomState(10 * step + i).standard_normal(value.shape)
        for i, (name, value) in enumerate(PARAMS.items())
    }
    for step in range(3)
]


def run(**changes):
    """Parameters after three updates."""
    tx = optimizer.create(config(**changes), STEPS)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for gradient in GRADIENTS:
        updates, state = update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


def pytorch(lr, momentum, nesterov, decay, decayed=("kernel", "bias", "scale"), rates=None, gradients=GRADIENTS):
    """torch.optim.SGD's update rule, in NumPy."""
    params, buffers = dict(PARAMS), {}
    for step, gradient in enumerate(gradients):
        for name in params:
            g = gradient[name] + (decay * params[name] if name in decayed else 0)
            if momentum:
                buffers[name] = momentum * buffers[name] + g if step else g
                g = g + momentum * buffers[name] if nesterov else buffers[name]
            params[name] = params[name] - (rates[step] if rates else lr) * g
    return params


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_pytorchs(momentum, nesterov):
    found = run(momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=0.1)
    expected = pytorch(0.05, momentum, nesterov, 0.1)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_the_rate_multiplies_after_the_momentum_as_pytorchs_does():
    """When the rate falls, what the momentum has gathered at the old rate falls with it."""
    tx = optimizer.create(config(train_epoch=3, milestones=(1 / 3, 2 / 3), decay_factor=0.1), 1)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = tx.init(params)
    for gradient in GRADIENTS:
        updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)
    expected = pytorch(None, 0.9, False, 5e-4, rates=[0.05, 0.005, 0.0005])
    for name in PARAMS:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_weight_decay_may_leave_biases_and_batch_norm_alone():
    found = run(weight_decay=0.5, decay_kernels_only=True)
    expected = pytorch(0.05, 0.9, False, 0.5, decayed=("kernel",))
    everything = pytorch(0.05, 0.9, False, 0.5)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert abs(everything["bias"] - expected["bias"]).max() > 1e-3


def adamw(lr, decay, decayed=("kernel", "bias", "scale"), gradients=GRADIENTS):
    """torch.optim.AdamW's update rule with its default betas, in NumPy."""
    params = dict(PARAMS)
    first = second = dict.fromkeys(params, 0.0)
    for step, gradient in enumerate(gradients, start=1):
        first = {n: 0.9 * first[n] + 0.1 * gradient[n] for n in params}
        second = {n: 0.999 * second[n] + 0.001 * gradient[n] ** 2 for n in params}
        for name in params:
            kept = params[name] * (1 - lr * decay * (name in decayed))
            moment = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            params[name] = kept - lr * moment
    return params


@pytest.mark.parametrize("kernels_only", [False, True])
def test_adamw_is_pytorchs_and_its_decay_is_decoupled(kernels_only):
    found = run(optimizer="adamw", weight_decay=0.5, decay_kernels_only=kernels_only)
    decayed = ("kernel",) if kernels_only else tuple(PARAMS)
    expected, undecayed = adamw(0.05, 0.5, decayed), adamw(0.05, 0.0)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=3e-6)
        moved = np.abs(expected[name] - undecayed[name]).max()
        assert moved > 1e-2 if name in decayed else moved == 0


def test_lamb_scales_adamws_update_to_each_tensors_norm():
    found, params = run(optimizer="lamb", weight_decay=0.1), dict(PARAMS)
    first = second = dict.fromkeys(params, 0.0)
    for step, gradient in enumerate(GRADIENTS, start=1):
        first = {n: 0.9 * first[n] + 0.1 * gradient[n] for n in params}
        second = {n: 0.999 * second[n] + 0.001 * gradient[n] ** 2 for n in params}
        for name, old in params.items():
            update = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-6) + 0.1 * old
            params[name] = old - 0.05 * update * np.linalg.norm(old) / np.linalg.norm(update)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], params[name], rtol=1e-4)


def test_muon_leaves_what_is_no_matrix_to_adamw():
    found = run(optimizer="muon", weight_decay=0.5, decay_kernels_only=True)
    expected = adamw(0.05, 0.5, ("kernel",))
    for name in ("bias", "scale"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=3e-6)
    assert np.abs(found["kernel"] - expected["kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_the_count_of_updates_is_the_schedules(name):
    """The log line's learning rate is that of the last count in the optimizer's state."""
    tx = optimizer.create(config(optimizer=name), STEPS)
    params = jax.tree.map(jnp.float32, PARAMS)
    _, state = tx.update(params, tx.init(params), params)
    assert int(optax.tree.get_all_with_path(state, "count")[-1][1]) == 1


def clipped(longest):
    norms = [np.sqrt(sum((g**2).sum() for g in gradient.values())) for gradient in GRADIENTS]
    scales = [min(1, longest / norm) for norm in norms]
    return [{n: s * g for n, g in gradient.items()} for s, gradient in zip(scales, GRADIENTS, strict=True)], norms


@pytest.mark.parametrize("longest", [0.5, 3.0, 100.0])
def test_the_gradient_of_everything_together_is_clipped(longest):
    gradients, norms = clipped(longest)
    assert min(norms) < 3 < max(norms)  # so that the middle one clips some steps only
    found = run(clip_norm=longest, optimizer="adamw", weight_decay=0.1)
    expected = adamw(0.05, 0.1, gradients=gradients)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)
    found = run(clip_norm=longest, weight_decay=0.1)  # the decay is added afterwards, and is not clipped
    expected = pytorch(0.05, 0.9, False, 0.1, gradients=gradients)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)


def test_kernels_are_what_has_two_axes_or_more(tiny):
    mask = optimizer.kernels(tiny.variables["params"])
    assert mask["stem_conv"]["kernel"] is True
    assert mask["classifier"] == {"kernel": True, "bias": False}
    assert mask["stem_bn"] == {"scale": False, "bias": False}


def dot(delta, decayed=("kernel", "bias", "scale"), both=("kernel", "bias", "scale"), rates=(0.05, 0.005, 0.0005)):
    """The released code's update rule, in NumPy; a fifth of each gradient is the label loss's."""
    params, low, high = dict(PARAMS), dict.fromkeys(PARAMS, 0.0), dict.fromkeys(PARAMS, 0.0)
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        for name in params:
            own = delta if name in both else 0.0
            low[name] = (0.9 - own) * low[name] + 0.2 * gradient[name] + (name in decayed) * 0.1 * params[name]
            high[name] = (0.9 + own) * high[name] + 0.8 * gradient[name]
            params[name] = params[name] - rate * (low[name] + high[name])
    return params


def run_dot(both=None, **changes):
    changes = {"train_epoch": 3, "milestones": (1 / 3, 2 / 3), "weight_decay": 0.1, **changes}
    tx = optimizer.create(config(optimizer="dot", **changes), 1, both)
    params = jax.tree.map(jnp.float32, PARAMS)
    state = tx.init(params)
    for gradient in GRADIENTS:
        gradient = jax.tree.map(jnp.float32, gradient)
        label = jax.tree.map(lambda g: 0.2 * g, gradient)
        updates, state = tx.update(gradient, state, params, label_gradients=label)
        params = optax.apply_updates(params, updates)
    return params


BOTH = {"kernel": True, "bias": True, "scale": False}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, {"delta": 0.075}),
        ({"dot_delta": 0.05}, {"delta": 0.05}),
        ({"decay_kernels_only": True}, {"delta": 0.075, "decayed": ("kernel",)}),
        ({"both": BOTH}, {"delta": 0.075, "both": ("kernel", "bias")}),
        ({"schedule": "constant"}, {"delta": 0.075, "rates": (0.05,) * 3}),
    ],
    ids=str,
)
def test_dot_has_sgds_schedule_decay_and_momentum(found, expected):
    found, expected = run_dot(**found), dot(**expected)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
        assert np.abs(expected[name] - dot(0.0)[name]).max() > 1e-4 or name == "scale"
