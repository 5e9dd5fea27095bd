import jax
import jax.numpy as jnp
import numpy as np
from simulation import answer, batches, build, cross_entropy, divergence, simulate, unlabelled

from transfer.ddgsd import mean_discrepancy

KEY = jax.random.key(1)


def terms(params, fixed, batch):
    """Each view's prediction is the other one's fixed target; the features of both move."""
    (a, za), (b, zb) = (answer(params, image) for image in (batch.image, batch.views[0]))
    ta, tb = (answer(fixed, image)[1] for image in (batch.image, batch.views[0]))
    return {
        "cross_entropy": cross_entropy(za, batch.label) + cross_entropy(zb, batch.label),
        "DDGSD_logits": 0.5 * (divergence(za, tb, 3.0) + divergence(zb, ta, 3.0)),
        "DDGSD_features": 0.1 * ((a.mean(0) - b.mean(0)) ** 2).sum(),
    }


def test_two_steps_are_those_of_the_equations():
    simulate(build("DDGSD", weight=0.5, mmd_weight=0.1), batches(views=1), terms)


def test_mean_discrepancy_is_a_kernel_two_sample_statistic():
    """The biased estimate with the kernel k(x, y) = x . y."""
    random = np.random.RandomState(0)
    a, b = random.standard_normal((2, 5, 3))
    expected = (a @ a.T).mean() + (b @ b.T).mean() - 2 * (a @ b.T).mean()
    np.testing.assert_allclose(mean_discrepancy(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-5)


def test_without_labels_the_views_still_teach_each_other():
    run, batch = build("DDGSD"), unlabelled(batches(views=1)[0])
    _, metrics = run.step(run.init(KEY, batch), batch, KEY)
    assert metrics["cross_entropy"] == 0 < metrics["DDGSD_logits"]
