"""Streams: rows that follow from the step alone, for any number of threads, read ahead and only where needed."""

import collections
import time
import tracemalloc

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

import data
import hosts
from data import crops, picture, streamed
from data.pictures import Files, PictureSplit
from registry import DamagedFileError

STEPS, SIZE, TOTAL = 3, 8, 9
VIEWS = ("weak", "strong", "partner", "previous")
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


class Counted(data.Split):
    """Thirty images whose pixels are their number, and the numbers that were asked for."""

    def __init__(self):
        pixels = np.arange(30, dtype=np.uint8)[:, None, None, None] + np.zeros((30, 2, 2, 1), np.uint8)
        super().__init__(30, (2, 2, 1), lambda: (pixels, np.arange(30, dtype=np.int32) % 3))
        self.asked = collections.Counter()

    def rows(self, index):
        self.asked.update(np.asarray(index).tolist())
        return super().rows(index)


def stream(split, threads=2, views=VIEWS, least=0.0):
    plan = data.Plans(5, np.arange(len(split), dtype=np.int32), TOTAL, STEPS, SIZE)
    return data.Stream(split, split.labels, plan, views=views, least=least, sharding=HERE, threads=threads)


def fed(own, steps, state=None):
    """Step -> the numbers of the images in each view."""
    split = data.DeviceSplit(None, *[np.zeros(1)] * 4)
    return {step: [np.asarray(x)[:, 0, 0, 0].tolist() for x in own.feed(split, step, state).pictures] for step in steps}


@pytest.fixture(scope="module")
def expected():
    """Step -> the numbers in each view, from the functions that gather on the device."""
    split, found = Counted(), {}
    table, pool = data.class_table(split.labels), np.arange(30, dtype=np.int32)
    for epoch in range(TOTAL // STEPS):
        index, view = (np.asarray(x).reshape(-1, SIZE) for x in data.epoch_plan(5, epoch, pool, STEPS * SIZE, SIZE))
        for place in range(STEPS):
            now = index[place + 1], view[place + 1]
            partners = data.class_partners(table, np.int32(5), *map(jax.numpy.asarray, now))
            own = [now[0], now[0], partners, index[place]]
            found[epoch * STEPS + place] = [np.asarray(x).tolist() for x in own]
    return found


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_update_shows_the_rows_of_the_order_for_any_number_of_threads(threads, expected, monkeypatch):
    monkeypatch.setattr(streamed, "CHUNK", 3)  # a batch comes in three pieces
    assert fed(stream(Counted(), threads), range(TOTAL), jax.numpy.zeros(())) == expected


def test_a_run_that_continues_reads_nothing_of_what_came_before(expected):
    split = Counted()
    own = stream(split, threads=1, views=("weak",))
    assert fed(own, [7, 8], jax.numpy.zeros(())) == {step: expected[step][:1] for step in (7, 8)}
    assert split.asked == collections.Counter(expected[7][0] + expected[8][0])


def test_a_look_at_any_update_disturbs_no_order(expected):
    own = stream(Counted())
    found = fed(own, [0]) | fed(own, [0, 1, 2], jax.numpy.zeros(())) | fed(own, [2, 6])
    found |= fed(own, [3, 4], jax.numpy.zeros(()))
    assert found == {step: expected[step] for step in found}


def test_views_of_one_picture_are_one_array_unless_the_host_crops_them():
    split = data.DeviceSplit(None, *[np.zeros(1)] * 4)
    weak, strong, partner, _ = stream(Counted()).feed(split, 0).pictures
    assert weak is strong
    assert weak is not partner
    assert [n for n, _ in stream(Counted(), least=0.5).sources] == [0, 1, 2, 3]


def test_a_process_reads_the_rows_of_its_devices_alone():
    class Second:  # the second of two processes with two devices each
        def addressable_devices_indices_map(self, shape):
            return {number: (slice(2 * number, 2 * number + 2),) for number in (2, 3)}

    rows = streamed.Rows(Second(), SIZE)
    assert rows.mine.tolist() == [4, 5, 6, 7]
    assert rows.chunk(0).tolist() == [4, 5, 6, 7]


# Pictures in files


@pytest.fixture
def folder(tmp_path):
    """An ImageFolder of 24 JPEG files of 40x30 pixels."""
    random = np.random.RandomState(0)
    for split, count in (("train", 20), ("test", 4)):
        for number in range(count):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, (30, 40, 3)).astype(np.uint8)).save(path)
    return tmp_path


