"""SIGTERM and SIGINT: the first asks the run to save and stop, the second ends the process at once."""

import contextlib
import os
import signal
import threading

from registry import UserError

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(UserError):
    """A signal arrived; the run is saved and the same command continues it."""

    exit_code = 75


@contextlib.contextmanager
def asked_to_stop():
    """Yields a `threading.Event` that the first signal sets. Afterwards the earlier handlers are back.

    A handler in Python has to wait for compiled code to return, and may not raise: it can interrupt a callback that
    swallows errors. Therefore a thread reads the signals from a pipe, which the interpreter fills at once, and ends
    the process at the second signal.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping  # only the main thread can have handlers
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch():
        count = 0
        while got := os.read(reader, 1):
            count += got[0] in NUMBERS
            if count == 2:
                os._exit(128 + got[0])
        os.close(reader)

    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in NUMBERS}
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield stopping
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        for number, handler in previous.items():
            signal.signal(number, handler)
