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
# # 4. Explanations
#
# Where does a network look, does the student look where its teacher does, and how faithful is the map? "Shapes" has
# masks: each image is one shape on a background, so the right place is known.

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
EPOCHS, IMAGES = 6, 200
TEACHER, STUDENT = "ResNet20", "ResNet8"
MAPS = ("GradCAM", "LayerCAM", "GradientTimesInput")

# %%
from models.xla_cpu import prepare

prepare()

import data
from studies import explaining
from training.train import train

recipe = {"dataset": "Shapes", "train_epoch": EPOCHS, "batch_size": 64, "schedule": "cosine"}
train({**recipe, "student_arch": TEACHER, "transfer": "Labels", "train_path": "runs/notebook/shapes"}, quiet=True)
for name in ("SoftLogits", "E2KD"):  # E2KD also compares the maps of student and teacher
    own = {"distiller": name, "teacher_param": "runs/notebook/shapes", "student_arch": STUDENT}
    found = train({**recipe, **own, "train_path": f"runs/notebook/shapes-{name.lower()}"}, quiet=True)
    print(f"{name:<12} {found['last']['top1']:.1f} %")

# %%
students = ["runs/notebook/shapes-softlogits", "runs/notebook/shapes-e2kd"]
shapes = data.load("Shapes")
explaining.draw("panel", students, shapes, "runs/notebook/shapes", "GradCAM", images="3")

# %% [markdown]
# Numbers: *pointing* is the share of images whose most important pixel lies on the shape; *insertion* and *deletion*
# add and take away pixels in the order of the map.

# %%
measured = explaining.measure(students, shapes, MAPS, "runs/notebook/shapes", images=IMAGES)
for path, row in zip(students, measured["networks"], strict=True):
    for name, values in row.items():
        print(
            f"{path.split('/')[-1]:<18} {name:<20} "
            + "  ".join(f"{key} {values[key]:.2f}" for key in ("pointing", "insertion", "deletion") if key in values)
        )
