"""ONE, OKDDip and PCL: their losses in float64 from the plain networks' answers, over two steps, and who moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax
from simulation import compiled

import transfer
from registry import UserError
from transfer import peers
from transfer.branches import pooled
from transfer.one import Gate
from transfer.peers import ramp_up

KEY = jax.random.key(3)
OPTIMIZER = optax.sgd(0.1)


def entropy(z, label):
    return -np.mean(log_softmax(np.asarray(z, np.float64), axis=1)[np.arange(len(label)), label])


def divergence(target, z, t):
    """T^2 KL(target || softmax(z / T)), target: probabilities."""
    own = log_softmax(np.asarray(z, np.float64) / t, axis=1)
    return t * t * np.mean(np.sum(target * (np.log(target) - own), axis=1))


def soft(z, t):
    return softmax(np.asarray(z, np.float64) / t, axis=1)


def answers(strategy, state, images):
    """Name -> what the plain network with a learner's variables says in train mode."""
    learners = strategy.learners(state)
    names = strategy._branches.names
    run = compiled(strategy.student)
    return {n: run(learners[n][1], images[i % len(images)])[0] for i, n in enumerate(names)}


def check(metrics, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(metrics["loss"], sum(expected.values()), rtol=2e-4)


def prefix(name):
    return "" if name == "student" else f"{name}/"


def test_the_ramp_is_that_of_the_papers_and_continuous():
    for epoch in (0.0, 13.5, 80.0, 200.0):
        expected = np.exp(-5 * (1 - min(epoch, 80) / 80) ** 2)
        np.testing.assert_allclose(ramp_up(jnp.float32(epoch), 80.0), expected, rtol=1e-5)
    assert ramp_up(jnp.float32(0), 0) == 1


@pytest.mark.slow
def test_one_is_its_equations_over_two_steps(staged, batch, same):
    strategy = transfer.create("ONE", student=staged("student"), optimizer=OPTIMIZER, train_epoch=300, weight=0.5)
    label = np.asarray(batch.label)
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    for epoch in (20.0, 100.0):
        seen = answers(strategy, state, (batch.image,))
        h = np.asarray(pooled(seen["student"].features["stage1"]), np.float64)
        gate = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params["gate"])
        scores = h @ gate["score"]["kernel"] + gate["score"]["bias"]
        scores = (scores - scores.mean(0)) / np.sqrt(scores.var(0) + 1e-5) * gate["bn"]["scale"] + gate["bn"]["bias"]
        g = softmax(np.maximum(scores, 0), axis=1)
        together = sum(g[:, i, None] * np.asarray(o.logits, np.float64) for i, o in enumerate(seen.values()))
        factor = 0.5 * np.exp(-5 * (1 - min(epoch, 80) / 80) ** 2)
        expected = {"ensemble/cross_entropy": entropy(together, label)}
        for name, o in seen.items():
            expected[f"{prefix(name)}cross_entropy"] = entropy(o.logits, label)
            expected[f"{prefix(name)}ONE"] = factor * divergence(soft(together, 3), o.logits, 3)
        before = state
        state, metrics = step(state, batch.replace(epoch=jnp.float32(epoch)), KEY)
        check(metrics, expected)
        for name in before.params:
            assert not same(before.params[name], state.params[name])


@pytest.mark.slow
def test_the_tested_ensemble_is_the_gated_one(staged, batch):
    strategy = transfer.create("ONE", student=staged("student"), optimizer=OPTIMIZER)
    state = jax.jit(strategy.init)(KEY, batch)
    player, variables = strategy.tested(state)["ensemble"]
    found = compiled(player, train=False)(variables, batch.image)[0].logits
    run = compiled(strategy.student, train=False)
    seen = [run(v, batch.image)[0] for _, v in strategy.learners(state).values()]
    gate = Gate(3).apply({"params": state.params["gate"], **state.extra["gate"]}, seen[0].features["stage1"])
    expected = sum(gate[:, i, None] * o.logits for i, o in enumerate(seen))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "as_released"), [(True, False), (False, True)])
def test_okddip_is_its_equations_over_two_steps(shared, as_released, staged, batch):
    options = {"branches": 3, "train_epoch": 300, "shared": shared, "as_released": as_released}
    strategy = transfer.create("OKDDip", student=staged("student"), optimizer=OPTIMIZER, **options)
    label, t = np.asarray(batch.label), 3
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    for epoch in (20.0, 100.0):
        seen = answers(strategy, state, (batch.image,))
        peers = [name for name in seen if name != "student"]
        h = np.stack([np.asarray(seen[n].features["embedding"], np.float64) for n in peers])
        z = np.stack([np.asarray(seen[n].logits, np.float64) for n in peers])
        q, k = (h @ np.asarray(state.params["attention"][n]["kernel"], np.float64) for n in ("query", "key"))
        weights = softmax(np.einsum("kbd,lbd->bkl", q, k), axis=2)
        if as_released:
            targets = softmax(np.einsum("bkl,lbc->kbc", weights, z) / t, axis=-1)
            mean = softmax(z.mean(0) / t, axis=-1)
        else:
            targets = np.einsum("bkl,lbc->kbc", weights, softmax(z / t, axis=-1))
            mean = softmax(z / t, axis=-1).mean(0)
        factor, expected = np.exp(-5 * (1 - min(epoch, 80) / 80) ** 2), {}
        for name, target in zip(["student", *peers], [mean, *targets], strict=True):
            expected[f"{prefix(name)}cross_entropy"] = entropy(seen[name].logits, label)
            expected[f"{prefix(name)}OKDDip"] = factor * divergence(target, seen[name].logits, t)
        state, metrics = step(state, batch.replace(epoch=jnp.float32(epoch)), KEY)
        check(metrics, expected)