def test_a_streamed_folder_has_the_images_of_one_in_memory(folder):
    held, found = (data.load("ImageFolder", str(folder), 16, loading=how) for how in ("memory", "stream"))
    assert (held.streamed, found.streamed) == (False, True)
    assert found.test.masks is None
    assert found.test._coming is None  # no picture has been read for this answer
    for name in ("train", "test"):
        np.testing.assert_array_equal(getattr(found, name).images, getattr(held, name).images)
        np.testing.assert_array_equal(getattr(found, name).labels, getattr(held, name).labels)
    assert (found.mean, found.std) == (held.mean, held.std)  # of fewer than 500 images
    assert found.class_names == held.class_names
    assert data.load("ImageFolder", str(folder), 16).streamed is False


def test_host_crops_follow_from_the_step_for_any_number_of_threads(folder):
    found = data.load("ImageFolder", str(folder), 8, loading="stream")
    split, runs = data.DeviceSplit(None, *[np.zeros(1)] * 4), []
    for threads in (1, 4):
        own = stream(found.train, threads, ("weak", "strong", "previous"), least=0.3)
        runs.append([own.feed(split, step, jax.numpy.zeros(())).pictures for step in range(4)])
    jax.tree.map(np.testing.assert_array_equal, *runs)
    weak, strong, _ = map(np.asarray, runs[0][1])
    assert (weak != strong).any(axis=(1, 2, 3)).all()  # each view has a crop of its own
    index, view = own.plan(0)
    drawn = [crops.draws(5, 2, int(v), int(i)) for v, i in zip(view[1], index[1], strict=True)]
    np.testing.assert_array_equal(runs[0][1][2], found.train.crops(index[1], drawn, 0.3))  # the batch before


def test_what_the_host_crops_the_device_does_not(folder):
    augmentation = data.Augmentation(flip=True, resized_crop=0.3)
    held, found = (data.load("ImageFolder", str(folder), 8, loading=how) for how in ("memory", "stream"))
    assert data.divided(held, augmentation) == (0.0, augmentation)
    assert data.divided(found, augmentation) == (0.3, data.Augmentation(flip=True))
    assert data.divided(data.load("Digits", loading="stream"), augmentation) == (0.0, augmentation)


def test_a_file_that_changes_is_noticed_by_its_size_or_by_its_content(folder):
    def prints():
        data.load.cache_clear()
        options = {"image_size": 16, "loading": "stream"}
        return [data.load("ImageFolder", str(folder), **options, check_files=own).fingerprint for own in (0, 1)]

    before = prints()
    file = folder / "train/a/0.jpg"
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    names, contents = prints()
    assert (names == before[0], contents == before[1]) == (True, False)
    file.write_bytes(content + b"\0")
    assert prints()[0] != before[0]


