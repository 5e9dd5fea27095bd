"""MNIST, FashionMNIST, CIFAR-10 and CIFAR-100 through TensorFlow Datasets, read without TensorFlow.

A dataset prepared as array_record is read by `tfds.data_source`. A dataset that is not prepared yet is prepared in
another process, if TensorFlow is installed (the extra `prepare`). Preparing needs TensorFlow, reading does not.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys

from data import decoded, records
from data.dataset import Augmentation, Dataset, Split
from registry import DamagedFileError, UserError


def load_mnist(data_dir: str = "") -> Dataset:
    """70,000 handwritten digits, 28x28, 1 channel, 10 classes.

    Source: LeCun, Bottou, Bengio, Haffner, Proc. IEEE 1998
    """
    return _load("MNIST", "mnist", data_dir, (0.1307,), (0.3081,), Augmentation(pad=2))


def load_fashion_mnist(data_dir: str = "") -> Dataset:
    """70,000 pictures of clothes, 28x28, 1 channel, 10 classes.

    Source: Xiao, Rasul, Vollgraf, arXiv:1708.07747
    """
    return _load("FashionMNIST", "fashion_mnist", data_dir, (0.2860,), (0.3530,), Augmentation(pad=2, flip=True))


def load_cifar10(data_dir: str = "") -> Dataset:
    """60,000 photographs, 32x32, 3 channels, 10 classes.

    Source: Krizhevsky, 2009
    """
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return _load("CIFAR10", "cifar10", data_dir, mean, std, Augmentation(pad=4, flip=True))


def load_cifar100(data_dir: str = "") -> Dataset:
    """60,000 photographs, 32x32, 3 channels, 100 classes.

    Source: Krizhevsky, 2009
    """
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return _load("CIFAR100", "cifar100", data_dir, mean, std, Augmentation(pad=4, flip=True))


def _load(name, builder_name, data_dir, mean, std, augmentation) -> Dataset:
    folder = str(pathlib.Path(data_dir).expanduser().resolve()) if data_dir else None
    builder = prepared(builder_name, folder)
    if builder is None:
        _prepare(name, builder_name, folder)
        builder = prepared(builder_name, folder)
    if builder is None:
        raise advice(name, builder_name, folder)
    return Dataset(
        name=name,
        train=_split(builder, "train"),
        test=_split(builder, "test"),
        class_names=tuple(builder.info.features["label"].names),
        mean=mean,
        std=std,
        augmentation=augmentation,
        fingerprint=builder.info.full_name,
    )


def prepared(builder_name: str, folder: str | None, splits: tuple[str, ...] = ("train", "test")):
    """The builder of a dataset that is prepared with these splits, or None. Looks for files, opens no connection."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # without this line tfds logs the folder that it reads
    import tensorflow_datasets as tfds

    root = pathlib.Path(folder or tfds.core.constants.DATA_DIR).expanduser()
    found = [p.parent for p in root.glob(f"{builder_name}/*/dataset_info.json")]
    found = [v for v in found if re.fullmatch(r"\d+(\.\d+)*", v.name)]  # a stopped preparation has another name
    versions = sorted(found, key=lambda v: [int(part) for part in v.name.split(".")])
    records = [v for v in versions if all(any(v.glob(f"*-{split}.array_record-*")) for split in splits)]
    return tfds.builder_from_directory(str(records[-1])) if records else None


def _prepare(name: str, builder_name: str, folder: str | None) -> None:
    """Prepares a dataset as array_record in another process. If it cannot, the error has the commands to type."""
    if importlib.util.find_spec("tensorflow") is None:
        raise advice(name, builder_name, folder)
    print(f"Preparing {name} (once) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", *_build(builder_name, folder)]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"Preparing {name} failed: {last[:200]}\nBy hand: python -m {' '.join(_build(builder_name, folder))}"
        )


def _build(builder_name: str, folder: str | None) -> list[str]:
    where = ["--data_dir", folder] if folder else []
    return ["tensorflow_datasets.scripts.cli.main", "build", builder_name, "--file_format", "array_record", *where]


def advice(name: str, builder_name: str, folder: str | None) -> UserError:
    """The error for a dataset that is not prepared, with the commands to type."""
    return UserError(
        f"{name} is not prepared in {folder or 'the default folder of TensorFlow Datasets'}. With a network, run:\n"
        f"  pip install -e '.[prepare]'\n"
        f"  python -m {' '.join(_build(builder_name, folder))}"
    )


def _split(builder, split: str) -> Split:
    folder = pathlib.Path(builder.data_path)

    def decode():
        try:
            return records.read(folder, split)
        except Exception as error:  # riegeli, protobuf and OpenCV raise their own kinds
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise DamagedFileError(
                f"{folder}: the {split} split cannot be read ({reason}).\n"
                "Remove this folder and prepare the data again."
            ) from None

    files = list(folder.glob(f"*-{split}.array_record-*"))
    name = f"{builder.info.full_name.replace('/', '-')}-{split}"
    shape, count = builder.info.features["image"].shape, builder.info.splits[split].num_examples
    return Split(count, shape, lambda: decoded.kept(name, files, decode))
