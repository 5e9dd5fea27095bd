"""Splits of pictures of any size that stay where they are: in files, or in records."""

import array
import bisect
import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from data import crops, decoded, picture
from data.dataset import IMAGES, Split, channel_statistics
from registry import DamagedFileError

KEPT = 2000  # pictures; a split with more is decoded once for the memory and cached (data/decoded.py)
SAMPLED = 500  # pictures whose mean and deviation stand for all
PART = 16  # pictures that a thread reads in one turn
# Whether Pillow reads pictures that end early is a setting of the process. A picture that another thread reads
# meanwhile gets the same pixels: it ends early and would be read in this way next, or the setting does not matter.
TRUNCATED = threading.Lock()


class Files:
    """Paths of many files in one folder, in about 30 bytes each.

    Args:
        root: the folder.
        paths: from `root`, with "/"; best with the files of a sub-folder one after the other.
    """

    def __init__(self, root: str | os.PathLike, paths: Iterable[str]):
        self.root, self._folders, self._starts = str(root), [], []
        self._ends, count, names = array.array("Q"), 0, bytearray()
        for folder, own in itertools.groupby(paths, key=lambda path: path.rpartition("/")[0]):
            self._folders.append(folder)
            self._starts.append(count)
            for path in own:
                names += path.rpartition("/")[2].encode(errors="surrogateescape")
                self._ends.append(len(names))
                count += 1
        self._names = bytes(names)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, i: int) -> str:
        """The path of file `i` from the root."""
        folder = self._folders[bisect.bisect_right(self._starts, i) - 1]
        name = self._names[self._ends[i - 1] if i else 0 : self._ends[i]].decode(errors="surrogateescape")
        return f"{folder}/{name}" if folder else name

    def where(self, i: int) -> str:
        """The path of file `i`, for messages."""
        return os.path.join(self.root, self.name(i))

    def read(self, i: int) -> bytes:
        """The content of file `i`; raises `OSError`."""
        return pathlib.Path(self.where(i)).read_bytes()

    @property
    def nbytes(self) -> int:
        """Bytes of the index in memory."""
        return len(self._names) + self._ends.itemsize * len(self._ends)

    def files(self, chosen: np.ndarray | None = None) -> Iterator[str]:
        """The paths of some files, or of all."""
        return map(self.where, range(len(self)) if chosen is None else map(int, chosen))

    def fingerprint(self, contents: bool = False) -> str:
        """A digest of the names and sizes of all files, and of their contents if `contents`; hexadecimal."""
        digest = hashlib.sha256()
        for i in range(len(self)):
            path = self.where(i)
            digest.update(f"{self.name(i)} {os.path.getsize(path)}\n".encode(errors="surrogateescape"))
            if contents:
                digest.update(hashlib.sha256(pathlib.Path(path).read_bytes()).digest())
        return digest.hexdigest()


class PictureSplit(Split):
    """A split of pictures that are read when they are shown, each time anew.

    Args:
        name: of the dataset, for messages.
        source: has `read(i)`, the bytes of picture i; `where(i)`, its name for messages; `files(chosen)`, the files
            that hold the pictures `chosen`.
        labels: [N] int32.
        form: of the images.
        chosen: [N] int, the pictures of the source that belong to the split; None: all.
        any_size: False where all pictures have one size.
    """

    advice = "Replace or remove them."  # on pictures that cannot be read

    def __init__(
        self,
        name: str,
        source,
        labels: np.ndarray,
        form: picture.Form,
        chosen: np.ndarray | None = None,
        any_size: bool = True,
    ):
        super().__init__(len(labels), (form.size, form.size, form.channels), self._everything)
        self.name, self.source, self.form, self._labels, self._chosen = name, source, form, labels, chosen
        self.any_size = any_size

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    @property
    def masks(self) -> None:
        return None

    def part(self, rows: np.ndarray) -> "PictureSplit":
        chosen = rows if self._chosen is None else self._chosen[rows]
        return type(self)(self.name, self.source, self._labels[rows], self.form, chosen, self.any_size)

    def rows(self, index: Sequence[int]) -> np.ndarray:
        return self._whole(*self._squares(index), len(index))

    def crops(self, index: Sequence[int], drawn: Sequence[crops.Draws], least: float) -> np.ndarray:
        """Random resized crops [M, H, W, C] uint8 of the pictures `index` [M], with the random numbers `drawn` [M]."""
        read = self._pixels(index, lambda content, row: crops.read(content, self.form, drawn[row], least))
        return self._whole(*read, len(index))

    def blocks(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self), IMAGES):
            yield self._in_threads(range(first, min(first + IMAGES, len(self))))

    def _everything(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self) <= KEPT:
            return self._in_threads(range(len(self))), self._labels
        place = hashlib.sha256(f"{self.source.where(0)} {self.form} {len(self)}".encode(errors="surrogateescape"))
        if self._chosen is not None:
            place.update(np.asarray(self._chosen, np.int64).tobytes())
        name = f"{self.name.replace(':', '-').replace('/', '-')}-{place.hexdigest()[:8]}"
        return *decoded.kept(name, self.source.files(self._chosen), lambda: [self._in_threads(range(len(self)))]), (
            self._labels
        )

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel, of `SAMPLED` pictures that are evenly spaced in the split."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(SAMPLED, len(self))).astype(int))
        return channel_statistics(self.part(rows)._in_threads(range(len(rows))))

    def _in_threads(self, index: range) -> np.ndarray:
        """The images of many examples. An error has all pictures that cannot be read."""
        return self._whole(*self._parts(index), len(index))

    def _parts(self, index: range) -> tuple[np.ndarray, dict[int, str]]:
        """What `_pixels` returns of many examples, read by threads."""
        parts = [index[first : first + PART] for first in range(0, len(index), PART)]
        images, problems = np.empty((len(index), *self.image_shape), np.uint8), {}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for part, found in zip(parts, pool.map(self._squares, parts), strict=True):
                first = part.start - index.start
                images[first : first + len(part)] = found[0]
                problems |= {first + row: line for row, line in found[1].items()}
        return images, problems

    def _squares(self, index: Sequence[int]) -> tuple[np.ndarray, dict[int, str]]:
        return self._pixels(index, lambda content, row: self._square(content, int(index[row])))

    def _square(self, content: bytes, example: int) -> np.ndarray:
        """The image of an example, from the content of its file."""
        del example
        return crops.whole(content, self.form)

    def _pixels(self, index: Sequence[int], form: Callable[[bytes, int], np.ndarray]) -> tuple[np.ndarray, dict]:
        """(the images of the examples, row of `index` -> a line on the picture, for each one that cannot be read)."""
        picture.always_reading()
        images, problems = np.empty((len(index), *self.image_shape), np.uint8), {}
        for row, i in enumerate(map(int, index)):
            i = i if self._chosen is None else int(self._chosen[i])
            try:
                content = self.source.read(i)
                try:
                    images[row] = form(content, row)
                except picture.EndsEarly:
                    with TRUNCATED, picture.reading(truncated=True):
                        images[row] = form(content, row)
            except picture.Unscaled:
                problems[row] = f"  {self.source.where(i)} (grey of 16 bits that does not say its depth)"
            except (picture.Unreadable, OSError) as error:
                problems[row] = f"  {self.source.where(i)} ({getattr(error, 'strerror', None) or error})"
        return images, problems

    def _whole(self, images: np.ndarray, problems: dict[int, str], count: int) -> np.ndarray:
        if problems:
            head = f"{self.name}: {len(problems):,} of {count:,} pictures cannot be read:"
            raise DamagedFileError("\n".join([head, *problems.values(), self.advice]))
        return images
