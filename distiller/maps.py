"""Functions that the methods on explanation maps share: classes, maps of several classes, sizes, distances, means."""

import dataclasses

import jax
import jax.numpy as jnp

import explain
from distiller.base import wide
from distiller.normalised import unit


def map_rule(name: str, tap: str = "", **options) -> explain.Explanation:
    """Builds an explanation map.

    Args:
        name: one of `explain.names()`.
        tap: the tap of the map; "" is the map's default.
        **options: options for the maps that have them; other maps ignore them.
    """
    kind = explain.registry.get(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    own = {key: value for key, value in options.items() if key in fields}
    return explain.create(name, **own, **({"tap": tap} if tap else {}))


def taught_classes(
    classes: str, teacher_logits: jax.Array, label: jax.Array, k: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Chooses the classes whose maps are compared.

    Args:
        classes: "teacher": the teacher's `k` most likely classes (all classes if the task has fewer); "label": the
            label.
        teacher_logits: [B, K].
        label: [B] int32; -1 is no label.

    Returns:
        (classes [B, k] int32, [B, 1] for "label"; mask [B] float32: 0 for a withheld label if `classes` is "label",
        else 1).
    """
    if classes == "teacher":
        k = min(k, teacher_logits.shape[-1])
        return jax.lax.top_k(teacher_logits, k)[1].astype(jnp.int32), jnp.ones(len(label), jnp.float32)
    return jnp.maximum(label, 0)[:, None], (label >= 0).astype(jnp.float32)


def maps_of(rule: explain.Explanation, outputs, classes: jax.Array) -> jax.Array:
    """Computes maps of several classes: classes [B, k] int32 -> [B, k, h, w] float32 (float64 stays)."""
    if classes.shape[1] == 1:
        return wide(rule.of(outputs, classes[:, 0]))[:, None]
    return wide(jax.vmap(lambda target: rule.of(outputs, target), in_axes=1, out_axes=1)(classes))


def same_size(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Resizes the larger of two maps [B, k, h, w], each axis by itself, to the smaller: bilinear, antialiased."""
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])

    def fit(x):
        return x if x.shape[2:] == size else jax.image.resize(x, (*x.shape[:2], *size), "bilinear")

    return fit(a), fit(b)


def cosine_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """1 - cosine of the angle between maps [B, k, h, w]: [B, k].

    Computed as half the squared distance of the maps at unit length. This is the same number, and exactly 0 for equal
    maps. A map that is zero everywhere has no direction: its distance is 1/2, and its gradient 0.
    """
    return 0.5 * jnp.sum(jnp.square(unit(student, (2, 3)) - unit(teacher, (2, 3))), axis=(2, 3))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `values` [B] over the rows whose `mask` [B] is 1; 0 if no mask is 1."""
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)
