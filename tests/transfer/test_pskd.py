import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from simulation import answer, batches, build, simulate, unlabelled

from distiller.crd import recall, remember
from registry import UserError

KEY = jax.random.key(1)


class Equations:
    """Kim et al., equations 3 and 6, with the label where nothing was predicted yet."""

    def __init__(self, alpha, epochs):
        self.alpha, self.epochs, self.past = alpha, epochs, {}

    def terms(self, params, fixed, batch):
        a = self.alpha * (float(batch.epoch) // 1 + 1) / self.epochs
        said = log_softmax(answer(params, batch.image)[1], axis=1)
        label, index = np.asarray(batch.label), np.asarray(batch.index)
        hard = np.where(label[:, None] >= 0, np.eye(4)[label], 0)
        past = np.stack([self.past.get(i, hard[row]) for row, i in enumerate(index)])
        entropy = -(hard * said).sum() / (label >= 0).sum()
        return {"cross_entropy": (1 - a) * entropy, "PSKD": -a * (past * said).sum(1).mean()}

    def after(self, params, batch):
        for i, row in zip(np.asarray(batch.index), softmax(answer(params, batch.image)[1], axis=1), strict=True):
            self.past[int(i)] = row


def test_three_epochs_are_those_of_the_equations():
    equations = Equations(0.8, 4)
    state, _ = simulate(build("PSKD", train_epoch=4), batches(3), equations.terms, equations.after)
    past = np.stack([equations.past[i] for i in range(6)])
    np.testing.assert_allclose(state.extra["method"]["past"], past, rtol=1e-4)


def test_an_index_outside_of_the_memory_is_nan_and_never_another_row():
    past = jnp.arange(6.0).reshape(3, 2)
    found = np.asarray(recall(past, jnp.array([2, 3, -1, 0], jnp.int32), jnp.nan))
    np.testing.assert_array_equal(found, [[4, 5], [np.nan] * 2, [np.nan] * 2, [0, 1]])
    kept = remember(past, jnp.array([3, -1, 1], jnp.int32), jnp.full((3, 2), 9.0))
    np.testing.assert_array_equal(kept, [[0, 1], [9, 9], [4, 5]])


def test_a_wrong_index_stops_the_run():
    run, batch = build("PSKD"), batches()[0]
    _, metrics = run.step(run.init(KEY, batch), batch.replace(index=batch.index + 1), KEY)
    assert np.isnan(metrics["loss"])


def test_without_labels_past_predictions_teach_from_the_second_epoch_on():
    run, (first, second) = build("PSKD", train_epoch=2), map(unlabelled, batches())
    state, metrics = run.step(run.init(KEY, first), first, KEY)
    assert metrics["loss"] == 0
    assert run.step(state, second, KEY)[1]["PSKD"] > 0


def test_impossible_share_is_refused():
    with pytest.raises(UserError, match=r"1\.2"):
        build("PSKD", alpha=1.2)
