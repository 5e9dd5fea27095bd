"""Distils a teacher into a student."""

from absl import flags

from training import cli

RECIPE = [name for group in cli.GROUPS.values() for name in group if name != "arch"]
LISTS = {"distillers": "distiller", "transfers": "transfer", "models": "models", "datasets": "data"}

cli.define(*RECIPE)
flags.DEFINE_string("list", None, f"print what there is and stop: {', '.join(LISTS)}")


def main() -> None:
    """Flags to recipe to one call."""
    if flags.FLAGS.list is not None:
        return print_list(flags.FLAGS.list)
    config = cli.recipe(RECIPE)
    cli.begin(config)
    cli.prepare_jax()
    cli.refuse_what_is_ignored(config)
    from training.run import train

    cli.print_summary(train(config))


def print_list(what: str) -> None:
    """Name, one line and paper of everything in a registry."""
    import importlib

    from registry import unknown

    if what not in LISTS:
        raise unknown("list", what, LISTS)
    for name, line, source in importlib.import_module(LISTS[what]).registry.describe():
        print(f"{name:<14} {line}" + (f"  [{source}]" if source else ""))


if __name__ == "__main__":
    cli.main(main, __doc__)
