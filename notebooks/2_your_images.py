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
# # 2. Your own images
#
# A folder with a subfolder for each class becomes a dataset. A network that knows other classes starts yours, and then
# teaches a smaller one. Validation images choose the best weights; the test images are measured once.

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

# %% [markdown]
# Put your photographs into `DIR/train/CLASS/` and `DIR/test/CLASS/`. Here the cell draws coloured shapes into such a
# folder, so that the notebook runs without data.

# %% tags=["parameters"]
DIR, EACH, EPOCHS = "runs/notebook/photographs", 60, 6
TEACHER, STUDENT, SIDE = "ResNet20", "ResNet8", 32

# %%
import numpy as np
from PIL import Image

from data import load

drawn = load("Shapes")
for split, images, labels in (
    ("train", drawn.train.images, drawn.train.labels),
    ("test", drawn.test.images, drawn.test.labels),
):
    for label, name in enumerate(drawn.class_names[:3]):
        folder = pathlib.Path(DIR) / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in np.flatnonzero(labels == label)[:EACH]:
            Image.fromarray(images[number]).save(folder / f"{number}.png")

# %%
from models.xla_cpu import prepare

prepare()

from training.train import train

recipe = {"dataset": "ImageFolder", "data_dir": DIR, "image_size": SIDE, "val_split": 0.2}
recipe |= {"batch_size": 24, "train_epoch": EPOCHS, "schedule": "cosine"}
# a network that has been trained on something else; yours may be an ImageNet network (docs/your_data.md)
train(
    {"dataset": "Shapes", "student_arch": TEACHER, "transfer": "Labels", "batch_size": 64}
    | {"train_epoch": max(1, EPOCHS // 3), "train_path": "runs/notebook/start"},
    quiet=True,
)
tuned = train(
    {**recipe, "student_arch": TEACHER, "transfer": "Labels", "init_param": "runs/notebook/start"}
    | {"learning_rate": 0.01, "head_learning_rate": 0.05, "train_path": "runs/notebook/tuned"},
    quiet=True,
)
print(f"teacher, fine-tuned: {tuned['best']['top1']:.1f} % on test images, chosen on {tuned['best_on']}")

# %%
small = train(
    {**recipe, "student_arch": STUDENT, "distiller": "SoftLogits", "teacher_param": "runs/notebook/tuned"}
    | {"train_path": "runs/notebook/small"},
    quiet=True,
)
print(f"student: {small['best']['top1']:.1f} %")

# %% [markdown]
# Which classes are hard, and where do the networks look?

# %%
from studies import explaining

data = load("ImageFolder", data_dir=DIR, image_size=SIDE)
explaining.draw("panel", ["runs/notebook/small"], data, "runs/notebook/tuned", "GradCAM", images="3")
