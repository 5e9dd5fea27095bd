"""ImageFolder: your own images, `train/CLASS/...` and `test/CLASS/...` (docs/your_data.md)."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from data import decoded, picture
from data.dataset import Augmentation, Dataset, Split, channel_statistics
from data.pictures import SAMPLED, Files, PictureSplit
from data.streamed import streams
from registry import DamagedFileError, UserError

VALIDATION = ("val", "valid", "validation")  # names of the folder of the validation split
SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin")  # lower case
BLOCK = 16  # pictures that a thread reads in one turn
KEPT = 2000  # pictures; a folder with more is decoded once and cached (data/decoded.py)
EVERY = 10.0  # seconds between two lines of progress
SKIPS = (
    "--skip_damaged reads every picture before the training, and --loading stream reads none.\n"
    "Leave --skip_damaged out, or add --loading memory."
)
STREAMED = f"The pictures are streamed. Mean and deviation are those of {SAMPLED} training images at most."
EXAMPLES = 5  # names in a line of the report


def load(
    data_dir: str = "",
    image_size: int = 0,
    channels: int = 0,
    skip_damaged: bool = False,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Your own images: DATA_DIR/train/CLASS/* and DATA_DIR/test/CLASS/*, resized to --image_size.

    Source: --data_dir

    The classes are the folders of `train`, sorted as text. Normalisation statistics are those of the training images.
    docs/your_data.md describes the layout, the formats and the files that are left out. `Dataset.notes` counts these
    files.

    Args:
        data_dir: the folder with `train` and at least one of `val` (or `valid`) and `test`. Without `test`, `val` is
            the test split.
        image_size: side in pixels; 0 means 32.
        channels: 3 for RGB, 1 for grey; 0 means 3.
        skip_damaged: leave out the pictures that cannot be read.
        resize: length of the resized short side in pixels; the centre is cropped from it. 0: the aspect is not kept.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint of a streamed folder depends on the contents of its files.

    Raises:
        UserError: the folders do not have this layout.
        DamagedFileError: pictures cannot be read. The message lists all of them with the reason.
    """
    form = picture.Form(image_size or 32, channels or 3, resize, interpolation or "bilinear").check()
    root = pathlib.Path(data_dir).expanduser()
    if not data_dir or not root.is_dir():
        raise UserError(
            f"ImageFolder needs --data_dir, a folder with train/CLASS/*.png and test/CLASS/*; got '{data_dir}'."
        )
    listing = _list(root)
    streamed = streams(loading, len(listing.files), (form.size, form.size, form.channels))
    if streamed and skip_damaged:
        raise UserError(SKIPS)
    found = _in_files(root, listing, form, check_files) if streamed else _in_memory(root, listing, form, skip_damaged)
    splits, (mean, std), fingerprint, said = found
    return Dataset(
        name="ImageFolder",
        **splits,
        class_names=listing.classes,
        mean=mean,
        std=std,
        augmentation=Augmentation(pad=max(1, form.size // 8), flip=True),
        fingerprint=fingerprint,
        resize=form.resize,
        interpolation=form.interpolation,
        notes=(*listing.notes, *_coverage(listing, splits), *said),
        streamed=streamed,
    )


def _in_memory(root: pathlib.Path, listing: "_Listing", form: picture.Form, skip_damaged: bool) -> tuple:
    """(name -> split, (mean, deviation) of the training images, fingerprint, notes) of pictures that are all read."""
    images, present, said = read_all("ImageFolder", root, listing.files, form, skip_damaged)
    splits = _splits(root, listing, images, present)
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update(split.images)
        digest.update(split.labels)
    return splits, channel_statistics(splits["train"].images), digest.hexdigest(), said.tolist()


def _in_files(root: pathlib.Path, listing: "_Listing", form: picture.Form, check: bool) -> tuple:
    """The same of pictures that stay in their files."""
    files, splits = Files(root, listing.files), {}
    for split, last in zip(listing.folders, itertools.accumulate(listing.sizes), strict=True):
        rows = np.arange(last - listing.sizes[len(splits)], last)
        splits[split] = PictureSplit("ImageFolder", files, listing.labels[rows], form, rows)
    return splits, splits["train"].statistics(), files.fingerprint(check), [STREAMED]


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The files of the folder. No picture has been read yet.

    Attributes:
        folders: split -> its folder's name, in the order of `files`.
        files: names relative to the root, sorted within each class of each split.
        labels: [N] int32.
        sizes: the number of files of each split.
        classes: names in label order.
        notes: lines of the report.
    """

    folders: dict[str, str]
    files: list[str]
    labels: np.ndarray
    sizes: tuple[int, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def _list(root: pathlib.Path) -> _Listing:
    left, notes = collections.defaultdict(list), []
    folders = _split_folders(root, left, notes)
    with picture.reading():
        found = {split: class_files(root, folder, left) for split, folder in folders.items()}
    classes = sorted(found["train"])
    for split, folder in folders.items():
        if odd := sorted(set(found[split]) - set(classes)):
            raise UserError(
                f"The classes of {root}/train and {root}/{folder} differ: {_names(odd)} is only in {folder}.\n"
                f"Give it training images in {root}/train, or remove it."
            )
    if len(classes) < 2:
        raise UserError(f"{root}/train has one class, '{classes[0]}'; at least two class folders are needed.")
    if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        notes.append(f"The classes are sorted as text: {', '.join(classes[:EXAMPLES])}, ...")
    files, labels, sizes = [], [], []
    for by_class in found.values():
        before = len(files)
        for label, name in enumerate(classes):
            files += by_class.get(name, [])
            labels += [label] * len(by_class.get(name, []))
        sizes.append(len(files) - before)
    notes += left_out(left)
    return _Listing(folders, files, np.asarray(labels, np.int32), tuple(sizes), tuple(classes), tuple(notes))


def _split_folders(root: pathlib.Path, left: dict[str, list[str]], notes: list[str]) -> dict[str, str]:
    """Split -> name of its folder: train, test and, if it exists, val. Without `test`, `val` is the test split."""
    there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _is_litter(entry.name))
    validation = [name for name in VALIDATION if name in there]
    if len(validation) > 1:
        raise UserError(f"ImageFolder: {root} has {' and '.join(validation)}; keep one of them.")
    if "train" not in there:
        raise UserError(f"ImageFolder: {root}/train is not there. Put images in {root}/train/CLASS/.")
    folders = {"train": "train"}
    if "test" in there:
        folders["test"] = "test"
        if validation:
            folders["val"] = validation[0]
    elif validation:
        folders["test"] = validation[0]
        notes.append(f"{root.name}/{validation[0]} serves as the test split: no folder 'test' is there.")
    else:
        raise UserError(f"ImageFolder: {root}/test is not there, nor val or valid. Put images in {root}/test/CLASS/.")
    left["folders beside the splits"] += [name for name in there if name not in folders.values()]
    left["files outside class folders"] += sorted(p.name for p in root.iterdir() if p.suffix.lower() in picture.ENDINGS)
    return folders


def class_files(root: pathlib.Path, split: str, left: dict[str, list[str]]) -> dict[str, list[str]]:
    """Class name -> the sorted paths of its pictures, from the root. One name in two Unicode forms is one class."""
    found = collections.defaultdict(list)
    for file in walk(str(root), split, left):
        _, folder, *rest = file.split("/")
        if not rest:
            left["files outside class folders"].append(file)
        elif picture.is_picture(os.path.join(root, file)):
            found[composed(folder)].append(file)
        else:
            left["files of no picture format that is read"].append(file)
    folders = sorted(e.name for e in os.scandir(root / split) if e.is_dir() and not _is_litter(e.name))
    if not folders:
        raise UserError(f"ImageFolder: {root / split} has no class folders. Put images in {root / split}/CLASS/.")
    empty = [name for name in folders if composed(name) not in found]
    if empty and (split == "train" or len(empty) == len(folders)):
        raise UserError(f"ImageFolder: {root / split / empty[0]} has no pictures. Fill it or remove it.")
    return {name: sorted(files, key=lambda file: (composed(file), file)) for name, files in found.items()}


def walk(root: str, folder: str, left: dict[str, list[str]], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the files in a folder and its sub-folders, as paths from the root with "/"; adds the others to `left`.

    The folder "" is the root itself.
    """
    above = (*above, os.path.realpath(os.path.join(root, folder)))
    for entry in sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name):
        name = f"{folder}/{entry.name}" if folder else entry.name
        if _is_litter(entry.name):
            inside = (
                [f"{name}/{file}" for _, _, files in os.walk(entry) for file in files] if entry.is_dir() else [name]
            )
            left["hidden files and files of the system"] += inside
        elif entry.is_dir():
            if os.path.realpath(entry) in above:
                left["links to a folder above"].append(name)
            else:
                yield from walk(root, name, left, above)
        elif entry.is_file():
            yield name
        else:
            left["broken links"].append(name)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def left_out(left: dict[str, list[str]]) -> list[str]:
    """The lines of the report on files that are left out. `left` is reason -> names."""
    return [f"Left out, {reason}: {len(names):,} ({_names(names)})." for reason, names in left.items() if names]


def composed(name: str) -> str:
    """The name with each accented letter as one character; macOS may store a letter and its accent as two."""
    return unicodedata.normalize("NFC", name)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else ""
    return ", ".join(f"'{name}'" for name in names[:EXAMPLES]) + more


def read_all(
    name: str, root: pathlib.Path, files: list[str], form: picture.Form, skip_damaged: bool
) -> tuple[np.ndarray, ...]:
    """What `decode_all` returns, of the dataset `name`; of many files it is kept in the cache."""
    decode = functools.partial(decode_all, str(root), files, form, skip_damaged, name)
    if len(files) <= KEPT:
        return decode()
    place = hashlib.sha256(f"{root.resolve()} {form} {skip_damaged}".encode()).hexdigest()[:8]
    return decoded.kept(f"{name}-{place}", (os.path.join(root, file) for file in files), decode)


def decode_all(
    root: str, files: list[str], form: picture.Form, skip_damaged: bool = False, name: str = "ImageFolder"
) -> tuple[np.ndarray, ...]:
    """Reads all pictures into one array.

    16-bit grey pictures that do not say their bit depth are read a second time, when the largest value of all of them
    is known. Pictures that end early are read a second time by a reader that accepts them.

    Returns:
        (images [M, size, size, channels] uint8 of the readable pictures; present [N] bool, True for each readable file;
        the lines of the report, an array of text).
    """
    images = np.empty((len(files), form.size, form.size, form.channels), np.uint8)
    facts, damaged, maxima, early = collections.defaultdict(list), {}, {}, []

    def fill(rows: Iterable[int], top: int | None) -> list[tuple]:
        """For each row: (row, facts, class of the error or None, argument of the error or None)."""
        results = []
        for row in rows:
            try:
                images[row], found = picture.read(os.path.join(root, files[row]), form, top)
                results.append((row, found, None, None))
            except (picture.Unreadable, picture.Unscaled) as error:  # `error` would keep its frames and their arrays
                results.append((row, (), type(error), error.args[0]))
        return results

    def read(rows: list[int] | range, top: int | None) -> None:
        for row, found, problem, argument in _in_threads(fill, rows, top):
            for fact in found:
                facts[fact].append(row)
            if problem is picture.Unscaled:
                maxima[row] = argument
            elif problem is picture.EndsEarly:
                early.append(row)
            elif problem:
                damaged[row] = argument

    with picture.reading():
        read(range(len(files)), None)
        top = max(maxima.values(), default=0) or 65535
        read(sorted(maxima), top)
    with picture.reading(truncated=True):
        read(sorted(early), top)
    early = [row for row in early if row not in damaged]
    if damaged and not skip_damaged:
        lines = [f"  {os.path.join(root, files[row])} ({damaged[row]})" for row in sorted(damaged)]
        raise DamagedFileError(
            "\n".join([f"{name}: {len(lines):,} of {len(files):,} pictures cannot be read:", *lines])
            + f"\nReplace or remove them{'; --skip_damaged leaves them out' * (name != 'ImageNet')}."
        )
    notes = []

    def note(rows: list[int], text: str, named=lambda row: files[row]) -> None:
        if rows:
            notes.append(f"{text}: {len(rows):,} ({_names([named(row) for row in rows])}).")

    note(sorted(damaged), "Left out, damaged (--skip_damaged)", lambda row: f"{files[row]}: {damaged[row]}")
    note(early, "Warning: pictures that end early and are read all the same, their last pixels grey or black")
    note(facts["reduced"], "Very large pictures, decoded at a reduced scale")
    note(facts["frames"], "Pictures of several frames or pages, of which the first is read")
    note(sorted(maxima), f"Grey of 16 bits that does not say its depth; 0 to {top}, the largest value, became 0 to 255")
    grey = len(facts["grey"])
    if form.channels == 1 and grey < len(files) - len(damaged):
        notes.append(f"Pictures in colour, turned grey: {len(files) - len(damaged) - grey:,}.")
    elif form.channels == 3 and grey == len(files) - len(damaged):
        notes.append("All pictures are grey; --channels 1 reads them with one channel.")
    present = np.ones(len(files), bool)
    present[list(damaged)] = False
    for to, row in enumerate(np.flatnonzero(present) if damaged else ()):  # in place: a copy would double the memory
        images[to] = images[row]
    return images[: present.sum()], present, np.asarray(notes, np.str_)


def _in_threads(fill, rows: list[int] | range, top: int | None) -> Iterator[tuple]:
    """Yields the results of `fill` for all rows, in order. Prints the progress every `EVERY` seconds."""
    blocks = [rows[first : first + BLOCK] for first in range(0, len(rows), BLOCK)]
    said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done, results in enumerate(pool.map(functools.partial(fill, top=top), blocks)):
            yield from results
            if time.monotonic() - said >= EVERY:
                said = time.monotonic()
                print(
                    f"Reading pictures: {done * BLOCK + len(results):,} of {len(rows):,}", file=sys.stderr, flush=True
                )


def _splits(root: pathlib.Path, listing: _Listing, images: np.ndarray, present: np.ndarray) -> dict[str, Split]:
    """Split -> its part of the images, without a copy."""
    splits, row, end = {}, 0, 0
    for (split, folder), size in zip(listing.folders.items(), listing.sizes, strict=True):
        labels = listing.labels[end : end + size][present[end : end + size]]
        splits[split] = Split.of(images[row : row + len(labels)], labels)
        row, end = row + len(labels), end + size
        lost = np.setdiff1d(listing.labels if split == "train" else labels[:0], labels)
        if len(lost) or not len(labels):
            folder += f"/{listing.classes[lost[0]]}" if len(lost) else ""
            raise DamagedFileError(f"ImageFolder: all pictures of {root}/{folder} are damaged. Replace them.")
    return splits


def _coverage(listing: _Listing, splits: dict[str, Split]) -> Iterator[str]:
    """A line for each split that lacks classes of the training split."""
    for split, folder in listing.folders.items():
        count = len(listing.classes)
        lacking = np.setdiff1d(np.arange(count), splits[split].labels)
        if len(lacking):
            names = _names([listing.classes[label] for label in lacking])
            yield f"{folder} has images of {count - len(lacking)} of the {count} classes; none of: {names}."
