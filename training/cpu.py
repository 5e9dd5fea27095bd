"""What a process needs to be fast on a CPU, set before JAX starts.

XLA:CPU allocates the temporaries of every call anew. glibc gives blocks of some MiB back to the kernel and asks for
them again, page by page; on the distillation step of `benchmarks/step.py` those page faults cost more than a third of
the time. So freed memory is kept, in huge pages, and what compiling leaves between the blocks in use is put aside.
"""

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
POOL = 2**31  # bytes of heap in huge pages; touched only as far as they are used
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # <malloc.h>
MADV_HUGEPAGE = 14
SPLINTERS = range(2**14, 2**19)  # bytes of a free block that is put aside
FREE_BLOCKS = re.compile(rb'<size from="(\d+)" to="\d+" total="\d+" count="(\d+)"/>')  # in malloc_info's XML


def tune() -> None:
    """Keeps freed memory; to be called once, before JAX's first computation.

    Does nothing off Linux with glibc, and nothing where KD_CPU_TUNING=0. The process's resident memory stays at its
    peak, as it does with an accelerator's.
    """
    if os.environ.get("KD_CPU_TUNING") == "0" or sys.platform != "linux":
        return
    libc = _libc()
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26), (M_ARENA_MAX, 1)):
        libc.mallopt(option, value)
    block = libc.malloc(POOL)  # the heap grows by it once and keeps it
    if block:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(POOL - mmap.PAGESIZE), MADV_HUGEPAGE)
        libc.free(block)
    splinters.wanted = True


class Splinters:
    """The free blocks of 16 to 512 KiB that compiling leaves in the heap, allocated so that malloc does not see them.

    A convolution asks for 74 KB about a hundred times, and malloc walks its sorted lists of free blocks for each, first
    for one that fits and then to put away what it did not need of that one. Compiling leaves thousands of such blocks,
    some 150 MB; on the distillation step of `benchmarks/step.py` the walks cost a fifth of the time. What is put aside
    does not serve what is compiled later: a process that goes on compiling grows with each program until `take_back`.
    """

    def __init__(self):
        self.wanted = False  # by `tune`
        self._due, self._watching, self._blocks = True, False, []

    def put_aside(self) -> None:
        """Takes them if anything was compiled since the last time, in 0.03 s; not where `tune` did nothing."""
        if not (self.wanted and self._due):
            return
        if not self._watching:
            from jax import monitoring

            monitoring.register_event_duration_secs_listener(self._watch)
        self._due, self._watching = False, True
        libc = _libc()
        for size, count in free_blocks(libc):
            if size in SPLINTERS:
                self._blocks += [libc.malloc(size - 16) for _ in range(count)]

    def take_back(self) -> None:
        """Frees them, for whatever is compiled next."""
        if self._blocks:
            libc = _libc()
            while self._blocks:
                libc.free(self._blocks.pop())
        self._due = True

    def _watch(self, event: str, seconds: float, **_) -> None:
        self._due |= event == "/jax/core/compile/backend_compile_duration"


splinters = Splinters()


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


def free_blocks(libc: ctypes.CDLL) -> list[tuple[int, int]]:
    """(smallest size, how many) for each of the lists of free blocks that malloc keeps by size, largest first."""
    libc.open_memstream.restype = ctypes.c_void_p
    text, length = ctypes.c_void_p(), ctypes.c_size_t()
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(length)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    report = ctypes.string_at(text, length.value)
    libc.free(text)
    lists = [tuple(map(int, match)) for match in FREE_BLOCKS.findall(report.partition(b"</heap>")[0])]
    return [(size & ~15, count) for size, count in sorted(lists, reverse=True)]  # the low bits are flags


def jit_once(function: Callable, **options) -> Callable:
    """`jax.jit` for a program that runs once: on a CPU it is optimised little, which would take longer than it saves.

    Drawing the first weights of a ResNet-8 compiles in a quarter of the time.
    """
    import jax

    if jax.default_backend() == "cpu":
        options["compiler_options"] = QUICK
    return jax.jit(function, **options)
