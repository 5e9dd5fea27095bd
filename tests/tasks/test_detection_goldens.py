"""The losses of detection, and their gradients, against torchvision's (tests/goldens/README.md, detection.json)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import models
import pretrained
from data import Batch
from data.objects import Objects
from pretrained import torch_format
from tasks.detection import Detection

pytestmark = pytest.mark.slow  # networks of 20 and 42 million parameters


def objects(golden, first: int) -> Objects:
    """The targets of the goldens; their label `first` is class 0."""
    targets = golden("detection")["targets"]
    boxes, classes = np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1, np.int32)
    for image, own in enumerate(targets):
        boxes[image, : len(own["boxes"])], classes[image, : len(own["labels"])] = own["boxes"], own["labels"]
    classes[classes >= 0] -= first
    area = np.ones((2, 3), np.float32)
    size = np.tile(np.float32([128, 160]), (2, 1))
    return jax.tree.map(
        jnp.asarray, Objects(boxes, classes, np.zeros((2, 3), bool), area, size, np.ones(2, np.float32))
    )


def measured(name: str, classes: int, entry: dict, draw_tensor, label: Objects, change=lambda features: features):
    """(parts of the loss, for each part torchvision's name of a weight -> norm of the gradient)."""
    model = models.create(name, classes, frozen_norm=True)
    names, shapes = torch_format.expected(model, {}, (128, 160, 3))
    variables = pretrained.from_torch(model, {own: draw_tensor(own, list(shape)) for own, shape in shapes.items()})
    images = np.random.RandomState(7).standard_normal((2, 3, 128, 160)).astype(np.float32).transpose(0, 2, 3, 1)
    task = Detection(class_names=tuple(map(str, range(classes))), rpn_sample=0, roi_sample=0)
    batch = Batch(image=images, label=label, index=jnp.arange(2), epoch=jnp.float32(0))

    def parts(params):
        outputs, _ = models.forward(model, {**variables, "params": params}, images, train=True)
        return task.loss(outputs.replace(features=change(outputs.features)), batch)[1]

    @jax.jit
    def run(params):
        found, pull = jax.vjp(parts, params)
        cotangents = {part: {own: jnp.float32(own == part) for own in found} for part in found}
        return found, {part: pull(one)[0] for part, one in cotangents.items()}

    found, gradients = run(variables["params"])
    flat = {part: traverse_util.flatten_dict(own) for part, own in gradients.items()}
    return found, {
        part: {names["params", *path]: np.asarray(x, np.float64) for path, x in own.items()}
        for part, own in flat.items()
    }


def close_norms(gradients: list[dict], expected: dict):
    for weight, norm in expected.items():
        total = sum(own[weight] for own in gradients)
        np.testing.assert_allclose(np.linalg.norm(total), norm or 0.0, rtol=1e-4, err_msg=weight)


def test_retinanets_losses_are_torchvisions(golden, draw_tensor):
    entry = golden("detection")["retinanet_resnet18_fpn"]
    found, gradients = measured("RetinaNet_ResNet18", 91, entry, draw_tensor, objects(golden, 0))
    expected = entry["losses"]
    np.testing.assert_allclose(found["class_loss"], expected["classification"], rtol=1e-5)
    np.testing.assert_allclose(found["box_loss"], expected["bbox_regression"], rtol=1e-5)
    close_norms([gradients["class_loss"]], expected["grad_l2"]["classification"])
    close_norms([gradients["box_loss"]], expected["grad_l2"]["bbox_regression"])


def test_faster_r_cnns_losses_are_torchvisions(golden, draw_tensor):
    entry = golden("detection")["fasterrcnn_resnet50_fpn"]
    expected = entry["losses"]
    boxes = np.zeros((2, max(map(len, expected["proposals"])), 4), np.float32)
    for image, own in enumerate(expected["proposals"]):
        boxes[image, : len(own)] = own

    def given(features):
        return {**features, "proposals": jnp.asarray(boxes)}

    found, gradients = measured("FasterRCNN_ResNet50", 90, entry, draw_tensor, objects(golden, 1), given)
    names = {"rpn_class_loss": "loss_objectness", "rpn_box_loss": "loss_rpn_box_reg"}
    names |= {"class_loss": "loss_classifier", "box_loss": "loss_box_reg"}
    for ours, theirs in names.items():
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-5, err_msg=ours)
    norms = expected["grad_l2"]
    close_norms([gradients["rpn_class_loss"], gradients["rpn_box_loss"]], norms["rpn (objectness + box)"])
    close_norms([gradients["class_loss"], gradients["box_loss"]], norms["roi (classifier + box)"])
