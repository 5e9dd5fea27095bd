"""Measures on networks whose evidence is known, and against definitions that somebody else computed."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from explain import faithfulness, metrics
from explain import subject as room


def accuracy_auc(halves, maps, last_first=False):
    probabilities = metrics.perturb(halves.subject, halves.images, metrics.ranks(maps, last_first))
    return float(metrics.auc(metrics.hits(probabilities, halves.labels)).mean())


def test_ranks_are_permutations_in_the_order_of_importance():
    maps = np.random.RandomState(0).standard_normal((5, 4, 3))
    first, last = metrics.ranks(maps), metrics.ranks(maps, last_first=True)
    for m, r, q in zip(maps.reshape(5, -1), first.reshape(5, -1), last.reshape(5, -1), strict=True):
        assert sorted(r) == list(range(12))
        assert (np.diff(m[np.argsort(r)]) < 0).all()
        np.testing.assert_array_equal(q, 11 - r)


def test_equals_leave_in_one_random_order_whichever_direction():
    flat = np.zeros((2, 8, 8))
    first = metrics.ranks(flat)
    np.testing.assert_array_equal(first, metrics.ranks(flat, last_first=True))
    np.testing.assert_array_equal(first[0], first[1])
    assert abs(np.corrcoef(first[0].ravel(), np.arange(64))[0, 1]) < 0.5  # not row by row
    assert (metrics.ranks(flat, seed=1) != first).any()


def test_nothing_removed_is_the_original_and_all_removed_the_blank_image(trained):
    rank = metrics.ranks(np.random.RandomState(0).uniform(size=(40, 8, 8)))
    logits, _ = trained.subject.answers(trained.images)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    blank = trained.subject.answers(np.zeros_like(trained.images))[0]
    for fill in ("black", "mean"):
        found = metrics.perturb(trained.subject, trained.images, rank, fill=fill)
        assert found.shape == (11, 40, 10)
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-5)
        same = np.allclose(found[-1], np.exp(blank) / np.exp(blank).sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-5)
        assert same == (fill == "black")
        np.testing.assert_allclose(found[-1], found[-1][:1].repeat(40, axis=0), rtol=1e-4, atol=1e-6)
    inserted = metrics.perturb(trained.subject, trained.images, rank, fill="inserted")
    np.testing.assert_allclose(inserted[-1], expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(inserted[0], expected, atol=0.1)


def test_one_step_removes_exactly_its_pixels(halves):
    """The score is linear in the pixels of the upper half: every step can be computed by hand."""
    rank = metrics.ranks(np.random.RandomState(3).uniform(size=(24, 8, 8)))
    found = metrics.perturb(halves.subject, halves.images, rank)
    for step in range(11):
        kept = np.where(rank < 64 * step // 10, 0, halves.images[..., 0] / 255.0)
        score = 10 * ((kept - 0.3) / 0.5)[:, :4].mean(axis=(1, 2))
        np.testing.assert_allclose(found[step, :, 0], 1 / (1 + np.exp(-2 * score)), rtol=1e-4, atol=1e-6)


def test_blur_is_a_gaussian_of_deviation_5_over_11_pixels():
    from scipy.ndimage import gaussian_filter

    images = np.random.RandomState(0).standard_normal((2, 13, 9, 3)).astype(np.float32)
    expected = gaussian_filter(images.astype(float), (0, 5, 5, 0), mode="constant", radius=(0, 5, 5, 0))
    np.testing.assert_allclose(metrics._blurred(images), expected, atol=1e-5)


def test_the_right_order_beats_a_random_one_and_that_the_reverse(halves):
    bright = halves.labels == 0  # black pixels turn class 0 into class 1 and never back
    assert 0.2 < bright.mean() < 0.9
    right = halves.masks + halves.images[..., 0] / 300.0
    chance = np.random.RandomState(5).uniform(size=right.shape)
    areas = [accuracy_auc(halves, maps) for maps in (right, chance, -right)]
    assert areas[0] < areas[1] - 0.02
    assert areas[1] < areas[2] - 0.02
    assert accuracy_auc(halves, right, last_first=True) == pytest.approx(areas[2])


def test_a_constant_map_has_one_curve_in_both_directions(halves):
    flat = np.full(halves.masks.shape, 3.0)
    assert accuracy_auc(halves, flat) == accuracy_auc(halves, flat, last_first=True)


def test_auc_is_the_trapezoidal_rule():
    from sklearn.metrics import auc

    curve = np.random.RandomState(0).uniform(size=(11, 3))
    expected = [auc(np.linspace(0, 1, 11), c) for c in curve.T]
    np.testing.assert_allclose(metrics.auc(curve), expected)
    assert metrics.auc(np.ones(11)) == pytest.approx(1.0)


def test_perturbing_does_not_depend_on_the_batching(halves, monkeypatch):
    rank = metrics.ranks(np.random.RandomState(0).uniform(size=(24, 8, 8)))
    whole = metrics.perturb(halves.subject, halves.images, rank)
    monkeypatch.setattr(room, "BATCH", 7)
    np.testing.assert_allclose(metrics.perturb(halves.subject, halves.images, rank), whole, rtol=1e-5, atol=1e-7)


def test_wrong_fill_or_ranks_are_told(halves):
    rank = metrics.ranks(halves.masks)
    with pytest.raises(ValueError, match="got 'white'"):
        metrics.perturb(halves.subject, halves.images, rank, fill="white")
    with pytest.raises(ValueError, match=r"\(23, 8, 8\), the images \(24, 8, 8\)"):
        metrics.perturb(halves.subject, halves.images, rank[1:])


def test_sparsity_is_the_gini_index():
    random = np.random.RandomState(0).standard_normal((3, 5, 5))
    values = np.abs(random).reshape(3, -1)
    expected = np.abs(values[:, :, None] - values[:, None]).mean(axis=(1, 2)) / (2 * values.mean(axis=1))
    np.testing.assert_allclose(metrics.sparsity(random), expected)
    single = np.zeros((1, 4, 4))
    assert metrics.sparsity(single) == 0
    single[0, 1, 2] = -7
    assert metrics.sparsity(single) == pytest.approx(1 - 1 / 16)
    assert metrics.sparsity(np.ones((1, 4, 4))) == pytest.approx(0)


def test_pointing_at_the_mask_itself_is_1_and_elsewhere_0(halves):
    masks = halves.masks
    assert (metrics.pointing(masks.astype(float), masks) == 1).all()
    assert (metrics.pointing((~masks).astype(float), masks) == 0).all()
    np.testing.assert_allclose(metrics.pointing(np.ones(masks.shape), masks), 0.5)  # ties share
    almost = masks * 0.999
    almost[:, 7, 7] = 1.0  # one pixel outside is a little higher than all inside
    assert (metrics.pointing(almost, masks) == 0).all()


def test_pointing_tolerates_the_distance_that_it_is_told():
    masks, maps = np.zeros((1, 9, 9), bool), np.zeros((1, 9, 9))
    masks[0, 4, 4] = maps[0, 6, 2] = True
    assert [float(metrics.pointing(maps, masks, t)[0]) for t in (0, 1, 2, 3)] == [0, 0, 1, 1]
    assert masks.sum() == 1  # left as they were


def test_iou_and_average_precision_are_their_definitions():
    random = np.random.RandomState(0)
    maps, masks = random.randint(0, 6, (7, 6, 5)).astype(float), random.uniform(size=(7, 6, 5)) < 0.3
    expected = [average_precision_score(m.ravel(), x.ravel()) for x, m in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(metrics.average_precision(maps, masks), expected)
    sets = [(set(np.flatnonzero(x > x.mean())), set(np.flatnonzero(m))) for x, m in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(metrics.iou(maps, masks), [len(a & b) / len(a | b) for a, b in sets])
    assert (metrics.iou(masks.astype(float), masks) == 1).all()
    assert (metrics.average_precision(masks.astype(float), masks) == 1).all()


@pytest.mark.parametrize("measure", [metrics.pointing, metrics.iou, metrics.average_precision])
def test_masks_that_do_not_fit_are_told(measure):
    maps = np.ones((2, 4, 4))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), the masks \(2, 3, 4\)"):
        measure(maps, np.ones((2, 3, 4), bool))
    masks = np.ones((2, 4, 4), bool)
    masks[1] = False
    with pytest.raises(ValueError, match="Mask 1 is empty"):
        measure(maps, masks)


def test_modules_are_drawn_anew_from_the_classifier_down(tiny):
    """Of a ResNet, whose blocks have modules of their own."""
    subject = room.Subject("tiny", tiny.model, tiny.teacher_variables, (0.3,), (0.4,))
    names = metrics.modules(subject, (8, 8, 1))
    assert (names[0], names[-1]) == ("stem_conv", "classifier")
    assert set(names) == set(subject.variables["params"])
    stages = [n for n in names if n.startswith("stage")]
    assert stages == sorted(stages)
    old, done = subject.variables["params"], []
    for name, other in metrics.randomised(subject, (8, 8, 1)):
        done.append(name)
        new = other.variables["params"]
        for module in names:
            kernels = [x for x in zip(*map(_kernels, (old[module], new[module])), strict=True)]
            assert all((a == b).all() != (module in done) for a, b in kernels), (name, module)
    assert done == names[::-1]


def _kernels(tree):
    found = []
    for key, value in sorted(tree.items()):
        found += _kernels(value) if isinstance(value, dict) else [np.asarray(value)] if key == "kernel" else []
    return found


def test_sanity_check_tells_a_map_of_the_network_from_one_of_the_image(trained, stand_ins):
    args = trained.images[:12], trained.labels[:12]
    of_image = metrics.sanity(trained.subject, stand_ins.brightness, *args)
    assert min(of_image.values()) == pytest.approx(1.0)
    of_network = metrics.sanity(trained.subject, stand_ins.input_gradient, *args)
    assert list(of_network) == list(of_image)
    assert list(of_network.values())[-1] < 0.5


def test_faithfulness_has_every_measure_and_knows_the_half_that_matters(halves, stand_ins):
    args = halves.subject, stand_ins.input_gradient, halves.images, halves.labels, halves.masks
    found = faithfulness.faithfulness(*args)
    assert found["top1"] == 100
    assert all(len(curve) == 11 and curve[0] == 100 for curve in found["curves"].values())
    for name, curve in found["curves"].items():
        assert found[name] == pytest.approx(float(metrics.auc(np.asarray(curve))))
    assert found["positive_target"] < found["random"] < found["negative_target"]
    assert found["positive_predicted"] == found["positive_target"]  # all are predicted rightly
    assert found["sparsity"] == pytest.approx(0.5)  # one half of equal pixels
    assert (found["pointing"], found["iou"], found["map"]) == (100, 100, 100)
    assert set(found["sanity"]) == {"scale"}
    bare = faithfulness.faithfulness(*args[:-1])
    assert set(found) - set(bare) == {"pointing", "iou", "map"}
    assert bare["insertion"] == found["insertion"]
