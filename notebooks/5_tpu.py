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
# # 5. A TPU in Colab
#
# The same command runs on a TPU: the step is one compiled program over all of its devices. Where there is no TPU, the
# notebook runs on what is there, and the last cell asks the TPU's compiler about the same run (extra `aot`).

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
DATASET, TEACHER, STUDENT, EPOCHS, BATCH, SEEDS = "Digits", "ResNet20", "ResNet8", 10, 64, 2

# %%
from models.xla_cpu import prepare

prepare()

import jax

devices = jax.devices()
print(f"{len(devices)} x {devices[0].device_kind}")

# %% [markdown]
# On a TPU use bfloat16, and a batch that all devices share. Several seeds train side by side.

# %%
from training.train import train

tpu = devices[0].platform == "tpu"
recipe = {"dataset": DATASET, "train_epoch": EPOCHS, "batch_size": BATCH, "schedule": "cosine"}
recipe |= {"dtype": "bfloat16" if tpu else "float32"}
train({**recipe, "student_arch": TEACHER, "transfer": "Labels", "train_path": "runs/notebook/tpu-teacher"}, quiet=True)
found = train(
    {**recipe, "student_arch": STUDENT, "distiller": "SoftLogits", "teacher_param": "runs/notebook/tpu-teacher"}
    | {"seeds": SEEDS, "train_path": "runs/notebook/tpu-student"},
    quiet=True,
)
top1 = found["last"]["top1"]
print(f"{top1['mean']:.1f} ± {top1['std']:.1f} %, {found['images_per_second']:,.0f} images/s")
