"""What JAX allocates and frees in a call is not given back to the kernel in between."""

import os
import platform
import subprocess
import sys

import pytest

GLIBC = platform.libc_ver()[0] == "glibc"  # elsewhere `tune` does nothing

FAULTS = """
import ctypes, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages are of 4 KiB everywhere
from models.xla_cpu import process
process.tune()
import jax, jax.numpy as jnp

a, b = jnp.ones((1280, 16)), jnp.ones((16, 8192))
program = jax.jit(lambda a, b: jnp.sum(jnp.sin(a @ b)))  # by way of 40 MiB, more than malloc keeps by itself
counts = []
for _ in range(7):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(a, b).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(counts)[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="the heap that keeps its pages, and the counting of them, are of glibc on Linux")
def test_a_call_takes_no_new_pages_where_the_tuning_is_on():
    def faults(tuning):
        environment = {**os.environ, "KD_CPU_TUNING": tuning, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", FAULTS]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert faults("1") < 1000 < faults("0")  # 40 MiB are 10,240 pages


PREPARED = """
from configs import command
command.tune()
import jax
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized(), jax.config.values["jax_cpu_enable_async_dispatch"])
"""


@pytest.mark.slow
def test_the_command_lines_tune_before_jax_starts():
    environment = {**os.environ, "KD_CPU_TUNING": "1", "JAX_COMPILATION_CACHE_DIR": "unused"}
    command = [sys.executable, "-c", PREPARED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(not GLIBC)]
