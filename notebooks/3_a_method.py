# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Write a method
#
# A method is a linen Module that returns a loss. Here it is written in a cell, tried on two networks, and trained.
# In a file `distiller/my_method.py` with one line in `distiller/__init__.py` it has a name, a recipe and tests
# (docs/add_a_method.md).

# %%
import importlib.util
import os
import pathlib
import subprocess
import sys

here = pathlib.Path.cwd()
root = here if (here / "train_w_kd.py").exists() else here.parent
if not (root / "train_w_kd.py").exists():  # Colab: KD_COOKBOOK is the repository's address
    subprocess.run(["git", "clone", "--depth", "1", os.environ["KD_COOKBOOK"], "kd-cookbook"], check=True)
    root = here / "kd-cookbook"
if importlib.util.find_spec("flax") is None or importlib.util.find_spec("optax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", str(root)], check=True)
os.chdir(root)
sys.path.insert(0, str(root))

# %% tags=["parameters"]
EPOCHS = 8

# %%
from models.xla_cpu import prepare

prepare()

import flax.linen as nn
import jax
import jax.numpy as jnp

from distiller.base import Distiller
from options import not_negative


class Margin(Distiller):
    """The margin of the teacher's class over each other class, squared difference.

    Paper: yours
    """

    weight: float = not_negative(0.1)

    @nn.compact
    def __call__(self, student, teacher, batch):
        best = teacher.logits.argmax(axis=1)[:, None]

        def margins(logits):
            return jnp.take_along_axis(logits, best, axis=1) - logits

        loss = self.weight * jnp.mean(jnp.square(margins(student.logits) - margins(teacher.logits)))
        return loss, {"Margin": loss}


# %% [markdown]
# One gradient, with the shipped teacher of the digits:

# %%
import data
import models
import pretrained

weights, digits = pretrained.load("pretrained/resnet20_digits"), data.load("Digits")
images = (digits.train.images[:64] / 255 - weights.info["mean"]) / weights.info["std"]
teacher, student = models.create("ResNet20", num_classes=10), models.create("CNN", num_classes=10)
variables = jax.jit(student.init)(jax.random.key(0), images)
method = Margin()


def loss(params):
    taught, _ = models.forward(teacher, weights.variables, images)
    outputs, _ = models.forward(student, {**variables, "params": params}, images, train=True)
    return method.apply({}, outputs, taught, batch=None)[0]


value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"])
print(
    f"loss {float(value):.3f}; the gradient is finite: {all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))}"
)

# %% [markdown]
# `--distiller my_method:Margin` takes the class from a file `my_method.py` of yours. The cell makes such a module of
# the class above.

# %%
from training.train import train

sys.modules["my_method"] = type(sys)("my_method")
sys.modules["my_method"].Margin = Margin
recipe = {"dataset": "Digits", "student_arch": "CNN", "num_labels": 100, "train_epoch": EPOCHS}
for name in ("my_method:Margin", "SoftLogits"):
    path = f"runs/notebook/{name.split(':')[-1].lower()}"
    found = train({**recipe, "distiller": name, "train_path": path}, quiet=True)
    print(f"{name:<18} {found['last']['top1']:.1f} %")
