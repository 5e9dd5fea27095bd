"""Every strategy on Digits with 100 labels: a ResNet-8 as student, 3 seeds, a leaderboard against labels alone.

    python -m studies.all_transfers [--root runs/transfers] [--peer ResNet8] [--only EMA,PSKD]
    python -m studies.all_transfers --num_labels 0 --train_epoch 6 --root runs/transfers_all     # all labels

A strategy that takes a method uses its default method. The teacher of `Offline` is a ResNet-20 that is first trained on
all labels. The peers' network is `--peer`. Each generation of `BornAgain` has `--train_epoch` epochs; the column
`epochs` has the epochs of the whole run. Finished runs are kept: the same command runs only what is missing.
"""

import pathlib

import transfer
from configs import digits
from studies import command, compare, leaderboard

STUDENT, TEACHER, PEER = "ResNet8", "ResNet20", "ResNet8"
SEEDS = 3
# The training has 396 updates. A running mean with the usual decay 0.999 covers all of them; with 0.95, the last epoch.
VARIANTS = {"EMA": {"EMA, decay 0.95": {"decay": 0.95}}}


def entries(strategies: list[str], trained: dict, peer: str) -> dict[str, dict]:
    """Returns name -> the config keys that the entry changes: labels alone, then each strategy."""
    found = {leaderboard.LABELS: {"transfer": "Labels"}}
    for name in strategies:
        if name != "Labels":
            reads = transfer.registry.get(name).reads
            players = trained if freezes(name) else {"teacher_arch": peer} if "teacher_arch" in reads else {}
            changes = {"transfer": name, **players}
            found[name] = changes
            for variant, options in VARIANTS.get(name, {}).items():
                found[variant] = {**changes, "transfer_options": options}
    return found


def freezes(name: str) -> bool:
    """Returns whether a strategy has a trained, frozen teacher."""
    return "teacher_views" in transfer.registry.get(name).reads


def main(root: pathlib.Path, only: list[str], peer: str, train_epoch: int, num_labels: int) -> int:
    """Runs what is missing under `root`; returns the number of strategies that failed."""
    strategies = [transfer.registry.check(name) for name in only] or transfer.names()
    standard = digits.get_config()
    recipe = {**standard, "train_epoch": train_epoch, "eval_every": max(train_epoch // 2, 1), "num_labels": num_labels}
    trained = {}
    if any(map(freezes, strategies)):
        taught, _ = compare.teach(root, {**recipe, "teacher_arch": TEACHER}, train_epoch=standard.train_epoch)
        trained = {key: taught[key] for key in ("teacher_arch", "teacher_param")}
    recipe |= {"student_arch": STUDENT, "teacher_arch": "", "distiller": "", "seeds": SEEDS}
    rows, failed = leaderboard.run(root, recipe, entries(strategies, trained, peer))
    players = f"{STUDENT}, teacher {TEACHER}, peers {peer}"
    title = f"Digits, {num_labels or 'all'} labels, {players}, {train_epoch} epochs, {SEEDS} seeds"
    leaderboard.write(root, title, rows, failed, unit="Offline")
    return len(failed)


if __name__ == "__main__":
    parser = command.parser(__doc__, "runs/transfers")
    parser.add_argument("--only", type=command.names, default=[], help="strategies, separated by commas; default: all")
    parser.add_argument("--peer", default=PEER, help="the peers' network")
    parser.add_argument("--train_epoch", type=command.positive, default=digits.get_config().train_epoch)
    parser.add_argument("--num_labels", type=int, default=digits.get_config().num_labels, help="0: all")
    command.call(parser, main)
