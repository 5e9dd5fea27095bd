"""Tiny folders of pictures with boxes, in the layouts of COCO and VOC."""

import json
import pathlib

import numpy as np
from PIL import Image


def picture(path: pathlib.Path, width: int, height: int, seed: int = 0, **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **how)


def coco(root: pathlib.Path, name: str, images: list, annotations: list, categories=((7, "cat"), (3, "dog"))) -> None:
    """`images` are (id, file, width, height), `annotations` (image_id, category_id, bbox) with more keys in a dict."""
    rows = [dict(zip(("id", "file_name", "width", "height"), own, strict=True)) for own in images]
    found = [
        {"id": 1 + i, "image_id": own[0], "category_id": own[1], "bbox": own[2], **(own[3] if own[3:] else {})}
        for i, own in enumerate(annotations)
    ]
    content = {
        "categories": [{"id": number, "name": own} for number, own in categories],
        "images": rows,
        "annotations": found,
    }
    path = root / f"annotations/instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def small_coco(root: pathlib.Path) -> pathlib.Path:
    """Two training pictures, 40x20 and 10x30, and one test picture; a crowd, and a picture without objects."""
    picture(root / "train2017/a.png", 40, 20, 1)
    picture(root / "train2017/b.png", 10, 30, 2)
    picture(root / "val2017/c.png", 16, 16, 3)
    train = [
        (20, 7, [4, 2, 10, 6], {"area": 48.5, "iscrowd": 0}),
        (10, 3, [1, 3, 5, 12], {"area": 60, "iscrowd": 1}),
        (20, 3, [0, 0, 40, 20]),
    ]
    coco(root, "train2017", [(20, "a.png", 40, 20), (10, "b.png", 10, 30)], train)
    coco(root, "val2017", [(5, "c.png", 16, 16)], [])
    return root


OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"


def annotation(root: pathlib.Path, name: str, size: tuple[int, int], objects: list) -> None:
    """`size` is (width, height), and an object (class, (xmin, ymin, xmax, ymax), difficult)."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = ["".join(f"<{c}>{v}</{c}>" for c, v in zip(corners, own[1], strict=True)) for own in objects]
    found = [OBJECT.format(own[0], own[2], box) for own, box in zip(objects, boxes, strict=True)]
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    path = root / f"Annotations/{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>../../{name}</filename>{sides}{''.join(found)}</annotation>")


def voc(root: pathlib.Path, lists: dict[str, list[str]]) -> pathlib.Path:
    """Three pictures of 30x20 pixels: `one` has two objects, `two` a difficult one, `three` none."""
    for number, name in enumerate(("one", "two", "three")):
        picture(root / f"JPEGImages/{name}.png", 30, 20, number)
    annotation(root, "one", (30, 20), [("wolf", (1, 1, 15, 20), 0), ("ant", (16, 5, 30, 6), 0)])
    annotation(root, "two", (), [("ant", (3, 3, 12, 12), 1)])
    annotation(root, "three", (30, 20), [])
    (root / "ImageSets/Main").mkdir(parents=True)
    for name, rows in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(rows) + "\n")
    return root
