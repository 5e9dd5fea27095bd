import hashlib
import json
import os

import pytest

import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(path, content, error=None):
    """Writes a folder with one file "x", and raises `error` before the folder is whole."""
    with files.whole_folder(path) as part:
        assert names(part) == []
        (part / "x").write_text(content)
        if error:
            raise error


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_whole_and_leaves_no_part(tmp_path, shared):
    path = tmp_path / "a.txt"
    files.write_whole(path, "old", shared)
    files.write_whole(path, b"new\xff", shared)
    assert path.read_bytes() == b"new\xff"
    files.write_whole(str(path), "größer", shared)
    assert path.read_text("utf-8") == "größer"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, shared, broken):
    path = tmp_path / "a.txt"
    files.write_whole(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full) if broken == "fsync" else monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(path, "new", shared)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_bytes_are_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, files.pathlib.Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: (done.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    monkeypatch.setattr("pathlib.Path.replace", lambda self, to: (done.append(f"-> {to}"), replace(self, to))[1])
    files.write_whole(tmp_path / "a", b"1")
    assert done == [f"{tmp_path}/a.part", f"-> {tmp_path}/a", str(tmp_path)]
    done.clear()
    with files.whole_folder(tmp_path / "b") as part:
        (part / "c").mkdir()
        (part / "c" / "d").write_text("2")
    rename = done.index(f"-> {tmp_path}/b")
    assert {f"{tmp_path}/b.part{inside}" for inside in ("", "/c", "/c/d")} == set(done[:rename])
    assert done[rename + 1 :] == [str(tmp_path)]


def test_json_is_readable_and_ends_with_a_newline(tmp_path):
    files.write_json(tmp_path / "a.json", {"top1": 97.5})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"top1": 97.5}
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"top1": object()})
    assert (tmp_path / "a.json").read_text() == text


def test_a_folder_becomes_whole_at_the_end(tmp_path):
    path = tmp_path / "parents" / "a"
    with files.whole_folder(path) as part:
        (part / "x").write_text("1")
        assert not path.exists()
    assert (path / "x").read_text() == "1"
    with files.whole_folder(path) as part:
        (part / "y").write_text("2")
        assert names(path) == ["x"]
    assert names(path) == ["y"]
    assert names(path.parent) == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_fails_goes_away_and_the_old_one_stays(tmp_path, error):
    path = tmp_path / "a"
    fill(path, "1")
    with pytest.raises(type(error)):
        fill(path, "2", error)
    assert (path / "x").read_text() == "1"
    assert names(tmp_path) == ["a"]


def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "a"
    fill(path, "1")
    replace = files.pathlib.Path.replace

    def refuse(self, to):
        if self.name == "a.part":
            raise OSError(5, "Input/output error")
        return replace(self, to)

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        fill(path, "2")
    assert (path / "x").read_text() == "1"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_mended(tmp_path):
    old, part = tmp_path / "a.old", tmp_path / "a.part"
    for folder in (old, part):
        folder.mkdir()
        (folder / "x").write_text(folder.name)
    with pytest.raises(RuntimeError):
        fill(tmp_path / "a", "new", RuntimeError())
    assert (tmp_path / "a" / "x").read_text() == "a.old"
    assert names(tmp_path) == ["a"]


def test_sha256_is_hashlibs(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_sizes_have_one_decimal_and_a_unit(tmp_path):
    sizes = [0, 300, 1_000, 1_234_567, 5.04e9, 1.2e12, None]
    texts = ["0.0 kB", "0.3 kB", "1.0 kB", "1.2 MB", "5.0 GB", "1,200.0 GB", "unknown"]
    assert [files.size_text(size) for size in sizes] == texts
    assert files.free(tmp_path) > 0
    assert files.free(tmp_path / "nowhere") is None
