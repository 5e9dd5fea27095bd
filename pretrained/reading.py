"""Reads the tensors in a file that somebody else wrote. The contents decide the kind of a file, never its ending.

Nothing in a file is executed. A PyTorch file is read by `torch.load(weights_only=True)`, which builds tensors and a
short list of harmless types (`_harmless`); any other pickle is refused, because reading a pickle can run code.
"""

import json
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from registry import DamagedFileError, UserError

KNOWN = "PyTorch's files, safetensors, an index of safetensors, and msgpack with 'params' and 'batch_stats'"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number at the start of PyTorch's files before 1.6
SAVE_AGAIN = (  # a command that saves only the tensors of a file
    "python -c \"import torch; c = torch.load('FILE', weights_only=False, map_location='cpu'); "
    "c = c.state_dict() if hasattr(c, 'state_dict') else c; "
    "torch.save({k: v for k, v in c.items() if isinstance(v, (dict, torch.Tensor))}, 'tensors.pth')\""
)
ATTACK = re.compile(  # names that a file calls to do harm
    r"((__builtin__|builtins)\.)?(getattr|setattr|eval|exec|__import__|compile|open)$|"
    r"(os|posix|nt|subprocess|sys|shutil|socket|importlib|runpy|pickle|webbrowser)\."
)
HEAD = 4096
STRANGERS = (  # (the first bytes, in lower case, what such a file is, what to do)
    (b"version https://git-lfs.github.com/", "a git-LFS pointer, not the file", "Fetch the file: git lfs pull"),
    (b"<!doctype html", "a web page (an error or a sign-in page)", "Fetch the file again, and look at its address."),
    (b"<html", "a web page (an error or a sign-in page)", "Fetch the file again, and look at its address."),
    (b"<?xml", "an XML page (an error of the server)", "Fetch the file again, and look at its address."),
    (b"\x89hdf", "an HDF5 file (Keras)", f"Known: {KNOWN}."),
    (b"gguf", "a GGUF file", f"Known: {KNOWN}."),
    (b"\x93numpy", "a NumPy array", f"Known: {KNOWN}."),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it: gunzip --keep --suffix '' FILE, or tar -xzf FILE"),
    (b"7z\xbc\xaf", "compressed by 7z", "Unpack it, and convert the file in it."),
    (b"rar!", "compressed by RAR", "Unpack it, and convert the file in it."),
)


def read(path: pathlib.Path, shard: Callable[[str], pathlib.Path] | None = None) -> dict[str, np.ndarray]:
    """Reads all tensors of a file.

    Args:
        path: the file.
        shard: name in an index -> its file; by default the file of that name beside `path`.

    Returns:
        name -> array under the file's own names, floats as float32. Names of nested dicts are joined by dots
        (`model.conv1.weight`). The older Flax cookbook's names are `params/...` and `batch_stats/...`.

    Raises:
        UserError: there is no such file, PyTorch is missing, or the file is of another kind. DamagedFileError: the file
            is of a known kind and cannot be read.
    """
    tensors = {}
    for file in _shards(path, shard or (lambda name: path.parent / name)):
        tensors |= READERS[kind(file)](file)
    if not tensors:
        raise UserError(f"{path} holds no tensors.")
    return {name: _float32(value) for name, value in tensors.items()}


def kind(path: pathlib.Path) -> str:
    """What a file is: a key of `READERS`, or "index".

    Raises:
        UserError: the file is missing or of a kind that is not read; the message says which. DamagedFileError: the file
            is empty, or a zip that is cut short.
    """
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir())
        raise UserError(f"{path} is a folder. Give one of its files: {', '.join(names[:6]) or 'it is empty'}.")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(0, 2)
            size = file.tell()
    except FileNotFoundError:
        raise UserError(f"There is no file '{path}' to convert.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    if not head:
        raise DamagedFileError(f"{path} is empty. Fetch it again.")
    # safetensors comes first: the 8 bytes of the header's length can look like the start of any other kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= max(size, 10**8):
        return "safetensors"
    for start, what, fix in STRANGERS:
        if head.lstrip().lower().startswith(start):
            raise UserError(f"{path} is {what}.\n{fix.replace('FILE', str(path))}")
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head.startswith(LEGACY):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise UserError(
            f"{path} is a pickle, and not of PyTorch's form. Reading a pickle can run code, so it is refused.\n"
            "Where it was made, save its tensors alone: torch.save(state_dict, 'tensors.pth')"
        )
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive.\nUnpack it: tar -xf {path}, and convert the file in it.")
    if head.lstrip()[:1] in (b"{", b"["):
        return _kind_of_json(path)
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):  # msgpack's maps
        return "msgpack"
    raise UserError(f"{path} is no file of weights that is known here; it begins with {head[:8]!r}.\nKnown: {KNOWN}.")


