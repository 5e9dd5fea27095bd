"""Weights of detectors: torchvision's names, new and old; classes in another order; a backbone's weights as a start."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from drawn import drawn
from flax import traverse_util

import data
import models
import pretrained
from models import Player
from pretrained import classes, coco, convert, start, torch_format
from pretrained.foreign_names import translate

NETWORKS = {"RetinaNet_ResNet50": 91, "RetinaNet_ResNet18": 91, "FasterRCNN_ResNet50": 90}
TINY = {"width": 0.125, "fpn_channels": 16, "anchor_size": 8}
OWN = {"RetinaNet_ResNet18": {"head_convs": 2}, "FasterRCNN_ResNet18": {"head_channels": 24, "proposals": 6}}
SHAPE = (64, 64, 3)
both = pytest.mark.parametrize("arch", OWN)


def old(name: str) -> str:
    """torchvision's name before 0.13 of a tensor."""
    name = re.sub(r"(_blocks\.\d+)\.0\.", r"\1.", name)
    name = re.sub(r"(_head\.conv\.)(\d+)\.0\.", lambda m: f"{m[1]}{2 * int(m[2])}.", name)
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


@pytest.mark.parametrize("arch", NETWORKS)
def test_names_and_shapes_are_torchvisions(arch, golden):
    detector, backbone = arch.lower().split("_")
    entry = golden("detection")[f"{detector}_{backbone}_fpn"]
    names, found = torch_format.expected(models.create(arch, NETWORKS[arch]), {}, SHAPE)
    assert found == {name: tuple(shape) for name, shape in entry["state_dict"]}
    trained = [np.prod(found[name]) for path, name in names.items() if path[0] == "params" and "bn" not in path[-2]]
    if "parameters_with_frozen_bn" in entry:
        assert sum(trained) == entry["parameters_with_frozen_bn"]
    older = {old(name): np.zeros(1) for name in found}
    assert older.keys() != found.keys()
    assert (
        translate(detector.replace("retinanet", "RetinaNet").replace("fasterrcnn", "FasterRCNN"), older)[0].keys()
        == found.keys()
    )


def weights_of(arch: str, names, **options):
    """Weights of a tiny detector as `pretrained.load` returns them."""
    options = {**TINY, **OWN[arch], **options}
    model = models.create(arch, len(names), **options)
    variables = jax.tree.map(np.asarray, dict(drawn(model, jnp.zeros((1, *SHAPE)), 5, biases=True)))
    info = {"arch": arch, "num_classes": len(names), "class_names": list(names), "options": options}
    info |= {"dataset": "COCO", "image_shape": list(SHAPE), "mean": [0.5] * 3, "std": [0.25] * 3, "test_top1": None}
    return pretrained.Pretrained("there", variables, info, "digest"), model


@both
def test_a_file_of_old_or_new_names_is_converted(arch, tmp_path, capsys):
    weights, model = weights_of(arch, coco.names(91 if arch.startswith("Retina") else 90))
    state = pretrained.to_torch(model, weights.variables)
    options = [f"--option={name}={value}" for name, value in {**weights.info["options"], "epsilon": 0}.items()]
    for folder, names in (("new", {name: name for name in state}), ("old", {name: old(name) for name in state})):
        tensors = {to: state[name] for name, to in names.items()} | {
            "backbone.body.bn1.num_batches_tracked": np.zeros(1, np.int64)
        }
        safetensors.numpy.save_file(tensors, tmp_path / f"{folder}.safetensors")
        out = tmp_path / folder
        flags = [
            str(tmp_path / f"{folder}.safetensors"),
            "--arch",
            arch,
            "--dataset",
            "COCO",
            "--out",
            str(out),
            *options,
        ]
        assert convert.main(flags) == 0
        loaded = pretrained.load(out)
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, weights.variables)
        assert loaded.info["options"] == {**weights.info["options"], "epsilon": 0}
        assert loaded.info["class_names"] == weights.info["class_names"]
    assert "left off" not in capsys.readouterr().out
    assert convert.main([*flags, "--force", "--data_dir", "there"]) == 2
    assert "evaluate.py --param" in capsys.readouterr().err


