"""The teacher bank: the same results as asking the teacher about the same views, and a cache that can be lost."""

import json
import signal
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

import data
import distiller
import models
import tasks
import transfer
from configs.resolve import resolve
from data import stored
from distiller.soft_logits import SoftLogits
from models import ops, traces
from models.layers import Conv, Dense
from registry import NonFiniteError, UserError
from signals import Interrupted
from training import bank as banks
from training.bank import Settings
from training.builder import Builder
from training.devices import here
from training.replica import Replica
from training.train import train
from training.update import Update

pytestmark = pytest.mark.slow

SMALL = {"teacher_param": "tests/teacher", "student_arch": "CNN", "train_epoch": 2, "batch_size": 100, "crop_pad": 1}
SMALL |= {"log_every": 1, "eval_every": 2, "checkpoint_seconds": 1e9}
VIEWS, CLASSES = 3, 5


class Small(nn.Module):
    """A teacher of one convolution, whose logits depend on the crop; `scale` makes them large."""

    num_classes: int = CLASSES
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool = False, deltas=None):
        x = nn.relu(Conv(6, 3, stride=2)(images))
        logits = self.scale * Dense(self.num_classes)(x.reshape(len(x), -1))
        return models.Outputs(logits=logits, features={"embedding": x.mean((1, 2))})

    def classify(self, embedding):
        return embedding


AUGMENTATION = data.Augmentation(pad=1, flip=True)


def setting(
    scale=1.0,
    mean=0.4,
    dtype=jnp.float32,
    sha256="teacher",
    augmentation=AUGMENTATION,
    kept="float16",
    print="print",
    **own,
):
    """Settings, 11 random images of 6x6 pixels, an Offline strategy over them, and what `prepare` is given of it."""
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (11, 6, 6, 1)).astype(np.uint8), np.arange(11, dtype=np.int32) % CLASSES
    split = data.Split.of(images, labels)
    dataset = data.Dataset("Some", split, split, tuple("abcde"), (0.5,), (0.3,), AUGMENTATION, print)
    student = transfer.Player("student", Small(), (0.5,), (0.3,))
    teacher = transfer.Player("teacher", Small(scale=scale, dtype=dtype), (mean,), (0.2,))
    variables = jax.device_get(teacher.init(jax.random.key(1), jnp.zeros((1, 6, 6, 1))))
    strategy = transfer.create(
        "Offline",
        student=student,
        optimizer=optax.sgd(0.1),
        teacher=teacher,
        teacher_variables=variables,
        method=distiller.create("SoftLogits"),
        task=tasks.create("classification"),
    )
    update = Update(strategy, augmentation, here())
    places = {"devices": here(), "images": here().place(images), "stream": data.InMemory, "least": 0.0}
    shared = types.SimpleNamespace(dataset=dataset, update=update, **places)
    weights = types.SimpleNamespace(sha256=sha256, info={"arch": "Small"})
    settings = Settings(**{"views": VIEWS, "dtype": kept, "top_k": 0, "seed": 0, **own})
    return types.SimpleNamespace(
        settings=settings, shared=shared, strategy=strategy, loaded=(weights, teacher, variables)
    )


def prepare(folder, parts):
    """(bank, lines said, warnings)."""
    said, warned = [], []
    bank = banks.prepare(folder, parts.settings, parts.shared, parts.loaded, said.append, warned.append)
    return bank, said, warned


