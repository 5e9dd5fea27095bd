"""Records decoded by threads are what was written; images that are not as the dataset says are refused."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data import records

ROOT = pathlib.Path(__file__).resolve().parents[2]


def version(prepared):
    return next(prepared[0].glob("cifar10/*"))


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_threads_read_every_record_once_and_in_order(chunk, prepared, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", chunk)
    for split in ("train", "test"):
        images, labels = records.read(version(prepared), split)
        np.testing.assert_array_equal(images, prepared[1][split][0])
        np.testing.assert_array_equal(labels, prepared[1][split][1])
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_the_first_error_of_a_thread_is_raised(prepared, monkeypatch):
    def damaged(*args):
        raise ValueError("damaged")

    monkeypatch.setattr(records, "CHUNK", 1)
    monkeypatch.setattr(records, "_image", damaged)
    with pytest.raises(ValueError, match="damaged"):
        records.read(version(prepared), "train")


@pytest.mark.slow
def test_a_process_that_ends_does_not_wait_for_the_rest(prepared):
    """A thread of the pool finishes the image that it has begun, and begins no other."""
    program = f"""
import concurrent.futures, pathlib, sys, threading, time
from data import records
begun, image, pool = threading.Event(), records._image, concurrent.futures.ThreadPoolExecutor
def slow(*args):
    begun.set()
    print("image")
    time.sleep(0.3)
    return image(*args)
records.CHUNK, records._image = 1, slow
concurrent.futures.ThreadPoolExecutor = lambda max_workers=1: pool(max_workers)
def read():
    try:
        records.read(pathlib.Path({str(version(prepared))!r}), "train")
        print("read")
    except RuntimeError:
        sys.exit()
threading.Thread(target=read, daemon=True).start()
begun.wait(60)
sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (2, "image\n", "")


def encoded(kind, shape, dtype=np.uint8):
    random = np.random.RandomState(0).randint(0, 256, shape).astype(dtype)
    stream = io.BytesIO()
    Image.fromarray(random.squeeze()).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(8, 6, 1), (32, 32, 3), (200, 130, 3)], ids=str)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_pillows_bit_for_bit(kind, shape):
    content = encoded(kind, shape)
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(shape)
    np.testing.assert_array_equal(records._image(content, shape), expected)


UNFIT = {
    "other size": encoded("PNG", (8, 9, 3)),
    "grey": encoded("PNG", (8, 8, 1)),
    "four channels": encoded("PNG", (8, 8, 4)),
    "16 bits": encoded("PNG", (8, 8, 1), np.uint16),
    "cut PNG": encoded("PNG", (8, 8, 3))[:-30],
    "cut JPEG": encoded("JPEG", (8, 8, 3))[:-30],
    "no image": b"hello",
}


@pytest.mark.parametrize("content", UNFIT)
def test_what_is_not_such_an_image_is_refused(content, capfd):
    with pytest.raises(ValueError, match=r"not \(8, 8, [13]\) uint8"):
        records._image(UNFIT[content], (8, 8, 1) if content == "16 bits" else (8, 8, 3))
    capfd.readouterr()  # what OpenCV says of it
