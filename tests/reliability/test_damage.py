"""Any file of a run cut, emptied, altered or deleted: told by name, gone around where possible, never passed over."""

import random
import shutil

import numpy as np
import pytest
from real_process import contents

from registry import DamagedFileError
from training.checkpoint import Checkpoints, damage
from training.train import train

KINDS = ("truncated", "emptied", "flipped", "deleted", "longer")


def harm(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        return path.unlink()
    if kind == "flipped":
        content[random.Random(path.name).randrange(len(content))] ^= 4
    path.write_bytes({"truncated": content[:-1], "emptied": b"", "longer": content + b"x"}.get(kind, content))


def files(checkpoint):
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints 1 and 2 of a small tree, whose log has 10 bytes at 1 and 20 at 2."""
    (tmp_path / "metrics.jsonl").write_bytes(b"0123456789" * 3)
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, tree(step), {"step": step}, {"metrics.jsonl": 10 * step})
    checkpoints.close()
    return tmp_path


def tree(step):
    return {"w": np.full((3, 4), step, np.float32), "half": np.full(3, step, "bfloat16"), "n": np.int32(step)}


def restore(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(tree(0), ["metrics.jsonl"])
    finally:
        checkpoints.close()


def test_whole_checkpoint_comes_back_as_it_was(two, capsys):
    found, notes = restore(two)
    assert notes == {"step": 2}
    for name, value in tree(2).items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_any_damaged_file_of_the_newest_is_named_and_the_one_before_used(kind, two, tmp_path, capsys):
    names = files(two / "checkpoints" / "2")
    assert {"MANIFEST", "notes.json", "arrays/_METADATA", "logs/metrics.jsonl"} <= {str(name) for name in names}
    for number, name in enumerate(names):
        folder = shutil.copytree(two, tmp_path / f"copy{number}", ignore=shutil.ignore_patterns("copy*"))
        path = folder / "checkpoints" / "2" / name
        harm(path, kind)
        found, notes = restore(folder)
        assert notes == {"step": 1}
        assert np.array_equal(found["w"], tree(1)["w"])
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1
        assert f"{path} is damaged (" in warning
        assert "checkpoint of step 1" in warning
        again = Checkpoints(folder)  # its step is made and saved again
        again.save(2, tree(2), {"step": 2}, {"metrics.jsonl": 20})
        again.close()
        assert damage(folder / "checkpoints" / "2") is None
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["1", "2"]


@pytest.mark.slow
def test_every_single_bit_counts(two):
    newest = two / "checkpoints" / "2"
    assert damage(newest) is None
    for name in files(newest):
        path = newest / name
        content = path.read_bytes()
        bits = range(8 * len(content))
        if len(bits) > 4000:
            bits = random.Random(0).sample(bits, 200)
        for bit in bits:
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert str(path) in damage(newest), bit
        path.write_bytes(content)
    assert damage(newest) is None


def test_damage_is_described(two):
    newest = two / "checkpoints" / "2"
    (newest / "logs" / "metrics.jsonl").write_bytes(b"0123456789")
    assert "truncated: 10 bytes of 20" in damage(newest)
    (newest / "logs" / "metrics.jsonl").write_bytes(b"01234567890123456780")
    assert "SHA-256" in damage(newest)
    (newest / "logs" / "metrics.jsonl").unlink()
    assert "(missing)" in damage(newest)


def test_save_that_was_killed_leaves_nothing_behind(two, capsys):
    (two / "checkpoints" / "2").rename(two / "checkpoints" / "2.part")
    assert restore(two)[1] == {"step": 1}
    assert [path.name for path in (two / "checkpoints").iterdir()] == ["1"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [None, b"", b"01234", b"0123456789012345678x012"])
def test_damaged_log_is_written_again(content, two, capsys):
    log = two / "metrics.jsonl"
    log.unlink() if content is None else log.write_bytes(content)
    restore(two)
    assert log.read_bytes() == b"0123456789" * 2
    assert f"{log} is damaged" in capsys.readouterr().err


def test_all_damaged_stops_and_changes_nothing(two):
    for step in ("1", "2"):
        harm(two / "checkpoints" / step / "notes.json", "flipped")
    before = everything(two)
    with pytest.raises(DamagedFileError, match=r"2/notes\.json is damaged.*1/notes\.json is damaged") as raised:
        restore(two)
    assert raised.value.exit_code == 3
    assert everything(two) == before


def test_lost_checkpoints_are_no_new_run(two):
    shutil.rmtree(two / "checkpoints")
    with pytest.raises(DamagedFileError, match="has no checkpoint, but"):
        restore(two)
    (two / "metrics.jsonl").write_bytes(b"")
    assert restore(two) is None  # a run that was killed before its first row


def test_arrays_of_another_program_are_told(two):
    checkpoints = Checkpoints(two)
    with pytest.raises(DamagedFileError, match=r"\['new'\].*missing there"):
        checkpoints.restore({**tree(0), "new": np.zeros(3)})
    checkpoints.close()


@pytest.mark.slow
def test_run_with_a_damaged_checkpoint_and_log_ends_with_the_same_bits(copied, expected, recipe, capsys):
    largest = max((copied / "checkpoints" / "8" / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    harm(largest, "flipped")
    harm(copied / "metrics.jsonl", "emptied")
    train(recipe(copied), quiet=True)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert f"{largest} is damaged (altered" in warnings[0]
    assert f"{copied / 'metrics.jsonl'} is damaged (truncated: 0 bytes of" in warnings[1]
    assert contents(copied) == expected


def test_run_whose_checkpoints_are_all_damaged_is_never_begun_anew(copied, recipe):
    for step in ("7", "8"):
        harm(copied / "checkpoints" / step / "MANIFEST", "deleted")
    before = everything(copied / "checkpoints")
    with pytest.raises(DamagedFileError, match="No checkpoint of this run is whole"):
        train(recipe(copied), quiet=True)
    assert everything(copied / "checkpoints") == before
    assert (copied / "metrics.jsonl").stat().st_size


@pytest.mark.parametrize("name", ["config.json", "env.json", "summary.json"])
@pytest.mark.parametrize("kind", ["truncated", "emptied", "binary", "other", "deep"])
def test_damaged_description_is_told_with_what_to_do(kind, name, copied, recipe):
    (copied / name).touch()
    content = {"truncated": b'{"seed": 0', "emptied": b"", "binary": b"\xff\x00\xfe", "deep": b"[" * 100_000}
    content = (content | {"other": b'{"last": {}, "continued_in": 5}'})[kind]
    (copied / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"{name} is damaged[\s\S]*(Restore|Remove) it") as raised:
        train(recipe(copied), quiet=True)
    assert raised.value.exit_code == 3
    assert (copied / name).read_bytes() == content


def test_run_without_its_config_is_damaged_and_not_overwritten(copied, recipe):
    (copied / "config.json").unlink()
    with pytest.raises(DamagedFileError, match=r"config\.json is missing"):
        train(recipe(copied), quiet=True)
    assert not (copied / "config.json").exists()


@pytest.mark.slow
def test_first_save_has_one_to_go_back_to(tmp_path, expected, recipe, stopped_at, capsys):
    """The start is saved too. So rows without any checkpoint always mean a loss."""
    folder = tmp_path / "run"
    with stopped_at(1):
        train(recipe(folder), quiet=True)
    harm(folder / "checkpoints" / "1" / "notes.json", "emptied")
    train(recipe(folder), quiet=True)
    assert "checkpoint of step 0" in capsys.readouterr().err
    assert contents(folder) == expected
