"""`tfds:NAME`: any image classification dataset that TensorFlow Datasets has prepared as array_record.

The records are read without TensorFlow, one picture at a time, wherever they lie.
"""

import hashlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from data import decoded, picture, records
from data.dataset import Augmentation, Dataset
from data.pictures import PictureSplit
from data.streamed import streams
from data.tfds_source import advice, prepared
from registry import DamagedFileError, UserError

SIDE, SHARE = 224, 0.875  # side of pictures of any size, and as a share of the resized short side
TESTS = ("test", "validation")  # names of the split that networks are tested on; a split of the other name is `val`


def load(
    name: str,
    data_dir: str = "",
    image_size: int = 0,
    resize: int = 0,
    interpolation: str = "",
    loading: str = "auto",
    check_files: bool = False,
) -> Dataset:
    """Any image classification dataset of TensorFlow Datasets, by its name there, such as tfds:oxford_iiit_pet.

    Source: python -m tensorflow_datasets.scripts.cli.main build NAME --file_format array_record

    Args:
        name: the name in TensorFlow Datasets, without "tfds:".
        data_dir: the folder with the prepared datasets; empty: TensorFlow Datasets' default.
        image_size: side in pixels at which the pictures are read; 0: their own, or 224 where they have any size.
        resize: pixels of the short side, of which the centre is cropped; 0: `image_size` / 0.875 where pictures have
            any size.
        interpolation: "bilinear" or "bicubic"; empty means bilinear.
        loading: "memory", "stream" or "auto" (`data.streamed.streams`).
        check_files: the fingerprint depends on the contents of the records.

    Raises:
        UserError: the dataset is not prepared, or is no image classification dataset.
    """
    form = picture.Form(image_size, 3, resize, interpolation or "bilinear")
    return read(f"tfds:{name}", name, data_dir, form, loading, check_files)


def read(
    title: str,
    name: str,
    data_dir: str,
    form: picture.Form,
    loading: str,
    check_files: bool,
    class_names: tuple[str, ...] = (),
    statistics: tuple = (),
) -> Dataset:
    """Reads the index of a prepared dataset.

    Args:
        title: the dataset's name for messages.
        name: the name in TensorFlow Datasets.
        data_dir, loading, check_files: as in `load`.
        form: of the images; `size` 0: their own, or 224.
        class_names: the classes, if they are known; empty: those of TensorFlow Datasets.
        statistics: (mean, deviation) of each channel; empty: those of some training images.
    """
    folder = str(pathlib.Path(data_dir).expanduser().resolve()) if data_dir else None
    builder = prepared(name, folder, ("train",))
    if builder is None:
        raise advice(title, name, folder)
    info, (image, label) = builder.info, _features(title, builder.info.features)
    shape = info.features[image].shape
    any_size = None in shape[:2] or shape[0] != shape[1]
    if not form.size:
        form = form._replace(size=SIDE if any_size else shape[0])
    if any_size and not form.resize:
        form = form._replace(resize=round(form.size / SHARE))
    form = form._replace(channels=1 if shape[2] == 1 else 3).check()
    tests = [split for split in TESTS if split in info.splits]
    if not tests:
        raise UserError(
            f"{title} has the splits {', '.join(info.splits)}; a split 'test' or 'validation' is needed.\n"
            "Take a dataset that has one."
        )
    splits, digest = {}, hashlib.sha256(info.full_name.encode())
    for split, own in {"train": "train", "test": tests[0], **({"val": tests[1]} if len(tests) > 1 else {})}.items():
        source = Records(pathlib.Path(builder.data_path), own, image)
        kept = f"{info.full_name.replace('/', '-')}-{own}-labels"  # reading them takes a pass over the records
        (labels,) = decoded.kept(kept, source.files(), lambda source=source: [source.labels(label)])
        splits[split] = PictureSplit(title, source, labels, form, any_size=any_size)
        digest.update(source.fingerprint(check_files).encode())
    mean, std = statistics or splits["train"].statistics()
    return Dataset(
        name=title,
        **splits,
        class_names=class_names or tuple(info.features[label].names),
        mean=mean,
        std=std,
        augmentation=Augmentation(flip=True) if any_size else Augmentation(pad=max(1, form.size // 8), flip=True),
        fingerprint=digest.hexdigest(),
        resize=form.resize,
        interpolation=form.interpolation,
        streamed=streams(loading, sum(map(len, splits.values())), splits["train"].image_shape),
    )


def _features(title: str, features) -> tuple[str, str]:
    """The names of the one image and of the label."""
    import tensorflow_datasets as tfds

    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    label = "label" if "label" in labels else labels[0] if len(labels) == 1 else ""
    if len(images) != 1 or not label:
        raise UserError(
            f"{title} is no image classification dataset: it has {len(images)} images and the class labels "
            f"{', '.join(labels) or 'none'}.\nOne image and one label 'label' are needed."
        )
    return images[0], label


class Records:
    """The pictures of a split in records.

    Args:
        folder: of one version of the dataset, with `dataset_info.json`.
        split: the split's name there.
        image: the name of the feature.
    """

    def __init__(self, folder: pathlib.Path, split: str, image: str):
        self.folder, self.split, self.image = folder, split, image
        self._source = records.raw_source(folder, split)

    def __len__(self) -> int:
        return len(self._source)

    def where(self, i: int) -> str:
        """The place of picture `i`, for messages."""
        return f"{self.folder}: record {i} of the {self.split} split"

    def files(self, chosen: np.ndarray | None = None) -> Iterator[str]:
        """The files that hold the split."""
        del chosen
        return iter(sorted(map(str, self.folder.glob(f"*-{self.split}.array_record-*"))))

    def read(self, i: int) -> bytes:
        """The encoded picture `i`; raises `data.picture.Unreadable`."""
        try:
            return records.features(self._source[i])[self.image].bytes_list.value[0]
        except Exception as error:  # riegeli and protobuf raise their own kinds
            raise picture.Unreadable(f"{type(error).__name__}: {error}".splitlines()[0][:150]) from None

    def labels(self, name: str) -> np.ndarray:
        """[N] int32, the feature `name` of all records: one pass over the split."""
        found = np.empty(len(self), np.int32)

        def take(i: int, record) -> None:
            found[i] = record[name].int64_list.value[0]

        self.every(take, "labels")
        return found

    def every(self, take: Callable, what: str) -> None:
        """Calls `take(i, features)` for each record, in several threads; prints the progress of `what`.

        Raises:
            DamagedFileError: the records cannot be read.
        """
        try:
            records.every(self._source, take, f"the {what} of the {self.split} split")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:150]
            raise DamagedFileError(
                f"{self.folder}: the {self.split} split cannot be read ({reason}).\n"
                "Remove this folder and prepare the data again."
            ) from None

    def fingerprint(self, contents: bool = False) -> str:
        """A digest of the names and sizes of the files, and of their contents if `contents`."""
        digest = hashlib.sha256()
        for path in map(pathlib.Path, self.files()):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            if contents:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
