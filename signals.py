"""SIGTERM and SIGINT: the first signal asks the run to save and stop, the second ends the process at once."""

import contextlib
import os
import signal
import threading

from registry import UserError

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(UserError):
    """A signal arrived. The run is saved, and the same command continues the run."""

    exit_code = 75


@contextlib.contextmanager
def asked_to_stop():
    """Yields a `threading.Event` that the first signal sets. At the end the earlier handlers are restored.

    A Python handler runs only after compiled code has returned. The handler must not raise either, because a callback
    that it interrupts may swallow the error. Therefore the interpreter writes each signal to a pipe at once, and a
    thread reads the pipe and ends the process at the second signal.
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