def _kind_of_zip(path: pathlib.Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            checked = any(entry.CRC for entry in archive.infolist())  # torch.save has an option to write none
            altered = archive.testzip() if checked else None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise DamagedFileError(
            f"{path} is a zip (PyTorch's form) that is cut short ({error}). Fetch it again."
        ) from None
    if altered:
        raise DamagedFileError(f"{path} is damaged: '{altered}' in it has another CRC-32. Fetch it again.")
    if any("/code/" in name for name in names):
        raise UserError(
            f"{path} is a TorchScript program, not weights.\n"
            "Save its weights alone: torch.save(torch.jit.load(FILE).state_dict(), 'tensors.pth')"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(
            f"{path} is a zip of {len(names)} files ({', '.join(names[:4])}) and not PyTorch's.\n"
            "Unpack it, and convert the file of weights in it."
        )
    return "torch"


def _kind_of_json(path: pathlib.Path) -> str:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        return "index"
    raise UserError(f"{path} is text, not weights.\nKnown: {KNOWN}.")


def _shards(path: pathlib.Path, shard: Callable[[str], pathlib.Path]) -> list[pathlib.Path]:
    """The file itself, or every file that an index lists."""
    if kind(path) != "index":
        return [path]
    names = sorted({str(name) for name in json.loads(path.read_bytes())["weight_map"].values()})
    outside = [name for name in names if not name or name in (".", "..") or set(name) & set("/\\:\0")]
    if outside:
        raise UserError(f"{path} lists '{outside[0]}', which is no plain file name.\nAn index lists files beside it.")
    found = [shard(name) for name in names]
    missing = [name for name, file in zip(names, found, strict=True) if not file.is_file()]
    if missing:
        raise UserError(f"{path} lists {len(names)} files; {len(missing)} are not beside it: {', '.join(missing[:6])}.")
    nested = [name for name, file in zip(names, found, strict=True) if kind(file) == "index"]
    if nested:
        raise UserError(f"{path} lists '{nested[0]}', which is an index itself.")
    return found


def _safetensors(path: pathlib.Path) -> dict:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise DamagedFileError(f"{path} is damaged: {error}. Fetch it again.") from None


def _harmless() -> list:
    """Types that trainers save beside the tensors. Building one of them runs nothing but its own constructor."""
    import _codecs
    import argparse
    import datetime
    import types

    numbers = [np.dtype(kind) for kind in "?bhilqBHILQefdSU"]
    scalar, rebuild = np._core.multiarray.scalar, np._core.multiarray._reconstruct
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
        *((pathlib.PurePosixPath, name) for name in ("pathlib.PosixPath", "pathlib._local.PosixPath")),
        *((pathlib.PureWindowsPath, name) for name in ("pathlib.WindowsPath", "pathlib._local.WindowsPath")),
        *(np.dtype, np.ndarray, *dict.fromkeys(type(number) for number in numbers)),
        *(scalar, (scalar, "numpy.core.multiarray.scalar")),  # NumPy before 2.0
        *(rebuild, (rebuild, "numpy.core.multiarray._reconstruct")),
        _codecs.encode,  # a NumPy scalar's bytes
    ]


def _torch(path: pathlib.Path) -> dict:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install 'kd-cookbook[torch]'\n"
            "Or convert it where PyTorch is, with safetensors.torch.save_file(state_dict, 'weights.safetensors')."
        ) from None
    try:
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own kinds
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        blocked = re.search(r"GLOBAL ([\w.]*\w) was not|Can only [^\n]*<class '([\w.]+)'>", reason)
        if blocked is None:
            core = reason.partition("WeightsUnpickler error:")[2].strip() or reason or type(error).__name__
            core = "its pickle is cut short" if "GLOBAL" in core else core.splitlines()[0][:200]
            raise DamagedFileError(f"{path} is damaged: {core}. Fetch it again.") from None
        stranger = blocked[1] or blocked[2]
        fix = "If you trust the file, run this where the type is installed, and convert tensors.pth: "
        fix += SAVE_AGAIN.replace("FILE", str(path))
        if ATTACK.match(stranger):
            fix = "No trainer saves it. The file may be an attack: do not load it in any other way."
        raise DamagedFileError(
            f"{path} cannot be read as tensors only: it needs '{stranger}', which could run code.\n{fix}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state_dict.")
    tensors = {name: x.detach() for name, x in _flat(content).items() if hasattr(x, "detach")}
    return {name: (x.float() if x.is_floating_point() else x).cpu().numpy() for name, x in tensors.items()}


def _flat(content: dict, prefix: str = "") -> dict:
    """Values of nested dicts under their keys joined by dots. Keys that are no text (an optimizer's) are left out."""
    result = {}
    for key, value in content.items():
        if isinstance(key, str):
            result |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def _msgpack(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The older Flax cookbook's file: msgpack of step, params, batch_stats and opt_state."""
    from flax import serialization, traverse_util

    try:
        content = serialization.msgpack_restore(path.read_bytes())
        state = {name: content[name] for name in ("params", "batch_stats")}
        return {n: np.asarray(x) for n, x in traverse_util.flatten_dict(state, sep="/").items()}
    except Exception as error:  # msgpack raises many kinds
        raise DamagedFileError(
            f"{path} begins like msgpack and holds no 'params' and 'batch_stats' "
            f"({type(error).__name__}: {str(error)[:100]}).\nKnown: {KNOWN}."
        ) from None


READERS = {"safetensors": _safetensors, "torch": _torch, "msgpack": _msgpack}


def _float32(value: np.ndarray) -> np.ndarray:
    floats = value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat", "float"))
    return value.astype(np.float32) if floats else value
