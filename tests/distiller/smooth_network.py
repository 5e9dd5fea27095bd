"""A tiny smooth network for tests of all methods. Each of its taps can be moved by parameters of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import data
import models
from models.outputs import Outputs, Taps


def movable(module: nn.Module, taps: Taps):
    """(name, array) -> the array at the tap `name`, plus a parameter of its shape."""

    def tap(name, x):
        return taps(name, x + module.param(f"{name}_offset", nn.initializers.normal(0.3), x.shape, x.dtype))

    return tap


class Smooth(nn.Module):
    """Three stages of 1x1 convolutions at 8x8, 4x4 and 2x2 with softplus: no kinks.

    Each tap gets a parameter of its shape added, so that the parameters reach every entry of every tap.
    """

    widths: tuple[int, int, int, int]
    num_classes: int
    heads: bool = False  # DeiT's two, as taps
    projects: int = 0  # SimKD's projector: width of a tap `projected` after the last stage

    def setup(self):
        self.classifier = nn.Dense(self.num_classes)

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        taps = Taps(deltas)
        tap = movable(self, taps)
        x = tap("stem", nn.softplus(nn.Dense(self.widths[0], name="stem")(taps.shift("input", images))))
        for stage, width in enumerate(self.widths[1:], start=1):
            if stage > 1:
                x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
            x = tap(f"stage{stage}", nn.softplus(tap(f"stage{stage}_preact", nn.Dense(width, name=f"s{stage}")(x))))
        if self.projects:
            x = tap("projected", nn.softplus(nn.Dense(self.projects, name="projector")(x)))
        logits = self.classify(tap("embedding", jnp.mean(tap("final", x), axis=(1, 2))))
        logits = logits + self.param("logits_offset", nn.initializers.normal(1.0), logits.shape, logits.dtype)
        if self.heads:
            logits = (tap("class_logits", logits) + tap("distill_logits", logits)) / 2
        return Outputs(logits=logits, features=taps.features)

    def classify(self, embedding):
        return self.classifier(embedding)


class SmoothTokens(nn.Module):
    """Three blocks on a class token and the tokens of 2x2 patches, with a transformer's taps `block1`, `qkv1`, ...

    Each tap gets a parameter of its shape added, as in `Smooth`.
    """

    width: int
    num_classes: int

    def setup(self):
        self.classifier = nn.Dense(self.num_classes)

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        taps = Taps(deltas)
        tap = movable(self, taps)
        patches = taps.shift("input", images).reshape(len(images), 2, 4, 2, 4, -1).mean((2, 4))
        patches = patches.reshape(len(images), 4, -1)
        x = jnp.concatenate([patches.mean(1, keepdims=True), patches], axis=1)
        for block in (1, 2, 3):
            qkv = tap(f"qkv{block}", nn.Dense(3 * self.width, name=f"qkv{block}")(x))
            x = tap(f"block{block}", nn.softplus(nn.Dense(self.width, name=f"block{block}")(qkv)))
        logits = self.classify(tap("embedding", x[:, 0]))
        logits = logits + self.param("logits_offset", nn.initializers.normal(1.0), logits.shape, logits.dtype)
        return Outputs(logits=logits, features=taps.features)

    def classify(self, embedding):
        return self.classifier(embedding)


def player(widths, classes, seed, image, heads=False, projects=0):
    """(network, its variables in the image's type), drawn by NumPy, which has nothing to compile.

    Args:
        widths: of `Smooth`, or one width of `SmoothTokens`.
    """
    tokens = isinstance(widths, int)
    network = SmoothTokens(widths, classes) if tokens else Smooth(widths, classes, heads, projects)
    random = np.random.RandomState(seed)

    def draw(path, x):
        kind = jax.tree_util.keystr(path[-1:], simple=True)
        scale = {"kernel": x.shape[0] ** -0.5, "bias": 0.0, "logits_offset": 1.0}.get(kind, 0.3)
        return (scale * random.standard_normal(x.shape)).astype(image.dtype)

    return network, jax.tree_util.tree_map_with_path(draw, jax.eval_shape(network.init, jax.random.key(0), image))


def answer(network, variables, batch, method):
    """The `Outputs` that `method` asks for, with further views where it declares them."""
    images = (batch.image, *batch.views)
    found = [models.forward(network, variables, x, gradient_taps=method.gradient_taps)[0] for x in images]
    return found[0].replace(views=tuple(found[1:]))


def make_batch(method, dtype=jnp.float32, size=6, classes=5, epoch=0.0):
    """`size` examples at 8x8x2 in as many views as `method` declares."""
    random = np.random.RandomState(0)
    images = [jnp.asarray(random.uniform(size=(size, 8, 8, 2)), dtype) for _ in method.views]
    index = jnp.arange(size, dtype=jnp.int32)
    epoch = jnp.asarray(epoch, jnp.float32)
    return data.Batch(images[0], index % classes, index, epoch, views=tuple(images[1:]), examples=2 * size)


def keys():
    return {"params": jax.random.key(0), "method": jax.random.key(1)}


def asked(method, variables, student, teacher, batch):
    """((loss, terms), memory) as the strategies ask for them: what the method remembers may change."""
    mutable = [collection for collection in variables if collection != "params"]
    teacher = jax.lax.stop_gradient(teacher)
    rngs = {"method": jax.random.key(2)}
    return method.apply(variables, student, teacher, batch, rngs=rngs, mutable=mutable)


def loss_of(method, variables, student, teacher, batch):
    """The loss as the strategies ask for it."""
    return asked(method, variables, student, teacher, batch)[0][0]
