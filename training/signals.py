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


class NothingToSave(KeyboardInterrupt):
    """A signal arrived before the first update of this process. No `except Exception` may take it for an error."""

    exit_code = Interrupted.exit_code


def before_training() -> None:
    """From now on, and until `asked_to_stop`, a signal raises `NothingToSave`."""

    def handle(number, frame):
        raise NothingToSave("Interrupted before the first step; nothing is lost. The same command continues.")

    for number in NUMBERS:
        signal.signal(number, handle)


@contextlib.contextmanager
def asked_to_stop():
    """An Event that the first signal sets; the second ends the process at once with 128 + its number.

    A handler in Python has to wait for compiled code to return, and two signals may then count as one. So a thread of
    its own reads them from a pipe, which the interpreter fills the moment they arrive.
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
