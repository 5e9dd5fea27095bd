"""Several teachers as one: the means and the weights are NumPy's, and CA-MKD's loss has the gradient it should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
from distiller.soft_logits import kl_divergence
from models import Outputs
from registry import UserError
from tasks.classification import Classification
from transfer import ensembles

LOGITS = 3 * np.random.RandomState(0).standard_normal((3, 4, 5)).astype(np.float32)  # teachers, images, classes
LABEL = np.array([0, 4, -1, 2], np.int32)
BATCH = data.Batch(jnp.zeros((4, 1, 1, 1)), jnp.asarray(LABEL), jnp.arange(4), jnp.zeros(()))


def softmax(z):
    z = np.exp(np.asarray(z, np.float64))
    return z / z.sum(-1, keepdims=True)


def camkd(errors):
    """(1 - softmax over the teachers) / (n - 1)."""
    share = softmax(errors.T).T
    return (1 - share) / (len(errors) - 1)


def errors(weighting):
    p = softmax(LOGITS)
    if weighting == "agreement":
        return np.sum(p * np.log(p / p.mean(0)), axis=-1)
    loss = -np.log(np.take_along_axis(p, np.maximum(LABEL, 0)[None, :, None], axis=2)[..., 0])
    return np.where(LABEL < 0, 0, loss)


def combine(how, weighting, method="SoftLogits", logits=LOGITS, fixed=(1.0, 1.0, 1.0), **options):
    teachers = [Outputs(jnp.asarray(z), {}) for z in logits]
    method = distiller.create(method, **options)
    return ensembles.combined(teachers, list(fixed), BATCH, Classification(), method, how, weighting)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["confidence", "agreement"])
def test_the_weights_are_numpys_and_sum_to_1(weighting):
    expected = camkd(errors(weighting))
    mean = np.asarray(combine("logits", weighting).logits)
    np.testing.assert_allclose(mean, np.sum(expected[..., None] * LOGITS, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(expected.sum(0), 1)
    if weighting == "confidence":  # a withheld label says nothing of the teachers
        np.testing.assert_allclose(mean[2], LOGITS[:, 2].mean(0), rtol=1e-4, atol=1e-5)
        best = errors(weighting)[:, 0].argmin()
        assert expected[best, 0] == expected[:, 0].max() > 1 / 3


@pytest.mark.parametrize(("options", "temperature"), [({}, 4.0), ({"temperature": 2.0}, 2.0)])
def test_probabilities_are_averaged_at_the_methods_temperature(options, temperature):
    found = combine("probabilities", "equal", fixed=(1.0, 0.0, 3.0), **options).logits / temperature
    p = softmax(LOGITS / temperature)
    np.testing.assert_allclose(softmax(found), 0.25 * p[0] + 0.75 * p[2], rtol=1e-4)


@pytest.mark.slow
def test_confidence_and_probabilities_have_camkds_gradient():
    student = jnp.asarray(np.random.RandomState(1).standard_normal((4, 5)), jnp.float32)
    mean, weights = combine("probabilities", "confidence").logits, camkd(errors("confidence"))

    def theirs(z):
        rows = jax.vmap(jax.vmap(lambda t, s: kl_divergence(s[None], t[None], 4.0)), (0, None))(jnp.asarray(LOGITS), z)
        return jnp.mean(jnp.sum(jnp.asarray(weights, jnp.float32) * rows, axis=0))

    found = jax.grad(lambda z: kl_divergence(z, mean, 4.0))(student)
    np.testing.assert_allclose(found, jax.grad(theirs)(student), rtol=1e-3, atol=1e-6)


def test_every_view_is_combined_with_weights_of_its_own():
    teachers = [Outputs(jnp.asarray(z), {}, views=(Outputs(jnp.asarray(z[::-1].copy()), {}),)) for z in LOGITS]
    batch = dataclasses.replace(BATCH, label=jnp.zeros(4, jnp.int32))
    how = Classification(), distiller.create("MLKD"), "logits", "confidence"
    found = ensembles.combined(teachers, [1.0] * 3, batch, *how)
    np.testing.assert_allclose(found.views[0].logits, found.logits[::-1], rtol=1e-5)


@pytest.mark.parametrize("how", ensembles.COMBINED)
@pytest.mark.parametrize("weighting", ["equal", "confidence", "agreement"])
def test_sure_teachers_give_finite_logits(how, weighting):
    sure = 1e5 * np.eye(5, dtype=np.float32)[np.array([[0, 1, 2, 3], [0, 0, 0, 0], [4, 4, 4, 4]])]
    found = combine(how, weighting, logits=sure, fixed=(0.0, 1.0, 1.0)).logits
    assert np.isfinite(found).all()
    loss, gradient = jax.value_and_grad(kl_divergence)(jnp.zeros((4, 5)), found, 4.0)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_the_temperature_of_a_sum_is_that_of_its_parts():
    assert ensembles.method_temperature(distiller.create("AT+SP")) == 1.0
    assert ensembles.method_temperature(distiller.create("SoftLogits+AT", SoftLogits={"temperature": 2})) == 2.0
    different = distiller.create("SoftLogits+DKD", SoftLogits={"temperature": 2.0})
    with pytest.raises(UserError, match=r"differ: {'SoftLogits': 2.0, 'DKD': 4.0}\.\nGive the parts one temperature"):
        ensembles.check("probabilities", "equal", (), True, different, Classification())


def test_options_that_do_not_fit_are_refused():
    method = distiller.create("SoftLogits")
    for combine, weighting, fixed, several, problem in (
        ("probabilities", "equal", (), False, "'combine' 'probabilities' averages several teachers, but there is only"),
        ("losses", "confidence", (), True, r"image by image, which a sum of losses cannot do\.\nUse combine='prob"),
        (
            "logits",
            "agreement",
            (1.0, 2.0),
            True,
            r"'teacher_weights' \(1\.0, 2\.0\) and weighting='agreement' exclude",
        ),
    ):
        with pytest.raises(UserError, match=problem):
            ensembles.check(combine, weighting, fixed, several, method, Classification())
    with pytest.raises(UserError, match="E2KD needs the teachers' gradients, but combine='probabilities'"):
        ensembles.check("probabilities", "equal", (), True, distiller.create("E2KD"), Classification())
    with pytest.raises(UserError, match=r"reads the labels, and the data have none\.\nUse weighting='agreement'"):
        ensembles.check("logits", "confidence", (), True, method, Classification(labelled=False))
