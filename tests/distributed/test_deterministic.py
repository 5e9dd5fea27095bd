"""`--deterministic` asks XLA and NCCL for repeatable sums before JAX starts."""

import os
import pathlib
import subprocess
import sys
import types

import pytest
from same_curve import environment

import train_w_kd
from configs import command
from configs.command import REPEATABLE
from models import xla_cpu
from registry import UserError
from training import builder
from training.devices import Devices
from training.train import train

ROOT = pathlib.Path(__file__).parents[2]
SHOW = "import os, sys, train_w_kd; from configs import command; command.prepare(train_w_kd.parse(sys.argv[1:])); "
SHOW += "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized(); "
SHOW += "print(os.environ['XLA_FLAGS'], os.environ['NCCL_ALGO'], sep='|')"


@pytest.mark.slow
def test_environment_is_set_before_jax_starts():
    given = {**environment(), "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, "--config.deterministic=True"],
        cwd=ROOT,
        env={name: value for name, value in given.items() if name != "NCCL_ALGO"},
        capture_output=True,
        text=True,
        check=True,
    )
    flags, algorithm = shown.stdout.strip().split("|")
    assert flags.split() == ["--xla_gpu_autotune_level=0", REPEATABLE, xla_cpu.FLAG]
    assert algorithm == "Ring"


@pytest.mark.parametrize(
    ("argv", "given", "expected"),
    [
        ([], {}, ("--a", None)),
        (["--deterministic"], {}, (f"--a {REPEATABLE}", "Ring")),
        (["--deterministic=True"], {"NCCL_ALGO": "Tree"}, (f"--a {REPEATABLE}", "Tree")),
        (["--deterministic", "False"], {}, ("--a", None)),
    ],
    ids=str,
)
def test_what_is_set_is_what_was_asked_for(argv, given, expected, monkeypatch):
    monkeypatch.setattr(command, "tune", lambda: None)
    clean = {name: value for name, value in os.environ.items() if name != "NCCL_ALGO"}
    monkeypatch.setattr(os, "environ", {**clean, "XLA_FLAGS": "--a", **given})
    command.prepare(train_w_kd.parse(argv))
    assert (os.environ["XLA_FLAGS"], os.environ.get("NCCL_ALGO")) == expected


def test_set_too_late_on_a_gpu_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(builder, "here", lambda: Devices((types.SimpleNamespace(platform="gpu"),)))
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(UserError, match=f"XLA_FLAGS={REPEATABLE}"):
        train({"deterministic": True, "train_path": str(tmp_path / "run")}, quiet=True)
    assert not (tmp_path / "run").exists()
