"""The teacher bank: the same results as asking the teacher about the same views, and a cache that can be lost."""

import json
import signal
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from training.step import DeviceSplit, batch_of

import data
import distiller
import models
import transfer
from distiller.soft_logits import SoftLogits
from models.layers import Conv, Dense
from registry import NonFiniteError, UserError
from training import bank as banks
from training import config as configs
from training import loop, replicas, run

SMALL = {"teacher_param": "tests/teacher", "student_arch": "CNN", "train_epoch": 2, "batch_size": 100, "crop_pad": 1}
SMALL |= {"log_every": 1, "eval_every": 2, "checkpoint_seconds": 1e9}
VIEWS, CLASSES = 3, 5


class Small(nn.Module):
    """A teacher of one convolution, whose logits depend on the crop; `scale` makes them large."""

    num_classes: int = CLASSES
    scale: float = 1.0

    @nn.compact
    def __call__(self, images, train: bool = False, deltas=None):
        x = nn.relu(Conv(6, 3, stride=2)(images))
        logits = self.scale * Dense(self.num_classes)(x.reshape(len(x), -1))
        return models.Outputs(logits=logits, features={"embedding": x.mean((1, 2))})

    def classify(self, embedding):
        return embedding


def setting(method=None, scale=1.0, **changes):
    """A recipe, 11 random images of 6x6 pixels, and an Offline strategy over them."""
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (11, 6, 6, 1)).astype(np.uint8), np.arange(11, dtype=np.int32) % CLASSES
    split = data.Split.of(images, labels)
    names = tuple("abcde")
    dataset = data.Dataset("Some", split, split, names, (0.5,), (0.3,), data.Augmentation(pad=1, flip=True), "print")
    config = configs.merge({"teacher_views": VIEWS, "batch_size": 4, **changes})
    student = transfer.Player("student", Small(), (0.5,), (0.3,))
    teacher = transfer.Player("teacher", Small(scale=scale), (0.4,), (0.2,))
    variables = teacher.init(jax.random.key(1), jnp.zeros((1, 6, 6, 1)))
    method = method or distiller.create("SoftLogits")
    strategy = transfer.create(
        "Offline",
        student=student,
        optimizer=optax.sgd(0.1),
        teacher=teacher,
        teacher_variables=jax.device_get(variables),
        method=method,
    )
    weights = types.SimpleNamespace(sha256="teacher", info={"arch": "Small"})
    return types.SimpleNamespace(config=config, dataset=dataset, strategy=strategy, weights=weights)


def prepare(folder, parts):
    """(bank, lines said, warnings)."""
    said, warned = [], []
    arguments = (parts.config, parts.dataset, parts.strategy, parts.dataset.augmentation, parts.weights)
    return banks.prepare(folder, *arguments, said.append, warned.append), said, warned


def asked(parts):
    """The teacher's logits [K, N, C] on every view, batches made as training makes them."""
    train, seed = parts.dataset.train, jnp.int32(parts.config.seed)
    index = jnp.arange(len(train), dtype=jnp.int32)

    @jax.jit
    def ask(view):
        made = data.make_batch(
            jnp.asarray(train.images), jnp.asarray(train.labels), seed, index, view, 0.0, parts.dataset.augmentation
        )
        return parts.strategy.teacher.forward(parts.strategy.teacher_variables, made.image)[0].logits

    return np.stack([ask(jnp.full_like(index, view)) for view in range(parts.config.teacher_views)])


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float16", 2**-10)])
def test_a_bank_holds_what_the_teacher_says_of_the_views(dtype, rtol, tmp_path, monkeypatch):
    monkeypatch.setattr(banks, "EVAL_BATCH", 4)  # 11 images: the last batch is not full
    parts = setting(teacher_bank_dtype=dtype)
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
    parts = setting(teacher_bank_top_k=top, teacher_bank_dtype="float32")
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
    monkeypatch.setattr(banks, "_write", None)
    again, said, warned = prepare(tmp_path, setting())
    np.testing.assert_array_equal(first.values, again.values)
    assert isinstance(again.values, np.memmap)
    assert len(said) == 1
    assert not warned


@pytest.mark.parametrize("damage", ["bit", "cut", "no array", "no description", "no json"])
def test_a_damaged_bank_is_told_and_computed_again(damage, tmp_path):
    first = np.array(prepare(tmp_path, setting())[0].values)  # a copy: the bank's own is the file
    file = tmp_path / "teacher_bank" / ("values.npy" if damage in ("bit", "cut", "no array") else "bank.json")
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
    "views": {"teacher_views": 2},
    "stored type": {"teacher_bank_dtype": "float32"},
    "teacher type": {"teacher_dtype": "bfloat16"},
    "top k": {"teacher_bank_top_k": 2},
}


@pytest.mark.parametrize("other", [*OTHERS, "teacher", "data", "augmentation", "statistics"])
def test_a_bank_of_anything_else_is_not_used(other, tmp_path):
    prepare(tmp_path, setting())
    parts = setting(**OTHERS.get(other, {}))
    if other == "teacher":
        parts.weights.sha256 = "another"
    elif other in ("data", "augmentation"):
        change = {"fingerprint": "new"} if other == "data" else {"augmentation": data.Augmentation(pad=2)}
        parts.dataset = parts.dataset.__class__(**{**vars(parts.dataset), **change})
    elif other == "statistics":
        object.__setattr__(parts.strategy.teacher, "mean", (0.1,))
    bank, _, warned = prepare(tmp_path, parts)
    assert "another teacher or other views" in warned[0]
    if other not in ("top k", "stored type", "teacher type"):
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
        monkeypatch.setattr(banks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=100))
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(banks, "_write", full)
    with pytest.raises(UserError, match=r"needs 0\.3 kB") as raised:
        prepare(tmp_path, setting())
    assert "--teacher_views" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_logits_that_float16_cannot_hold_are_told(tmp_path):
    with pytest.raises(NonFiniteError, match="teacher_bank_dtype=float32"):
        prepare(tmp_path, setting(scale=1e6))
    assert not list(tmp_path.iterdir())
    assert np.isfinite(prepare(tmp_path, setting(scale=1e6, teacher_bank_dtype="float32"))[0].values).all()


