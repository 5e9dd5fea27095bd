"""What a network that learns starts from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import data
import models
import pretrained
from models import Player
from pretrained import start
from registry import UserError

SHAPE, NAMES = (8, 8, 1), ("a", "b", "c")


def dataset(names=NAMES, channels=1):
    images = np.zeros((6, 8, 8, channels), np.uint8)
    split = data.Split.of(images, np.arange(6, dtype=np.int32) % len(names))
    facts = {"mean": (0.1,) * channels, "std": (0.3,) * channels, "augmentation": data.Augmentation()}
    return data.Dataset(name="Tiny", train=split, test=split, class_names=tuple(names), fingerprint="", **facts)


def weights(arch="ResNet8", names=NAMES, shape=SHAPE, folder="there", **options):
    model = models.create(arch, len(names), **options)
    variables = jax.device_get(dict(model.init(jax.random.key(7), jnp.zeros((1, *shape)))))
    info = {"arch": arch, "num_classes": len(names), "class_names": list(names), "image_shape": list(shape)}
    info |= {"dataset": "Elsewhere", "mean": [0.5] * shape[2], "std": [0.25] * shape[2]}
    return pretrained.Pretrained(folder, variables, info, "digest")


def player(arch="ResNet8", classes=3, **options):
    return Player("student", models.create(arch, classes, **options), (0.1,), (0.3,))


def drawn(one, side=8):
    return traverse_util.flatten_dict(jax.device_get(one.init(jax.random.key(1), jnp.zeros((1, side, side, 1)))))


@pytest.mark.slow
def test_all_that_fits_is_taken_with_the_statistics_of_its_images():
    given = weights()
    begun, lines = start.begin(player(), given, dataset())
    flat = traverse_util.flatten_dict(given.variables)
    assert all(np.array_equal(drawn(begun)[path], value) for path, value in flat.items())
    assert (begun.mean, begun.std) == ((0.5,), (0.25,))
    assert lines == [f"The student starts from there: {len(flat)} of {len(flat)} arrays (77,971 numbers) taken."]


def test_the_classifier_of_other_classes_is_drawn_anew_and_all_else_taken():
    for names in (("a", "b", "c", "d"), ("x", "y", "z")):
        given = weights(names=names)
        begun, lines = start.begin(player(), given, dataset())
        flat, fresh, ours = traverse_util.flatten_dict(given.variables), drawn(player()), drawn(begun)
        for path, value in ours.items():
            same = fresh if path[1] == "classifier" else flat
            assert np.array_equal(value, same[path]), path
        assert lines[1].startswith("Left in there: classifier/bias")
        assert "its classes are others" in lines[1]
        assert lines[2] == "Drawn anew in the student: classifier/bias (3,), classifier/kernel (64, 3)."


def test_classes_in_another_order_are_permuted():
    given = weights(names=("c", "a", "b"))
    begun, _ = start.begin(player(), given, dataset())
    kernel = given.variables["params"]["classifier"]["kernel"]
    np.testing.assert_array_equal(drawn(begun)["params", "classifier", "kernel"], kernel[:, [1, 2, 0]])


def test_numbered_classes_are_taken_as_they_are():
    given = weights(names=("0", "1", "2"))
    begun, _ = start.begin(player(), given, dataset())
    kernel = given.variables["params"]["classifier"]["kernel"]
    np.testing.assert_array_equal(drawn(begun)["params", "classifier", "kernel"], kernel)


def test_a_deeper_network_takes_the_blocks_that_it_shares():
    begun, lines = start.begin(player("ResNet14"), weights(), dataset())
    assert ("params", "stage1_block0", "conv1", "kernel") in begun.start
    assert "Drawn anew in the student: stage1_block1" in lines[1]


@pytest.mark.slow
def test_positions_of_a_transformer_are_resized_to_other_images():
    options = {"patch_size": 4, "depth": 4}
    given = weights("ViT_Ti", shape=(16, 16, 1), **options)
    begun, lines = start.begin(player("ViT_Ti", **options), given, dataset())
    ours, theirs = begun.start["params", "pos_embed"], given.variables["params"]["pos_embed"]
    assert ours.shape == (1, 5, 192)
    assert theirs.shape == (1, 17, 192)
    np.testing.assert_array_equal(ours[:, 0], theirs[:, 0])
    expected = jax.image.resize(theirs[:, 1:].reshape(1, 4, 4, 192), (1, 2, 2, 192), "bicubic")
    np.testing.assert_allclose(ours[:, 1:], expected.reshape(1, 4, 192), atol=1e-6)
    assert lines[-1] == "there was trained on images of 16 x 16 pixels; here 8 x 8."


@pytest.mark.slow
def test_nothing_that_fits_or_other_channels_are_refused():
    with pytest.raises(
        UserError, match=r"nothing in there \(ViT_Ti\) fits the student.*\n.*architecture of the weights"
    ):
        start.begin(player(), weights("ViT_Ti"), dataset())
    with pytest.raises(UserError, match="images with 1 channels, Tiny has 3"):
        start.begin(player(), weights(), dataset(channels=3))


def test_the_teachers_classifier_starts_the_students():
    teacher, given = dataclasses.replace(player("ResNet14"), name="teacher"), weights("ResNet14")
    begun, line = start.head_of(player(), teacher, given.variables, SHAPE)
    assert {path[1] for path in begun.start} == {"classifier"}
    kernel = given.variables["params"]["classifier"]["kernel"]
    np.testing.assert_array_equal(drawn(begun)["params", "classifier", "kernel"], kernel)
    assert "classifier starts as the teacher's" in line
    with pytest.raises(UserError, match=r"the teacher's has classifier/bias \(3,\).*the student's classifier/bias"):
        start.head_of(player("ResNet8x4"), teacher, given.variables, SHAPE)


@pytest.mark.slow
def test_frozen_parts_get_no_gradient_and_normalise_by_running_statistics():
    held, lines = start.hold(player(), ("stem", "stage1"), 0.1, SHAPE)
    image = jax.random.uniform(jax.random.key(0), (4, *SHAPE))
    variables = player().init(jax.random.key(1), image)
    moved = jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])

    def loss(params, one):
        outputs, stats = one.forward({"params": params, "batch_stats": moved}, image, train=True)
        return jnp.sum(outputs.logits**2), (outputs.features, stats)

    gradients, (features, stats) = jax.grad(loss, has_aux=True)(variables["params"], held)
    norms = {path: np.abs(g).max() for path, g in traverse_util.flatten_dict(gradients).items()}
    parts = {path[0].split("_")[0]: max(n for p, n in norms.items() if p[0] == path[0]) for path in norms}
    assert parts["stem"] == parts["stage1"] == 0 < min(parts["stage2"], parts["stage3"], parts["classifier"])
    quiet, _ = player().forward({**variables, "batch_stats": moved}, image)
    np.testing.assert_allclose(features["stage1"], quiet.features["stage1"], rtol=1e-5, atol=1e-6)
    for path, value in traverse_util.flatten_dict(stats).items():
        still = path[0].split("_")[0] in ("stem", "stage1")
        assert np.array_equal(value, traverse_util.flatten_dict(moved)[path]) == still, path
    assert held.factor(("params", "stem_conv", "kernel")) == 0
    assert held.factor(("params", "stage2_block0", "conv1", "kernel")) == 1
    assert held.factor(("params", "classifier", "kernel")) == 0.1
    assert lines == ["Frozen in the student: stem, stage1 (15 arrays)."]


@pytest.mark.slow
def test_a_classifier_that_is_the_teachers_may_stay():
    """Without --init_param; the projection brings a narrow backbone to the teacher's width."""
    teacher, given = dataclasses.replace(player("ResNet8x4"), name="teacher"), weights("ResNet8x4")
    beginning = start.Start([], ["classifier"], 1.0, dataset())
    assert beginning.holds
    assert not start.Start([], [], 1.0, dataset()).holds
    student = beginning.begin(player("Projected", backbone="ResNet8", width=256))
    assert not student.still
    student = beginning.with_head(student, [(given, teacher, given.variables)])
    assert student.still == {("params", "classifier", "kernel"), ("params", "classifier", "bias")}
    assert beginning.lines[-1] == "Frozen in the student: classifier (2 arrays)."
    with pytest.raises(UserError, match=r"(?s)the teacher's has classifier/bias.*Projected has an option width"):
        beginning.with_head(player("Projected", width=64), [(given, teacher, given.variables)])
    others = weights("ResNet8x4", names=("x", "y", "z"))
    with pytest.raises(UserError, match=r"needs a teacher of the data's classes\.\nThe teacher .*'x', 'y', 'z'"):
        beginning.with_head(student, [(others, teacher, others.variables)])


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="leaves nothing of the student to learn"):
        start.hold(player(), ("stem", "stage1", "stage2", "stage3", "classifier"), 1.0, SHAPE)
