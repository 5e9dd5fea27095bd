"""Classification: the loss on labels, mixed and withheld ones too, and the measures of a split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax as log_probabilities
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

import tasks
from data import Batch
from models import Outputs
from registry import NonFiniteError, UserError
from tasks.classification import Classification, balanced_weights, log_softmax, per_class

TASK = Classification()
evaluate = TASK.metrics
LOGITS, TEACHER = np.random.RandomState(0).standard_normal((2, 400, 12)).astype(np.float32) * 2
LABELS = np.random.RandomState(1).randint(0, 12, 400).astype(np.int32)


def softmax(logits):
    e = np.exp(logits.astype(np.float64))
    return e / e.sum(1, keepdims=True)


def test_accuracies_and_likelihood_are_scikit_learns():
    found, classes = evaluate(LOGITS, LABELS), np.arange(12)
    assert found["top1"] == pytest.approx(100 * accuracy_score(LABELS, LOGITS.argmax(1)))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(LABELS, LOGITS, k=5, labels=classes))
    assert found["nll"] == pytest.approx(log_loss(LABELS, softmax(LOGITS), labels=classes), rel=1e-9)


def test_calibration_error_is_the_definition():
    """Guo et al., 2017, equation 3, bin by bin."""
    p = softmax(LOGITS)
    confidence, correct = p.max(1), p.argmax(1) == LABELS
    total = 0.0
    for m in range(15):
        inside = (confidence >= m / 15) & (confidence < (m + 1) / 15)
        if inside.any():
            total += inside.sum() / 400 * abs(correct[inside].mean() - confidence[inside].mean())
    assert evaluate(LOGITS, LABELS)["ece"] == pytest.approx(100 * total, rel=1e-9)


def test_teacher_measures_are_the_definitions():
    found = evaluate(LOGITS, LABELS, TEACHER)
    s, t = softmax(LOGITS), softmax(TEACHER)
    assert found["agreement"] == pytest.approx(100 * (LOGITS.argmax(1) == TEACHER.argmax(1)).mean())
    assert found["kl"] == pytest.approx((t * np.log(t / s)).sum(1).mean(), rel=1e-9)
    assert set(evaluate(LOGITS, LABELS)) == set(found) - {"agreement", "kl"}


def test_a_case_by_hand():
    half, third = np.log([0.5, 0.25, 0.25]), np.log([0.2, 0.2, 0.6])
    found = evaluate(np.stack([half, third, third]), np.array([0, 2, 0]))
    assert found["top1"] == pytest.approx(200 / 3)
    assert found["top5"] == 100
    assert found["nll"] == pytest.approx(-(np.log(0.5) + np.log(0.6) + np.log(0.2)) / 3)
    # confidences 0.5 (right), 0.6 (right), 0.6 (wrong); 0.5 and 0.6 lie in different fifteenths
    assert found["ece"] == pytest.approx(100 * (0.5 + abs(2 * 0.6 - 1)) / 3)


def test_a_student_that_is_its_teacher_agrees_without_divergence():
    found = evaluate(LOGITS, LABELS, LOGITS + 3.0)
    assert found["agreement"] == 100
    assert found["kl"] == pytest.approx(0, abs=1e-6)


def test_certain_answers_fall_into_the_last_bin():
    logits = np.array([[1000.0, 0.0], [1000.0, 0.0]])
    found = evaluate(logits, np.array([0, 1]))
    assert found["top1"] == 50
    assert found["ece"] == pytest.approx(50)
    assert found["nll"] == pytest.approx(500)


def test_ties_and_few_classes_do_not_crash():
    found = evaluate(np.zeros((4, 3)), np.array([0, 1, 2, 0]), np.zeros((4, 3)))
    assert found["top1"] == 50  # the first of equal classes is the prediction
    assert found["top5"] == 100
    assert found["nll"] == pytest.approx(np.log(3))
    assert found["agreement"] == 100
    assert found["kl"] == 0


def test_top5_needs_fewer_than_five_better_classes():
    logits = np.arange(10.0)[None]
    assert evaluate(logits, np.array([5]))["top5"] == 100
    assert evaluate(logits, np.array([4]))["top5"] == 0


def test_results_are_plain_numbers_whatever_the_dtypes():
    found = evaluate(LOGITS.astype(np.float16), LABELS.astype(np.uint8), TEACHER)
    assert {type(value) for value in found.values()} == {float}


def test_log_softmax_is_stable_and_float64():
    found = log_softmax(np.array([[1e4, 0.0], [0.0, 0.0]], np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[0, -1e4], [-np.log(2)] * 2])


Z = np.random.RandomState(0).standard_normal((7, 4)).astype(np.float32) * 3
LABEL = np.array([0, 3, 2, 1, 1, 0, 2], np.int32)


def label_loss(logits, label, second=None, share=None, task=TASK):
    """The task's loss for a batch with these labels."""
    label = jnp.asarray(label)
    batch = Batch(image=None, label=label, index=None, epoch=None, second_label=second, share=share)
    return task.loss(Outputs(jnp.asarray(logits), {}), batch)


