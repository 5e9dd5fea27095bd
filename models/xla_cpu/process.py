"""Settings of a process on a CPU, made before JAX starts: right numbers, and freed memory is kept.

XLA:CPU allocates the temporaries of every call again. glibc returns blocks of some MiB to the kernel and asks for them
again, page by page. These page faults cost more than a third of the distillation step of `benchmarks/step.py`. So
freed memory is kept, in huge pages. Only the main thread's heap can be kept, so JAX runs programs in the thread that
calls them. XLA's compiling threads have heaps of their own: in a common heap they would wait for each other, and the
blocks that they leave would make every search for a free block longer.
"""

import ctypes
import mmap
import os
import sys

import jax

from models import xla_cpu

POOL = 2**31  # bytes of heap in huge pages; they take memory only as far as they are used
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # <malloc.h>
MADV_HUGEPAGE = 14


def tune() -> None:
    """Switches off XLA's wrong fusions (`xla_cpu.prepare`) and keeps freed memory.

    Call it once, in the main thread, before JAX's first computation. KD_CPU_TUNING=0, or a system that is not Linux
    with glibc, leaves the memory alone. The process's resident memory stays at its peak, as an accelerator's does.
    """
    xla_cpu.prepare()
    if os.environ.get("KD_CPU_TUNING") == "0" or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26)):
        libc.mallopt(option, value)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(POOL)  # the heap grows by it once and keeps it
    if block:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(POOL - mmap.PAGESIZE), MADV_HUGEPAGE)
        libc.free(block)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
