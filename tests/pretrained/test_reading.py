import argparse
import collections
import datetime
import io
import json
import pathlib
import pickle
import tarfile
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from pretrained import reading
from registry import UserError

WEIGHTS = {"conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.ones(2, np.float16)}
SAFETENSORS = safetensors.numpy.save(WEIGHTS)


def zipped(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02}.")
    return content.getvalue()


def tarred():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return content.getvalue()


# what a file is -> (its content, a part of the message, the exit code)
STRANGERS = {
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 97781949\n",
        "is a git-LFS pointer, not the file.\nFetch the file: git lfs pull",
        2,
    ),
    "error page": (b"\n<!DOCTYPE html><html><title>404</title></html>", "is a web page", 2),
    "sign-in page": (b"<HTML><body>Sign in</body></HTML>", "is a web page", 2),
    "server's error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML page", 2),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), "is compressed by gzip.\nUnpack it", 2),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(20), "is an HDF5 file", 2),
    "other pickle": (pickle.dumps({"fc.bias": [1.0]}, protocol=2), "Reading a pickle can run code", 2),
    "newer pickle": (pickle.dumps({"fc.bias": [1.0]}, protocol=5), "Reading a pickle can run code", 2),
    "tar": (tarred(), "is a tar archive.\nUnpack it", 2),
    "npz": (zipped("fc.bias.npy"), "is a zip of 1 files (fc.bias.npy) and not PyTorch's", 2),
    "TorchScript": (zipped("net/data.pkl", "net/code/net.py"), "is a TorchScript program", 2),
    "cut zip": (zipped("net/data.pkl")[:40], "is a zip (PyTorch's form) that is cut short", 3),
    "altered zip": (zipped("net/data.pkl").replace(b"\x80\x02}.", b"\x80\x02]."), "has another CRC-32", 3),
    "cut safetensors": (SAFETENSORS[:-1], "is damaged", 3),
    "other JSON": (b'{"architecture": "resnet50"}', "is text, not weights", 2),
    "broken JSON": (b'{"weight_map": {', "is text, not weights", 2),
    "other msgpack": (serialization.msgpack_serialize({"step": np.ones(1)}), "no 'params' and 'batch_stats'", 3),
    "empty": (b"", "is empty", 3),
    "unknown": (b"\x07\x08\x09", "begins with b'\\x07\\x08\\t'", 2),
}


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ""])
@pytest.mark.parametrize("case", STRANGERS)
def test_what_a_file_is_follows_from_its_contents(case, ending, tmp_path):
    content, message, code = STRANGERS[case]
    (tmp_path / f"theirs{ending}").write_bytes(content)
    with pytest.raises(UserError) as caught:
        reading.read(tmp_path / f"theirs{ending}")
    assert message in str(caught.value)
    assert caught.value.exit_code == code
    assert len(str(caught.value).splitlines()) <= 2
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "student_best", "model.msgpack.txt"])
def test_the_ending_of_a_name_decides_nothing(name, tmp_path):
    (tmp_path / name).write_bytes(SAFETENSORS)
    found = reading.read(tmp_path / name)
    assert found.keys() == WEIGHTS.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value, WEIGHTS[key])
        assert value.dtype == np.float32
    (tmp_path / name).write_bytes(serialization.msgpack_serialize({"params": {"a": np.ones(2)}, "batch_stats": {}}))
    assert list(reading.read(tmp_path / name)) == ["params/a"]


def test_safetensors_are_known_whatever_the_length_of_their_header_looks_like(tmp_path):
    content = safetensors.numpy.save(WEIGHTS, {"note": "x" * 35000})
    header = int.from_bytes(content[:8], "little")
    padding = 0x8B1F - header  # gzip's first two bytes
    assert padding > 0
    content = (
        (header + padding).to_bytes(8, "little") + content[8 : 8 + header] + b" " * padding + content[8 + header :]
    )
    assert content.startswith(b"\x1f\x8b")
    (tmp_path / "a").write_bytes(content)
    assert reading.read(tmp_path / "a").keys() == WEIGHTS.keys()


