"""A dataset: splits of uint8 images, and the facts that a run needs to know about them."""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future

import numpy as np

from registry import UserError

BLOCK = 2**18  # values that are counted at once
IMAGES = 1000  # images that are read from files at once
HELD_OUT = 7  # seed of the choice of validation images: the same for all seeds of runs


class Split:
    """Some examples. They are read into memory at their first use, or earlier in another thread (`begin`).

    `any_size` is True where the images are squares of pictures of any size, which have a method `crops`.

    Args:
        count: N.
        image_shape: (H, W, C).
        read: () -> (images [N, H, W, C] uint8, labels [N] int32, or `Objects` in data for detection). Data with masks
            return a third array, masks [N, H, W] bool: the pixels that the labels are about.
    """

    any_size = False

    def __init__(self, count: int, image_shape: tuple[int, int, int], read: Callable):
        self.count, self.image_shape, self._read = count, tuple(image_shape), read
        self._coming: Future | None = None

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None) -> "Split":
        """A split of arrays in memory."""
        return cls(len(images), images.shape[1:], lambda: (images, labels, masks))

    def begin(self) -> None:
        """Starts reading in a thread, once. `images`, `labels` and `masks` wait for the thread and raise its errors."""
        if self._coming:
            return
        self._coming = Future()

        def read():
            try:
                self._coming.set_result(self._read())
            except BaseException as error:
                self._coming.set_exception(error)

        threading.Thread(target=read, daemon=True).start()  # daemon: the process can end without waiting for it

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        self.begin()
        return self._coming.result()

    @property
    def images(self) -> np.ndarray:
        return self._arrays[0]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the images in blocks [M, H, W, C] uint8; images in memory are one block."""
        yield self.images

    @property
    def labels(self) -> np.ndarray:
        return self._arrays[1]

    @property
    def masks(self) -> np.ndarray | None:
        return self._arrays[2] if len(self._arrays) > 2 else None

    def rows(self, index: np.ndarray) -> np.ndarray:
        """The images [M, H, W, C] uint8 of the examples `index` [M] int."""
        return self.images[index]

    def part(self, rows: np.ndarray) -> "Split":
        """The examples `rows` [M] int, as a split of its own with a copy of their images."""
        return Split.of(*(None if x is None else x[rows] for x in self._arrays))

    def __len__(self) -> int:
        return self.count


# Keys of a recipe that are fields of `Augmentation` of the same name.
SAME_NAME = ("resized_crop", "randaugment", "magnitude", "trivialaugment", "random_erasing", "mixup", "cutmix")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes of every training image, the same for teacher and student. The defaults change nothing.

    The order is: a random crop, a random horizontal flip, RandAugment or TrivialAugment, random erasing, and mixing
    with another image of the batch.

    Attributes:
        pad: pixels of padding on each side, before a crop of the image's own size; 0 means no crop.
        mode: of the padding, "zero" (the CIFAR benchmarks) or "reflect".
        flip: mirror half of the views.
        resized_crop: the smallest area of a random crop, as a share of the image's area (the largest is 1, the aspect
            is 3/4 to 4/3). The crop is resized to the image's size and replaces the crop of `pad`; 0 means none.
        randaugment: operations of RandAugment for each image; 0 means none.
        magnitude: of RandAugment, 0 to 30.
        trivialaugment: one operation of TrivialAugment for each image, in the place of `randaugment`.
        random_erasing: share of the views in which a rectangle is painted over; 0 means none.
        erase_with: C numbers in [0, 1], the colour of that rectangle: the dataset's mean, which is 0 once normalised;
            empty means black.
        strong: what a "strong" view adds to crop and flip: "randaugment" (2 operations of magnitude 10) or "fixmatch"
            (2 operations of random strengths, and a square cut out, as in MLKD's code).
        mixup: alpha of mixup's Beta(alpha, alpha); 1 is the uniform distribution, 0 means none.
        cutmix: alpha of CutMix, 0 means none; with mixup and cutmix, each image gets one of the two.
    """

    pad: int = 0
    mode: str = "zero"
    flip: bool = False
    resized_crop: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    trivialaugment: bool = False
    random_erasing: float = 0.0
    erase_with: tuple[float, ...] = ()
    strong: str = "randaugment"
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def of(cls, recipe: Mapping, mean: tuple[float, ...]) -> "Augmentation":
        """Returns the augmentation that a recipe asks for.

        Args:
            recipe: a complete recipe (`configs.resolve`).
            mean: the dataset's mean, per channel.
        """
        chosen = {key: recipe[key] for key in SAME_NAME} | {"strong": recipe["strong_view"]}
        colour = mean if recipe["random_erasing"] else ()
        crop = {"pad": recipe["crop_pad"], "mode": recipe["crop_mode"], "flip": recipe["flip"] == "yes"}
        return cls(**crop, **chosen, erase_with=colour)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in host memory.

    Attributes:
        name: the registry's name.
        train, test: the splits.
        class_names: K names, in label order; empty where the data have no labels and no network was named.
        mean, std: per channel, of pixels scaled to [0, 1].
        augmentation: the usual augmentation of its training images.
        fingerprint: a text that differs where the examples differ. A run does not resume with another fingerprint.
        val: a third split, on which the best weights are chosen; None: the test split chooses them.
        labelled: False where every label is withheld (-1). The classes are those of a trained network (`named`).
        image_size: side in pixels at which networks see the images, where their programs resize them (`models.View`);
            0: the images' own.
        resize: length in pixels of the resized short side that the images are cropped from; 0: they are not cropped.
        interpolation: the filter of the resizing; "" where images keep their size.
        notes: lines on what was left out or changed when the data were read, and why.
        streamed: training and tests read the images batch by batch (`data.streamed`), and never hold all of them.
        task: what a label is: "classification": a class's number; "detection": the objects of the image, and the
            splits' labels are `data.objects.Objects`.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    fingerprint: str = ""
    val: Split | None = None
    labelled: bool = True
    image_size: int = 0
    resize: int = 0
    interpolation: str = ""
    notes: tuple[str, ...] = ()
    streamed: bool = False
    task: str = "classification"

    @property
    def report(self) -> tuple[str, ...]:
        """The lines that a run prints and keeps: the numbers of images and classes, then the notes."""
        named = {"training": self.train, "validation": self.val, "test": self.test}
        counts = ", ".join(f"{len(split):,} {name}" for name, split in named.items() if split)
        shape = "x".join(map(str, self.image_shape))
        shape += f"; networks see {self.image_size}x{self.image_size}" if self.image_size else ""
        shape += "; streamed" if self.streamed else ""
        kinds = f"of {self.num_classes} classes" if self.labelled else "without labels"
        return (f"{self.name}: {counts} images {kinds}, {shape}.", *self.notes)

    def named(self, class_names: Iterable[str]) -> "Dataset":
        """The data; those without labels get the names of a trained network's classes."""
        return self if self.labelled else dataclasses.replace(self, class_names=tuple(class_names))

    def check_labelled(self, what: str) -> None:
        """Raises `UserError` for data without labels; `what` is the user's word for what reads them."""
        if not self.labelled:
            raise UserError(f"{what} reads labels, and {self.name} has none.\nTake labelled data, such as ImageFolder.")

    def check_classified(self, what: str) -> None:
        """Raises `UserError` for data whose images have no class each; `what` is as in `check_labelled`."""
        self.check_labelled(what)
        if self.task != "classification":
            raise UserError(
                f"{what} reads the class of each image, and {self.name} is data for {self.task}.\n"
                "Take data for classification, such as ImageFolder."
            )

    def view(self, image_size: int = 0, interpolation: str = "") -> dict:
        """The fields of a `models.Player` for how it looks at the images.

        Args:
            image_size: side in pixels; 0: as the data say.
            interpolation: of the resizing, where the data have none.
        """
        size = image_size or self.image_size
        if not size:
            return {}
        resize = round(self.resize * size / self.image_size) if self.image_size else 0
        return {
            "image_size": size,
            "resize": resize,
            "interpolation": self.interpolation or interpolation or "bilinear",
        }

    @property
    def exams(self) -> dict[str, Split]:
        """Name -> split that networks are tested on; the first chooses the best weights. The last is the test split."""
        return {"val": self.val, "test": self.test} if self.val else {"test": self.test}

    @property
    def best_on(self) -> str:
        """The split that chooses the best weights: "val" or "test"."""
        return next(iter(self.exams))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images as they are stored."""
        return self.train.image_shape

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what networks see."""
        return (self.image_size, self.image_size, self.image_shape[2]) if self.image_size else self.image_shape

    @property
    def info(self) -> dict:
        """The facts about the data that `model.json` holds beside trained weights."""
        resized = {"resize": self.resize, "interpolation": self.interpolation} if self.interpolation else {}
        task = {"task": self.task} if self.task != "classification" else {}
        return {
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "dataset": self.name,
            "image_shape": list(self.seen_shape),
            "mean": list(self.mean),
            "std": list(self.std),
            **resized,
            **task,
        }


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The dataset with a share of its training images as the validation split, and without them in the training split.

    Each class gives the share of its images, rounded, and at least one image where the class has two. In data for
    detection the share is of all images. The choice depends on the labels and the share alone. `mean` and `std` stay
    those of the dataset.

    Args:
        dataset: without a validation split.
        share: above 0 and below 1.

    Raises:
        UserError: the dataset has a validation split, or no class has two training images.
    """
    flag = f"--val_split {share:g}"
    dataset.check_labelled(flag)
    if dataset.val:
        raise UserError(
            f"{flag} takes validation images from the training images, and {dataset.name} has {len(dataset.val):,} "
            "validation images of its own.\nLeave --val_split out."
        )
    labels, random = dataset.train.labels, np.random.RandomState(HELD_OUT)
    if dataset.task == "detection":
        labels = np.zeros(len(labels), np.int32)
    queues = [random.permutation(np.flatnonzero(labels == number)) for number in range(dataset.num_classes)]
    counts = [min(max(1, round(share * len(own))), len(own) - 1) for own in queues]
    held = np.sort(np.concatenate([own[: max(0, count)] for own, count in zip(queues, counts, strict=True)]))
    if not len(held):
        raise UserError(f"{flag}: no class of {dataset.name} has two training images.\nLeave --val_split out.")
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return dataclasses.replace(
        dataset,
        train=dataset.train.part(kept),
        val=dataset.train.part(held),
        fingerprint=f"{dataset.fingerprint} val_split {share:g}".strip(),
    )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and deviation of images [N, H, W, C] uint8, in units of [0, 1], rounded to four digits.

    A histogram of each channel gives exact values without a float copy of the images. `np.bincount` copies its input to
    8 bytes a value, so the images are counted in blocks. A constant channel has deviation 1.
    """
    levels = np.arange(256) / 255.0
    counts = np.zeros((images.shape[-1], 256), np.int64)
    step = max(1, BLOCK // max(1, images[:1].size))
    for first in range(0, len(images), step):
        for c, count in enumerate(counts):
            count += np.bincount(images[first : first + step, ..., c].reshape(-1), minlength=256)
    means, stds = [], []
    for count in counts:
        share = count / count.sum()
        mean = float(share @ levels)
        std = float(np.sqrt(share @ (levels - mean) ** 2))
        means.append(round(mean, 4))
        stds.append(round(std, 4) or 1.0)
    return tuple(means), tuple(stds)
