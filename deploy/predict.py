"""Predicts the classes of image files with trained weights; of a detector's weights, the objects with their boxes.

    python -m deploy.predict --param runs/soft cat.jpg dog.png
    python -m deploy.predict --param runs/soft --folder photos --topk 1 --csv photos.csv
    python -m deploy.predict --param runs/detector street.jpg --least 0.5

The images are resized, cropped and normalised as model.json of the weights says. Boxes are [x1 y1 x2 y2] in pixels of
the file's picture, turned as its EXIF says. A file that cannot be read is named on stderr and left out. The exit code
is then 1.
"""

import collections
import csv
import io
import json
import os
import sys

from configs import command
from data import picture
from data.image_folder import walk
from deploy.answers import Boxes, Classes
from deploy.arguments import Parser, file_to_write
from registry import UserError

TOPK, LEAST = 5, 0.3  # what is shown if no flag says it


def parser() -> Parser:
    """Defines the flags."""
    p = Parser("deploy.predict", __doc__)
    p.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    p.add_argument("--folder", default="", metavar="DIR", help="all pictures in this folder and in its sub-folders")
    more = "classes for each image, default: 5; or objects for each image, default: all"
    p.add_argument("--topk", type=int, metavar="K", help=more)
    more = f"of a detector: the smallest score of an object that is shown; default: {LEAST:g}"
    p.add_argument("--least", type=float, metavar="SCORE", help=more)
    p.add_argument("--json", action="store_true", help="print one JSON object for each image")
    p.add_argument("--csv", default="", metavar="FILE", help="write a table instead; docs/deploy.md has its columns")
    return p


def pictures(folder: str, flag: str = "--folder") -> list[str]:
    """The paths of all pictures in a folder and its sub-folders, sorted. Hidden files are left out.

    Args:
        folder: its path.
        flag: for messages, the flag that named the folder.

    Raises:
        UserError: no folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{flag} '{folder}' is no folder.")
    with picture.reading():
        files = (os.path.join(folder, file) for file in walk(folder, "", collections.defaultdict(list)))
        found = sorted(file for file in files if picture.is_picture(file))
    if not found:
        raise UserError(f"{flag} {folder} has no pictures.")
    return found


def shown(network, topk: int | None, least: float | None) -> Classes | Boxes:
    """What is shown of an image.

    Args:
        network: what `deploy.load` returned.
        topk, least: as the flags; None where they are not given.

    Raises:
        UserError: `least` for a network that returns no boxes.
    """
    import deploy

    names = network.class_names
    if isinstance(network, deploy.Detector):
        return Boxes(names, topk or sys.maxsize, LEAST if least is None else least)
    if least is not None:
        where = network.weights.folder
        raise UserError(f"--least {least:g} is a score of boxes; {where} has a classifier.\nTake --topk.")
    return Classes(names, min(topk or TOPK, len(names)))


def main(argv: list[str]) -> None:
    """Predicts, prints or writes. Exits with code 1 if a file could not be read."""
    args = parser().parse_args(argv)
    paths = [*args.images, *(pictures(args.folder) if args.folder else [])]
    if not paths:
        raise UserError("No images: name image files, or a folder with --folder DIR.")
    if args.topk is not None and args.topk < 1:
        raise UserError(f"--topk must be at least 1; got {args.topk}.")
    if args.least is not None and not 0 <= args.least <= 1:
        raise UserError(f"--least must be from 0 to 1; got {args.least:g}.")
    if args.json and args.csv:
        raise UserError("--json prints and --csv writes a table: leave one of them out.")
    csv_file = file_to_write("--csv", args.csv) if args.csv else None
    command.tune()
    import deploy
    import files

    network = deploy.load(args.param, args.arch)
    show, bad, table = shown(network, args.topk, args.least), 0, io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(show.header)
    for good, answers, unread in network.found(paths):
        bad += len(unread)
        for path, reason in unread.items():
            print(f"Left out: {path} ({reason})", file=sys.stderr)
        for path, answer in zip(good, answers, strict=True):
            if csv_file:
                rows.writerows([path, *row] for row in show.rows(answer))
            elif args.json:
                print(json.dumps({"file": path, **show.facts(answer)}, ensure_ascii=False), flush=True)
            else:
                print(f"{path}  {show.text(answer)}", flush=True)
    if csv_file:
        csv_file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(csv_file, table.getvalue())
        print(f"Written to {args.csv}: {len(paths) - bad:,} images")
    if bad:
        print(f"{bad:,} of {len(paths):,} files could not be read.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
