"""Random resized crops on the host: torchvision's distribution and pixels (its numbers were computed once)."""

import io

import numpy as np
import pytest
from PIL import Image

from data import crops, picture

DRAWN = [crops.draws(3, 0, 0, index) for index in range(4000)]
# (width, height), least area -> mean and deviation of row, column, height, width; mean share of the area; mean and
# deviation of log(width / height). torchvision 0.29's RandomResizedCrop.get_params, 60,000 draws.
TORCHVISION = {
    (500, 375, 0.08): ((52.4, 108.78, 270.03, 281.71), (50.66, 80.26, 70.38, 86.35), 0.4329, 0.0308, 0.1641),
    (120, 400, 0.3): ((123.32, 0.78, 153.68, 118.43), (42.21, 1.95, 10.57, 3.2), 0.3797, -0.2583, 0.0581),
}


@pytest.mark.parametrize("case", TORCHVISION)
def test_boxes_have_torchvisions_distribution(case):
    width, height, least = case
    means, stds, area, aspect, spread = TORCHVISION[case]
    boxes = np.asarray([crops.box(drawn, least, height, width) for drawn in DRAWN], float)
    error = 4 / np.sqrt(len(boxes))  # four standard errors
    np.testing.assert_array_less(np.abs(boxes.mean(0) - means), error * np.asarray(stds))
    np.testing.assert_allclose(boxes.std(0), stds, rtol=0.1)
    shares, aspects = boxes[:, 2] * boxes[:, 3] / (width * height), np.log(boxes[:, 3] / boxes[:, 2])
    assert abs(shares.mean() - area) < error * 0.25
    assert abs(aspects.mean() - aspect) < error * spread
    assert aspects.std() == pytest.approx(spread, rel=0.1)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (height, width)).all()


def texture():
    y, x = np.mgrid[:96, :128]
    planes = 127 + 100 * np.sin(x / 9 + y / 17), 127 + 100 * np.cos(x / 23 - y / 7), (2 * x + y) % 256
    return np.stack(planes, -1).astype(np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_crops_have_torchvisions_means():
    picture.always_reading()
    content, form = png(texture()), picture.Form(24)
    found = np.stack([crops.read(content, form, drawn, 0.08) for drawn in DRAWN[:800]]).astype(float)
    means, error = found.mean((1, 2)), 4 / np.sqrt(800)
    torchvisions, stds = np.asarray([126.964, 127.487, 149.573]), np.asarray([9.173, 7.431, 21.388])  # 20,000 crops
    np.testing.assert_array_less(np.abs(means.mean(0) - torchvisions), error * stds)
    np.testing.assert_allclose(means.std(0), stds, rtol=0.1)
    np.testing.assert_allclose(found.std((1, 2)).mean(0), [69.189, 69.132, 56.276], rtol=0.02)


def test_one_crop_has_torchvisions_pixels(monkeypatch):
    """`torchvision.transforms.functional.resized_crop(image, 10, 20, 50, 70, [24, 24])`."""
    picture.always_reading()
    monkeypatch.setattr(crops, "box", lambda *_: (10, 20, 50, 70))
    found = crops.read(png(texture()), picture.Form(24), DRAWN[0], 0.08).astype(int)
    assert found.sum() == 225405
    assert found[0, 0].tolist() == [142, 208, 53]
    assert found[11, 5].tolist() == [91, 28, 104]
    assert found[23, 23].tolist() == [184, 106, 234]


def test_draws_follow_from_their_numbers_alone():
    again = crops.draws(3, 0, 0, 7)
    assert all((a == b).all() for a, b in zip(again, DRAWN[7], strict=True))
    others = [crops.draws(4, 0, 0, 7), crops.draws(3, 1, 0, 7), crops.draws(3, 0, 1, 7), crops.draws(3, 0, -1, 7)]
    assert len({tuple(drawn.areas) for drawn in (again, *others)}) == 5


@pytest.mark.parametrize(("side", "factor"), [(100, 1), (50, 2), (25, 4), (12, 8)])
def test_a_jpeg_is_reduced_as_far_as_the_crop_has_enough_pixels(side, factor, monkeypatch):
    file, flags = io.BytesIO(), []
    Image.fromarray(texture()[np.repeat(np.arange(96), 2)][:, np.repeat(np.arange(128), 2)]).save(file, "JPEG")
    monkeypatch.setattr(
        crops, "box", lambda drawn, least, height, width: (0, 0, 100 * height // 192, 100 * height // 192)
    )
    decode = crops.cv2.imdecode
    monkeypatch.setattr(crops.cv2, "imdecode", lambda content, flag: flags.append(flag) or decode(content, flag))
    assert crops.jpeg_size(file.getvalue()) == (192, 256)
    assert crops.read(file.getvalue(), picture.Form(side), DRAWN[0], 0.08).shape == (side, side, 3)
    assert flags == [crops.REDUCED.get(factor, crops.cv2.IMREAD_COLOR)]


def test_a_jpeg_that_ends_early_is_no_grey_picture():
    picture.always_reading()
    file = io.BytesIO()
    Image.fromarray(texture()).save(file, "JPEG")
    with pytest.raises(picture.EndsEarly):
        crops.read(file.getvalue()[: len(file.getvalue()) // 2], picture.Form(24), DRAWN[0], 0.08)
