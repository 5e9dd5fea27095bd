"""Storage that is full or read-only: one line, the earlier checkpoints as they were, and the next save works."""

import contextlib
import errno
import json
import os
import subprocess
import threading

import numpy as np
import pytest
from real_process import contents
from short_run import STEPS, before_save

import files
import pretrained
from training import checkpoint
from training.checkpoint import Checkpoints, damage
from training.run_folder import METRICS, SaveError
from training.train import train
from training.writers import MetricsLog


def tree(step):
    return {"w": np.random.RandomState(step).standard_normal((100, 1000)).astype(np.float32)}


def save(checkpoints, step):
    checkpoints.save(step, tree(step), {"step": step}, {})


def check_failed(folder, error):
    """One line with path, need and what is free; checkpoint 1 is whole and alone."""
    text = str(error)
    assert "\n" not in text
    assert text.startswith(f"Cannot save step 2 in {folder / 'checkpoints'}: ")
    assert "needed 466.6 kB, free" in text
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1"]
    assert damage(folder / "checkpoints" / "1") is None


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB and a way to fill it; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True)
    if mount.returncode:
        pytest.skip("this process may not mount a tmpfs")
    filler = place / "filler"

    def fill():
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    yield place, fill, filler.unlink
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_full_disk(small_disk):
    place, fill, empty = small_disk
    checkpoints = Checkpoints(place / "run")
    save(checkpoints, 1)
    fill()
    with pytest.raises(SaveError, match="No space left on device") as raised:
        save(checkpoints, 2)
    check_failed(place / "run", raised.value)
    empty()
    for step in (2, 3):
        save(checkpoints, step)
    assert checkpoints.steps() == [2, 3]
    assert np.array_equal(checkpoints.read(3)["['w']"], tree(3)["w"])
    checkpoints.close()


def test_read_only_disk(small_disk):
    place = small_disk[0]
    checkpoints = Checkpoints(place / "run")
    save(checkpoints, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(SaveError, match="Read-only file system") as raised:
        save(checkpoints, 2)
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    check_failed(place / "run", raised.value)
    save(checkpoints, 2)
    checkpoints.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("place", ["_reserve", "orbax", "write_manifest", "sync"])
def test_failure_anywhere_in_a_save(place, number, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        owner, name = {"orbax": (checkpoints._orbax, "save"), "sync": (files, "sync")}.get(place, (checkpoint, place))
        patch.setattr(owner, name, fail)
        with pytest.raises(SaveError, match=os.strerror(number)) as raised:
            save(checkpoints, 2)
    check_failed(tmp_path, raised.value)
    save(checkpoints, 2)
    assert damage(tmp_path / "checkpoints" / "2") is None
    checkpoints.close()


@pytest.mark.parametrize("call", ["wait", "save"])
def test_failure_in_the_thread_is_raised_once_by_the_next_call(call, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    def fail(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", fail)
        checkpoints.save(2, tree(2), {"step": 2}, {}, wait=False)
        with pytest.raises(SaveError, match=r"Cannot save step 2 .* No space left on device") as raised:
            checkpoints.wait() if call == "wait" else save(checkpoints, 3)
    check_failed(tmp_path, raised.value)
    checkpoints.wait()
    checkpoints.save(3, tree(3), {"step": 3}, {}, wait=False)
    checkpoints.close()  # waits
    assert damage(tmp_path / "checkpoints" / "3") is None


def test_the_thread_writes_what_was_given_whatever_the_caller_does_then(tmp_path, monkeypatch):
    checkpoints, may_write, reserve = Checkpoints(tmp_path), threading.Event(), checkpoint._reserve
    monkeypatch.setattr(checkpoint, "_reserve", lambda *arguments: may_write.wait(60) and reserve(*arguments))
    log, rows = tmp_path / METRICS, [{"epoch": 1}]
    log.write_bytes(b"one row")
    checkpoints.save(1, tree(1), {"tests": rows}, {METRICS: 7}, wait=False)
    rows.append({"epoch": 2})
    log.write_bytes(b"another")
    may_write.set()
    checkpoints.close()
    folder = tmp_path / "checkpoints" / "1"
    assert json.loads((folder / "notes.json").read_text()) == {"tests": [{"epoch": 1}]}
    assert (folder / "logs" / METRICS).read_bytes() == b"one row"


@pytest.mark.slow
def test_run_goes_on_over_a_full_disk_and_ends_with_the_same_bits(small_disk, expected, recipe, monkeypatch, capfd):
    place, fill, empty = small_disk
    before_save(monkeypatch, 4, fill)
    before_save(monkeypatch, 8, empty)
    kept = []
    before_save(monkeypatch, 7, lambda: kept.extend(Checkpoints(place / "run").steps()))
    train(recipe(place / "run"), quiet=True)
    assert kept == [2, 3]
    warnings = capfd.readouterr().err.splitlines()
    assert all(line.startswith("Warning: ") for line in warnings)
    saves = [line for line in warnings if "Cannot save step" in line]
    assert [line.split()[4] for line in saves] == ["4", "5", "6", "7"]
    assert all("No space left on device; needed" in line and "next save tries again" in line for line in saves)
    assert contents(place / "run") == expected


@pytest.mark.slow
def test_results_that_cannot_be_written_are_written_by_the_same_command(tmp_path, expected, recipe, monkeypatch):
    write = pretrained.save

    def fail(folder, *arguments):
        if folder.name == "best":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "save", fail)
        with pytest.raises(SaveError, match="Cannot write the results"):
            train(recipe(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run" / "summary.json").exists()
    train(recipe(tmp_path / "run"), quiet=True)
    assert contents(tmp_path / "run") == expected


def test_rows_wait_for_a_disk_that_is_full(small_disk, capsys):
    place, fill, empty = small_disk
    log = MetricsLog(place, 0, 0)
    log.write("train", 1, 1.0, {"loss": 0.5})
    fill()
    for step in range(2, 300):
        log.write("train", step, 1.0, {"loss": 0.5})
    assert (place / METRICS).stat().st_size < log.position  # cut in the middle of a row, as likely as not
    assert capsys.readouterr().err.count(f"cannot write to {place / METRICS}") == 1
    with pytest.raises(SaveError, match="No space left on device"):
        log.sync()
    empty()
    log.sync()
    assert (place / METRICS).stat().st_size == log.position
    log.close()
    assert [json.loads(row)["step"] for row in (place / METRICS).read_text().splitlines()] == list(range(1, 300))


@pytest.mark.slow
def test_last_save_must_not_fail_silently(tmp_path, expected, recipe, monkeypatch):
    def fail():
        raise SaveError("no space")

    with monkeypatch.context() as patch:
        before_save(patch, STEPS, fail)
        with pytest.raises(SaveError, match="no space"):
            train(recipe(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run" / "summary.json").exists()
    train(recipe(tmp_path / "run"), quiet=True)
    assert contents(tmp_path / "run") == expected
