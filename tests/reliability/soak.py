"""Kills training with SIGKILL many times and compares the final results: the long form of `test_killed_process`.

    make soak                                                # 21 kills for each kind of run there is, 5 minutes a kind
    python tests/reliability/soak.py --kills 60 --seed 7     # more of them, elsewhere

Every chain kills the same run at three rising steps, each time at a random moment or while a checkpoint is being
written, and then lets it finish. Parameters, optimizer state, statistics, memories and totals (every array of the last
checkpoint), `metrics.jsonl`, `last/` and `best/` must equal the undisturbed run's, bit for bit. The control resumes
without the order of the examples. Its results must differ.
"""

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import real_process
from real_process import ROOT, contents, reached, saving, wait_for

sys.path.insert(0, str(ROOT))

SHARED = ["--train_epoch", "3", "--batch_size", "100", "--log_every", "5"]
SHARED += ["--config.crop_pad=1", "--config.checkpoint_seconds=0"]  # a checkpoint after every step
STEPS = 36
CHAIN = 3

# The control, in a process of its own: the same command, but every epoch has the order and the views of the first.
FORGETFUL = """
import runpy, sys
import data.plans
plan = data.plans.epoch_plan
data.plans.epoch_plan = lambda seed, epoch, *rest: plan(seed, 0, *rest)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def kinds() -> tuple[list[tuple[str, list[str]]], list[str]]:
    """What there is to kill, as (name, flags), and what there is not, with the reason."""
    import distiller
    import transfer

    found, missing = [("SoftLogits", ["--distiller", "SoftLogits"])], []
    found.append(("streamed", ["--distiller", "SoftLogits", "--loading", "stream"]))
    rooms = (
        ("--distiller", "a method with memory", distiller.names(), ("CRD",)),
        ("--distiller", "a method with learnable connectors", distiller.names(), ("FitNet", "VID", "ReviewKD", "FT")),
        ("--transfer", "an online strategy", transfer.names(), ("Online", "Mutual", "DML")),
    )
    for flag, what, names, wanted in rooms:
        name = next((name for name in wanted if name in names), None)
        if name:
            found.append((name, [flag, name]))
        else:
            missing.append(f"{what}: none of {', '.join(wanted)} is registered")
    return found, missing


def chain(folder, cache, flags, rng, say) -> int:
    """Kills a run `CHAIN` times and lets it finish; returns how many of the kills found a checkpoint half written."""
    whole, hits = STEPS // CHAIN, 0
    for number in range(CHAIN):
        step = rng.randint(number * whole, (number + 1) * whole - 3)
        process = real_process.start(folder, cache, flags)
        wait_for(process, lambda step=step: reached(folder) >= step)
        aimed = rng.random() < 0.6
        if aimed:
            wait_for(process, lambda: saving(folder))
            time.sleep(rng.uniform(0, 0.02))
        else:
            time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        half = saving(folder)
        hits += half
        say(f"  killed at step {reached(folder)}{', while saving the next' if half else ''}")
    real_process.finish(folder, cache, flags)
    return hits


def differences(found: dict, expected: dict) -> list[str]:
    """Names whose bytes differ."""
    return [name for name in {**expected, **found} if found.get(name) != expected.get(name)]


def forget(folder, cache, flags) -> None:
    """Kills a run in its second epoch and resumes it without the state of the order."""
    process = real_process.start(folder, cache, flags)
    wait_for(process, lambda: reached(folder) >= STEPS // 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    command = [sys.executable, "-c", FORGETFUL, "train_w_kd.py", *flags, "--train_path", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=real_process.PATIENCE)


def main() -> int:
    """Returns the exit code: 1 where something differs, or the control does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=21, help="for each kind of run, in chains of three")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", help="one kind of run, by its name")
    options = parser.parse_args()
    found, missing = kinds()
    found = [(name, flags) for name, flags in found if options.only in (None, name)]
    rng, wrong, began = random.Random(options.seed), [], time.monotonic()

    def say(text):
        print(text, flush=True)

    for reason in missing:
        say(f"left out: {reason}")
    with tempfile.TemporaryDirectory() as place:
        root = pathlib.Path(place)
        cache = root / "cache"
        for name, chosen in found:
            flags = [*SHARED, *chosen]
            real_process.finish(root / name / "whole", cache, flags)
            expected = contents(root / name / "whole")
            chains, hits = -(-options.kills // CHAIN), 0
            for number in range(chains):
                say(f"{name}, chain {number + 1} of {chains}")
                hits += chain(root / name / str(number), cache, flags, rng, say)
                different = differences(contents(root / name / str(number)), expected)
                say(f"  {'DIFFERS: ' + ', '.join(different[:3]) if different else 'the same bits'}")
                wrong += [f"{name}, chain {number + 1}"] * bool(different)
            say(f"{name}: {CHAIN * chains} kills, {hits} while a checkpoint was being written")
            wrong += [f"{name}: no kill met a save"] * (not hits)
        name, chosen = found[0]
        forget(root / "control", cache, [*SHARED, *chosen])
        different = differences(contents(root / "control"), contents(root / name / "whole"))
        say(f"{name}, control: {len(different)} files and arrays differ")
        wrong += ["the control is equal: the comparison sees nothing"] * (not different)
    say(f"{'FAILED: ' + '; '.join(wrong) if wrong else 'Passed'}, {time.monotonic() - began:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
