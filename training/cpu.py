"""What a process needs to be fast on a CPU, set before JAX starts.

XLA:CPU allocates the temporaries of every call anew. glibc gives blocks of some MiB back to the kernel and asks for
them again, page by page; on the distillation step of `benchmarks/step.py` those page faults cost more than a third of
the time. So freed memory is kept, in huge pages. That goes for the main thread's heap alone, and so JAX runs programs
in the thread that calls them. XLA's compiling threads have heaps of their own: with one for all they wait for each
other, and what they leave in it makes every search for a free block longer.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
POOL = 2**31  # bytes of heap in huge pages; touched only as far as they are used
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # <malloc.h>
MADV_HUGEPAGE = 14


def tune() -> None:
    """Keeps freed memory; to be called once, in the main thread, before JAX's first computation.

    Does nothing off Linux with glibc, and nothing where KD_CPU_TUNING=0. The process's resident memory stays at its
    peak, as it does with an accelerator's.
    """
    if os.environ.get("KD_CPU_TUNING") == "0" or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return
    import jax

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


def jit_once(function: Callable, **options) -> Callable:
    """`jax.jit` for a program that runs once: on a CPU it is optimised little, which would take longer than it saves.

    Drawing the first weights of a ResNet-8 compiles in a quarter of the time.
    """
    import jax

    if jax.default_backend() == "cpu":
        options["compiler_options"] = QUICK
    return jax.jit(function, **options)