def test_label_loss_is_the_mean_negative_log_likelihood():
    loss, counts = label_loss(Z, LABEL)
    np.testing.assert_allclose(loss, -log_probabilities(Z, axis=1)[np.arange(7), LABEL].mean(), rtol=1e-5)
    np.testing.assert_allclose(counts["correct"], (Z.argmax(1) == LABEL).mean(), rtol=1e-6)
    assert counts["labelled"] == 1


@pytest.mark.parametrize("labelled", [[2], [0, 3, 6], [0, 1, 2, 3, 4, 5]])
def test_withheld_labels_count_for_nothing(labelled):
    label = np.full(7, -1, np.int32)
    label[labelled] = LABEL[labelled]
    loss, counts = label_loss(Z, label)
    alone = -log_probabilities(Z, axis=1)[labelled, LABEL[labelled]].mean()
    np.testing.assert_allclose(loss, alone, rtol=1e-5)
    np.testing.assert_allclose(counts["labelled"], len(labelled) / 7, rtol=1e-6)
    right = (Z.argmax(1) == LABEL)[labelled].sum()
    np.testing.assert_allclose(counts["correct"], right / 7, rtol=1e-6)
    gradient = jax.grad(lambda x: label_loss(x, label)[0])(jnp.asarray(Z))
    assert set(np.flatnonzero(np.abs(gradient).sum(1))) == set(labelled)


def test_without_any_label_loss_and_gradient_are_zero():
    def loss(logits):
        return label_loss(logits, jnp.full(7, -1, jnp.int32))[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(Z))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.slow
def test_of_mixed_labels_those_that_are_known_count_by_their_shares():
    logits = jnp.float32(np.random.RandomState(0).standard_normal((4, 5)))
    label, second = jnp.array([1, 2, -1, -1]), jnp.array([3, -1, 4, -1])
    share = jnp.float32([0.7, 0.6, 0.9, 0.5])
    nll = -np.asarray(jax.nn.log_softmax(logits))
    rows = 0.7 * nll[0, 1] + 0.3 * nll[0, 3] + 0.6 * nll[1, 2] + 0.1 * nll[2, 4]
    loss, counts = label_loss(logits, label, second, share)
    np.testing.assert_allclose(loss, rows / (1 + 0.6 + 0.1), rtol=1e-5)
    assert counts["labelled"] == 0.5
    assert label_loss(logits, jnp.full(4, -1), jnp.full(4, -1), share)[0] == 0


def smoothed(logits, label, e, weights=1.0):
    """PyTorch's CrossEntropyLoss(weight, reduction="none", label_smoothing=e), in NumPy: [B]."""
    log_p, weights = log_probabilities(logits, axis=1), np.broadcast_to(weights, logits.shape[1])
    own = -weights[label] * log_p[np.arange(len(label)), label]
    return (1 - e) * own - e / logits.shape[1] * (weights * log_p).sum(1)


def test_a_smoothed_loss_by_hand():
    """Probabilities 1/2, 1/4, 1/4, label 0, e = 0.3: (0.7 + 0.1) log 2 + 2 * 0.1 log 4 = 1.2 log 2."""
    loss, _ = label_loss(np.log(np.float32([[0.5, 0.25, 0.25]])), [0], task=Classification(label_smoothing=0.3))
    np.testing.assert_allclose(loss, 1.2 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("e", [0.1, 1.0])
@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 0.25)], ids=["plain", "weights"])
def test_smoothed_rows_are_pytorchs_where_labels_are_withheld_and_mixed_too(e, weights):
    task = Classification(weights, label_smoothing=e)
    own = weights or 1.0
    np.testing.assert_allclose(label_loss(Z, LABEL, task=task)[0], smoothed(Z, LABEL, e, own).mean(), rtol=1e-5)
    label, second = LABEL.copy(), np.roll(LABEL, 1)
    label[:2], second[1:3] = -1, -1  # row 1 has neither label
    share = np.linspace(0.5, 1, 7).astype(np.float32)
    first, other = share * (label >= 0), (1 - share) * (second >= 0)
    rows = first * smoothed(Z, LABEL, e, own) + other * smoothed(Z, np.roll(LABEL, 1), e, own)
    loss, counts = label_loss(Z, label, jnp.asarray(second), jnp.asarray(share), task)
    np.testing.assert_allclose(loss, rows.sum() / (first + other).sum(), rtol=1e-5)
    plain = label_loss(Z, label, jnp.asarray(second), jnp.asarray(share))[1]
    assert {k: float(v) for k, v in counts.items()} == {k: float(v) for k, v in plain.items()}
    gradient = jax.grad(lambda x: label_loss(x, label, jnp.asarray(second), jnp.asarray(share), task)[0])(
        jnp.asarray(Z)
    )
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], 0)


