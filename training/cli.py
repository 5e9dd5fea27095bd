"""What the command lines share: flags over recipes over defaults, short help, errors of two lines, exit codes."""

import ast
import contextlib
import errno
import gc
import os
import pathlib
import sys
import traceback
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import default
from registry import UserError, unknown
from training import cpu, lock, signals

FLAGS = flags.FLAGS
CONFIG_HELP = "recipe, a FILE.py (or FILE.py:ARGUMENT) with get_config(); then --config.key=value for any of its keys"

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # the user's to mend
# On a GPU: no kernel that adds in the order in which threads happen to arrive, and no choice of kernels by the clock.
REPEATABLE = "--xla_gpu_deterministic_ops=true"
OPEN_KEYS = ("distiller_options", "student_options", "transfer_options")  # config keys whose own keys depend on a name
_OPTIONS: list[tuple[list[str], str]] = []

# flag -> (type, help); each is a key of the config, in the groups that --help shows
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "who": {
        "arch": ("string", "the network to train"),
        "student_arch": ("string", "the network that learns"),
        "teacher_arch": ("string", "the network that teaches, or several: A,B; default: what --teacher_param says"),
        "teacher_param": ("string", "its weights: a run folder, or one with weights.safetensors + model.json; or p,q"),
        "teacher_dtype": ("string", "the teacher's compute type; default: --dtype's"),
        "teacher_views": ("integer", "fixed views of each image, the teacher's logits computed once; 0: fresh views"),
        "distiller": ("string", "the method, or several joined by +"),
        "transfer": ("string", "the strategy"),
    },
    "data": {
        "dataset": ("string", "the dataset"),
        "data_dir": ("string", "where it lies"),
        "image_size": ("integer", "side in pixels, for ImageFolder"),
        "num_labels": ("integer", "labelled images that the label loss sees; 0: all"),
    },
    "recipe": {
        "learning_rate": ("float", "at the start"),
        "weight_decay": ("float", "L2 penalty"),
        "train_epoch": ("integer", "passes over the training images"),
        "batch_size": ("integer", "images per step, over all devices"),
        "seed": ("integer", "of everything random"),
        "seeds": ("integer", "replicas to train side by side, with seeds from --seed up"),
        "dtype": ("string", "compute type: float32 or bfloat16"),
        "deterministic": ("boolean", "repeatable kernels on GPU, slower"),
    },
    "run": {
        "train_path": ("string", "the run's folder; the same command again continues it"),
        "log_every": ("integer", "steps between log lines"),
        "steps_per_call": ("string", "updates in one call: auto, or a number"),
        "on_nan": ("string", "at a loss or gradient that is not finite: stop, or skip that update and count it"),
    },
}


def define(*names: str, recipes: bool = True) -> None:
    """Defines the named recipe flags (None: not given), `--gpu_id` and, with `recipes`, `--config`."""
    kinds = {"string": flags.DEFINE_string, "integer": flags.DEFINE_integer}
    kinds |= {"float": flags.DEFINE_float, "boolean": flags.DEFINE_boolean}
    for group in GROUPS.values():
        for name, (kind, text) in group.items():
            if name in names:
                kinds[kind](name, None, text)
    flags.DEFINE_string("gpu_id", None, "GPUs to use, such as 2 or 0,1")
    if not recipes:
        return
    flags.DEFINE_string("hosts", None, "one run of several processes: auto, or HOST:PORT,COUNT,ID")
    sys.argv[1:] = _take_options(sys.argv[1:])
    default = pathlib.Path(__file__).parent.parent / "configs" / "default.py"
    settings = {"lock_config": False, "accept_new_attributes": True}
    try:
        config_flags.DEFINE_config_file("config", str(default), CONFIG_HELP, **settings)
    except Exception as error:  # an override of a key inside something that has no keys, found while defining
        overrides = [a for a in sys.argv[1:] if a.startswith("--config.")]
        print(f"Error: cannot apply {', '.join(overrides)}: {error}", file=sys.stderr)
        sys.exit(UserError.exit_code)


def _take_options(arguments: list[str]) -> list[str]:
    """Takes `--config.distiller_options.AT.weight=5` and its like out: keys that no recipe needs to have beforehand."""
    rest, waiting = [], iter(arguments)
    for argument in waiting:
        key, equals, value = argument.lstrip("-").partition("=")
        parts = key.split(".")
        if argument.startswith("--config.") and len(parts) > 2 and parts[1] in OPEN_KEYS:
            _OPTIONS.append((parts[1:], value if equals else next(waiting, "")))
        else:
            rest.append(argument)
    return rest


