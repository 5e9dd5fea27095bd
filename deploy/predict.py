"""Predicts the classes of image files with trained weights.

    python -m deploy.predict --param runs/soft cat.jpg dog.png
    python -m deploy.predict --param runs/soft --folder photos --topk 1 --csv photos.csv

The images are resized, cropped and normalised as model.json of the weights says. A file that cannot be read is named on
stderr and left out. The exit code is then 1.
"""

import collections
import csv
import io
import json
import os
import sys

import numpy as np

from configs import command
from data import picture
from data.image_folder import walk
from deploy.arguments import Parser, file_to_write
from registry import UserError


def parser() -> Parser:
    """Defines the flags."""
    p = Parser("deploy.predict", __doc__)
    p.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    p.add_argument("--folder", default="", metavar="DIR", help="all pictures in this folder and in its sub-folders")
    p.add_argument("--topk", type=int, default=5, metavar="K", help="classes for each image; default: 5")
    p.add_argument("--json", action="store_true", help="print one JSON object for each image")
    p.add_argument("--csv", default="", metavar="FILE", help="write a table instead: file, class1, probability1, ...")
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


def top(probabilities: np.ndarray, class_names: tuple[str, ...], k: int) -> list[list[tuple[str, float]]]:
    """For each row of probabilities [N, K] the k most probable classes as (name, probability), the first first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return [[(class_names[i], float(row[i])) for i in best] for row, best in zip(probabilities, order, strict=True)]


def main(argv: list[str]) -> None:
    """Predicts, prints or writes. Exits with code 1 if a file could not be read."""
    args = parser().parse_args(argv)
    paths = [*args.images, *(pictures(args.folder) if args.folder else [])]
    if not paths:
        raise UserError("No images: name image files, or a folder with --folder DIR.")
    if args.topk < 1:
        raise UserError(f"--topk must be at least 1; got {args.topk}.")
    if args.json and args.csv:
        raise UserError("--json prints and --csv writes a table: leave one of them out.")
    csv_file = file_to_write("--csv", args.csv) if args.csv else None
    command.tune()
    import deploy
    import files

    classify = deploy.load(args.param, args.arch)
    k, bad, table = min(args.topk, len(classify.class_names)), 0, io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", *(f"{what}{i}" for i in range(1, k + 1) for what in ("class", "probability"))])
    for good, images, unread in classify.read(paths):
        bad += len(unread)
        for path, reason in unread.items():
            print(f"Left out: {path} ({reason})", file=sys.stderr)
        for path, best in zip(good, top(classify(images), classify.class_names, k), strict=True):
            if csv_file:
                rows.writerow([path, *(cell for name, share in best for cell in (name, f"{share:.6f}"))])
            elif args.json:
                named = [{"class": name, "probability": round(share, 6)} for name, share in best]
                print(json.dumps({"file": path, "top": named}, ensure_ascii=False), flush=True)
            else:
                print(f"{path}  {', '.join(f'{name} {share:.1%}' for name, share in best)}", flush=True)
    if csv_file:
        csv_file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(csv_file, table.getvalue())
        print(f"Written to {args.csv}: {len(paths) - bad:,} images")
    if bad:
        print(f"{bad:,} of {len(paths):,} files could not be read.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
