import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulation import answer, batches, build, cross_entropy, divergence, simulate

KEY = jax.random.key(1)


def in_a_row(count=3):
    """Batches of other examples each, with the examples of the one before in another view."""
    found = batches(count, views=1)
    for step, batch in enumerate(found):
        index = (batch.index + 6 * step) % 12
        before = found[step - 1] if step else batch.replace(index=batch.index + 20)
        found[step] = batch.replace(index=index, previous=before.replace(image=batch.views[0], views=()))
    return found


class Equations:
    """Shen et al., algorithm 1: both halves learn from labels, the first also from what was said of it."""

    said = None

    def terms(self, params, fixed, batch):
        logits = answer(params, batch.image)[1]
        if self.said is None:
            return {"cross_entropy": cross_entropy(logits, batch.label), "DLB": 0.0}
        again = answer(params, batch.previous.image)[1]
        both, label = np.concatenate([again, logits]), np.concatenate([batch.previous.label, batch.label])
        return {"cross_entropy": cross_entropy(both, label), "DLB": 2.0 * divergence(again, self.said, 3.0)}

    def after(self, params, batch):
        self.said = answer(params, batch.image)[1]


@pytest.mark.slow
def test_three_steps_are_those_of_the_equations_and_the_first_has_no_previous_one():
    equations = Equations()
    simulate(build("DLB", weight=2.0), in_a_row(), equations.terms, equations.after)


def test_what_is_remembered_of_other_images_is_not_used():
    """As after an update that was skipped."""
    run, (first, second, _) = build("DLB"), in_a_row()
    state, _ = run.step(run.init(KEY, first), first, KEY)
    skipped = second.replace(previous=second.previous.replace(index=second.previous.index + 1))
    new, metrics = run.step(state, skipped, KEY)
    assert metrics["DLB"] == 0
    np.testing.assert_allclose(
        metrics["cross_entropy"], cross_entropy(np.asarray(run_logits(run, state, second)), second.label), rtol=1e-5
    )
    assert jnp.array_equal(new.extra["method"]["index"], second.index)


def run_logits(run, state, batch):
    return run.strategy.student.forward(run.strategy.student_variables(state), batch.image)[0].logits
