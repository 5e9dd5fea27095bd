"""SIGTERM and SIGINT: the first asks the run to save and stop, the second ends the process at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from registry import UserError

NUMBERS = (signal.SIGTERM, signal.SIGINT)
NOTHING_LOST = "Interrupted at the start; nothing is lost. The same command continues."


class Interrupted(UserError):
    """A signal arrived; the run is saved and the same command continues it."""

    exit_code = 75


class Stop(threading.Event):
    """Is set by the first signal.

    Attributes:
        at_once: while it is true, the first signal ends the process: there is next to nothing to save, and a step that
            is being compiled, or a large teacher's answer, would be long to wait for.
    """

    at_once = False


_begun: Stop | None = None  # a command line's, from its start to its training


def before_training(one_of_several: bool = False) -> None:
    """From now on, in the process of a command line, signals are heard; at the start the first one ends it.

    One of several processes may not just go: the first signal waits until all can stop together.
    """
    global _begun
    _begun, _ = _listen()
    _begun.at_once = not one_of_several


@contextlib.contextmanager
def asked_to_stop():
    """The `Stop` of this training.

    That of `before_training`, whose process ends with the training: a signal that comes later changes nothing any
    more. Elsewhere, as in a notebook, the handlers there were come back, and no signal ends the process before its
    second.
    """
    global _begun
    if _begun:
        stopping, _begun = _begun, None
        yield stopping
    elif threading.current_thread() is not threading.main_thread():
        yield Stop()  # only the main thread can have handlers
    else:
        stopping, leave = _listen()
        try:
            yield stopping
        finally:
            leave()


def _listen() -> tuple[Stop, Callable]:
    """A `Stop` that signals set from now on, and what ends that; the second signal ends the process.

    A handler in Python has to wait for compiled code to return, may not raise (what it interrupts can be a callback
    that swallows errors), and two signals may count as one. So a thread of its own reads them from a pipe, which the
    interpreter fills the moment they arrive.
    """
    stopping = Stop()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch():
        count = 0
        while got := os.read(reader, 1):
            count += got[0] in NUMBERS
            if count == 1 and stopping.at_once:
                os.write(2, f"Error: {NOTHING_LOST}\n".encode())
                os._exit(Interrupted.exit_code)
            if count == 2:
                os._exit(128 + got[0])
        os.close(reader)

    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in NUMBERS}
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()

    def leave():
        signal.set_wakeup_fd(before)
        os.close(writer)
        for number, handler in previous.items():
            signal.signal(number, handler)

    return stopping, leave
