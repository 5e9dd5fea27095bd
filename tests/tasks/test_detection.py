"""Detection: what a method compares, which candidates learn, and what a test measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data
import distiller
import models
import tasks
from data.objects import Found, gathered
from tasks.detection import Detection, _sampled
from tests.training.tiny_detectors import TinyFasterRCNN, TinyRetinaNet

SIDE, CLASSES, ROWS = 64, 3, 5


def player(model, seed):
    images = jnp.asarray(np.random.RandomState(0).standard_normal((2, SIDE, SIDE, 3)), jnp.float32)
    variables = model.init(jax.random.key(seed), images)
    moved = np.random.RandomState(seed)
    variables = jax.tree.map(lambda x: x + 0.1 * jnp.asarray(moved.standard_normal(x.shape), x.dtype), variables)
    return models.forward(model, variables, images)[0]


@pytest.fixture(scope="module")
def batch():
    found = [[Found((8, 8, 24, 24), 1, False, 256), Found((30, 30, 60, 60), 2, True, 900)], []]
    objects = gathered(found, np.full((2, 2), SIDE), np.ones(2))
    image, index = jnp.zeros((2, SIDE, SIDE, 3)), jnp.arange(2, dtype=jnp.int32)
    return data.Batch(image, jax.tree.map(jnp.asarray, objects), index, jnp.float32(0), key=jax.random.key(1))


KINDS = [TinyRetinaNet, pytest.param(TinyFasterRCNN, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS, ids=["RetinaNet", "FasterRCNN"])
def pair(request):
    return [player(request.param(CLASSES), seed) for seed in (1, 2)]


def test_a_method_sees_rows_of_scores_and_their_labels(pair, batch):
    student, teacher, seen = Detection(rows=ROWS).aligned(*pair, batch)
    assert student.logits.shape == teacher.logits.shape == (2 * ROWS, CLASSES + 1)
    assert seen.label.shape == (2 * ROWS,)
    assert seen.objects is batch.label
    background = 0 if "proposals" in pair[0].features else CLASSES
    assert (seen.label[ROWS:] == background).all()  # the second image has no object
    assert student.features.keys() == pair[0].features.keys()


def test_equal_networks_have_equal_rows(pair, batch):
    teacher = pair[1]
    student, teacher, seen = Detection(rows=ROWS).aligned(teacher, teacher, batch)
    loss, _ = distiller.create("SoftLogits").apply({}, student, teacher, seen)
    assert abs(float(loss)) < 1e-6


def test_retinanets_rows_are_the_anchors_that_the_teacher_finds_likely(batch):
    student, teacher = (player(TinyRetinaNet(CLASSES), seed) for seed in (1, 2))
    rows = Detection(rows=ROWS).aligned(student, teacher, batch)
    best = np.argsort(-np.asarray(teacher.logits).max(axis=-1), axis=1, kind="stable")[:, :ROWS]
    for net, found in ((student, rows[0]), (teacher, rows[1])):
        expected = np.take_along_axis(np.asarray(net.logits), best[..., None], axis=1).reshape(-1, CLASSES)
        np.testing.assert_array_equal(found.logits[:, :CLASSES], expected)
        assert not np.asarray(found.logits[:, CLASSES]).any()


def test_both_second_stages_look_at_the_students_proposals(batch):
    student, teacher = (player(TinyFasterRCNN(CLASSES), seed) for seed in (1, 2))
    rows = Detection(rows=ROWS).aligned(student, teacher, batch)
    np.testing.assert_allclose(rows[0].logits, student.logits[:, :ROWS].reshape(-1, CLASSES + 1), atol=1e-5)
    boxes = student.features["proposals"][:, :ROWS]
    expected = teacher.classify((teacher.features, boxes))[0].reshape(-1, CLASSES + 1)
    np.testing.assert_array_equal(rows[1].logits, expected)


def test_an_objects_own_anchor_has_its_label(batch):
    net = player(TinyRetinaNet(CLASSES), 1)
    anchors = np.asarray(net.features["anchors"])
    box = anchors[len(anchors) // 2]
    objects = gathered([[Found(box, 2, False, 1.0)], [Found(box, 1, True, 1.0)]], np.full((2, 2), SIDE), np.ones(2))
    own = batch.replace(label=jax.tree.map(jnp.asarray, objects))
    label = Detection(rows=len(anchors)).aligned(net, net, own)[2].label.reshape(2, -1)
    assert (label[0] == 2).any()
    assert (label[1] == CLASSES).all()  # a crowd is no target


def test_the_loss_is_finite_with_and_without_objects(pair, batch):
    loss, parts = Detection().loss(pair[0], batch)
    assert np.isfinite(loss)
    assert float(sum(parts.values())) == pytest.approx(float(loss), rel=1e-6)
    empty = batch.replace(label=batch.label.replace(classes=jnp.full_like(batch.label.classes, -1)))
    loss, parts = Detection().loss(pair[0], empty)
    assert np.isfinite(loss)
    assert not any(float(value) for name, value in parts.items() if "box" in name)


@pytest.mark.parametrize(("count", "share", "expected"), [(0, 0.5, (6, 10)), (8, 0.25, (2, 6)), (14, 1.0, (6, 8))])
def test_candidates_are_drawn_by_the_key(count, share, expected):
    found = jnp.arange(20) < 6
    absent = jnp.arange(20) >= 10
    drawn = _sampled(found, absent, count, share, jax.random.key(0))
    assert tuple(int(x.sum()) for x in drawn) == expected
    assert not (drawn[0] & ~found).any()
    assert not (drawn[1] & ~absent).any()
    again, other = (_sampled(found, absent, count, share, jax.random.key(k)) for k in (0, 1))
    assert all((x == y).all() for x, y in zip(drawn, again, strict=True))
    assert not count or any((x != y).any() for x, y in zip(drawn, other, strict=True))


def test_perfect_detections_have_an_ap_of_100_and_boxes_end_where_the_image_ends():
    dataset = data.load("Scenes")
    task, objects = tasks.of(dataset), dataset.test.labels
    there = np.asarray(objects.targets)
    score = there.astype(np.float32)[..., None]
    right = np.concatenate([objects.boxes, score, objects.classes[..., None].astype(np.float32)], axis=-1)
    found = task.metrics(right, objects)
    assert found[task.main] == pytest.approx(100.0)
    assert set(task.in_full(right, objects)[1]) == set(dataset.class_names)
    wide = right.copy()
    wide[..., 2:4] += np.where(wide[..., 2:4] == SIDE, 50.0, 0.0)
    assert task.metrics(wide, objects)[task.main] == pytest.approx(100.0)


def test_a_network_of_another_kind_is_named(batch):
    other = models.Outputs(jnp.zeros((2, 3)), {})
    with pytest.raises(ValueError, match="no detector"):
        Detection().loss(other, batch)
    retina, faster = (player(kind(CLASSES), 1) for kind in (TinyRetinaNet, TinyFasterRCNN))
    with pytest.raises(ValueError, match="the teacher is no detector"):
        Detection().aligned(retina, other, batch)
    with pytest.raises(ValueError, match="Take two of one kind"):
        Detection().aligned(retina, faster, batch)
    with pytest.raises(ValueError, match="'anchor_size' of the student is 8, of the teacher 16"):
        Detection().aligned(retina, player(TinyRetinaNet(CLASSES, anchor_size=16), 1), batch)


def test_scores_that_are_no_numbers_are_no_empty_answer():
    net = player(TinyRetinaNet(CLASSES), 1)
    found = Detection().answer(net.replace(logits=net.logits.at[1, 5, 0].set(jnp.nan)))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
