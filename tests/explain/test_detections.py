"""Pictures of detections: every box above the threshold is drawn in its place, on the image without its padding."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data.objects import Found, gathered
from explain import detections

NAMES = ("ant", "a class of a very long name")
TRUTH = gathered(
    [[Found((2, 3, 10, 9), 1, False, 48.0), Found((8, 8, 20, 12), 0, True, 48.0)], []], [[12, 20], [20, 20]], [1, 1]
)


def found(*rows):
    boxes = np.zeros((2, 3, 6), np.float32)
    for place, row in enumerate(rows):
        boxes[0, place] = row
    return boxes


@pytest.fixture(scope="module")
def figure():
    images = np.random.RandomState(0).randint(0, 256, (2, 20, 20, 3)).astype(np.uint8)
    teacher = found((2, 3, 11, 9, 0.9, 1), (0, 0, 4, 4, 0.29, 0))
    return detections.draw(images, TRUTH, {"teacher": teacher, "student": found()}, NAMES, least=0.3)


def drawn(cell):
    return [(*patch.get_xy(), patch.get_width(), patch.get_height(), patch.get_linestyle()) for patch in cell.patches]


def test_boxes_lie_on_their_pixels_and_those_below_the_threshold_are_left_out(figure):
    grid = np.array(figure.axes).reshape(2, 3)
    assert drawn(grid[0, 0]) == [(1.5, 2.5, 8, 6, "-"), (7.5, 7.5, 12, 4, "--")]
    assert drawn(grid[0, 1]) == [(1.5, 2.5, 9, 6, "-")]
    assert not any(drawn(cell) for cell in (grid[0, 2], *grid[1]))
    assert [text.get_text() for text in grid[0, 1].texts] == ["a class of a … 0.90"]
    assert [cell.get_xlabel() for cell in grid.flat] == [
        "2 objects",
        "1 found",
        "0 found",
        "0 objects",
        *["0 found"] * 2,
    ]
    assert [cell.get_title() for cell in grid[0]] == ["truth", "teacher", "student"]


def test_padding_is_not_drawn(figure):
    assert [cell.images[0].get_array().shape[:2] for cell in figure.axes] == [(12, 20)] * 3 + [(20, 20)] * 3


def test_texts_beside_the_images_do_not_leave_the_picture(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text().strip() and not text.get_clip_on():
            box = text.get_window_extent(canvas.get_renderer())
            assert min(box.x0, box.y0) > -1, text
            assert box.x1 < figure.bbox.width + 1, text
            assert box.y1 < figure.bbox.height + 1, text


def test_rows_that_do_not_belong_to_the_images_are_an_error():
    with pytest.raises(ValueError, match="3 images have 2 rows of truth"):
        detections.draw(np.zeros((3, 20, 20, 3), np.uint8), TRUTH, {}, NAMES)
    with pytest.raises(ValueError, match="2 images have 1 rows of student"):
        detections.draw(np.zeros((2, 20, 20, 3), np.uint8), TRUTH, {"student": found()[:1]}, NAMES)
