"""A real training process, killed without warning or asked to stop: the same command ends with the same bits."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
FLAGS = ["--distiller", "SoftLogits+AT", "--train_epoch", "3", "--batch_size", "100", "--log_every", "5"]
FLAGS += ["--config.crop_pad=1", "--config.checkpoint_seconds=0"]  # a checkpoint after every step
STEPS = 36
PATIENCE = 240.0


def start(folder, cache):
    return subprocess.Popen(
        [sys.executable, "train_w_kd.py", *FLAGS, "--train_path", str(folder)],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, cache):
    process = start(folder, cache)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    return output


def reached(folder):
    """The newest whole checkpoint's step."""
    names = [p.name for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    return max(map(int, names), default=0)


def wait_for(folder, step, process):
    end = time.monotonic() + PATIENCE
    while reached(folder) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.005)


def contents(folder):
    files = ["metrics.jsonl", "last/weights.safetensors", "best/weights.safetensors"]
    return {name: (folder / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The cache of compiled programs, and what an uninterrupted run leaves."""
    root = tmp_path_factory.mktemp("whole")
    finish(root / "run", root / "cache")
    return root / "cache", contents(root / "run")


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_bits(whole, tmp_path):
    cache, expected = whole
    rng, folder, killed = random.Random(0), tmp_path / "run", []
    for low, high in ((1, 8), (12, 20), (24, 30)):  # a chain of three; checkpoints are being written all the time
        process = start(folder, cache)
        wait_for(folder, rng.randint(low, high), process)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed.append(reached(folder))
        assert not (folder / "summary.json").exists()
    assert killed == sorted(set(killed))
    output = finish(folder, cache)
    assert "Continuing at step" in output
    assert contents(folder) == expected
    assert json.loads((folder / "summary.json").read_text())["steps"] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_saves_and_exits_with_75(number, whole, tmp_path):
    cache, expected = whole
    process = start(tmp_path / "run", cache)
    wait_for(tmp_path / "run", 5, process)
    process.send_signal(number)
    asked = time.monotonic()
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 75, output
    assert time.monotonic() - asked < 10
    assert f"saved in {tmp_path / 'run'}" in output
    assert "Traceback" not in output
    finish(tmp_path / "run", cache)
    assert contents(tmp_path / "run") == expected
