"""What the methods on explanation maps share: which classes, maps of several classes, one size, one scale."""

import dataclasses

import jax
import jax.numpy as jnp

import explain
from distiller.base import wide
from registry import UserError


def map_rule(name: str, tap: str = "", **options) -> explain.Explanation:
    """The map `name` of `explain`, with the tap where one is given, and with those of the options that it has."""
    kind = explain.registry.get(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    own = {key: value for key, value in options.items() if key in fields}
    return explain.create(name, **own, **({"tap": tap} if tap else {}))


def taught_classes(
    classes: str, teacher_logits: jax.Array, label: jax.Array, k: int = 1
) -> tuple[jax.Array, jax.Array]:
    """The classes whose maps are compared.

    Args:
        classes: "teacher", the `k` that it finds most likely (all, where there are fewer); or "label".
        teacher_logits: [B, K].
        label: [B] int32; -1 is no label.

    Returns:
        Classes [B, k] int32 ([B, 1] for labels), and [B] float32: 1, or 0 where there is no label to go by.
    """
    if classes == "teacher":
        k = min(k, teacher_logits.shape[-1])
        return jax.lax.top_k(teacher_logits, k)[1].astype(jnp.int32), jnp.ones(len(label), jnp.float32)
    if classes == "label":
        return jnp.maximum(label, 0)[:, None], (label >= 0).astype(jnp.float32)
    raise UserError(f"'classes' is 'teacher' or 'label'; got {classes!r}.")


def maps_of(rule: explain.Explanation, outputs, classes: jax.Array) -> jax.Array:
    """Maps of several classes, [B, k, h, w], `wide`; classes [B, k] int32."""
    if classes.shape[1] == 1:
        return wide(rule.of(outputs, classes[:, 0]))[:, None]
    return wide(jax.vmap(lambda target: rule.of(outputs, target), in_axes=1, out_axes=1)(classes))


def same_size(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps [B, k, h, w], the larger (each axis by itself) resized bilinearly to the smaller; every position counts."""
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])

    def fit(x):
        return x if x.shape[2:] == size else jax.image.resize(x, (*x.shape[:2], *size), "bilinear")

    return fit(a), fit(b)


def unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """`x` with L2 norm 1 over `axes`; zero, with a finite gradient, where it is zero."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True) + 1e-24)


def cosine_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """1 - cosine of the angle between maps [B, k, h, w]: [B, k].

    As half the squared distance of the unit maps, which is the same number, exactly 0 where they are equal. A map that
    is zero everywhere has no direction: its distance is 1/2, its gradient through the ReLU of a map nothing.
    """
    return 0.5 * jnp.sum(jnp.square(unit(student, (2, 3)) - unit(teacher, (2, 3))), axis=(2, 3))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `values` [B] where `mask` [B] is 1; 0 where it is 1 nowhere."""
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)
