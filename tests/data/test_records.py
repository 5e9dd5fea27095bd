"""Records decoded by several processes are what one process decodes."""

import os
import subprocess
import sys

import numpy as np
import pytest

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


@pytest.mark.parametrize(("split", "shares"), [("train", ["2-4", "4-7"]), ("test", ["2-4"])])
def test_helpers_read_their_shares(split, shares, prepared, started, monkeypatch):
    own = []
    decode = records._decode
    monkeypatch.setattr(records, "_decode", lambda *args: (own.append(args[1]), decode(*args)))
    check(prepared, split)
    assert ["-".join(command[-2:]) for command in started] == shares
    assert own == [0]  # nothing was decoded in their place


def test_small_split_has_no_helper(prepared, started, monkeypatch):
    monkeypatch.setattr(records, "SHARE", 100)
    check(prepared, "train")
    assert started == []


@pytest.mark.parametrize("failure", ["ends", "writes nothing", "does not start", "has no room"])
def test_failing_helpers_share_is_read_all_the_same(failure, prepared, started, monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError("no usable temporary directory")

    if failure == "has no room":
        monkeypatch.setattr(records.tempfile, "TemporaryFile", refuse)
    else:
        program = {"ends": "/bin/false", "writes nothing": "/bin/true"}.get(failure, "/nothing/here")
        monkeypatch.setattr(records.sys, "executable", program)
    check(prepared, "train")


def test_helpers_are_gone_when_reading_fails(prepared, started, monkeypatch):
    helpers = []

    class Popen(records.subprocess.Popen):
        def __init__(self, command, **streams):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **streams)
            helpers.append(self)

    def damaged(*args):
        raise ValueError("damaged")

    monkeypatch.setattr(records.subprocess, "Popen", Popen)
    monkeypatch.setattr(records, "_decode", damaged)
    with pytest.raises(ValueError, match="damaged"):
        records.read(version(prepared), "train")
    assert [helper.returncode for helper in helpers] == [-9, -9]


def test_helper_without_its_parent_ends(prepared, tmp_path):
    """What started it has been killed: it does not decode to the end for nobody."""
    code = (
        "import os, sys; from data import records; records.CHUNK = 1; parents = iter([1, 1, 2]);"
        "os.getppid = lambda: next(parents); records._main(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(version(prepared)), "train", "0", "7"]
    root = os.path.dirname(os.path.dirname(records.__file__))
    done = subprocess.run(command, capture_output=True, cwd=root)
    assert (done.returncode, done.stdout) == (1, b"")