def test_a_bank_that_the_device_cannot_hold_is_told(tmp_path, monkeypatch):
    small = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000, "bytes_in_use": 900})
    monkeypatch.setattr(banks.jax, "local_devices", lambda: [small])
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


def example(parts):
    label = jnp.zeros(4, jnp.int32)
    return data.Batch(image=jnp.zeros((4, 6, 6, 1)), label=label, index=label, epoch=jnp.zeros(()))


REFUSED = {
    "features": (Reader(), "needs more of the teacher than its logits"),
    "optional features": (Reader(what="optional"), "needs more of the teacher than its logits"),
    "classifier": (Reader(what="head"), "needs more of the teacher than its logits"),
    "gradients": (Gradients(), "asks for the teacher's gradients"),
    "views": (Two(), "wants the views weak, strong"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_method_that_reads_more_than_logits_is_refused(case):
    method, message = REFUSED[case]
    parts = setting(method)
    with pytest.raises(UserError, match=message) as raised:
        banks.check(parts.config, parts.strategy, example(parts), CLASSES)
    assert "Leave --teacher_views out" in str(raised.value)


def test_a_method_that_reads_logits_is_not_refused():
    for name in ("SoftLogits", "Logits", "SoftLogits+Logits"):
        parts = setting(distiller.create(name))
        banks.check(parts.config, parts.strategy, example(parts), CLASSES)


def test_mixed_images_are_refused():
    parts = setting()
    mixed = example(parts).replace(second_label=jnp.zeros(4, jnp.int32), share=jnp.ones(4))
    with pytest.raises(UserError, match="mixed with others"):
        banks.check(parts.config, parts.strategy, mixed, CLASSES)


def test_the_step_has_no_teacher_in_it(tmp_path):
    parts = setting()
    bank = jax.device_put(prepare(tmp_path, parts)[0])
    train, index = parts.dataset.train, jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
    split = DeviceSplit(jnp.asarray(train.images), jnp.asarray(train.labels), jnp.int32(0), index, index % VIEWS)
    strategy, key = parts.strategy, jax.random.key(0)

    def convolutions(split):
        batch = batch_of(split, jnp.int32(0), parts.dataset.augmentation)
        state = strategy.init(key, batch)
        jaxpr = jax.make_jaxpr(strategy.losses)(state.params, state, batch, key)
        terms, _ = strategy.losses(state.params, state, batch, key)
        return state.frozen, str(jaxpr).count("conv_general_dilated"), terms["SoftLogits"]

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
    run.train({**recipe, "train_path": str(folder)}, quiet=True)
    return folder, recipe


def test_a_run_with_a_bank_is_the_run_that_asks_the_teacher_about_these_views(banked, tmp_path, monkeypatch):
    plan = data.epoch_plan

    def fixed(seed, epoch, pool, length, lead):
        index, view = plan(seed, epoch, pool, length, lead)
        return index, data.fixed_views(seed, index, view, 3)

    fresh = run.train({**SMALL, "train_path": str(tmp_path / "fresh")}, quiet=True)
    monkeypatch.setattr(data, "epoch_plan", fixed)
    asked = run.train({**SMALL, "train_path": str(tmp_path / "asked")}, quiet=True)
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
    load_epoch = replicas.Replicas.load_epoch

    def interrupted(self):
        if self.step:  # the second epoch begins
            signal.raise_signal(signal.SIGTERM)
        load_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(replicas.Replicas, "load_epoch", interrupted)
        with pytest.raises(loop.Interrupted):
            run.train({**banked[1], "train_path": str(folder)}, quiet=True)
    written = (folder / "teacher_bank" / "values.npy").stat().st_mtime_ns
    run.train({**banked[1], "train_path": str(folder)}, quiet=True)
    assert (folder / "teacher_bank" / "values.npy").stat().st_mtime_ns == written
    assert (folder / "metrics.jsonl").read_bytes() == (banked[0] / "metrics.jsonl").read_bytes()
    ours, theirs = (
        safetensors.numpy.load_file(place / "last" / "weights.safetensors") for place in (folder, banked[0])
    )
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


def test_another_number_of_views_is_another_run(banked):
    with pytest.raises(UserError, match="teacher_views: 3 there, 2 now"):
        run.train({**banked[1], "teacher_views": 2, "train_path": str(banked[0])}, quiet=True)


@pytest.mark.parametrize(("key", "expected"), [("", "float32"), ("bfloat16", "bfloat16")])
def test_the_frozen_teacher_is_folded_and_computes_in_its_own_type(key, expected):
    config = configs.merge({**SMALL, "teacher_dtype": key})
    strategy, *_ = run._strategy(config, data.load("Digits"))
    assert jnp.dtype(strategy.teacher.model.dtype) == expected
    assert jnp.dtype(strategy.student.model.dtype) == "float32"
    assert strategy.teacher_variables["batch_stats"] == {}


def test_labels_alone_have_no_bank(tmp_path):
    recipe = {**SMALL, "train_epoch": 1, "transfer": "Labels", "teacher_views": 2, "train_path": str(tmp_path / "run")}
    run.train(recipe, quiet=True)
    assert not (tmp_path / "run" / "teacher_bank").exists()