def test_soft_labels_are_the_classes_by_their_shares():
    label, second = jnp.array([1, -1, 2, 0]), jnp.array([3, 0, -1, 0])
    batch = Batch(image=None, label=label, index=None, epoch=None)
    np.testing.assert_array_equal(TASK.soft_labels(batch, 4)[:2], [[0, 1, 0, 0], [0, 0, 0, 0]])
    mixed = batch.replace(second_label=second, share=jnp.float32([0.75, 0.5, 0.75, 0.5]))
    expected = [[0, 0.75, 0, 0.25], [0.5, 0, 0, 0], [0, 0, 0.75, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(TASK.soft_labels(mixed, 4), expected)
    np.testing.assert_array_equal(TASK.known(mixed), [1, 0.5, 0.75, 1])


def test_mixing_adds_the_image_of_the_row_before():
    np.testing.assert_array_equal(TASK.second_label(jnp.array([4, 5, 6])), [6, 4, 5])


def test_an_answer_that_is_not_finite_raises_with_its_count():
    with pytest.raises(NonFiniteError, match="The network's logits are not finite on 1 of 2 images"):
        evaluate(np.array([[np.nan, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    with pytest.raises(NonFiniteError, match="The teacher's logits are not finite on 2 of 2 images"):
        evaluate(np.zeros((2, 2)), np.array([0, 1]), np.full((2, 2), np.inf))


def test_an_unknown_task_raises_with_the_nearest():
    assert tasks.create("classification") == TASK
    with pytest.raises(UserError, match="Did you mean 'classification'"):
        tasks.create("clasification")


def test_balanced_weights_have_mean_1_and_make_the_classes_count_alike():
    labels = np.repeat([0, 1, 3], [6, 3, 1])
    weights = np.array(balanced_weights(labels, 4))
    np.testing.assert_allclose(weights[labels].mean(), 1)
    np.testing.assert_allclose(np.bincount(labels, weights[labels], 4), [10 / 3, 10 / 3, 0, 10 / 3])


@pytest.mark.parametrize("mixed", [False, True])
def test_class_weights_multiply_the_rows_of_their_labels(mixed):
    weights, logits = (2.0, 0.5, 1.0), jnp.asarray(LOGITS[:4, :3])
    batch = Batch(jnp.zeros((4, 1, 1, 1)), jnp.array([0, 1, 2, -1]), jnp.arange(4), jnp.float32(0))
    if mixed:
        batch = batch.replace(second_label=jnp.array([1, 1, -1, 0]), share=jnp.full(4, 0.75))
    ce = -np.asarray(log_softmax(LOGITS[:4, :3]))
    expected = [2 * ce[0, 0], 0.5 * ce[1, 1], ce[2, 2], 0]
    if mixed:
        second = [0.5 * ce[0, 1], 0.5 * ce[1, 1], 0, 2 * ce[3, 0]]
        expected = [0.75 * a + 0.25 * b for a, b in zip(expected, second, strict=True)]
    known = 3 if not mixed else 1 + 1 + 0.75 + 0.25
    loss = Classification(class_weights=weights).loss(Outputs(logits, {}), batch)[0]
    np.testing.assert_allclose(loss, np.sum(expected) / known, rtol=1e-6)


def test_accuracy_of_each_class():
    logits = np.eye(3)[[0, 0, 1, 1]]
    assert per_class(logits, np.array([0, 0, 0, 1]), ("a", "b", "c")) == {"a": pytest.approx(200 / 3), "b": 100.0}


def test_without_labels_there_is_no_label_loss_and_the_teacher_is_the_only_measure():
    task = Classification(labelled=False)
    assert (task.term, task.main, task.info) == ("", "agreement", {})
    withheld = np.full(400, -1, np.int32)
    both = evaluate(LOGITS, LABELS, TEACHER)
    assert task.metrics(LOGITS, withheld, TEACHER) == {name: both[name] for name in ("agreement", "kl")}
    assert task.metrics(LOGITS, withheld) == {}
    with pytest.raises(NonFiniteError, match="not finite on 1 of 400"):
        task.metrics(np.where(np.arange(400)[:, None] == 3, np.nan, LOGITS), withheld)


def test_logits_that_nothing_trains_are_compared_with_nobody():
    task = Classification(labelled=False, untrained=("classifier",))
    assert (task.term, task.main, task.info) == ("", "", {"untrained": ["classifier"]})
    assert task.metrics(LOGITS, np.full(400, -1, np.int32), TEACHER) == {}