def asked(parts):
    """The teacher's logits [K, N, C] on every view, batches made as training makes them."""
    train, seed = parts.shared.dataset.train, jnp.int32(parts.settings.seed)
    index = jnp.arange(len(train), dtype=jnp.int32)
    _, teacher, variables = parts.loaded

    @jax.jit
    def ask(view):
        augmentation = parts.shared.update.augmentation
        images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
        made = data.make_batch(images, labels, seed, index, view, 0.0, augmentation)
        return teacher.forward(variables, made.image)[0].logits

    return np.stack([ask(jnp.full_like(index, view)) for view in range(parts.settings.views)])


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float16", 2**-10)])
def test_a_bank_holds_what_the_teacher_says_of_the_views(dtype, rtol, tmp_path, monkeypatch):
    monkeypatch.setattr(banks, "BATCH", 4)  # 11 images: the last batch is not full
    parts = setting(kept=dtype)
    bank, said, warned = prepare(tmp_path, parts)
    expected = asked(parts)
    assert bank.values.shape == expected.shape == (VIEWS, 11, CLASSES)
    np.testing.assert_allclose(np.asarray(bank.values, np.float32), expected, rtol=rtol, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1  # the views differ
    view, index = jnp.asarray([2, 0, 1]), jnp.asarray([10, 0, 10])
    found = jax.device_put(bank).logits(view, index)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, bank.values[view, index].astype(np.float32))
    assert said[-1].startswith("Teacher bank: 3 views of 11 images, ")
    assert not warned


@pytest.mark.parametrize("top", [1, 3, 4])
def test_the_highest_classes_keep_their_probability_and_the_others_share_theirs(top, tmp_path):
    parts = setting(top_k=top, kept="float32")
    bank, _, _ = prepare(tmp_path, parts)
    assert bank.indices.dtype == np.uint16
    expected = jax.nn.softmax(asked(parts)[1])
    found = jax.nn.softmax(jax.device_put(bank).logits(jnp.full(11, 1), jnp.arange(11)))
    order = np.argsort(-expected, axis=-1)
    for row in range(11):
        best, others = order[row, :top], order[row, top:]
        np.testing.assert_allclose(found[row, best], expected[row, best], rtol=1e-5)
        np.testing.assert_allclose(found[row, others], expected[row, others].mean(), rtol=1e-5)


def test_a_bank_is_read_again_and_not_computed(tmp_path, monkeypatch):
    first, _, _ = prepare(tmp_path, setting())
    monkeypatch.setattr(stored, "write", None)
    again, said, warned = prepare(tmp_path, setting())
    np.testing.assert_array_equal(first.values, again.values)
    assert isinstance(again.values, np.memmap)
    assert len(said) == 1
    assert not warned


