"""Folders of pictures that tests write, and the reading of them."""

import pathlib

import numpy as np
from PIL import Image

from data import image_folder


def write(path: pathlib.Path, mode: str = "RGB", size: tuple[int, int] = (12, 9), color=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color or {"RGB": (255, 0, 51), "L": 102, "RGBA": (0, 255, 0, 128)}[mode]).save(path)


def read(folder, size=8, channels=0, skip_damaged=False):
    return image_folder.load(str(folder), size, channels, skip_damaged)


def gradient(mode="RGB", side=16):
    """A smooth picture without black or mid-grey lines."""
    x, y = np.meshgrid(np.linspace(20, 110, side), np.linspace(140, 250, side))
    channels = [x, y, (x + y) / 2][: len(mode)]
    return Image.fromarray(np.stack(channels, -1).squeeze().astype(np.uint8), mode)


def folder_of(root, files, also=()):
    """A folder whose class `a` of `train` has these files; name -> content, a picture or a function of the path."""
    for split in ("train", "test"):
        for name in ("a", "b", *also):
            write(root / split / name / "0.png")
    for name, content in files.items():
        path = root / "train/a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif callable(content):
            content(path)
        else:
            content.save(path)
    return root


def encoded(image, kind, tmp_path, **options):
    image.save(tmp_path / "encoded", kind, **options)
    return (tmp_path / "encoded").read_bytes()


def noise(side=64):
    return Image.fromarray(np.random.RandomState(0).randint(1, 120, (side, side, 3)).astype(np.uint8))
