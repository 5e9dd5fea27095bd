"""A loop over updates in one program, with few kernels beside the updates' own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def repeated(step: Callable, count: jax.Array, frozen, state, totals, platform: str) -> tuple:
    """Applies `step` `count` times.

    Args:
        step: (frozen, state, totals) -> (state, totals).
        count: int32 scalar.
        frozen: variables that every step reads and none changes.
        state, totals: what the first step takes; `totals` has many small arrays of one shape.
        platform: "cpu", "gpu" or "tpu". A GPU's convolutions read kernels by output. There the kernels in `frozen` are
            rearranged once, before the loop. Each step would rearrange them otherwise, with one launch for each kernel.

    Returns:
        (state, totals) after the last step.
    """
    by_output = platform == "gpu"
    arranged = _outputs_first(frozen) if by_output else frozen
    pack, unpack = packing(totals)

    def one(_, carry):
        state, totals = step(_outputs_last(arranged) if by_output else arranged, carry[0], unpack(carry[1]))
        return state, pack(totals)

    state, packed = jax.lax.fori_loop(0, count, one, (state, pack(totals)))
    return state, unpack(packed)


def _outputs_first(tree):
    """Kernels [H, W, I, O] as [O, H, W, I]."""
    return jax.tree.map(lambda x: x.transpose(3, 0, 1, 2) if x.ndim == 4 else x, tree)


def _outputs_last(tree):
    """What `_outputs_first` returned, as it was before."""
    return jax.tree.map(lambda x: x.transpose(1, 2, 3, 0) if x.ndim == 4 else x, tree)


def packing(tree) -> tuple[Callable, Callable]:
    """Two functions: a tree like `tree` -> one array for all leaves of a shape and type, and back.

    A loop on a GPU has kernels for each scalar that it carries, and as many for an array of scalars.
    """
    leaves, structure = jax.tree.flatten(tree)
    groups: dict = {}
    for number, leaf in enumerate(leaves):
        groups.setdefault((leaf.shape, leaf.dtype), []).append(number)

    def pack(tree):
        found = jax.tree.leaves(tree)
        return [jnp.stack([found[number] for number in group]) for group in groups.values()]

    def unpack(arrays):
        pairs = zip(groups.values(), arrays, strict=True)
        found = {number: array[place] for group, array in pairs for place, number in enumerate(group)}
        return structure.unflatten([found[number] for number in range(len(leaves))])

    return pack, unpack