@pytest.mark.parametrize("as_released", [False, True])
def test_okddips_gradient_is_finite_where_probabilities_underflow(as_released):
    """The targets carry gradients, and 0 log 0 has none."""
    strategy = transfer.create("OKDDip", student=None, optimizer=OPTIMIZER, as_released=as_released)
    logits = jnp.float32([[[400.0, -400.0]], [[-400.0, 400.0]], [[0.0, 1.0]]])  # [n, B, K]

    def loss(weights, logits):
        targets, mean = strategy._targets(jax.nn.log_softmax(weights), logits)
        return sum(peers.divergence(z, t, 0.5) for z, t in zip(logits, [*targets[:2], mean], strict=True))

    found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(jnp.zeros((1, 3, 3)), logits)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.slow
def test_okddips_targets_are_constants_but_for_the_attention(staged, batch):
    """The leader's distillation loss moves the leader alone; a peer's moves itself and the attention."""
    for as_released in (False, True):
        options = {"branches": 3, "shared": False, "as_released": as_released}
        strategy = transfer.create("OKDDip", student=staged("student"), optimizer=OPTIMIZER, **options)
        state = jax.jit(strategy.init)(KEY, batch)

        @jax.jit
        def reached(params, strategy=strategy, state=state):
            def of(name):
                return jax.grad(lambda p: strategy.losses(p, state, batch, KEY)[0][name])(params)

            return {name: jax.tree.map(jnp.any, of(name)) for name in ("OKDDip", "branch1/OKDDip")}

        found = {
            name: {who for who, tree in trees.items() if any(jax.tree.leaves(tree))}
            for name, trees in reached(state.params).items()
        }
        everybody = {"branch1", "branch2"}
        assert found["OKDDip"] == {"student"} | (everybody if as_released else set())
        assert found["branch1/OKDDip"] == {"attention"} | (everybody if as_released else {"branch1"})


@pytest.mark.slow
def test_pcl_is_its_equations_over_two_steps_and_its_means_follow(staged, batch):
    options = {"train_epoch": 300, "decay": 0.3}
    strategy = transfer.create("PCL", student=staged("student"), optimizer=OPTIMIZER, **options)
    assert strategy.views == ("weak",) * 3
    images = (batch.image, 1 - batch.image, batch.image[::-1])
    label, t = np.asarray(batch.label), 3
    batch = batch.replace(views=images[1:])
    state, step = jax.jit(strategy.init)(KEY, batch), jax.jit(strategy.step)
    names = strategy._branches.names
    for number, epoch in enumerate((20.0, 100.0, 101.0)):
        seen, mean = answers(strategy, state, images), state.extra["mean"]
        there = state.replace(params={**state.params, **mean["params"]}, extra={**state.extra, **mean["extra"]})
        means = {n: soft(o.logits, t) for n, o in answers(strategy, there, images).items()}
        features = np.concatenate([np.asarray(seen[n].features["embedding"], np.float64) for n in names], axis=1)
        classifier = state.params["ensemble"]["classifier"]
        together = features @ np.asarray(classifier["kernel"], np.float64) + np.asarray(classifier["bias"])
        factor, expected = np.exp(-5 * (1 - min(epoch, 80) / 80) ** 2), {}
        expected["ensemble/cross_entropy"] = entropy(together, label)
        for name, o in seen.items():
            others = [divergence(means[n], o.logits, t) for n in names if n != name]
            expected[f"{prefix(name)}cross_entropy"] = entropy(o.logits, label)
            expected[f"{prefix(name)}peer_ensemble"] = factor * divergence(soft(together, t), o.logits, t)
            expected[f"{prefix(name)}peer_mean"] = factor * np.mean(others)
        state, metrics = step(state, batch.replace(epoch=jnp.float32(epoch)), KEY)
        check(metrics, expected)
        keep = min(1 - 1 / (number + 1), 0.3)
        for n in names:
            now, before = state.params[n], mean["params"][n]
            wanted = jax.tree.map(lambda m, w, a=keep: a * m + (1 - a) * w, before, now)
            found = state.extra["mean"]["params"][n]
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_mistakes_are_told(staged):
    with pytest.raises(UserError, match=r"'branches' must be at least 3 \(default 4\); got 2"):
        transfer.create("OKDDip", student=staged("student"), optimizer=OPTIMIZER, branches=2)
    with pytest.raises(UserError, match=r"'decay' must be at least 0 and below 1 \(default 0\.999\); got 1\.0"):
        transfer.create("PCL", student=staged("student"), optimizer=OPTIMIZER, decay=1.0)
