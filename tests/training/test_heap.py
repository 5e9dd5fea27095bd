"""Free blocks that compiling leaves in the heap are put aside, and come back."""

import os
import platform
import subprocess
import sys

import pytest

from training import cpu
from training.run import train

HOLES = """
from training import cpu

cpu.tune()
import jax

libc = cpu._libc()

def leave_holes():
    blocks = [libc.malloc(size) for size in (80_000, 300_000) for _ in range(200)]
    for block in blocks[::2]:  # of neighbours, every other one: none of them melts into a larger block
        libc.free(block)

def holes():
    return sum(count for size, count in cpu.free_blocks(libc) if size in cpu.SPLINTERS)
"""

USED = """
leave_holes()
assert holes() >= 200, holes()
cpu.splinters.put_aside()
assert holes() < 20, holes()
leave_holes()
cpu.splinters.put_aside()
assert holes() >= 200, "nothing was compiled"
jax.jit(lambda x: x + 1)(1.0)
cpu.splinters.put_aside()
assert holes() < 20, holes()
cpu.splinters.take_back()
assert holes() >= 200, holes()
"""

UNUSED = """
leave_holes()
before = holes()
cpu.splinters.put_aside()
assert holes() == before >= 200, (holes(), before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc lists its free blocks; `tune` does nothing")
@pytest.mark.parametrize(("code", "tuning"), [(USED, "1"), (UNUSED, "0")])
def test_splinters_are_put_aside_after_compiling_and_given_back_where_the_tuning_is_on(code, tuning):
    environment = {**os.environ, "KD_CPU_TUNING": tuning}
    command = [sys.executable, "-c", HOLES + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_puts_them_aside_after_its_first_update_and_gives_them_back_at_its_end(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(cpu.splinters, "put_aside", lambda: calls.append("aside"))
    monkeypatch.setattr(cpu.splinters, "take_back", lambda: calls.append("back"))
    recipe = {"transfer": "Labels", "student_arch": "CNN", "train_epoch": 1, "batch_size": 25, "num_labels": 50}
    train({**recipe, "train_path": str(tmp_path / "run")}, quiet=True)
    assert set(calls[:-1]) == {"aside"}
    assert calls[-1] == "back"
