"""Transformer-Explainability: a transformer's attention, weighted by its gradient and by its relevance.

    map = the class token's row of (I + B_L) ... (I + B_1),   B_b = mean over heads of relu(dy_k/dA_b * R_b)

A_b is the attention of block b, R_b its relevance. Relevance R is 1 at the target logit and 0 at the other logits. R is
propagated from the logits back to the input. Each rule below keeps the sum of R of each image:
    linear   R_i = sum_o R_o (x_i w_io)^+ / sum_j (x_j w_jo)^+           (the bias has no share)
    product  (attention times values, queries times keys)  each factor gets half of R, split by contribution
    sum      (a block's shortcut plus its branch)  R is split by contribution; the two parts P_1 and P_2 are then scaled
             so that their sums have the proportion |sum P_1| : |sum P_2|
    GELU, layer norm, softmax   R is unchanged

Paper: Chefer, Gur, Wolf. Transformer Interpretability Beyond Attention Visualization. CVPR 2021. arXiv:2012.09838.

Deviation: the reference code scales the parts of a sum by sums over the whole batch, and explains one image at a time.
Here each image has its own sums, so a batch can have many images. The rules are for the networks of `models.vit`, of
any depth, with or without the distillation token.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from explain.attention import read_out, rollout
from explain.base import Explanation, class_gradients, wide
from models import ATTENTION, Outputs
from models.vit import ViT


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a / b: 0 where b is 0, and bounded where b is near 0."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b + 1e-9 * jnp.sign(b)))


def through_linear(x: jax.Array, kernel: jax.Array, relevance: jax.Array) -> jax.Array:
    """Propagate relevance through a linear layer.

    Args:
        x: the inputs [..., I].
        kernel: [I, O].
        relevance: the relevance of the outputs, [..., O].

    Returns:
        The relevance of the inputs, [..., I].
    """
    up, down, w_up, w_down = jax.nn.relu(x), -jax.nn.relu(-x), jax.nn.relu(kernel), -jax.nn.relu(-kernel)
    share = divide(relevance, up @ w_up + down @ w_down)
    return up * (share @ w_up.T) + down * (share @ w_down.T)


def through_product(subscripts: str, a: jax.Array, b: jax.Array, relevance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Propagate relevance through an einsum of two factors.

    Args:
        subscripts: the einsum's subscripts.
        a, b: the factors.
        relevance: the relevance of the product.

    Returns:
        The relevance of each factor. Each has half of the sum of `relevance`.
    """
    product, pull = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), a, b)
    to_a, to_b = pull(divide(relevance, product))
    return a * to_a / 2, b * to_b / 2


def through_sum(a: jax.Array, b: jax.Array, relevance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Propagate relevance through the sum of `a` and `b`, [B, tokens, D].

    Returns:
        The relevance of each summand, [B, tokens, D]. In each image, both together have the sum of `relevance`.
    """
    total = functools.partial(jnp.sum, axis=(1, 2), keepdims=True)
    share = divide(relevance, a + b)
    parts = a * share, b * share
    sizes = [jnp.abs(total(part)) for part in parts]
    whole = divide(total(relevance), sizes[0] + sizes[1])
    return tuple(part * divide(size * whole, total(part)) for part, size in zip(parts, sizes, strict=True))


def propagate(model: ViT, variables: dict, images: jax.Array, target: jax.Array) -> tuple[list, list]:
    """Propagate relevance through a vision transformer, from the target logit to the first block.

    Args:
        model, variables: the network.
        images: [B, H, W, C].
        target: [B] int32.

    Returns:
        Two lists, with an item for each block from the first to the last: the relevance of the block's attention
        [B, heads, tokens, tokens], and the relevance of the tokens that enter the block [B, tokens, D].
    """
    seen = {}

    def remember(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and args:
            seen["/".join(context.module.path)] = (wide(args[0]), result)
        return result

    with nn.intercept_methods(remember):
        outputs = model.apply(variables, images)
    params, heads = variables["params"], ("classifier", "classifier_dist")[: model.extra_tokens]

    def linear(name, relevance):
        scope = params
        for part in name.split("/"):
            scope = scope[part]
        return through_linear(seen[name][0], wide(scope["kernel"]), relevance)

    # The logits are the heads' mean. The rule divides by the sum over inputs, so the mean's factor 1/2 has no effect.
    kernel = jnp.concatenate([wide(params[name]["kernel"]) for name in heads])
    one = jax.nn.one_hot(target, kernel.shape[1], dtype=kernel.dtype)
    relevance = through_linear(wide(outputs.features["embedding"]), kernel, one)
    relevance = relevance.reshape(len(images), len(heads), -1)
    tokens = seen["block1"][0].shape[1]
    relevance = jnp.pad(relevance, ((0, 0), (0, tokens - len(heads)), (0, 0)))
    attentions, entering = [], []
    for number in range(model.depth, 0, -1):
        block = f"block{number}"
        shortcut, branch = through_sum(seen[f"{block}/norm2"][0], wide(seen[f"{block}/fc2"][1]), relevance)
        relevance = shortcut + linear(f"{block}/fc1", linear(f"{block}/fc2", branch))
        shortcut, branch = through_sum(seen[block][0], wide(seen[f"{block}/proj"][1]), relevance)
        branch = linear(f"{block}/proj", branch)
        qkv = wide(seen[f"{block}/qkv"][1])
        split = (*qkv.shape[:2], 3, model.heads, model.width // model.heads)
        q, k, v = jnp.moveaxis(qkv.reshape(split), 2, 0)
        attention = wide(outputs.features[f"attention{number}"])
        branch = branch.reshape(*branch.shape[:2], model.heads, -1)
        of_attention, of_v = through_product("bhqk,bkhd->bqhd", attention, v, branch)
        of_q, of_k = through_product("bqhd,bkhd->bhqk", q, k, of_attention)
        of_qkv = jnp.stack([of_q, of_k, of_v], axis=2).reshape(qkv.shape)
        relevance = shortcut + linear(f"{block}/qkv", of_qkv)
        attentions.insert(0, of_attention)
        entering.insert(0, relevance)
    return attentions, entering


@dataclasses.dataclass(frozen=True)
class RelevancePropagation(Explanation):
    """Attention, weighted by its gradient and its relevance, followed through all blocks.

    Paper: Chefer, Gur, Wolf, CVPR 2021, arXiv:2012.09838
    """

    @property
    def gradient_taps(self):
        return (ATTENTION,)

    def of(self, outputs: Outputs, target):
        source = outputs.asked()
        if not isinstance(source.model, ViT):
            kind = type(source.model).__name__
            raise ValueError(
                f"RelevancePropagation has rules for the networks of models.vit only, not for {kind}. Take GradCAM."
            )
        relevances, _ = propagate(source.model, source.variables, source.images, target)
        gradients = class_gradients(outputs, target)
        matrices = []
        for number, relevance in enumerate(relevances, start=1):
            weighted = jnp.mean(jax.nn.relu(wide(gradients[f"attention{number}"]) * relevance), axis=1)
            matrices.append(weighted + jnp.eye(weighted.shape[-1], dtype=weighted.dtype))
        return read_out(rollout(matrices), outputs)
