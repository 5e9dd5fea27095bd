"""Records decoded by several processes are what one process decodes."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data import records


@pytest.fixture
def started(monkeypatch):
    """The commands of the helpers; as on a machine of three cores with a split that is large enough for all."""
    commands = []

    class Popen(subprocess.Popen):
        def __init__(self, command, **streams):
            commands.append(command)
            super().__init__(command, **streams)

    monkeypatch.setattr(records.subprocess, "Popen", Popen)
    monkeypatch.setattr(records.os, "sched_getaffinity", lambda _: range(3), raising=False)
    monkeypatch.setattr(records, "SHARE", 2)
    monkeypatch.setattr(records, "CHUNK", 2)
    return commands


def version(prepared):
    return next(prepared[0].glob("cifar10/*"))


def check(prepared, split):
    images, labels = records.read(version(prepared), split)
    np.testing.assert_array_equal(images, prepared[1][split][0])
    np.testing.assert_array_equal(labels, prepared[1][split][1])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize(("split", "shares"), [("train", ["0-2", "2-4", "4-7"]), ("test", ["0-2", "2-4"])])
def test_helpers_read_their_shares(split, shares, prepared, started, monkeypatch):
    monkeypatch.setattr(records, "_decode", None)  # nothing is decoded in their place
    check(prepared, split)
    assert ["-".join(command[-2:]) for command in started] == shares


@pytest.mark.parametrize(("share", "cores"), [(100, 3), (2, 1)])
def test_small_split_or_single_core_has_no_helper(share, cores, prepared, started, monkeypatch):
    monkeypatch.setattr(records, "SHARE", share)
    monkeypatch.setattr(records.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    check(prepared, "train")
    assert started == []


def instead(extra="", code=0):
    """What a helper runs instead: it writes `extra` before zeros of the right size, and ends with `code`."""
    rows = "int(sys.argv[-1]) - int(sys.argv[-2])"
    size = f"({rows}) * (32 * 32 * 3 + 4)"
    return f"import sys; sys.stdout.write({extra!r} + {size} * chr(0)); sys.exit({code})"


FAILURES = {
    "writes nothing": "",
    "says something of its own": instead(extra="Hello."),
    "has an error": instead(code=1),
    "does not start": None,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_helpers_share_is_read_all_the_same(failure, prepared, started, monkeypatch):
    class Popen(records.subprocess.Popen):
        def __init__(self, command, **streams):
            if FAILURES[failure] is None:
                raise FileNotFoundError(command[0])
            super().__init__([sys.executable, "-c", FAILURES[failure], *command[-2:]], **streams)

    monkeypatch.setattr(records.subprocess, "Popen", Popen)
    check(prepared, "train")
    assert len(started) == (0 if FAILURES[failure] is None else 3)


def test_without_room_for_a_helpers_file_all_is_read_here(prepared, started, monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(records.tempfile, "TemporaryFile", refuse)
    check(prepared, "train")
    assert started == []


def test_helpers_are_gone_when_reading_fails(prepared, started, monkeypatch):
    helpers = []

    class Popen(records.subprocess.Popen):
        def __init__(self, command, **streams):
            still = "import time; time.sleep(60)" if helpers else "import sys; sys.exit(1)"
            super().__init__([sys.executable, "-c", still], **streams)
            helpers.append(self)

    def damaged(*args):
        raise ValueError("damaged")

    monkeypatch.setattr(records.subprocess, "Popen", Popen)
    monkeypatch.setattr(records, "_decode", damaged)
    with pytest.raises(ValueError, match="damaged"):
        records.read(version(prepared), "train")
    assert [helper.returncode for helper in helpers] == [1, -9, -9]


@pytest.mark.parametrize("alive", [True, False])
def test_helper_ends_early_without_its_parent(alive, prepared):
    """What started it has been killed: it does not decode to the end for nobody."""
    parent = os.getpid() if alive else os.getppid()  # it is this process that starts it
    files = records._files(records._source(version(prepared), "train"))
    command = [sys.executable, "-P", records.__file__, str(parent), "32x32x3", *files, "0", "7"]
    done = subprocess.run(command, capture_output=True, text=False)
    assert done.returncode == 1 - alive
    assert len(done.stdout) == alive * 7 * (32 * 32 * 3 + 4)
    assert b"Traceback" not in done.stderr


def encoded(kind, shape, dtype=np.uint8):
    random = np.random.RandomState(0).randint(0, 256, shape).astype(dtype)
    stream = io.BytesIO()
    Image.fromarray(random.squeeze()).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(8, 6, 1), (32, 32, 3), (200, 130, 3)], ids=str)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_pillows_bit_for_bit(kind, shape):
    content = encoded(kind, shape)
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(shape)
    np.testing.assert_array_equal(records._image(content, shape), expected)


UNFIT = {
    "other size": encoded("PNG", (8, 9, 3)),
    "grey": encoded("PNG", (8, 8, 1)),
    "four channels": encoded("PNG", (8, 8, 4)),
    "16 bits": encoded("PNG", (8, 8, 1), np.uint16),
    "cut PNG": encoded("PNG", (8, 8, 3))[:-30],
    "cut JPEG": encoded("JPEG", (8, 8, 3))[:-30],
    "no image": b"hello",
}


@pytest.mark.parametrize("content", UNFIT)
def test_what_is_not_such_an_image_is_refused(content, capfd):
    with pytest.raises(ValueError, match=r"not \(8, 8, [13]\) uint8"):
        records._image(UNFIT[content], (8, 8, 1) if content == "16 bits" else (8, 8, 3))
    capfd.readouterr()  # what OpenCV says of it
