"""The losses on labels are torchvision's: values, and norms of gradients at the pyramid's first layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvisions

import data
import models
from data.objects import Found, gathered
from tasks.detection import Detection


def objects(golden, shift):
    """The goldens' targets, whose labels begin at `shift`."""
    own = [
        [Found(box, label - shift, False, 1.0) for box, label in zip(image["boxes"], image["labels"], strict=True)]
        for image in golden("detection")["targets"]
    ]
    return gathered(own, np.full((2, 2), (128, 160)), np.ones(2))


def losses(entry, name, classes, draw_tensor, label, task, terms, proposals=None):
    """For each pair of names of parts: (the parts' values, the norm of their sum's gradient)."""
    model, variables = torchvisions.of_recipe(entry, name, classes, draw_tensor)
    batch = data.Batch(jnp.zeros((2, 128, 160, 3)), label, jnp.arange(2), jnp.float32(0))

    @jax.jit
    def run(kernel, variables):
        def parts(kernel):
            fpn = {
                **variables["params"]["fpn"],
                "lateral0": {**variables["params"]["fpn"]["lateral0"], "kernel": kernel},
            }
            own = {**variables, "params": {**variables["params"], "fpn": fpn}}
            outputs, _ = models.forward(model, own, jnp.asarray(torchvisions.images()))
            if proposals is not None:
                outputs = outputs.replace(features={**outputs.features, "proposals": proposals})
            return task.loss(outputs, batch)[1]

        found, pullback = jax.vjp(parts, kernel)
        zeros = jax.tree.map(jnp.zeros_like, found)
        norms = [
            jnp.linalg.norm(pullback({**zeros, **{n: jnp.ones_like(found[n]) for n in pair}})[0].ravel())
            for pair in terms
        ]
        return found, norms

    return run(variables["params"]["fpn"]["lateral0"]["kernel"], variables)


@pytest.mark.slow  # 21 million parameters
def test_retinanet(golden, draw_tensor):
    entry = golden("detection")["retinanet_resnet18_fpn"]
    label, terms = objects(golden, 0), (("class_loss",), ("box_loss",))
    found, norms = losses(entry, "RetinaNet_ResNet18", 91, draw_tensor, label, Detection(), terms)
    expected = entry["losses"]
    np.testing.assert_allclose(found["class_loss"], expected["classification"], rtol=1e-5)
    np.testing.assert_allclose(found["box_loss"], expected["bbox_regression"], rtol=1e-5)
    first = "backbone.fpn.inner_blocks.0.0.weight"
    np.testing.assert_allclose(norms[0], expected["grad_l2"]["classification"][first], rtol=1e-4)
    np.testing.assert_allclose(norms[1], expected["grad_l2"]["bbox_regression"][first], rtol=1e-4)


@pytest.mark.slow  # 42 million parameters
def test_both_stages_of_faster_rcnn(golden, draw_tensor):
    entry = golden("detection")["fasterrcnn_resnet50_fpn"]
    expected = entry["losses"]
    boxes = np.zeros((2, 7, 4), np.float32)
    for own, given in zip(boxes, expected["proposals"], strict=True):
        own[: len(given)] = given
    task, label = Detection(rpn_sample=0, roi_sample=0), objects(golden, 1)
    terms = ("rpn_class_loss", "rpn_box_loss"), ("class_loss", "box_loss")
    found, norms = losses(entry, "FasterRCNN_ResNet50", 90, draw_tensor, label, task, terms, jnp.asarray(boxes))
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    for name, reference in zip((*terms[0], *terms[1]), names, strict=True):
        np.testing.assert_allclose(found[name], expected[reference], rtol=1e-5, err_msg=name)
    first = "backbone.fpn.inner_blocks.0.0.weight"
    for norm, stage in zip(norms, ("rpn (objectness + box)", "roi (classifier + box)"), strict=True):
        np.testing.assert_allclose(norm, expected["grad_l2"][stage][first], rtol=1e-4)