def dataset(names):
    images = np.zeros((2, *SHAPE), np.uint8)
    split = data.Split.of(images, np.zeros(2, np.int32))
    facts = {"mean": (0.1,) * 3, "std": (0.3,) * 3, "augmentation": data.Augmentation()}
    return data.Dataset(name="Some", train=split, test=split, class_names=tuple(names), fingerprint="", **facts)


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[pytest.mark.slow] * arch.startswith("Faster")) for arch in OWN]
)
def test_the_datas_classes_are_taken_by_name(arch):
    weights, model = weights_of(arch, ("a", "b", "c", "d"))
    fitted, note = classes.matched(weights, dataset(["d", "b"]), "teacher")
    assert "cut off" in note
    few = models.create(arch, 2, **weights.info["options"])
    images = np.random.RandomState(2).standard_normal((1, *SHAPE)).astype(np.float32)
    every, kept = (jax.jit(m.apply)(v.variables, images) for m, v in ((model, weights), (few, fitted)))
    columns = [3, 1] if arch.startswith("Retina") else [0, 4, 2]
    np.testing.assert_allclose(kept.logits, every.logits[..., columns], rtol=1e-4, atol=1e-5)
    boxes = every.features["boxes"]
    boxes = boxes if boxes.shape[2:] == (4,) else boxes[:, :, columns]
    np.testing.assert_allclose(kept.features["boxes"], boxes, rtol=1e-4, atol=1e-5)


def test_the_first_learner_starts_from_a_backbone():
    theirs = models.create("ResNet18", 10, stem="imagenet", width=0.125)
    given = jax.tree.map(np.asarray, dict(drawn(theirs, jnp.zeros((1, *SHAPE)), 6)))
    info = {"arch": "ResNet18", "num_classes": 10, "class_names": [str(i) for i in range(10)], "dataset": "ImageNet"}
    info |= {"image_shape": list(SHAPE), "mean": [0.5] * 3, "std": [0.25] * 3}
    player = Player("student", models.create("RetinaNet_ResNet18", 2, **TINY), (0.1,) * 3, (0.3,) * 3)
    begun, lines = start.begin(player, pretrained.Pretrained("there", given, info, ""), dataset("ab"))
    flat = traverse_util.flatten_dict(given)
    expected = {(path[0], "body", *path[1:]) for path in flat if path[1] != "classifier"}
    assert begun.start.keys() == expected
    assert all(begun.start[path] is flat[(path[0], *path[2:])] for path in expected)
    assert begun.mean == (0.5,) * 3
    assert lines[1].startswith("Left in there: classifier/bias (10,), classifier/kernel (64, 10)")
    assert lines[2].startswith("Drawn anew in the student: box_head/")


def test_frozen_batch_norms_are_left_by_the_optimizer_with_or_without_weights_to_start_from():
    network = models.create("RetinaNet_ResNet18", 2, **TINY, frozen_norm=True)
    player = Player("student", network, (0.1,) * 3, (0.3,) * 3)
    fresh = start.Start((), (), 1.0, dataset("ab"))
    begun = fresh.begin(player)
    assert fresh.holds
    assert fresh.lines == ["Constant in the student: its batch norms (80 arrays)."]
    assert begun.factor(("params", "body", "stem_bn", "scale")) == 0
    assert begun.factor(("params", "body", "stem_conv", "kernel")) == 1
    held, _ = start.hold(begun, ("stem",), 1.0, SHAPE)
    assert held.factor(("params", "body", "stem_conv", "kernel")) == 0
    assert held.factor(("params", "body", "stage1_block0", "bn1", "bias")) == 0
    assert not start.constants(network.clone(frozen_norm=False), SHAPE)


@both
def test_a_learner_of_other_classes_takes_all_but_their_outputs(arch):
    weights, model = weights_of(arch, ("a", "b"))
    player = Player("student", model, (0.1,) * 3, (0.3,) * 3)
    begun, _ = start.begin(player, weights, dataset("xy"))
    flat = traverse_util.flatten_dict(weights.variables)
    left = {path for path in flat if path[1:-1] in model.class_layers}
    assert left
    assert begun.start.keys() == flat.keys() - left
