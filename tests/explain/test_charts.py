"""What the charts show, against scikit-learn, NumPy and the project's own evaluation."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from explain import charts
from registry import UserError
from tasks.classification import Classification

RANDOM = np.random.RandomState(0)
LABELS = RANDOM.randint(0, 4, 90)
LOGITS = 2 * RANDOM.standard_normal((90, 4)) + 3 * np.eye(4)[LABELS]


def test_confusion_matrix_is_scikit_learns():
    expected = confusion_matrix(LABELS, LOGITS.argmax(axis=1), labels=range(4))
    np.testing.assert_array_equal(charts.confusion_matrix(LOGITS, LABELS), expected)


def test_calibration_gives_the_evaluations_error():
    count, confidence, accuracy = charts.calibration(LOGITS, LABELS)
    filled = count > 0
    error = (count * np.abs(confidence - accuracy))[filled].sum() / 90
    assert 100 * error == pytest.approx(Classification().metrics(LOGITS, LABELS)["ece"])
    assert count.sum() == 90
    assert np.isnan(accuracy[~filled]).all()
    assert (~filled).any()
    figure = charts.reliability({"a": LOGITS}, LABELS, "")
    assert f"ECE {100 * error:.2f} %" in figure.axes[0].get_title()


def test_correlation_difference_is_numpys_and_0_to_oneself():
    other = RANDOM.standard_normal((90, 4))
    expected = np.corrcoef(LOGITS.T) - np.corrcoef(other.T)
    np.testing.assert_allclose(charts.correlation_difference(LOGITS, other), expected, atol=1e-12)
    assert (charts.correlation_difference(LOGITS, LOGITS) == 0).all()
    other[:, 2] = 5.0  # a logit that never changes
    assert np.isfinite(charts.correlation_difference(LOGITS, other)).all()


def test_correlations_share_one_scale():
    logits = {"t": LOGITS, "near": LOGITS + 0.1, "far": RANDOM.standard_normal((90, 4))}
    figure = charts.correlation(logits, "t", tuple("abcd"), "")
    limits = [axes.get_images()[0].get_clim() for axes in figure.axes[:2]]
    assert limits[0] == limits[1]
    assert limits[0][1] == pytest.approx(np.abs(charts.correlation_difference(logits["far"], LOGITS)).max())


def test_procrustes_undoes_what_a_layout_does_not_mean():
    points = RANDOM.standard_normal((30, 2))
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])  # a mirroring
    np.testing.assert_allclose(charts.aligned(3 * points @ turn + [5, -2], points), points)


@pytest.mark.slow
def test_layouts_put_equal_networks_alike_and_are_repeatable():
    other = LOGITS + 0.05 * RANDOM.standard_normal(LOGITS.shape)
    wider = np.concatenate([other, other], axis=1)  # another dimension
    found = charts.layouts({"t": LOGITS, "s": wider})
    again = charts.layouts({"t": LOGITS, "s": wider})
    for name in found:
        np.testing.assert_array_equal(found[name], again[name])
    spread = found["t"].std()
    assert np.median(np.linalg.norm(found["t"] - found["s"], axis=1)) < 0.5 * spread
    shuffled = charts.layouts({"t": LOGITS, "s": wider[RANDOM.permutation(90)]})
    assert np.median(np.linalg.norm(shuffled["t"] - shuffled["s"], axis=1)) > 0.5 * spread


def test_a_class_has_one_colour_and_marker_everywhere():
    figure = charts.tsne({"t": LOGITS, "s": LOGITS}, LABELS, tuple("abcd"), "")
    looks = [
        [(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.shape) for c in a.collections] for a in figure.axes
    ]
    assert looks[0] == looks[1]
    assert len({colour for colour, _ in looks[0]}) == 4


def test_a_hundred_classes_are_drawn_with_every_tenth_number():
    logits = RANDOM.standard_normal((200, 100))
    names = tuple(f"class number {i}" for i in range(100))
    figure = charts.confusion({"a": logits}, RANDOM.randint(0, 100, 200), names, "")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [str(i) for i in range(0, 100, 10)]


def test_embeddings_that_are_all_the_same_are_told():
    """scikit-learn's code would crash on what their principal components are."""
    with pytest.raises(UserError, match="dead's embeddings are the same for all images"):
        charts.layouts({"dead": np.ones((12, 3))})
    with pytest.raises(UserError, match="not finite"):
        charts.layouts({"t": LOGITS, "broken": np.full((90, 3), np.nan)})


@pytest.mark.parametrize("networks", [1, 2])
def test_the_legend_of_the_reliability_lies_in_the_picture(networks):
    figure = charts.reliability({str(i): LOGITS for i in range(networks)}, LABELS, "")
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
