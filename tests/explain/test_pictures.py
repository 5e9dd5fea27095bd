"""Pictures: every text inside, every pixel unsmoothed, colours for all eyes, files whole or not there."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from explain import charts, pictures
from explain.similarity import stretched
from registry import UserError

RANDOM = np.random.RandomState(0)
LONG = ("a class of a very long name", "b", "another_class_of_a_long_name", "d", "e")
NETWORKS = ("teacher ResNet20", "a-student-by-some-method-s0", "labels")
IMAGES = RANDOM.randint(0, 256, (3, 8, 8, 3)).astype(np.uint8)
LABELS = np.array([0, 2, 4])
MAPS = {name: RANDOM.standard_normal((3, 8, 8)) for name in NETWORKS}
LOGITS = {name: 3 * RANDOM.standard_normal((60, 5)) for name in NETWORKS}
MANY = RANDOM.randint(0, 5, 60)


def draw(kind):
    title = "A title that says what is shown, of which class, of which dataset and of how many images"
    logits = {name: x[:3] for name, x in LOGITS.items()}
    alone = {"x": MAPS["labels"][:1]}, {"x": LOGITS["labels"][:1]}
    return {
        "panel": lambda: pictures.panel(IMAGES, LABELS, LONG, MAPS, logits, title, NETWORKS[0]),
        "strip": lambda: pictures.panel(IMAGES[..., :1], LABELS, LONG, MAPS, logits, title),
        "one": lambda: pictures.panel(IMAGES[:1], LABELS[:1], LONG, *alone, title),
        "tsne": lambda: charts.tsne(LOGITS, MANY, LONG, title),
        "correlation": lambda: charts.correlation(LOGITS, NETWORKS[0], LONG, title),
        "confusion": lambda: charts.confusion(LOGITS, MANY, LONG, title),
        "reliability": lambda: charts.reliability(LOGITS, MANY, title),
    }[kind]()


@pytest.mark.parametrize("kind", ["panel", "strip", "one", "tsne", "correlation", "confusion", "reliability"])
def test_every_text_is_inside_and_none_covers_another(kind):
    figure = draw(kind)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, width, height = canvas.get_renderer(), *figure.bbox.size
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    assert len(texts) > 3
    boxes = [t.get_window_extent(renderer) for t in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y1 < height + 1, text
    if kind in ("panel", "strip", "one"):
        for i, one in enumerate(boxes):
            for j, other in enumerate(boxes[:i]):
                apart = min(one.x1, other.x1) - max(one.x0, other.x0) < 1
                assert apart or min(one.y1, other.y1) - max(one.y0, other.y0) < 1, (texts[i], texts[j])


def test_panel_has_the_columns_image_networks_and_differences_unsmoothed():
    figure = draw("panel")
    grid = np.array(figure.axes[: 3 * 6]).reshape(3, 6)
    assert [cell.get_title() for cell in grid[0]][:2] == ["image", "teacher ResNet20"]
    for row in range(3):
        drawn = [cell.get_images()[-1] for cell in grid[row]]
        assert all(image.get_interpolation() == "nearest" for image in drawn)
        np.testing.assert_array_equal(drawn[0].get_array(), IMAGES[row])
        for column, name in enumerate(NETWORKS, 1):
            np.testing.assert_allclose(drawn[column].get_array(), stretched(MAPS[name])[row])
        expected = stretched(MAPS["labels"])[row] - stretched(MAPS[NETWORKS[0]])[row]
        np.testing.assert_allclose(drawn[5].get_array(), expected)
        assert grid[row, 5].get_xlabel() == f"mean |difference| {np.abs(expected).mean():.2f}"
        assert grid[row, 0].get_xlabel().startswith("true: ")
    assert {image.get_clim() for cell in grid[:, 1] for image in cell.get_images()[1:]} == {(0, 1)}


def test_an_answer_has_class_probability_and_whether_it_is_right():
    logits = np.log([0.2, 0.7, 0.1])
    assert pictures.answer(logits, ("cat", "dog", "cow"), 1) == "✓ dog (70 %)"
    assert pictures.answer(logits + 900, ("cat", "a dog of a long name", "cow"), 0) == "✗ a dog of a lo… (70 %)"


def seen(colour, kind):
    """The colour in linear RGB as an eye without one kind of cone sees it (Machado et al. 2009, full severity)."""
    matrix = {
        "usual": np.eye(3),
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }[kind]
    rgb = np.asarray(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.clip(np.asarray(matrix) @ linear, 0, 1)


def lightness(linear):
    return np.cbrt(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("eye", ["usual", "deuteranopia", "protanopia"])
def test_colours_are_apart_for_every_eye(eye):
    levels = [lightness(seen(matplotlib.colormaps[pictures.MAP](x), eye)) for x in np.linspace(0, 1, 20)]
    assert (np.diff(levels) > 0.005).all()  # lighter is more, in grey print too
    ends = [seen(matplotlib.colormaps[pictures.DIFFERENCE](x), eye) for x in (0.15, 0.85)]
    assert np.abs(np.cbrt(ends[0]) - np.cbrt(ends[1])).max() > 0.2
    classes = [np.cbrt(seen(colour, eye)) for colour in charts.CLASSES]
    nearest = min(np.linalg.norm(a - b) for i, a in enumerate(classes) for b in classes[:i])
    assert nearest > 0.08
    assert len(set(charts.MARKERS)) == len(charts.CLASSES)  # and the marker tells, too


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_picture_has_the_same_bytes_and_its_format(suffix, tmp_path):
    paths = [pictures.save(draw("one"), tmp_path / f"{name}.{suffix}") for name in ("a", "b")]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.Figure, "savefig", fail)
    with pytest.raises(UserError, match="No space left"):
        pictures.save(draw("one"), path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_where_no_picture_can_be_is_told(tmp_path):
    with pytest.raises(UserError, match=r"\.png or \.svg; got 'a\.jpg'"):
        pictures.check_path("a.jpg")
    with pytest.raises(UserError, match="does not exist"):
        pictures.check_path(tmp_path / "nowhere" / "a.png")
