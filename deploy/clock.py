"""Measures how long a call takes. Imports nothing of this library: other environments run this file, too."""

import statistics
import time

CALLS, SECONDS = 30, 2.0  # at most so many calls, and no further one after so many seconds


def latency(call, *arguments) -> float:
    """Returns the median time of a call in milliseconds, after one call that is not counted."""
    call(*arguments)
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < CALLS and (len(times) < 3 or time.perf_counter() < end):
        start = time.perf_counter()
        call(*arguments)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
