"""SIGTERM and SIGINT: the first asks the run to save and stop, the second ends the process at once."""

import contextlib
import os
import signal
import threading

from registry import UserError

NUMBERS = (signal.SIGTERM, signal.SIGINT)
_early = threading.Event()  # a signal that came before there was anybody to stop
_alone = threading.Event()  # the process is one command line's, not a notebook's or one of several


NOTHING_LOST = "Interrupted before the first step; nothing is lost. The same command continues."


class Interrupted(UserError):
    """A signal arrived; the run is saved and the same command continues it."""

    exit_code = 75


class NothingToSave(KeyboardInterrupt):
    """A signal arrived before the first update of this process. No `except Exception` may take it for an error."""

    exit_code = Interrupted.exit_code


def before_training(one_of_several: bool = False) -> None:
    """From now on, and until `asked_to_stop`, a signal raises `NothingToSave`.

    One of several processes may not just go: the first signal waits for `asked_to_stop`, the second ends the process.
    """

    if not one_of_several:
        _alone.set()

    def handle(number, frame):
        if not one_of_several:
            raise NothingToSave(NOTHING_LOST)
        if _early.is_set():
            os._exit(128 + number)
        _early.set()

    for number in NUMBERS:
        signal.signal(number, handle)


class Stop(threading.Event):
    """Is set by the first signal.

    Attributes:
        at_once: while it is true, the first signal ends a command line's process: there is nothing to save, and a step
            that is being compiled would be long to wait for.
    """

    at_once = False


@contextlib.contextmanager
def asked_to_stop():
    """A `Stop` that the first signal sets; the second ends the process at once with 128 + its number.

    A handler in Python has to wait for compiled code to return, and two signals may then count as one. So a thread of
    its own reads them from a pipe, which the interpreter fills the moment they arrive.
    """
    stopping = Stop()
    if _early.is_set():
        _early.clear()
        stopping.set()
    if threading.current_thread() is not threading.main_thread():
        yield stopping  # only the main thread can have handlers
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch():
        count = 0
        while got := os.read(reader, 1):
            count += got[0] in NUMBERS
            if count == 1 and stopping.at_once and _alone.is_set():
                os.write(2, f"Error: {NOTHING_LOST}\n".encode())
                os._exit(Interrupted.exit_code)
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
