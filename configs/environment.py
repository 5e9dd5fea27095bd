"""The facts beside the config on which a result depends: command, versions, devices, commit."""

import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def environment() -> dict:
    """Returns the facts for `env.json`."""
    import jax

    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def git(*arguments):
        root = pathlib.Path(__file__).parent.parent
        try:
            result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5)
            return result.stdout.strip() if result.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired):
            return None

    changes = git("status", "--porcelain")
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "backend": jax.devices()[0].platform,
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def command_line() -> str:
    """Returns the command as typed, without the paths of the interpreter and of the script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [os.path.basename(sys.argv[0])]
    return shlex.join(["python", *program, *sys.argv[1:]])
