"""`hf:NAME`: image classification datasets of Hugging Face, from local parquet files or from the hub.

Parquet is compressed in groups of rows, so a single row cannot be read quickly. The files are copied once to Arrow
files in the cache folder, which are mapped into memory: reading picture i touches picture i alone.
"""

import bisect
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from data import picture
from data.dataset import Augmentation, Dataset
from data.decoded import cache_folder
from data.pictures import PictureSplit
from data.streamed import streams
from registry import UserError

SIDE, SHARE = 224, 0.875  # side of the image in pixels, and as a share of the resized short side
TESTS = ("test", "validation", "valid", "val")  # names of the split that networks are tested on, the first that exists
IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")  # names of columns


def load(
    name: str,
    data_dir: str = "",
    image_size: int = 0,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Any image classification dataset of Hugging Face: hf:NAME from the hub, or with --data_dir its parquet files.

    Source: huggingface.co, or DATA_DIR/*.parquet and below

    Args:
        name: the name on the hub, such as cifar10 or OWNER/NAME. With `data_dir` it is only a name.
        data_dir: a folder of parquet files as the hub has them: `train-*.parquet`, `test-*.parquet`, in any sub-folder.
        image_size: side in pixels; 0 means 224.
        resize: pixels of the short side, of which the centre is cropped; 0: `image_size` / 0.875.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint of local files depends on their contents.

    Raises:
        UserError: no files, no package `datasets`, or a table without images and labels.
    """
    size, title = image_size or SIDE, f"hf:{name}"
    form = picture.Form(size, 3, resize or round(size / SHARE), interpolation or "bilinear").check()
    tables, classes, fingerprint = _local(title, data_dir, check_files) if data_dir else _hub(title, name)
    test = next((split for split in TESTS if split in tables), "")
    if "train" not in tables or not test:
        raise UserError(f"{title} has the splits {', '.join(tables) or 'none'}; 'train' and 'test' are needed.")
    splits = {}
    for split, own in (("train", "train"), ("test", test)):
        source = Table(title, own, *tables[own])
        splits[split] = PictureSplit(title, source, source.labels, form)
    count = 1 + max(int(split.labels.max()) for split in splits.values())
    mean, std = splits["train"].statistics()
    return Dataset(
        name=title,
        **splits,
        class_names=tuple(classes or map(str, range(count))),
        mean=mean,
        std=std,
        augmentation=Augmentation(flip=True),
        fingerprint=fingerprint,
        resize=form.resize,
        interpolation=form.interpolation,
        streamed=streams(loading, sum(map(len, splits.values())), splits["train"].image_shape),
    )


class Table:
    """The pictures of a split in Arrow's memory-mapped tables.

    Args:
        title, split: for messages.
        table: a `pyarrow.Table` with a column of images ({"bytes", "path"} or bytes) and one of labels.
        files: the Arrow files of the table.
    """

    def __init__(self, title: str, split: str, table, files: list[str]):
        self.title, self.split, self._files = title, split, files
        image, label = (next((c for c in names if c in table.column_names), "") for names in (IMAGES, LABELS))
        if not image or not label:
            raise UserError(
                f"{title} has the columns {', '.join(table.column_names)}.\nAn image ({', '.join(IMAGES)}) and a label "
                f"({', '.join(LABELS)}) are needed."
            )
        self._chunks = table[image].chunks
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks]).tolist()
        self.labels = table[label].to_numpy().astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, i: int) -> str:
        """The place of picture `i`, for messages."""
        return f"row {i} of the {self.split} split of {self.title}"

    def files(self, chosen: np.ndarray | None = None) -> Iterator[str]:
        """The Arrow files."""
        del chosen
        return iter(self._files)

    def read(self, i: int) -> bytes:
        """The encoded picture `i`; raises `data.picture.Unreadable`."""
        number = bisect.bisect_right(self._ends, i)
        cell = self._chunks[number][i - (self._ends[number - 1] if number else 0)].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not content:
            raise picture.Unreadable("the row has no bytes")
        return content


def _local(title: str, data_dir: str, check: bool) -> tuple[dict, list[str], str]:
    """(split -> (table, its Arrow files), names of the classes, fingerprint) of a folder of parquet files."""
    import pyarrow.parquet

    root = pathlib.Path(data_dir).expanduser()
    files: dict[str, list[pathlib.Path]] = {}
    for path in sorted(root.rglob("*.parquet")):
        split = re.split(r"[-_.]", path.name)[0]
        split = split if split in ("train", *TESTS) else path.parent.name  # .../train/0000.parquet
        files.setdefault(split, []).append(path)
    if not files:
        raise UserError(
            f"{title}: {root} has no parquet files, such as train-00000-of-00001.parquet.\n"
            "Download the dataset's folder `data`, or leave --data_dir out to take it from the hub."
        )
    digest, tables = hashlib.sha256(), {}
    for split, paths in files.items():
        facts = hashlib.sha256()
        for path in paths:
            facts.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
            if check:
                with path.open("rb") as file:
                    facts.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(facts.digest())
        tables[split] = _mapped(paths, f"{split}-{facts.hexdigest()[:16]}")
    schema = pyarrow.parquet.read_schema(next(iter(files.values()))[0])
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    label = next((features[own] for own in LABELS if own in features), {})
    return tables, label.get("names", []), digest.hexdigest()


def _mapped(paths: list[pathlib.Path], name: str) -> tuple:
    """(the rows of parquet files as a table that is mapped from an Arrow file in the cache folder, that file)."""
    import pyarrow
    import pyarrow.parquet

    target = cache_folder("arrow") / f"{name}-{hashlib.sha256(str(paths[0].resolve()).encode()).hexdigest()[:8]}.arrow"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        readers = [pyarrow.parquet.ParquetFile(path) for path in paths]
        with part.open("wb") as file, pyarrow.ipc.new_file(file, readers[0].schema_arrow) as writer:
            for reader in readers:
                for batch in reader.iter_batches(batch_size=100):
                    writer.write_batch(batch)
        os.replace(part, target)
    return pyarrow.ipc.open_file(pyarrow.memory_map(str(target))).read_all(), [str(target)]


def _hub(title: str, name: str) -> tuple[dict, list[str], str]:
    """(split -> (table, its Arrow files), names of the classes, fingerprint) of a dataset on the hub."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{title} comes from the hub through the package datasets: pip install -e '.[hub]'.\n"
            "Or give --data_dir, a folder of the dataset's parquet files: they need nothing more."
        ) from None
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # the package raises many kinds, for names, networks and files
        raise UserError(f"{title} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    tables = {split: (own.data.table, [file["filename"] for file in own.cache_files]) for split, own in found.items()}
    features = next(iter(found.values())).features
    label = next((features[own] for own in LABELS if own in features), None)
    prints = " ".join(f"{split} {own._fingerprint}" for split, own in found.items())
    return tables, list(getattr(label, "names", None) or []), prints
