import dataclasses

import numpy as np
import pytest

from explain import subject as room
from models import forward


@pytest.mark.slow
def test_answers_and_maps_do_not_depend_on_the_batching(trained, stand_ins, monkeypatch):
    """40 images in batches of 40 and of 7: the last batch is filled up, and what fills it is cut off."""
    found = []
    for size in (40, 7):
        monkeypatch.setattr(room, "BATCH", size)
        logits, embedding = trained.subject.answers(trained.images)
        maps = trained.subject.maps(stand_ins.input_gradient, trained.images, trained.labels)
        assert (len(logits), len(embedding), len(maps)) == (40, 40, 40)
        found.append((logits, embedding, maps))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_images_are_normalised_with_the_networks_own_statistics(trained):
    direct = (trained.images / 255.0 - trained.subject.mean) / trained.subject.std
    outputs, _ = forward(trained.subject.model, trained.subject.variables, direct.astype(np.float32))
    logits, embedding = trained.subject.answers(trained.images)
    np.testing.assert_allclose(logits, outputs.logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(embedding, outputs.features["embedding"], rtol=1e-3, atol=1e-3)
    assert (logits.argmax(axis=1) == trained.labels).mean() > 0.9


def test_a_network_of_bare_logits_has_them_for_its_embedding(halves):
    logits, embedding = halves.subject.answers(halves.images)
    np.testing.assert_array_equal(logits, embedding)


def of_wrong_size(model, variables, images, target):
    return images[:, ::2, ::2, 0]


def of_nothing(model, variables, images, target):
    return images[..., 0] * np.float32(np.nan)


def test_maps_of_another_size_or_not_finite_are_refused(halves):
    with pytest.raises(ValueError, match=r"\(4, 4\), the images \(8, 8\)"):
        halves.subject.maps(of_wrong_size, halves.images, halves.labels)
    with pytest.raises(ValueError, match="not finite on 24 of 24"):
        halves.subject.maps(of_nothing, halves.images, halves.labels)
    with pytest.raises(ValueError, match=r"\[24, 3\]"):
        halves.subject.maps(of_nothing, halves.images, halves.labels[:3])
    with pytest.raises(ValueError, match=r"Images and one row for each image"):
        halves.subject.answers(halves.images[:0])


def test_replaced_keeps_everything_but_the_weights(halves):
    other = halves.subject.replaced({"params": {"scale": np.float32(-10)}, "batch_stats": {}})
    assert dataclasses.replace(other, variables=0) != halves.subject
    np.testing.assert_allclose(other.answers(halves.images)[0], -halves.subject.answers(halves.images)[0])
