"""Every strategy on Digits with 100 labels: the student ResNet-8, 3 seeds, a leaderboard against labels alone.

    python -m benchmarks.all_transfers [--root runs/transfers] [--peer ResNet8] [--only EMA,PSKD] [--train_epoch 22]

Who takes a method has SoftLogits. `Offline`'s teacher is a ResNet-20 that is trained first, on all labels; peers are of
`--peer`. BornAgain's generations have `--train_epoch` epochs each: the column `epochs` says what a run has in all.
Finished runs are kept: the same command continues.
"""

import argparse
import pathlib

import transfer
from benchmarks import leaderboard
from configs import digits
from registry import UserError
from training import cli, cpu
from training.run import train

STUDENT, TEACHER, PEER = "ResNet8", "ResNet20", "ResNet8"
SEEDS = 3


def entries_of(names: list[str], teacher: pathlib.Path, peer: str) -> dict[str, dict]:
    """Labels alone, then each strategy: name -> the config keys that it changes."""
    players = {
        "": {},
        "trained": {"teacher_arch": TEACHER, "teacher_param": str(teacher)},
        "peers": {"teacher_arch": peer},
    }
    entries = {leaderboard.LABELS: {"transfer": "Labels"}}
    for name in names:
        if name != "Labels":
            entries[name] = {"transfer": name, **players[transfer.registry.get(name).teachers]}
    return entries


def main(root: pathlib.Path, only: list[str], peer: str, train_epoch: int) -> int:
    """Runs what is missing under `root`; returns the number of strategies that failed."""
    recipe = {**digits.get_config(), "train_epoch": train_epoch, "eval_every": max(train_epoch // 2, 1)}
    entries = entries_of(only or transfer.names(), root / "teacher", peer)
    if any("teacher_param" in changes for changes in entries.values()):
        train({**recipe, "student_arch": TEACHER, "teacher_arch": "", "transfer": "Labels", "num_labels": 0,
               "train_path": str(root / "teacher")})  # fmt: skip
    recipe |= {"student_arch": STUDENT, "teacher_arch": "", "distiller": "SoftLogits", "seeds": SEEDS}
    rows, failed = leaderboard.run(root, recipe, entries)
    title = f"Digits, 100 labels, {STUDENT}, teacher {TEACHER}, peers {peer}, {train_epoch} epochs, {SEEDS} seeds"
    leaderboard.write(root, title, rows, failed, unit="Offline")
    return len(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/transfers"))
    parser.add_argument("--only", default="", help="strategies, separated by commas; default: all")
    parser.add_argument("--peer", default=PEER, help="the peers' network")
    parser.add_argument("--train_epoch", type=int, default=digits.get_config().train_epoch)
    arguments = parser.parse_args()
    cpu.tune()
    cli.use_compilation_cache()
    try:
        only = [transfer.registry.check(name) for name in arguments.only.split(",") if name]
        parser.exit(min(main(arguments.root, only, arguments.peer, arguments.train_epoch), 1))
    except UserError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
