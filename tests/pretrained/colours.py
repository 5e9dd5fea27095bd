"""A network of the tests' own, "colours:Colours", which classifies images by their mean colour, and its images."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image

from models.outputs import Outputs, Taps

FLAGS = ["--arch", "colours:Colours", "--dataset", "ImageFolder", "--image_size", "8"]
FLAGS += ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


class Colours(nn.Module):
    """One linear layer over the mean colour."""

    num_classes: int
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images, train=False, deltas=None):
        tap = Taps(deltas)
        embedding = tap("embedding", jnp.mean(tap.shift("input", images), axis=(1, 2)))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(embedding)
        return Outputs(logits=logits, features=tap.features)

    def torch_name(self, path):
        return f"fc.{'weight' if path[-1] == 'kernel' else 'bias'}"


def directions(classes):
    """[K, 3]: `classes` colours on a circle around grey."""
    angle = 2 * np.pi * np.arange(classes) / classes
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(classes)], axis=1).astype(np.float32)


def state(classes):
    """A state_dict that gives image number i of `images` the class i."""
    return {"fc.weight": directions(classes), "fc.bias": np.zeros(classes, np.float32)}


def images(folder, names):
    """Writes an ImageFolder with two test images a class; class number i of `names` has colour number i."""
    for name, direction in zip(names, directions(len(names)), strict=True):
        for split in ("train", "test"):
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                colour = tuple(np.round(127.5 + (100 + number) * direction).astype(int).tolist())
                Image.new("RGB", (8, 8), colour).save(folder / split / name / f"{number}.png")
    return folder
