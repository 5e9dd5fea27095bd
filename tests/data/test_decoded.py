"""Decoded splits are kept, and made again when the cache or its source is not what it was."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from data import decoded

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = np.random.RandomState(0).randint(0, 256, (7, 4, 4, 3)).astype(np.uint8)
LABELS = np.arange(7, dtype=np.int32)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Calls `kept` and checks its arrays; `decoded` counts the calls of the decoder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    source = tmp_path / "records"
    source.write_bytes(b"anything")

    def decode():
        get.decoded += 1
        return IMAGES, LABELS, np.asarray(["a line"])

    def get():
        images, labels, notes = decoded.kept("toy", [source], decode)
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)
        assert (images.dtype, labels.dtype, notes.tolist()) == (np.uint8, np.int32, ["a line"])

    get.decoded, get.source, get.folder = 0, source, tmp_path / "home/kd-cookbook/decoded"
    return get


def test_second_start_decodes_nothing(cache, capsys):
    cache()
    cache()
    assert cache.decoded == 1
    assert [path.suffix for path in cache.folder.iterdir()] == [".npys"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["size", "time", "opencv", "pillow"])
def test_changed_source_is_decoded(change, cache, monkeypatch):
    cache()
    if change == "size":
        time = cache.source.stat().st_mtime_ns
        cache.source.write_bytes(b"anything else")
        os.utime(cache.source, ns=(time, time))
    elif change == "time":
        os.utime(cache.source, ns=(1, 1))
    else:
        monkeypatch.setattr(decoded.cv2 if change == "opencv" else decoded.PIL, "__version__", "0.0")
    cache()
    assert cache.decoded == 2
    assert len(list(cache.folder.iterdir())) == 1  # the older arrays of the same name are removed


@pytest.mark.parametrize("damage", ["bit", "short", "empty", "other"])
def test_damaged_cache_is_named_and_made_again(damage, cache, capsys):
    cache()
    (path,) = cache.folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes({"bit": content, "short": content[:-9], "empty": b"", "other": b"{}" * 50}[damage])
    cache()
    assert f"Warning: {path} is damaged" in capsys.readouterr().err
    cache()
    assert cache.decoded == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("obstacle", ["a file in the way", "no space", "little space"])
def test_what_cannot_be_kept_is_still_read(obstacle, cache, capsys, monkeypatch):
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if obstacle == "no space":
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    elif obstacle == "little space":
        monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=500))
    else:
        cache.folder.parent.parent.write_text("no folder")
    try:
        cache()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    reason = {"little space": "0.0 GB, more than half of the free space"}.get(obstacle, "")
    assert f"cannot be kept in {cache.folder} ({reason}" in capsys.readouterr().err
    assert not cache.folder.exists() or not list(cache.folder.iterdir())


def test_missing_source_is_the_decoders_business(cache):
    cache()
    cache.source.unlink()
    cache()
    assert cache.decoded == 2


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(cache):
    left, written = cache.folder / "tmpleft", cache.folder / "tmpwritten"
    for folder in (left, written):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"half")
    os.utime(left, (1, 1))
    cache()
    assert not left.exists()
    assert (written / "part").exists()


@pytest.mark.slow
def test_a_process_may_end_while_a_thread_reads(tmp_path, monkeypatch):
    """A mistake that is found while the data are read ends the process at once, by its own exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "source"
    source.write_bytes(b"")
    images, labels = np.zeros((40_000, 32, 32, 3), np.uint8), np.zeros(40_000, np.int32)
    decoded.kept("large", [source], lambda: (images, labels))
    program = (
        "import itertools, pathlib, sys, threading, time; from data import decoded;"
        f"source = pathlib.Path({str(source)!r});"
        "go = lambda: [decoded.kept('large', [source], lambda: 1 / 0) for _ in itertools.count()];"
        "threading.Thread(target=go, daemon=True).start(); time.sleep(0.1); sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "")
