"""Code that the command lines share: argv to recipe, `--help`, short error messages, exit codes."""

import argparse
import ast
import dataclasses
import errno
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from configs.default import GROUPS, KEYS
from registry import UserError, unknown

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # errors that the user can correct
# On a GPU: no kernels whose sums depend on the order of threads, and no choice of kernels by measured time.
REPEATABLE = "--xla_gpu_deterministic_ops=true"
PATIENCE = 300  # seconds that processes wait for each other at the start
MACHINE = {"gpu_id": "GPUs to use, such as 2 or 0,1"}
TRAINING = {
    "config": "the recipe: FILE.py or FILE.py:ARGUMENT with get_config(); --config.KEY=VALUE changes any key",
    "check_only": "look for the usual mistakes and train nothing",
    "track": "send the numbers to a tracker, too: wandb, trackio, none, or module:attribute; default: none",
    "hosts": "make several processes one run: auto, or HOST:PORT,COUNT,ID",
    "compile_for": "compile an update for a TPU or GPU that is not here, print memory and speed, stop: v5e:2x4, h200",
}
LISTS = {"distillers": "distiller", "transfers": "transfer", "models": "models", "datasets": "data"}
SWITCHES = ("check_only",)  # flags without a value


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line.

    Attributes:
        recipe: the keys that the recipe file and the command line set.
        typed: the keys of `recipe` that the command line sets.
        flags: name -> text of the flags that are not keys; "" if the flag is not given.
    """

    recipe: dict
    typed: tuple[str, ...]
    flags: dict[str, str]


def parse(
    argv: Iterable[str], description: str, keys: Iterable[str] = tuple(KEYS), more: dict[str, str] = MACHINE
) -> Command:
    """Reads a command line; changes nothing.

    Args:
        argv: the arguments, without the program's name.
        description: for `--help`.
        keys: the keys of `configs/default.py` that are flags here.
        more: flags that are not keys: name -> help. If "config" is among them, a recipe file is read.

    Raises:
        UserError: an unknown flag (with the nearest), a value of the wrong type, or a recipe that cannot be read.
        SystemExit: `--help`, after printing it.
    """
    argv, keys = list(argv), [name for name in keys if KEYS[name].default_factory is dataclasses.MISSING]
    if any(argument in ("--help", "-h", "-help") for argument in argv):
        print(_help(description, keys, more))
        sys.exit(0)
    overrides, rest = _overrides(argv) if "config" in more else ([], argv)
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in keys:
        switch = {"nargs": "?", "const": True} if isinstance(KEYS[name].default, bool) else {}
        parser.add_argument(f"--{name}", **switch)
    for name in more:
        switch = {"nargs": "?", "const": "yes"} if name in SWITCHES else {}
        parser.add_argument(f"--{name}", default="", **switch)
    found, left = parser.parse_known_args(rest)
    if left:
        flag = left[0].partition("=")[0]
        if not flag.startswith("-"):
            raise UserError(f"Unexpected argument '{flag}'. Flags begin with --; see --help.")
        raise unknown("flag", flag, [f"--{name}" for name in (*keys, *more)])
    values = vars(found)
    flags = {name: values.pop(name) for name in more}
    values = {name: value if value is True else _reader(name)(value) for name, value in values.items()}
    recipe = read_recipe(flags["config"]) if flags.get("config") else {}
    for path, text in overrides:
        _override(recipe, path, text)
    typed = (*values, *(path[0] for path, _ in overrides))
    return Command({**recipe, **values}, tuple(dict.fromkeys(typed)), flags)


def check_teacher(given: Command) -> None:
    """Raises `UserError` for a size of a teacher's images without a teacher, or one that is no size."""
    size = given.recipe.get("teacher_image_size", 0)
    if size < 0:
        raise UserError(f"'teacher_image_size' must not be negative; got {size}.")
    if size and not given.recipe.get("teacher_param"):
        raise UserError(f"--teacher_image_size {size} needs a teacher: add --teacher_param, or leave it out.")


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises its errors as `UserError`."""

    def error(self, message: str):
        raise UserError(message[:1].upper() + message[1:] + ".")


def _overrides(argv: list[str]) -> tuple[list[tuple[list[str], str]], list[str]]:
    """Returns ([(path, text)] of `--config.KEY=VALUE` and `--config.KEY VALUE`, the other arguments)."""
    found, rest, waiting = [], [], iter(argv)
    for argument in waiting:
        if argument.startswith("--config."):
            name, equals, text = argument.removeprefix("--config.").partition("=")
            found.append((name.split("."), text if equals else next(waiting, "")))
        else:
            rest.append(argument)
    return found, rest


def _override(recipe: dict, path: list[str], text: str) -> None:
    name, *inside = path
    if name not in KEYS:
        raise unknown("config key", name, KEYS)
    if not inside:
        recipe[name] = _literal(text) if KEYS[name].default_factory is dict else _reader(name)(text)
        return
    if KEYS[name].default_factory is not dict:
        raise UserError(f"Cannot apply --config.{'.'.join(path)}: '{name}' has no keys of its own.")
    place = recipe[name] = dict(recipe.get(name) or {})
    for part in inside[:-1]:
        place[part] = dict(place.get(part) or {})
        place = place[part]
    place[inside[-1]] = _literal(text)


def _reader(name: str) -> Callable[[str], object]:
    """Returns a function that turns a text into a value of the type of the key's default."""
    default = KEYS[name].default
    if isinstance(default, bool):

        def read(text):
            if text.lower() not in ("true", "false"):
                raise UserError(f"'{name}' must be True or False (default {default}); got '{text}'.")
            return text.lower() == "true"

        return read
    if isinstance(default, (int, float)):

        def read(text):
            try:
                return type(default)(text)
            except ValueError:
                kind = "a whole number" if isinstance(default, int) else "a number"
                raise UserError(f"'{name}' must be {kind} (default {default}); got '{text}'.") from None

        return read
    return _literal if isinstance(default, tuple) else str


