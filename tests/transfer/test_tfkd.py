import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from simulation import answer, batches, build, cross_entropy, simulate, unlabelled

import transfer
from registry import UserError
from transfer.tfkd import virtual_teacher

KEY = jax.random.key(1)


def terms_of(alpha, temperature, weight, soften):
    def terms(params, fixed, batch):
        """Yuan et al., equations 9 and 10."""
        logits, label = answer(params, batch.image)[1], np.asarray(batch.label)
        rows = np.flatnonzero(label >= 0)
        u = np.full((len(rows), 4), 0.01 / 3)
        u[np.arange(len(rows)), label[rows]] = 0.99
        t = softmax(u / temperature, axis=1)
        said = log_softmax(logits[rows] / (temperature if soften else 1), axis=1)
        kl = (t * (np.log(t) - said)).sum(1).mean()
        return {"cross_entropy": (1 - alpha) * cross_entropy(logits, label), "TfKD": alpha * weight * kl}

    return terms


@pytest.mark.parametrize(("soften", "weight"), [(True, 1.0), (False, 5.0)])
def test_two_steps_are_those_of_the_equations(soften, weight):
    options = {"alpha": 0.4, "temperature": 2.0, "weight": weight}
    run = build("TfKD", soften_student=soften, **options)
    simulate(run, batches(), terms_of(**options, soften=soften))


def test_the_virtual_teacher_is_right_and_indifferent_among_the_others():
    found = np.asarray(virtual_teacher(jnp.array([2, 0], jnp.int32), 4, 0.9, 1.0))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert list(found.argmax(1)) == [2, 0]
    assert np.ptp(found[0, [0, 1, 3]]) == 0


def test_without_labels_nothing_is_taught():
    run, batch = build("TfKD"), unlabelled(batches()[0])
    _, metrics = run.step(run.init(KEY, batch), batch, KEY)
    assert metrics["loss"] == 0
    assert not transfer.registry.get("TfKD").uses_unlabelled


def test_impossible_shares_are_refused():
    with pytest.raises(UserError, match=r"1\.5"):
        build("TfKD", alpha=1.5)
