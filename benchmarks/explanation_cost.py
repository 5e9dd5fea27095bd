"""What a training step costs with each method on explanation maps, beside one with SoftLogits.

    python -m benchmarks.explanation_cost [--teacher ResNet56] [--student ResNet20] [--batch 64] [--rounds 5]

The step is training's own on random CIFAR-sized images, without augmentation. The methods alternate; each number is the
median over the rounds of that round's ratio to SoftLogits.
"""

import argparse
import time

import numpy as np

from benchmarks.step import positive
from training import cpu

cpu.tune()

import jax  # noqa: E402  # after the flags
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import data  # noqa: E402
import distiller  # noqa: E402
import models  # noqa: E402
import transfer  # noqa: E402

METHODS = {
    "SoftLogits": {},
    "CATKD": {},
    "ExpKD": {},
    "LwM": {},
    "E2KD": {},
    "GradAT": {},
    "ExpKD (GradCAM)": {"map": "GradCAM"},
    "ExplanationMatch": {},
    "ExplanationMatch (GradCAM at stage1)": {"map": "GradCAM", "tap": "stage1"},
    "ExplanationMatch (InputGradient)": {"map": "InputGradient"},
}


def stepper(teacher: str, student: str, method: distiller.Distiller, batch: data.Batch):
    """A function that does one update and waits for it."""
    players = [
        transfer.Player(n, models.create(m, 100), (0.5,) * 3, (0.25,) * 3) for n, m in ((0, teacher), (1, student))
    ]
    strategy = transfer.create(
        "Offline",
        student=players[1],
        teacher=players[0],
        teacher_variables=jax.jit(players[0].init)(jax.random.key(1), batch.image),
        method=method,
        optimizer=optax.sgd(1e-3, 0.9),
    )
    state = jax.jit(strategy.init)(jax.random.key(0), batch)
    step = jax.jit(strategy.step)

    def run():
        jax.block_until_ready(step(state, batch, jax.random.key(2)))

    return run


def main(teacher: str, student: str, batch: int, rounds: int) -> None:
    """Prints the table."""
    random = np.random.RandomState(0)
    image = jnp.asarray(random.uniform(size=(batch, 32, 32, 3)), jnp.float32)
    label = jnp.asarray(random.randint(0, 100, batch), jnp.int32)
    examples = data.Batch(image, label, jnp.arange(batch, dtype=jnp.int32), jnp.float32(0))
    steps, times = {}, {}
    for name, options in METHODS.items():
        start = time.perf_counter()
        steps[name] = stepper(teacher, student, distiller.create(name.partition(" (")[0], **options), examples)
        steps[name]()
        print(f"compiled {name} in {time.perf_counter() - start:.0f} s", flush=True)
        times[name] = []
    for _ in range(rounds):
        for name, step in steps.items():
            step()  # untimed: refill the caches after the other method
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    print(
        f"\n{teacher} -> {student}, batch {batch}, float32, {jax.devices()[0].device_kind}, medians of {rounds} rounds"
    )
    base = np.asarray(times["SoftLogits"])
    for name, ms in times.items():
        print(f"{name:<38}{np.median(ms):>10.1f} ms{np.median(np.asarray(ms) / base):>8.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ResNet56")
    parser.add_argument("--student", default="ResNet20")
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, default=5)
    main(**vars(parser.parse_args()))