def recipe(names) -> dict:
    """The recipe of `--config` with the explicit flags over it.

    Raises:
        UserError: a recipe file without `get_config()`.
    """
    found = FLAGS.config
    if not isinstance(found, (dict, ConfigDict)):
        reason = f"get_config() must return a ConfigDict; got {type(found).__name__}"
        try:
            found.anything  # noqa: B018  # what stands for a file that is not there raises its error on any access
        except OSError as error:
            reason = str(error.__cause__ or error).splitlines()[-1].strip()
        except AttributeError:
            pass
        raise UserError(f"--config: {reason}. Give the path of a FILE.py with get_config().")
    config = {**found, **given(names)}
    for (key, *path, last), text in _OPTIONS:
        place = config[key] = dict(config.get(key) or {})
        for part in path:
            place[part] = dict(place.get(part) or {})
            place = place[part]
        try:
            place[last] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            place[last] = text
    return config


def given(names) -> dict:
    """The flags among `names` that the command line has."""
    return {name: FLAGS[name].value for name in names if FLAGS[name].present}


def refuse_what_is_ignored(config: dict) -> None:
    """Raises `UserError` for a distiller or teacher on the command line that the strategy would not look at.

    `--teacher_param` with a strategy whose teacher learns means that it starts from those weights: noted in `config`.
    """
    import transfer

    name = config.get("transfer") or "Offline"
    rules = transfer.registry.get(name)
    if rules.baseline:
        return
    keys = ("distiller", "teacher_arch", "teacher_param", "teacher_dtype", "teacher_views")
    flag = {key: FLAGS[key].value for key in keys if FLAGS[key].present}
    by_key = config_flags.get_override_values(FLAGS["config"]) if "config" in FLAGS else {}
    flag |= {key: by_key[key] for key in keys if key in by_key}
    options = [".".join(path) for path, _ in _OPTIONS if path[0] == "distiller_options"]
    if not rules.needs_method and ("distiller" in flag or options):
        what = f"--distiller '{flag['distiller']}'" if "distiller" in flag else f"--config.{options[0]}"
        raise UserError(
            f"{what} has no meaning here: --transfer {name} has a loss of its own. Leave it out;\n"
            "the loss's numbers are --config.transfer_options."
        )
    theirs = {key: flag[key] for key in keys[1:] if flag.get(key)}
    if not rules.teachers and theirs:
        key, value = next(iter(theirs.items()))
        raise UserError(
            f"--{key} {value} has no meaning here: --transfer {name} has no other network than the student's.\n"
            "Leave it out, or choose a strategy with a teacher, such as --transfer Offline."
        )
    if rules.teachers != "peers":
        return
    starts = theirs.get("teacher_param")
    for key in ("teacher_views",) if starts else ("teacher_views", "teacher_dtype"):
        if key in theirs:
            raise UserError(
                f"--{key} has no meaning here: with --transfer {name} no teacher is trained and frozen. Leave it out."
            )
    if starts:
        if "trained_teacher" not in rules.__dataclass_fields__:
            raise UserError(
                f"--teacher_param {starts} has no meaning here: with --transfer {name} all start untrained.\n"
                "Name the peers' networks with --teacher_arch, or choose --transfer Online or Offline."
            )
        config["transfer_options"] = {**dict(config.get("transfer_options") or {}), "trained_teacher": True}


