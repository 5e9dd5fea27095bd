import jax
import numpy as np
import pytest
from simulation import answer, batches, build, cross_entropy, divergence, simulate, unlabelled

KEY = jax.random.key(1)


def terms(params, fixed, batch):
    """Yun et al., equations 1 and 2: the partner's prediction is a constant."""
    logits, partner = answer(params, batch.image)[1], answer(fixed, batch.views[0])[1]
    return {
        "cross_entropy": cross_entropy(logits, batch.label),
        "CSKD": 2.0 * divergence(logits, partner, 3.0),
    }


def test_two_steps_are_those_of_the_equations():
    simulate(build("CSKD", temperature=3.0, weight=2.0), batches(views=1), terms)


def test_the_second_view_is_a_partner_of_the_same_class():
    assert build("CSKD").strategy.views == ("weak", "partner")
    assert build("CSKD").strategy.temperature == 4


@pytest.mark.slow
def test_without_labels_the_partner_still_teaches():
    run, batch = build("CSKD"), unlabelled(batches(views=1)[0])
    state = run.init(KEY, batch)
    new, metrics = run.step(state, batch, KEY)
    assert metrics["cross_entropy"] == 0 < metrics["CSKD"]
    assert np.any(new.params["student"]["A"] != state.params["student"]["A"])