@pytest.mark.parametrize("damage", ["bit", "cut", "no array", "no description", "no json"])
def test_a_damaged_bank_is_told_and_computed_again(damage, tmp_path):
    first = np.array(prepare(tmp_path, setting())[0].values)  # a copy: the bank's own is the file
    file = tmp_path / "teacher_bank" / ("values.npy" if damage in ("bit", "cut", "no array") else "stored.json")
    content = file.read_bytes()
    if damage.startswith("no ") and damage != "no json":
        file.unlink()
    else:
        changed = content[:-1] + bytes([content[-1] ^ 1]) if damage == "bit" else content[: len(content) // 2]
        file.write_bytes(changed)
    again, _, warned = prepare(tmp_path, setting())
    assert str(file) in warned[0]
    assert len(warned) == 1
    np.testing.assert_array_equal(first, again.values)
    assert prepare(tmp_path, setting())[2] == []


OTHERS = {
    "seed": {"seed": 1},
    "views": {"views": 2},
    "stored type": {"kept": "float32"},
    "teacher type": {"dtype": jnp.bfloat16},
    "top k": {"top_k": 2},
    "teacher": {"sha256": "another"},
    "data": {"print": "new"},
    "augmentation": {"augmentation": data.Augmentation(pad=2)},
    "statistics": {"mean": 0.1},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_bank_of_anything_else_is_not_used(other, tmp_path):
    prepare(tmp_path, setting())
    parts = setting(**OTHERS[other])
    bank, _, warned = prepare(tmp_path, parts)
    assert "another teacher or other views" in warned[0]
    if other != "top k":
        np.testing.assert_allclose(np.asarray(bank.values, np.float32), asked(parts), rtol=2**-10, atol=1e-4)


def test_what_is_interrupted_leaves_nothing_that_looks_like_a_bank(tmp_path, monkeypatch):
    views = banks._views

    def stop(*arguments):
        yield next(views(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(banks, "_views", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, setting())
    assert not list(tmp_path.iterdir())
    (tmp_path / "teacher_bank.part").mkdir()  # a killed process could not clean up
    (tmp_path / "teacher_bank.part" / "values.npy").write_bytes(b"half")
    assert prepare(tmp_path, setting())[0].values.shape == (VIEWS, 11, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher_bank"]


@pytest.mark.parametrize("when", ["before", "while writing"])
def test_a_full_disk_is_told_with_what_the_bank_needs(when, tmp_path, monkeypatch):
    if when == "before":
        monkeypatch.setattr(stored, "free", lambda _: 100)
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(stored, "write", full)
    with pytest.raises(UserError, match=r"0\.3 kB") as raised:
        prepare(tmp_path, setting())
    assert "--teacher_views" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_logits_that_float16_cannot_hold_are_told(tmp_path):
    with pytest.raises(NonFiniteError, match="teacher_bank_dtype=float32"):
        prepare(tmp_path, setting(scale=1e6))
    assert not list(tmp_path.iterdir())
    assert np.isfinite(prepare(tmp_path, setting(scale=1e6, kept="float32"))[0].values).all()


def test_a_bank_that_the_device_cannot_hold_is_told(tmp_path, monkeypatch):
    small = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000, "bytes_in_use": 900})
    monkeypatch.setattr(stored.jax, "local_devices", lambda: [small])
    with pytest.raises(UserError, match=r"takes 0\.3 kB .* 0\.1 kB free"):
        prepare(tmp_path, setting())


class Reader(SoftLogits):
    """A method that reads `what` besides the logits, without complaint where it is empty."""

    what: str = "features"

    def __call__(self, student, teacher, batch):
        if self.what == "features":
            extra = sum(jnp.sum(x) for x in teacher.features.values())
        elif self.what == "optional":
            extra = jnp.sum(teacher.features.get("embedding", jnp.zeros(())))
        else:
            extra = jnp.sum(teacher.classify(student.features["embedding"]))
        loss, terms = super().__call__(student, teacher, batch)
        return loss + 0.0 * extra, terms


class Gradients(SoftLogits):
    gradient_taps = ("input",)


class Two(SoftLogits):
    views = ("weak", "strong")


BANKED = {**SMALL, "teacher_views": 2}
REFUSED = {
    "features": ({"distiller": "test_bank:Reader"}, "needs more of the teacher than its logits"),
    "optional features": (
        {"distiller": "test_bank:Reader", "distiller_options": {"what": "optional"}},
        "needs more of the teacher than its logits",
    ),
    "classifier": (
        {"distiller": "test_bank:Reader", "distiller_options": {"what": "head"}},
        "needs more of the teacher than its logits",
    ),
    "gradients": ({"distiller": "test_bank:Gradients"}, "asks for the teacher's gradients"),
    "views": ({"distiller": "test_bank:Two"}, "wants the views weak, strong"),
    "mixed": ({"distiller": "SoftLogits", "mixup": 1.0}, "mixed with others"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_method_that_reads_more_than_logits_is_refused(case):
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as raised:
        Builder(resolve({**BANKED, **changes})[0])
    assert "Leave --teacher_views out" in str(raised.value)


def test_a_method_that_reads_logits_is_not_refused():
    for name in ("SoftLogits", "Logits", "SoftLogits+Logits"):
        assert Builder(resolve({**BANKED, "distiller": name})[0]).strategy.method


def test_the_step_has_no_teacher_in_it(tmp_path):
    parts = setting()
    bank = jax.device_put(prepare(tmp_path, parts)[0])
    train, index = parts.shared.dataset.train, jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
    split = data.DeviceSplit(parts.shared.images, jnp.asarray(train.labels), jnp.int32(0), index, index % VIEWS)
    strategy, key = parts.strategy, jax.random.key(0)

    def convolutions(split):
        batch = parts.shared.update.batch(split, jnp.int32(0))
        state = strategy.init(key, batch)
        jaxpr = jax.make_jaxpr(strategy.losses)(state.params, state, batch, key)
        terms, _ = strategy.losses(state.params, state, batch, key)
        return state.frozen, traces.primitives(jaxpr.jaxpr)[ops.CONVOLUTION.primitive.name], terms["SoftLogits"]

    frozen, several, expected = convolutions(split)
    none, one, loss = convolutions(split.replace(bank=bank))
    assert frozen.keys() == {"teacher"}
    assert none == {}
    assert (several, one) == (2, 1)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def rows(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == "train"]


@pytest.fixture(scope="module")
def banked(tmp_path_factory):
    """A whole run with a bank of three views in float32."""
    folder = tmp_path_factory.mktemp("runs") / "banked"
    recipe = {**SMALL, "teacher_views": 3, "teacher_bank_dtype": "float32"}
    train({**recipe, "train_path": str(folder)}, quiet=True)
    return folder, recipe


def test_a_run_with_a_bank_is_the_run_that_asks_the_teacher_about_these_views(banked, tmp_path, monkeypatch):
    plan = data.epoch_plan

    def fixed(seed, epoch, pool, length, lead):
        index, view = plan(seed, epoch, pool, length, lead)
        return index, data.fixed_views(seed, index, view, 3)

    fresh = train({**SMALL, "train_path": str(tmp_path / "fresh")}, quiet=True)
    monkeypatch.setattr(data.plans, "epoch_plan", fixed)
    asked = train({**SMALL, "train_path": str(tmp_path / "asked")}, quiet=True)
    ours = rows(banked[0])
    for theirs, close in ((rows(tmp_path / "asked"), True), (rows(tmp_path / "fresh"), False)):
        pairs = [(a["SoftLogits"], b["SoftLogits"]) for a, b in zip(ours[:12], theirs[:12], strict=True)]
        assert np.allclose(*zip(*pairs, strict=True), rtol=1e-3) == close
        assert np.isclose(*pairs[0], rtol=1e-6) == close
    summary = json.loads((banked[0] / "summary.json").read_text())
    assert summary["last"]["top1"] == pytest.approx(asked["last"]["top1"], abs=0.5)
    assert fresh["last"]["top1"] > 30


def test_an_interrupted_run_with_a_bank_ends_with_the_same_bits(banked, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    load_epoch = Replica.load_epoch

    def interrupted(self, step):  # the second epoch begins
        signal.raise_signal(signal.SIGTERM)
        load_epoch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "load_epoch", interrupted)
        with pytest.raises(Interrupted):
            train({**banked[1], "train_path": str(folder)}, quiet=True)
    written = (folder / "teacher_bank" / "values.npy").stat().st_mtime_ns
    train({**banked[1], "train_path": str(folder)}, quiet=True)
    assert (folder / "teacher_bank" / "values.npy").stat().st_mtime_ns == written
    assert (folder / "metrics.jsonl").read_bytes() == (banked[0] / "metrics.jsonl").read_bytes()
    ours, theirs = (
        safetensors.numpy.load_file(place / "last" / "weights.safetensors") for place in (folder, banked[0])
    )
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


def test_another_number_of_views_is_another_run(banked):
    with pytest.raises(UserError, match="teacher_views: 3 there, 2 now"):
        train({**banked[1], "teacher_views": 2, "train_path": str(banked[0])}, quiet=True)


@pytest.mark.parametrize(("key", "expected"), [("", "float32"), ("bfloat16", "bfloat16")])
def test_the_frozen_teacher_is_folded_and_computes_in_its_own_type(key, expected):
    strategy = Builder(resolve({**SMALL, "teacher_dtype": key})[0]).strategy
    assert jnp.dtype(strategy.teacher.model.dtype) == expected
    assert jnp.dtype(strategy.student.model.dtype) == "float32"
    assert strategy.teacher_variables["batch_stats"] == {}


def test_labels_alone_have_no_bank(tmp_path):
    recipe = {**SMALL, "train_epoch": 1, "transfer": "Labels", "teacher_views": 2, "train_path": str(tmp_path / "run")}
    train(recipe, quiet=True)
    assert not (tmp_path / "run" / "teacher_bank").exists()