def _literal(text: str) -> object:
    """Reads a number, a string, a tuple, ... in Python's notation; any other text stays a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def read_recipe(path: str) -> dict:
    """Returns the keys that a recipe sets.

    Args:
        path: "FILE.py", or "FILE.py:ARGUMENT" for `get_config(ARGUMENT)`.

    Raises:
        UserError: no such file, or `get_config` fails or returns no ConfigDict.
    """
    file, _, argument = path.partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(f"--config: there is no file {file}. Give the path of a FILE.py with get_config().")
    try:
        loader = importlib.machinery.SourceFileLoader("recipe", file)  # allows any file name
        spec = importlib.util.spec_from_file_location("recipe", file, loader=loader)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = module.get_config(*[argument] * bool(argument))
    except UserError:
        raise
    except Exception as error:  # a recipe may raise anything
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--config: {text[-400:]} (recipe: {path}).") from None
    if not isinstance(found, (dict, ConfigDict)):
        raise UserError(f"--config: get_config() of {file} must return a ConfigDict; got {type(found).__name__}.")
    return dict(found)


def _help(description: str, keys: list[str], more: dict[str, str]) -> str:
    recipes = " [--config FILE.py]" if "config" in more else ""
    lines = [description.strip(), "", f"usage: python {os.path.basename(sys.argv[0])}{recipes} [--flag value ...]"]
    texts = {name: KEYS[name].metadata["text"] for name in keys}
    for group in GROUPS:
        names = [name for name in keys if KEYS[name].metadata["group"] == group]
        if names:
            lines += ["", f"{group}:", *(f"  --{name:<18} {texts[name]}" for name in names)]
    return "\n".join([*lines, "", "this command:", *(f"  --{name:<18} {text}" for name, text in more.items())])


def prepare(command: Command) -> None:
    """Sets the devices, the compiler's flags and the compilation cache, before JAX reads them; joins the hosts."""
    gpus = command.flags.get("gpu_id", "")
    if gpus:
        if not all(part.strip().isdigit() for part in gpus.split(",")):
            raise UserError(f"--gpu_id must be numbers such as 2 or 0,1; got '{gpus}'.")
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = gpus
    if command.recipe.get("deterministic"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {REPEATABLE}".strip()
        os.environ.setdefault("NCCL_ALGO", "Ring")  # a fixed order for sums of gradients over several GPUs
    tune()
    if command.flags.get("hosts"):
        _join_hosts(command.flags["hosts"])
    from training.devices import here

    if gpus and here().platform == "cpu":
        print(f"Warning: --gpu_id {gpus}: JAX sees no GPU here; running on the CPU.", file=sys.stderr)


def _join_hosts(text: str) -> None:
    """Joins this process to the other processes of a run. Must come before JAX looks for devices.

    Args:
        text: "auto" (JAX asks Slurm, Kubernetes, Open MPI or the TPU's host) or HOST:PORT,COUNT,ID: the address of
            process 0, the number of processes, and the number of this process.

    Raises:
        UserError: `text` has another form, or the processes do not find each other.
    """
    import jax

    options = {}
    if text != "auto":
        found = re.fullmatch(r"([^\s,]+:\d+),(\d+),(\d+)", text.replace(" ", ""))
        if not found or int(found[3]) >= int(found[2]):
            raise UserError(
                f"--hosts must be auto, or HOST:PORT,COUNT,ID with ID from 0 to COUNT - 1; got '{text}'.\n"
                "On the first of two processes: --hosts node0:1234,2,0"
            )
        address, count, number = found.groups()
        options = {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}
    try:
        jax.distributed.initialize(**options, initialization_timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        advice = (
            "JAX finds no cluster here: give HOST:PORT,COUNT,ID" if text == "auto" else "Check process 0's address."
        )
        raise UserError(f"--hosts {text}: {reason}.\n{advice}") from None


def tune() -> None:
    """Tunes the process for a CPU, and keeps compiled programs in the user's cache folder.

    `JAX_COMPILATION_CACHE_DIR` chooses another folder.
    """
    import jax

    from data import decoded
    from models.xla_cpu import process

    process.tune()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(decoded.cache_folder("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the arguments. Turns a `UserError` into its message and exit code."""
    try:
        try:
            main(sys.argv[1:])
        except OSError as error:
            if error.errno not in STORAGE:
                raise
            raise UserError(f"{error.strerror}: {error.filename or 'while writing'}.") from None
    except UserError as error:
        if _first_process():
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if not _several_processes():
            raise
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # a normal exit would wait for the other processes, which wait for this one


def _several_processes() -> bool:
    """Whether this process has joined others (`--hosts`)."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _first_process() -> bool:
    """Whether this process prints the message with which all processes end."""
    return not _several_processes() or sys.modules["jax"].process_index() == 0


def print_list(what: str) -> None:
    """Prints the name, the summary line and the paper of each entry of a registry."""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    for name, line, source in importlib.import_module(LISTS[what]).registry.describe():
        print(f"{name:<14} {line}" + (f"  [{source}]" if source else ""))


def names_in(text: str) -> list[str]:
    """Returns the parts of a text between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def print_summary(summary: dict) -> None:
    """Prints the results of a run in one line."""
    if not _first_process():
        return
    last, best = summary["last"], summary["best"]

    def percent(row, name):
        value = row[name]
        return f"{value['mean']:.2f} ± {value['std']:.2f} %" if isinstance(value, dict) else f"{value:.2f} %"

    over = f" over seeds {', '.join(map(str, summary['seeds']))}" if "seeds" in summary else ""
    notes = [] if isinstance(best["epoch"], dict) else [f"epoch {best['epoch']}"]
    notes += ["chosen on validation images"] if summary.get("best_on") == "val" else []
    chosen = f" ({', '.join(notes)})" if notes else ""

    def tested(name):
        return f"{over}: last {percent(last, name)}, best {percent(best, name)}{chosen}"

    if "top1" in last:
        agreement = f", agreement with the teacher {percent(last, 'agreement')}" if "agreement" in last else ""
        text = f"Test top-1{tested('top1')}{agreement}"
    elif "AP" in last:
        text = f"Test AP{tested('AP')}, AP50 {percent(last, 'AP50')}"
    elif "agreement" in last:
        text = f"Agreement with the teacher on held-out images{tested('agreement')}"
    else:
        text = f"Trained{over}, without a test: the student's logits have learned nothing"
    print(f"{text}; {summary['parameters']:,} parameters, {summary['seconds']:.0f} s of training.")