def choose_devices() -> None:
    """Applies `--gpu_id` and `--deterministic` to the environment, before JAX looks for devices."""
    if FLAGS.gpu_id is not None:
        if not all(part.strip().isdigit() for part in FLAGS.gpu_id.split(",")):
            raise UserError(f"--gpu_id must be numbers such as 2 or 0,1; got '{FLAGS.gpu_id}'.")
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = FLAGS.gpu_id
    if "config" in FLAGS and recipe(["deterministic"]).get("deterministic"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {REPEATABLE}".strip()
        os.environ.setdefault("NCCL_ALGO", "Ring")  # one order of adding gradients over several GPUs


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless `JAX_COMPILATION_CACHE_DIR` names another."""
    import jax

    from data import decoded

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(decoded.cache_folder("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def begin(config: dict) -> None:
    """What a training command does before the slow imports: takes signals, and looks whether the folder is free.

    With `--hosts` it finds the other processes; then `training.run` looks at the folder, where one can tell all.
    """
    if FLAGS.hosts is not None:
        from training import hosts

        hosts.connect(FLAGS.hosts)
        signals.before_training(one_of_several=True)
        return
    signals.before_training()
    full = {**default.get_config(), **config}
    with contextlib.suppress(TypeError):  # a value of the wrong type: `training.config` has the words for it
        for method in {full["distiller"], full["distiller"] or "SoftLogits"}:  # which a strategy takes by itself
            lock.refuse_second(full["train_path"] or lock.default_train_path({**full, "distiller": method}))


def prepare_jax() -> None:
    """Tunes the process for a CPU, turns the compilation cache on, and says so when `--gpu_id` found no GPU."""
    import jax

    cpu.tune()
    use_compilation_cache()
    if FLAGS.gpu_id is not None and jax.default_backend() == "cpu":
        print(f"Warning: --gpu_id {FLAGS.gpu_id}: JAX sees no GPU here; running on the CPU.", file=sys.stderr)


def main(call: Callable[[], None], description: str) -> None:
    """Parses the flags, makes the one call, and turns a user's mistake into its message and exit code."""
    try:
        try:
            _parse(description)
            gc.set_threshold(100_000)  # imports and traces make objects that stay: no use in looking through them often
            choose_devices()
            call()
        except OSError as error:
            if error.errno not in STORAGE:
                raise
            raise UserError(f"{error.strerror}: {error.filename or 'while writing'}.") from None
    except UserError as error:
        if _speaks():
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if not _several():
            raise
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # an orderly end would wait for the other processes, and these wait for this one


def _several() -> bool:
    """Whether this is one of several processes that have found each other."""
    if "hosts" not in FLAGS or FLAGS["hosts"].value is None or "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()


def _speaks() -> bool:
    """Whether this process says what all end with."""
    if not _several():
        return True
    import jax

    return jax.process_index() == 0


def _parse(description: str) -> None:
    if any(argument in ("--help", "-h", "-help", "--helpshort", "--helpfull") for argument in sys.argv[1:]):
        print(_help(description))
        sys.exit(0)
    try:
        rest = FLAGS(sys.argv)
    except flags.UnrecognizedFlagError as error:
        raise unknown("flag", f"--{error.flagname}", [f"--{name}" for name in _own_flags()]) from None
    except Exception as error:  # a recipe may raise anything
        kind = "" if isinstance(error, flags.Error) else f"{type(error).__name__}: "
        text = " ".join(f"{kind}{error}".split())
        if "UserError: " in text:  # a recipe's own, inside a traceback
            raise UserError(text.rpartition("UserError: ")[2]) from None
        recipes = [b for a, b in zip(sys.argv, [*sys.argv[1:], ""], strict=True) if a == "--config"]
        text = f"{text} (recipe: {recipes[-1]})" if recipes else text
        raise UserError(text if len(text) < 400 else "... " + text[-400:]) from None
    if len(rest) > 1:
        raise UserError(f"Unexpected argument '{rest[1]}'. Flags begin with --; see --help.")


def _own_flags() -> list[str]:
    grouped = [name for group in GROUPS.values() for name in group if name in FLAGS]
    key = [f.name for f in FLAGS.get_key_flags_for_module(sys.argv[0])]
    return list(
        dict.fromkeys(
            grouped + [n for n in key if n not in ("config",)] + ["gpu_id"] + ["hosts", "config"] * ("config" in FLAGS)
        )
    )


def _help(description: str) -> str:
    recipes = " [--config FILE.py]" if "config" in FLAGS else ""
    lines = [description, "", f"usage: python {os.path.basename(sys.argv[0])}{recipes} [--flag value ...]"]
    seen = set()
    for title, group in GROUPS.items():
        shown = [name for name in group if name in FLAGS]
        seen |= set(shown)
        if shown:
            lines += ["", f"{title}:"] + [f"  --{name:<15} {group[name][1]}" for name in shown]
    lines += ["", "more:"]
    lines += [f"  --{name:<15} {FLAGS[name].help}" for name in _own_flags() if name not in seen]
    return "\n".join(lines)


def print_summary(summary: dict) -> None:
    """The end of a run, in one line."""
    if not _speaks():
        return
    last, best = summary["last"], summary["best"]

    def percent(row, name):
        value = row[name]
        return f"{value['mean']:.2f} ± {value['std']:.2f} %" if isinstance(value, dict) else f"{value:.2f} %"

    agreement = f", agreement with the teacher {percent(last, 'agreement')}" if "agreement" in last else ""
    epoch = "" if isinstance(best["epoch"], dict) else f" (epoch {best['epoch']})"
    over = f" over seeds {', '.join(map(str, summary['seeds']))}" if "seeds" in summary else ""
    print(
        f"Test top-1{over}: last {percent(last, 'top1')}, best {percent(best, 'top1')}{epoch}{agreement}; "
        f"{summary['parameters']:,} parameters, {summary['seconds']:.0f} s of training."
    )
