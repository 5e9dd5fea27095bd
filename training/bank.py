"""The teacher bank: the teacher's logits on K fixed views of every image, computed once, so no step runs the teacher.

It is a cache in the run folder, `teacher_bank/`: `bank.json` with the key (all that the numbers depend on) and the
SHA-256 of each array beside it. A bank with another key, or damaged, is computed again; nothing else hangs on it.
Several processes (`--hosts`) may share no disk: each keeps it in its memory, and it is computed at every start.

Stored are all logits [K, N, C], or, for many classes, the k highest of each row with their indices and the mean that
the others have in probability (the log of their sum of exponentials over C - k): every class but the k gets that. With
float16 a logit is rounded to 11 bits.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.errors import FlaxError
from ml_collections import ConfigDict

import data
from registry import DamagedFileError, NonFiniteError, UserError
from training import hosts
from training.run_folder import write_json
from training.step import EVAL_BATCH, DeviceSplit, batch_of, placed, replicate, shapes
from transfer import Strategy

FOLDER, DESCRIPTION = "teacher_bank", "bank.json"
FORMAT = 1  # to be raised where the same key would give other numbers


@struct.dataclass
class DeviceBank:
    """A bank in device memory.

    Attributes:
        values: [K, N, C], or [K, N, k] the highest; float16 or float32.
        indices: [K, N, k] uint16 or int32, whose values those are; None where all classes are stored.
        rest: [K, N], the logit of every other class; None where all classes are stored.
        classes: C; static.
    """

    values: jax.Array
    indices: jax.Array | None = None
    rest: jax.Array | None = None
    classes: int = struct.field(pytree_node=False, default=0)

    def logits(self, view: jax.Array, index: jax.Array) -> jax.Array:
        """Of the examples `index` [B] in their views `view` [B]: [B, C] float32."""
        values = self.values[view, index].astype(jnp.float32)
        if self.indices is None:
            return values
        rest = self.rest[view, index].astype(jnp.float32)
        full = jnp.broadcast_to(rest[:, None], (len(index), self.classes))
        return full.at[jnp.arange(len(index))[:, None], self.indices[view, index].astype(jnp.int32)].set(values)


def check(config: ConfigDict, strategy: Strategy, batch: data.Batch, classes: int) -> None:
    """Whether fixed logits can stand for the teacher; traces a step, computes nothing.

    Args:
        config: resolved.
        strategy: works with its teacher in the step.
        batch: as the step will see it; its values do not matter.
        classes: C.

    Raises:
        UserError: the method needs more of the teacher, or the views are not fixed, or a setting makes no sense.
    """
    method, asked = strategy.method, f"--teacher_views {config.teacher_views}"
    views = tuple(getattr(method, "views", ("weak",)))
    reason = ""
    if isinstance(strategy.teacher, tuple):
        reason = f"there are {len(strategy.teacher)} teachers, and a bank holds the logits of one"
    elif batch.second_label is not None or batch.share is not None:
        reason = "images are mixed with others, which are drawn anew every time, so no view comes twice"
    elif method.gradient_taps:
        reason = f"{config.distiller} asks for the teacher's gradients, and a bank holds its logits alone"
    elif views != ("weak",):
        reason = f"{config.distiller} wants the views {', '.join(views)} of each image, and a bank holds one"
    else:
        banked = batch.replace(teacher_logits=np.zeros((config.batch_size, classes), np.float32))
        key, banked = shapes((jax.random.key(0), banked))
        try:
            state = shapes(jax.eval_shape(strategy.traced_init, key, banked))
            jax.eval_shape(strategy.traced_step, state, banked, key)
        except (ValueError, TypeError, KeyError, AttributeError, FlaxError) as error:
            reason = f"{config.distiller} needs more of the teacher than its logits ({str(error).rstrip('.')})"
    if reason:
        raise UserError(f"{asked}: {reason}.\nLeave --teacher_views out: then the teacher is asked in every step.")
    if config.teacher_bank_top_k >= classes:
        raise UserError(
            f"'teacher_bank_top_k' {config.teacher_bank_top_k} must be below the {classes} classes; 0 keeps them all."
        )


def prepare(
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: data.Dataset,
    strategy: Strategy,
    augmentation: data.Augmentation,
    teacher,
    say: Callable,
    warn: Callable,
) -> DeviceBank:
    """The run's bank: read, or computed and written where there is none that is sound and its own.

    Args:
        folder: of the run.
        config: resolved; `teacher_views` at least 1.
        dataset, strategy, augmentation: the run's.
        teacher: `pretrained.Pretrained`.
        say, warn: take a line of text.

    Returns:
        The bank in host memory, mapped from its files.

    Raises:
        UserError: it cannot be written or does not fit on the device; with its size. NonFiniteError: a logit that the
            number format cannot hold.
    """
    key = _key(config, dataset, strategy, augmentation, teacher)
    arrays = _arrays(config, len(dataset.train), dataset.num_classes)
    size = sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in arrays.values())
    what = f"{config.teacher_views} views of {len(dataset.train):,} images, {_size(size)}"
    path, how = folder / FOLDER, "read"
    if hosts.several():
        say(f"Teacher bank: computing {what} ...")
        found, how = _collect(arrays, _views(config, dataset, strategy, augmentation)), "in memory alone"
    else:
        found = _read(path, key, arrays, warn)
    if found is None:
        shutil.rmtree(path, ignore_errors=True)
        say(f"Teacher bank: computing {what} ...")
        start = time.monotonic()
        try:
            if shutil.disk_usage(folder).free < size:
                raise OSError(0, "too little space is left")
            with _whole(path) as part:
                _write(part, arrays, _views(config, dataset, strategy, augmentation))
                seconds = time.monotonic() - start
                files = {f"{name}.npy": _digest(part / f"{name}.npy") for name in arrays}
                write_json(part / DESCRIPTION, {"key": key, "sha256": files, "seconds": round(seconds, 2)})
        except OSError as error:
            raise UserError(
                f"Cannot write the teacher bank to {path}: {error.strerror}. It needs {_size(size)}.\n"
                "Make room, or lower --teacher_views, or keep fewer classes with --config.teacher_bank_top_k."
            ) from None
        found, how = _read(path, key, arrays, warn), f"computed in {seconds:.1f} s"
        if found is None:
            raise DamagedFileError(
                f"{path} does not read as it was just written. Check the disk, or change --train_path."
            )
    with hosts.agreed():
        _check_memory(size)
    say(f"Teacher bank: {what} on the device, {how}. The teacher is in no step.")
    return DeviceBank(**found, classes=dataset.num_classes)


def _key(config, dataset, strategy, augmentation, teacher) -> dict:
    """All that the numbers in a bank depend on, plain."""
    key = {
        "format": FORMAT,
        "teacher_sha256": teacher.sha256,
        "teacher_arch": teacher.info["arch"],
        "teacher_options": teacher.info.get("options", {}),
        "teacher_dtype": config.teacher_dtype or config.dtype,
        "mean": strategy.teacher.mean,
        "std": strategy.teacher.std,
        "dataset": dataset.name,
        "data": dataset.fingerprint,
        "images": [len(dataset.train), *dataset.image_shape],
        "augmentation": dataclasses.asdict(augmentation),
        "seed": config.seed,
        "views": config.teacher_views,
        "dtype": config.teacher_bank_dtype,
        "top_k": config.teacher_bank_top_k,
    }
    return json.loads(json.dumps(key))


def _arrays(config: ConfigDict, examples: int, classes: int) -> dict[str, tuple[tuple, np.dtype]]:
    """name -> (shape, type) of what is stored."""
    rows, stored, top = (config.teacher_views, examples), np.dtype(config.teacher_bank_dtype), config.teacher_bank_top_k
    if not top:
        return {"values": ((*rows, classes), stored)}
    number = np.dtype("uint16" if classes <= 2**16 else "int32")
    return {"values": ((*rows, top), stored), "indices": ((*rows, top), number), "rest": (rows, stored)}


def _views(config, dataset, strategy, augmentation) -> Iterator[dict[str, np.ndarray]]:
    """What is stored of one view of some examples after the other, in the order of the arrays' rows.

    The batches are those of training (`batch_of`), with other examples in them.
    """
    count, classes, top = len(dataset.train), dataset.num_classes, config.teacher_bank_top_k
    size = min(EVAL_BATCH, -(-count // jax.device_count())) * jax.device_count()
    index = np.minimum(np.arange(-(-count // size) * size, dtype=np.int32), count - 1).reshape(-1, size)
    variables = replicate(strategy.teacher_variables)
    images, labels = replicate(dataset.train.images), replicate(np.zeros(count, np.int32))

    @jax.jit
    def compute(variables, split, step):
        image = batch_of(split, step, augmentation).image
        logits = placed(strategy.teacher.forward(variables, image)[0].logits)
        if not top:
            return {"values": logits}
        values, indices = jax.lax.top_k(logits, top)
        others = logits.at[jnp.arange(size)[:, None], indices].set(-jnp.inf)
        rest = jax.nn.logsumexp(others, axis=-1) - np.log(classes - top).astype(np.float32)
        return {"values": values, "indices": indices, "rest": rest}

    order = np.concatenate([index[-1:], index])  # row 0 is that of the step before, which nobody looks at here
    for number in range(config.teacher_views):
        view = np.full_like(order, number)
        split = DeviceSplit(images, labels, *replicate((np.asarray(config.seed, np.int32), order, view)))
        for step in range(len(index)):
            block = compute(variables, split, np.asarray(step, np.int32))
            yield {name: np.asarray(x)[: count - step * size] for name, x in block.items()}


def _write(part: pathlib.Path, arrays: dict, blocks: Iterator[dict[str, np.ndarray]]) -> None:
    """Appends the blocks to a `.npy` file an array; a mapped file would end the process where the disk is full."""
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((part / f"{name}.npy").open("wb")) for name in arrays}
        for name, (shape, dtype) in arrays.items():
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        for block in blocks:
            for name, value in block.items():
                files[name].write(_stored(value, arrays[name][1]).tobytes())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())


def _collect(arrays: dict, blocks: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The blocks as arrays in host memory."""
    rows = {name: [] for name in arrays}
    for block in blocks:
        for name, value in block.items():
            rows[name].append(_stored(value, arrays[name][1]))
    return {name: np.concatenate(rows[name]).reshape(shape) for name, (shape, _) in arrays.items()}


