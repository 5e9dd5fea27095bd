"""Settings and fixtures of the whole suite: strictness, the golden numbers, small functions that are compiled once."""

import contextlib
import functools
import gc
import json
import os
import pathlib
import signal
import sys
import types
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `data`, `models`, ... are the library's, wherever the tests start

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads would wait for other processes and for each other
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

import data  # noqa: E402
import models  # noqa: E402
import pretrained  # noqa: E402
from data.decoded import cache_folder  # noqa: E402

# The cache of compiled programs lies outside the checkout. A fresh clone, other processes and started commands use it.
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder("xla-tests")))
jax.config.update("jax_compilation_cache_dir", CACHE)

models.xla_cpu.prepare()  # before JAX's first computation

GOLDENS = ROOT / "tests" / "goldens"

# Every run has the same examples; `pytest --hypothesis-profile default` looks for others.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")
jax.config.update("jax_default_matmul_precision", "float32")  # goldens are float32; accelerators' default is less
gc.set_threshold(100_000)  # tracing makes many objects that stay, so frequent collections free little
ROOMS = {"models", "detectors", "data", "distiller", "explain", "tasks", "transfer", "pretrained"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Sets JAX for each test in `ROOMS`.

    An implicit type promotion raises. Training is left out, because optax's schedules promote integers. XLA optimises
    little, because these tests compile for longer than they run.
    """
    room = item.path.parent.name in ROOMS
    with jax.numpy_dtype_promotion("strict" if room else "standard"):
        jax.config.update("jax_disable_most_optimizations", room)
        try:
            return (yield)
        finally:
            jax.config.update("jax_disable_most_optimizations", False)


def pytest_runtest_teardown(item, nextitem):
    """Drops the traced and compiled functions of a folder's tests. A process that keeps them all becomes slow."""
    if nextitem and nextitem.path.parent != item.path.parent:
        jax.clear_caches()


@pytest.fixture(scope="session")
def golden():
    """File stem -> the numbers in it. A missing file is an error, never a skip."""
    return functools.cache(lambda stem: json.loads((GOLDENS / f"{stem}.json").read_text()))


def recipe_tensor(name: str, shape: list[int]) -> np.ndarray:
    """The weights that the goldens were computed with (tests/goldens/README.md), by PyTorch name and shape."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        value = 0.1 * random.standard_normal(shape)
    elif len(shape) == 4:
        value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) == 2:
        value = random.standard_normal(shape) * np.sqrt(1 / shape[1])
    elif name.endswith("weight"):
        value = random.uniform(0.1, 0.5, shape)
    else:
        value = 0.1 * random.standard_normal(shape)
    return np.asarray(value, np.float32)


@pytest.fixture(scope="session")
def draw_tensor():
    """`recipe_tensor`, for tests that have no entry in models.json."""
    return recipe_tensor


@pytest.fixture(scope="session")
def recipe(golden):
    """Golden key and network's name -> (model, variables with the recipe weights, images)."""

    @functools.cache
    def build(key: str, name: str):
        entry = golden("models")[key]
        model = models.create(name, entry["num_classes"])
        weights = {torch_name: recipe_tensor(torch_name, shape) for torch_name, shape in entry["state_dict"]}
        variables = jax.tree.map(jax.numpy.asarray, pretrained.from_torch(model, weights))
        size = entry["input_size"]
        images = np.random.RandomState(7).standard_normal((2, size, size, 3)).astype(np.float32)
        return model, variables, images

    return build


@pytest.fixture(scope="session")
def tiny():
    """ResNet8 with 10 classes at 8x8x1 and one compiled function per mode. Tests must not change it."""
    model = models.create("ResNet8", 10)
    images = np.random.RandomState(1).standard_normal((6, 8, 8, 1)).astype(np.float32)
    init = jax.jit(model.init)
    variables, teacher_variables = init(jax.random.key(0), images), init(jax.random.key(5), images)
    evaluate = jax.jit(lambda v, x: models.forward(model, v, x)[0])
    train = jax.jit(lambda v, x: models.forward(model, v, x, train=True))
    return types.SimpleNamespace(
        model=model,
        images=images,
        variables=variables,
        teacher_variables=teacher_variables,
        evaluate=evaluate,
        train=train,
    )


@pytest.fixture(scope="session")
def batch():
    """Six examples at 8x8x1 in [0, 1] with labels."""
    image = np.random.RandomState(2).uniform(size=(6, 8, 8, 1)).astype(np.float32)
    label = jax.numpy.arange(6, dtype=jax.numpy.int32)
    return data.Batch(image=jax.numpy.asarray(image), label=label, index=label, epoch=jax.numpy.float32(0))


@pytest.fixture
def stopped_at():
    """`with stopped_at(step)` sends SIGTERM to this process in update `step`. Training must raise `Interrupted`."""
    from signals import Interrupted
    from training.update import Update

    @contextlib.contextmanager
    def context(step):
        call, calls = Update.__call__, []

        def counting(*arguments):
            calls.append(1)
            if len(calls) == step:
                signal.raise_signal(signal.SIGTERM)
            return call(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Update, "__call__", counting)
            with pytest.raises(Interrupted) as raised:
                yield raised

    return context
