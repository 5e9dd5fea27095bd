"""`--deterministic` asks XLA and NCCL for repeatable sums before JAX starts, and changes nothing on a CPU."""

import os
import subprocess
import sys

import pytest
from same_curve import RECIPE, environment

from models.xla_cpu import FLAG
from training import run

ROOT = run.__file__.rsplit("/", 2)[0]
SHOW = (
    "import os, sys; from training import cli; cli.define('deterministic'); cli.FLAGS(sys.argv); cli.choose_devices();"
)
SHOW += "assert 'jax' not in sys.modules; print(os.environ.get('XLA_FLAGS'), os.environ.get('NCCL_ALGO'), sep='|')"


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        ([], {}, f"{FLAG}|None"),
        (["--deterministic"], {}, f"{FLAG} --xla_gpu_deterministic_ops=true|Ring"),
        (["--config.deterministic=True"], {"XLA_FLAGS": "--a"}, f"--a {FLAG} --xla_gpu_deterministic_ops=true|Ring"),
        (["--deterministic"], {"NCCL_ALGO": "Tree"}, f"{FLAG} --xla_gpu_deterministic_ops=true|Tree"),
    ],
)
def test_environment_is_set_before_jax_is_imported(flags, given, expected):
    clean = {key: value for key, value in environment().items() if key != "NCCL_ALGO"}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, *flags],
        cwd=ROOT,
        env={**clean, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == expected


def test_set_too_late_on_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(run.jax, "default_backend", lambda: "gpu")
    monkeypatch.setitem(os.environ, "XLA_FLAGS", "")
    with pytest.raises(run.UserError, match="XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        run.train({"deterministic": True}, quiet=True)


@pytest.mark.slow
def test_a_cpu_gives_the_same_bits_with_and_without(runs, on_devices, tmp_path):
    recipe = {**RECIPE, "deterministic": True, "train_path": str(tmp_path / "run")}
    on_devices(1, {"train": recipe}, XLA_FLAGS="--xla_gpu_deterministic_ops=true")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (runs(1).folder / "metrics.jsonl").read_bytes()