def _stored(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = value.astype(dtype)
    if not np.isfinite(stored).all():
        raise NonFiniteError(
            f"A logit of the teacher ({np.abs(value).max():.3g}) is no finite {dtype}.\n"
            "If it is finite, store the bank with --config.teacher_bank_dtype=float32."
        )
    return stored


def _read(path: pathlib.Path, key: dict, arrays: dict, warn: Callable) -> dict[str, np.ndarray] | None:
    """The arrays, mapped; None where there is no bank, one with another key, or a damaged one (with a warning)."""
    file = path / DESCRIPTION
    if not path.exists():
        return None
    try:
        description = json.loads(file.read_text())
        if description["key"] != key:
            warn(f"the teacher bank in {path} is of another teacher or other views; it is computed again.")
            return None
        found = {}
        for name, (shape, dtype) in arrays.items():
            file = path / f"{name}.npy"
            if _digest(file) != description["sha256"][file.name]:
                raise ValueError("its SHA-256 is not the one recorded")
            found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            if (found[name].shape, found[name].dtype) != (shape, dtype):
                raise ValueError(f"it holds {found[name].shape} {found[name].dtype}, not {shape} {dtype}")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"{file} is damaged or missing ({error}); the teacher bank is computed again.")
        return None


@contextlib.contextmanager
def _whole(path: pathlib.Path):
    """A folder to write into that becomes `path` at the end, or goes away."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_memory(size: int) -> None:
    """Raises `UserError` where a device says that it has less memory free than the bank takes."""
    for device in jax.local_devices():
        memory = device.memory_stats() or {}
        free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
        if "bytes_limit" in memory and free < size:
            raise UserError(
                f"The teacher bank takes {_size(size)} on every device; {device} has {_size(free)} free.\n"
                "Lower --teacher_views, or keep fewer classes with --config.teacher_bank_top_k."
            )


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _size(size: int) -> str:
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:,.1f} {name}"
