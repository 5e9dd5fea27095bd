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
# # 1. Distil in ten minutes
#
# A teacher, a student on labels alone, and the same student taught by the teacher. It runs on a CPU in some minutes,
# and on a Colab GPU with MNIST. The first cell installs the library, if it is not there.

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
# "Digits" (8x8) is embedded. "MNIST" is prepared by TensorFlow Datasets at its first use (`pip install
# tensorflow-cpu`). The student is a plain convolutional network, `models/cnn.py`.

# %% tags=["parameters"]
DATASET, EPOCHS, LABELS = "Digits", 20, 100
TEACHER, STUDENT = "ResNet20", "CNN"
RUNS = "runs/notebook"

# %%
from models.xla_cpu import prepare

prepare()  # what JAX must know on a CPU before it starts; nothing elsewhere

from training.train import train

recipe = {"dataset": DATASET, "train_epoch": EPOCHS, "batch_size": 64, "schedule": "cosine"}
teacher = train({**recipe, "student_arch": TEACHER, "transfer": "Labels", "train_path": f"{RUNS}/teacher"}, quiet=True)
print(f"teacher: {teacher['last']['top1']:.1f} %")

# %% [markdown]
# The student sees the labels of 100 images. The teacher has seen all, and answers for every image.

# %%
few = {**recipe, "student_arch": STUDENT, "num_labels": LABELS}
alone = train({**few, "transfer": "Labels", "train_path": f"{RUNS}/alone"}, quiet=True)
soft = {"distiller": "SoftLogits", "transfer": "Offline", "teacher_param": f"{RUNS}/teacher"}
taught = train({**few, **soft, "train_path": f"{RUNS}/taught"}, quiet=True)
print(f"labels alone: {alone['last']['top1']:.1f} %   taught: {taught['last']['top1']:.1f} %")

# %% [markdown]
# The same from a command line:
#
# ```
# python train_w_kd.py --distiller SoftLogits --transfer Offline --teacher_param runs/notebook/teacher \
#     --student_arch CNN --dataset Digits --num_labels 100
# ```
#
# A report page on the runs:

# %%
from studies import report

report.main([pathlib.Path(f"{RUNS}/alone"), pathlib.Path(f"{RUNS}/taught")], pathlib.Path(f"{RUNS}/report"))

# %% [markdown]
# ## A digit of your own
#
# Draw a digit, white on black, or read a photograph of one: `Image.open("seven.jpg").convert("L")`, inverted if the
# paper is white.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

picture = Image.new("L", (280, 280))
ImageDraw.Draw(picture).line([(70, 50), (210, 50), (120, 240)], fill=255, width=36)
picture

# %%
import pretrained
from data import load
from pretrained.players import player_of

data = load(DATASET)
side = data.image_shape[0]
small = np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32)[None, :, :, None] / 255
for name in ("teacher", "alone", "taught"):
    player, variables = player_of(pretrained.load(f"{RUNS}/{name}"), "network", dataset=data)
    scores = np.asarray(player.forward(variables, small)[0].logits[0])
    chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    print(f"{name:<8} says {data.class_names[scores.argmax()]}, with {100 * chances.max():.0f} %")

# %%
plt.imshow(small[0, :, :, 0], cmap="gray")
plt.axis("off")
plt.show()
