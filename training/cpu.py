"""What a process needs to be fast on a CPU, set before JAX starts.

XLA:CPU allocates the temporaries of every call anew. glibc gives blocks of some MiB back to the kernel and asks for
them again, page by page; on the distillation step of `benchmarks/step.py` those page faults cost more than a third of
the time. So freed memory is kept, in huge pages.

Sums may be taken in another order than without it, and a ReLU may turn NaN into 0: what is not finite is looked for in
weights, logits, losses and checkpoints, not in activations.
"""

import ctypes
import functools
import importlib.metadata
import mmap
import os
import re
import sys
from collections.abc import Callable

TESTED_JAXLIB = ("0.10.", "0.12.")  # an XLA that does not know a flag ends the process, so only these get it
# Small matrix products, element-wise chains and reductions go to the library that XLA ships for them.
OPTION = "xla_cpu_experimental_ynn_fusion_type"
FLAGS = (
    f"--{OPTION}=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_ELTWISE,"
    "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
)
UNTUNED = {OPTION: ""}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# What LAPACK computes lies column by column, which that library does not take, and XLA then refuses the program.
LAPACK = re.compile(r"\b(cholesky|eigh?|householder_product|lu|qr|schur|svd|triangular_solve|tridiagonal\w*)\[")
POOL = 2**31  # bytes of heap in huge pages; touched only as far as they are used
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # <malloc.h>
MADV_HUGEPAGE = 14


def tune() -> None:
    """Keeps freed memory and sets XLA's flags; to be called once, before JAX's first computation.

    Does nothing off Linux with glibc, and nothing where KD_CPU_TUNING=0. The process's resident memory stays at its
    peak, as it does with an accelerator's.
    """
    if os.environ.get("KD_CPU_TUNING") == "0" or sys.platform != "linux":
        return
    known = importlib.metadata.version("jaxlib").startswith(TESTED_JAXLIB)
    if known and "ynn_fusion" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26), (M_ARENA_MAX, 1)):
        libc.mallopt(option, value)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(POOL)  # the heap grows by it once and keeps it
    if block:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(POOL - mmap.PAGESIZE), MADV_HUGEPAGE)
        libc.free(block)


def jit_once(function: Callable, **options) -> Callable:
    """`jax.jit` for a program that runs once: on a CPU it is optimised little, which would take longer than it saves.

    Drawing the first weights of a ResNet-8 compiles in a quarter of the time.
    """
    import jax

    if jax.default_backend() == "cpu":
        options["compiler_options"] = {**UNTUNED, **QUICK} if _tuned() else QUICK
    return jax.jit(function, **options)


def _tuned() -> bool:
    return OPTION in os.environ.get("XLA_FLAGS", "")


def jit(function: Callable, **options) -> Callable:
    """`jax.jit`; a program with linear algebra of LAPACK's in it is compiled without the flags of `tune`."""
    import jax

    plain, chosen = jax.jit(function, **options), []

    @functools.wraps(function)
    def call(*arguments):
        if not chosen:
            tuned = jax.default_backend() == "cpu" and _tuned()
            refused = tuned and LAPACK.search(str(plain.trace(*arguments).jaxpr))
            chosen.append(jax.jit(function, **options, compiler_options=UNTUNED) if refused else plain)
        return chosen[0](*arguments)

    call._cache_size = lambda: sum(compiled._cache_size() for compiled in chosen)  # programs compiled, as `jax.jit` has
    return call