def test_other_float_formats_become_float32_and_integers_stay(tmp_path):
    tensors = {"a": np.ones(2, ml_dtypes.bfloat16), "b": np.ones(2, np.float64), "c": np.ones(2, np.int64)}
    safetensors.numpy.save_file(tensors, tmp_path / "a")
    assert {name: x.dtype.name for name, x in reading.read(tmp_path / "a").items()} == {
        "a": "float32",
        "b": "float32",
        "c": "int64",
    }


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"is a folder. Give one of its files: model\.pth"):
        reading.read(tmp_path)
    with pytest.raises(UserError, match="no file"):
        reading.read(tmp_path / "nowhere")


def index(folder, shards):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": {str(i): name for i, name in enumerate(shards)}}))
    return path


def test_an_index_is_read_with_all_its_shards(tmp_path):
    for name, value in WEIGHTS.items():
        safetensors.numpy.save_file({name: value}, tmp_path / f"{name}.safetensors")
    path = index(tmp_path, [f"{name}.safetensors" for name in [*WEIGHTS, *WEIGHTS]])
    assert reading.read(path).keys() == WEIGHTS.keys()
    asked = []
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    reading.read(path.rename(moved / "index.json"), lambda name: (asked.append(name), tmp_path / name)[1])
    assert asked == sorted(f"{name}.safetensors" for name in WEIGHTS)
    (tmp_path / "fc.bias.safetensors").unlink()
    with pytest.raises(UserError, match=r"lists 2 files; 1 are not beside it: fc\.bias\.safetensors"):
        reading.read(index(tmp_path, [f"{name}.safetensors" for name in WEIGHTS]))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "C:\\b", "c:b", "a\\b", "a\0"])
def test_an_index_reaches_nothing_outside_its_folder(name, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(SAFETENSORS)
    with pytest.raises(UserError, match="is no plain file name"):
        reading.read(index(folder, [name]), lambda name: pytest.fail("asked for the file"))


def test_an_index_in_an_index_is_refused(tmp_path):
    with pytest.raises(UserError, match="is an index itself"):
        reading.read(index(tmp_path, ["model.safetensors.index.json"]))


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="the extra `torch` is not installed")


HARMLESS = {
    "Namespace": argparse.Namespace(lr=0.1, scale=np.float64(2)),
    "nested namespace": argparse.Namespace(inner=types.SimpleNamespace(a=[1])),
    "NumPy scalars": [np.float64(69.3), np.float32(1), np.int64(3), np.bool_(True)],
    "NumPy array": np.arange(3),
    "dates": [datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), datetime.timedelta(1), datetime.date(2024, 5, 1)],
    "path": pathlib.Path("runs/a"),
    "ordered dict": collections.OrderedDict(a=1),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_objects_beside_the_tensors_stop_nothing(case, legacy, torch, tmp_path):
    content = {"model": {"conv1.weight": torch.ones(2, 3).half()}, "epoch": 3, "other": HARMLESS[case]}
    torch.save(content, tmp_path / "best", _use_new_zipfile_serialization=not legacy)
    found = reading.read(tmp_path / "best")
    assert list(found) == ["model.conv1.weight"]
    assert found["model.conv1.weight"].dtype == np.float32


class Config:
    """A trainer's own type."""


class Payload:
    """What a malicious file has in it."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("executed"),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_type_that_stands_in_the_way_is_named_with_a_command(legacy, torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(1)}, "config": Config()}, "best", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"it needs '[\w.]*Config'") as caught:
        reading.read(pathlib.Path("best"))
    assert "python -c" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    exec(str(caught.value).partition('python -c "')[2].rstrip('"'), {})  # the command does what the message says
    assert list(reading.read(pathlib.Path("tensors.pth"))) == ["model.a"]


def test_a_file_that_would_run_code_runs_none_and_offers_no_command(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, "best")
    with pytest.raises(UserError, match=r"it needs '") as caught:
        reading.read(pathlib.Path("best"))
    assert "may be an attack" in str(caught.value)
    assert "python -c" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_pytorch_file_that_is_cut_is_damaged(keep, legacy, torch, tmp_path):
    path = tmp_path / "best"
    torch.save({"model": {"a": torch.ones(1000)}}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match=r"damaged|cut short") as caught:
        reading.read(path)
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1


def test_a_bit_that_pytorch_does_not_miss_is_found(torch, tmp_path):
    path = tmp_path / "best"
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(np.ones(9, np.float32).tobytes()) + 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["model"]["a"].sum() != 1000
    with pytest.raises(UserError, match="has another CRC-32"):
        reading.read(path)
