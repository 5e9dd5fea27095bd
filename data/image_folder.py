"""ImageFolder: your own images, `train/CLASS/*.png|jpg` and `test/CLASS/*`."""

import concurrent.futures
import hashlib
import pathlib

import numpy as np

from data.dataset import Augmentation, Dataset, Split, channel_statistics
from registry import UserError

SUFFIXES = {".png", ".jpg", ".jpeg"}


def load(data_dir: str = "", image_size: int = 0) -> Dataset:
    """Your own images: DATA_DIR/train/CLASS/*.png|jpg and DATA_DIR/test/CLASS/*, resized to --image_size.

    Source: --data_dir

    Images are turned as their EXIF says, become RGB (16-bit grey is scaled to 8 bits, transparency becomes white) and
    are resized to a square (bilinear, aspect not kept). Classes are the folder names, sorted; names with a leading dot
    are left out.
    Normalisation statistics are those of the training images.
    """
    size = image_size or 32
    root = pathlib.Path(data_dir).expanduser()
    if not data_dir or not root.is_dir():
        raise UserError(
            f"ImageFolder needs --data_dir, a folder with train/CLASS/*.png and test/CLASS/*; got '{data_dir}'."
        )
    files = {split: _list(root / split) for split in ("train", "test")}
    classes = sorted(files["train"])
    if classes != sorted(files["test"]):
        odd = sorted(set(files["train"]) ^ set(files["test"]))
        where = "train" if odd[0] in files["train"] else "test"
        raise UserError(
            f"The classes of {root}/train and {root}/test differ: '{odd[0]}' is only in {where}.\n"
            "Both need the same class folders."
        )
    if len(classes) < 2:
        raise UserError(f"{root}/train has one class, '{classes[0]}'; at least two class folders are needed.")
    splits = {}
    for split, by_class in files.items():
        paths = [p for c in classes for p in by_class[c]]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(by_class[c]) for c in classes])
        with concurrent.futures.ThreadPoolExecutor() as pool:
            images = np.stack(list(pool.map(lambda path: _read(path, size), paths)))
        splits[split] = Split.of(images, labels)
    digest = hashlib.sha256(b"".join([s.images.tobytes() + s.labels.tobytes() for s in splits.values()])).hexdigest()
    mean, std = channel_statistics(splits["train"].images)
    augmentation = Augmentation(pad=max(1, size // 8), flip=True)
    return Dataset("ImageFolder", splits["train"], splits["test"], tuple(classes), mean, std, augmentation, digest)


def _list(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """class name -> its image files, sorted."""
    if not folder.is_dir():
        raise UserError(f"ImageFolder: {folder} is not there. Put images in {folder}/CLASS/.")
    found = {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = sorted(p for p in sub.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not images:
            raise UserError(f"ImageFolder: {sub} has no .png, .jpg or .jpeg files. Fill it or remove it.")
        found[sub.name] = images
    if not found:
        raise UserError(f"ImageFolder: {folder} has no class folders. Put images in {folder}/CLASS/.")
    return found


def _read(path: pathlib.Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image, np.uint32) // 257).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode}: save it with 8 bits a channel")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), np.uint8)
    except Exception as error:  # pillow raises many kinds for a damaged file
        reason = error if isinstance(error, ValueError) else type(error).__name__
        raise UserError(f"ImageFolder: cannot read {path} ({reason}). Replace or remove it.") from None