def test_a_damaged_file_ends_the_run_and_is_named(folder):
    found = data.load("ImageFolder", str(folder), 16, loading="stream")
    bad = folder / "train/a/4.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(DamagedFileError, match=rf"ImageFolder: 1 of 8 pictures cannot be read:\n  {bad} \(no picture"):
        fed(stream(found.train, views=("weak",)), range(TOTAL), jax.numpy.zeros(()))


def test_one_of_several_processes_waits_with_its_error_until_all_agree(folder, monkeypatch):
    found, asked = data.load("ImageFolder", str(folder), 16, loading="stream"), []
    bad = folder / "test/a/0.jpg"
    bad.write_bytes(b"no picture")
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(hosts, "_gather", lambda mine: asked.append(mine) or [None, mine])
    whole = data.StreamedImages(found.train, HERE, 2).batches(np.arange(20).reshape(2, 10))
    assert [len(batch) for batch in whole] == [10, 10]
    assert asked == [None]
    batches = data.StreamedImages(found.test, HERE, 2).batches(np.arange(4).reshape(2, 2))
    shown = np.concatenate([np.asarray(next(batches)) for _ in range(2)])
    assert shown.any(axis=(1, 2, 3)).tolist() == [False, False, True, True]  # one is damaged
    with pytest.raises(DamagedFileError, match=str(bad)):
        next(batches)
    assert (asked[1]["code"], str(bad) in asked[1]["text"]) == (3, True)


def test_damaged_pictures_cannot_be_left_out_of_a_stream(folder):
    with pytest.raises(ValueError, match="--skip_damaged reads every picture"):
        data.load("ImageFolder", str(folder), 16, loading="stream", skip_damaged=True)


def test_a_jpeg_is_decoded_as_pillow_decodes_it(folder):
    form = picture.Form(16, 3, 20)
    for path in sorted(folder.glob("*/*/*.jpg"))[:6]:
        with picture.reading():
            np.testing.assert_array_equal(crops.whole(path.read_bytes(), form), picture.read(str(path), form).pixels)
    grey = folder / "grey.jpg"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(grey)
    with picture.reading():
        one = picture.Form(16, 1)
        np.testing.assert_array_equal(crops.whole(grey.read_bytes(), one), picture.read(str(grey), one).pixels)


def test_a_stream_holds_a_few_batches_and_never_all_images():
    class Drawn(data.Split):  # images that exist while they are shown
        def rows(self, index):
            return np.zeros((len(index), *self.image_shape), np.uint8)

    split, batch = Drawn(3200, (64, 64, 3), lambda: ()), 64 * 64 * 64 * 3
    plan = data.Plans(0, np.arange(len(split), dtype=np.int32), 50, 50, 64, previous=False)
    how = {"views": ("weak",), "least": 0.0, "sharding": HERE, "threads": 2}
    own, state = data.Stream(split, np.zeros(len(split), np.int32), plan, **how), jax.numpy.zeros(())
    empty = data.DeviceSplit(None, *[np.zeros(1)] * 4)
    own.feed(empty, 0, state)
    tracemalloc.start()  # NumPy reports its arrays
    try:
        for step in range(1, plan.total):
            own.feed(empty, step, state)
        largest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch < largest < 16 * batch


@pytest.mark.slow
def test_the_index_of_imagenet_is_small_and_its_first_batch_comes_soon(monkeypatch):
    classes, each = 1000, 1281
    names = (f"train/n{c:08}/n{c:08}_{i}.JPEG" for c in range(classes) for i in range(each))
    files = Files("/nowhere", names)
    assert len(files) == classes * each
    assert files.name(each + 1) == "train/n00000001/n00000001_1.JPEG"
    assert files.nbytes < 100e6 / 2
    content = cv2.imencode(".jpg", np.zeros((12, 12, 3), np.uint8))[1].tobytes()
    monkeypatch.setattr(Files, "read", lambda self, i: content)
    split = PictureSplit("Many", files, np.repeat(np.arange(classes, dtype=np.int32), each), picture.Form(8))
    begun = time.monotonic()
    pool = np.arange(len(split), dtype=np.int32)
    plan = data.Plans(0, pool, 10**6, len(split) // 256, 256, previous=False)
    own = data.Stream(split, split.labels, plan, views=("weak",), least=0.08, sharding=HERE, threads=2)
    assert own.feed(data.DeviceSplit(None, *[np.zeros(1)] * 4), 3, jax.numpy.zeros(())).pictures[0].shape[0] == 256
    assert time.monotonic() - begun < 5
    assert sum(x.nbytes for x in plan(0)) + files.nbytes + split.labels.nbytes < 100e6
