"""Pictures of what detectors find, and of where they look: `--kind detections` of `explain.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import data
import tasks
from explain import detections
from explain.cam import grad_cam
from explain.subject import Subject
from models import forward


def draw(subjects: list[Subject], dataset: data.Dataset, index: np.ndarray, maps: bool) -> Figure:
    """Draw the objects of some test images and what networks find there, side by side.

    Args:
        subjects: the networks, in the order of the columns.
        dataset: data for detection.
        index: [M] int, positions in the test split.
        maps: GradCAM of each network's surest box is drawn under its boxes.
    """
    task, pixels = tasks.of(dataset), dataset.test.rows(index)
    seen = {subject.name: subject.collect(functools.partial(_look, task, maps), pixels) for subject in subjects}
    found = {name: rows for name, (rows, _) in seen.items()}
    heat = {name: own for name, (_, own) in seen.items()} if maps else {}
    title = f"{dataset.name} test; boxes with a score of {detections.LEAST:g} or more"
    title += "; GradCAM of the surest box's class" if maps else ""
    return detections.draw(pixels, dataset.test.labels[index], found, dataset.class_names, title, maps=heat)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _look(task, maps: bool, model, variables, images) -> tuple[jax.Array, jax.Array]:
    """(detections [B, D, 6], GradCAM [B, H, W] of the surest box's class; zeros without `maps`)."""
    if not maps:
        outputs, _ = forward(model, variables, images)
        return task.answer(outputs), jnp.zeros(images.shape[:3])
    taps = tuple(f"p{model.first_level + number}" for number in range(model.levels))
    outputs, _ = forward(model, variables, images, gradient_taps=taps)
    scores = outputs.logits
    if "proposals" in outputs.features:  # a softmax over the classes; column 0 is the background
        scores = jax.nn.log_softmax(scores).at[..., 0].set(-jnp.inf)
    flat = scores.reshape(len(scores), -1)
    surest = jax.nn.one_hot(jnp.argmax(flat, axis=1), flat.shape[1], dtype=flat.dtype).reshape(scores.shape)
    gradients, heat = outputs.gradients(surest), 0.0
    for tap in taps:
        own = jax.nn.relu(grad_cam(outputs.features[tap], gradients[tap]))
        heat = heat + jax.image.resize(own, images.shape[:3], "linear")
    return task.answer(outputs), heat
