import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from simulation import answer, batches, build, cross_entropy, simulate, unlabelled

import transfer
from models import Outputs
from transfer.uskd import WeakHead, ranks, zipf

KEY = jax.random.key(1)


def terms_of(as_released):
    def terms(params, fixed, batch):
        """Yang et al., section 3.3, row by row."""

        def heads(p):
            embedding, logits = answer(p, batch.image)
            head = p["method"]["classifier"]
            return logits, embedding @ head["kernel"] + head["bias"]

        logits, weak = heads(params)
        label = np.asarray(batch.label)
        rows = np.flatnonzero(label >= 0)
        s, w = (softmax(z, axis=1) for z in heads(fixed))
        square = {b: s[b, label[b]] ** 2 for b in rows}
        mean = np.mean(list(square.values()))
        target = others = smooth = 0.0
        for b in rows:
            t, rest = label[b], [i for i in range(4) if i != label[b]]
            said = log_softmax(logits[b])
            target -= (square[b] + 1 - mean) * said[t] / len(rows)
            own = np.log(s[b]) if as_released else s[b]
            score = own / (1 - own[t] + 1e-6) + w[b] / (1 - w[b, t] + 1e-6)
            order = sorted(range(4) if as_released else rest, key=lambda i: -score[i])
            z = np.array([1 / (1 + order.index(i)) for i in rest])
            others -= (z / z.sum() * log_softmax(logits[b, rest])).sum() / len(rows)
            smooth -= (0.9 * log_softmax(weak[b])[t] + 0.1 * log_softmax(weak[b]).mean()) / len(rows)
        return {
            "cross_entropy": cross_entropy(logits, label),
            "USKD_target": 0.5 * target,
            "USKD_others": 0.4 * others,
            "USKD_weak": 0.3 * smooth,
        }

    return terms


@pytest.mark.slow
@pytest.mark.parametrize("as_released", [False, True])
def test_two_steps_are_those_of_the_equations(as_released):
    run = build("USKD", alpha=0.5, beta=0.4, mu=0.3, as_released=as_released)
    simulate(run, batches(), terms_of(as_released))


def test_ranks_and_weights():
    found = ranks(jnp.array([[0.1, 0.7, 0.2], [3.0, 3.0, 4.0]]))
    np.testing.assert_array_equal(found, [[3, 1, 2], [2, 3, 1]])
    np.testing.assert_allclose(zipf(found[:1]), np.array([[1 / 3, 1, 1 / 2]]) / (11 / 6), rtol=1e-6)


def test_the_weak_head_reads_the_last_stage_but_one():
    features = {f"stage{i}": jnp.full((2, 1, 1, i), float(i)) for i in (1, 2, 3)}
    outputs, head = Outputs(logits=jnp.zeros((2, 4)), features=features), WeakHead()
    assert head.init(KEY, outputs)["params"]["classifier"]["kernel"].shape == (2, 4)


def test_without_labels_nothing_is_taught():
    run, batch = build("USKD"), unlabelled(batches()[0])
    state = run.init(KEY, batch)
    new, metrics = run.step(state, batch, KEY)
    assert metrics["loss"] == 0
    kernels = [s.params["method"]["classifier"]["kernel"] for s in (new, state)]
    np.testing.assert_array_equal(*kernels)
    assert not transfer.registry.get("USKD").uses_unlabelled
