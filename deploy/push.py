"""Publishes trained weights on the Hugging Face hub, with a card that is written from the run.

    python -m deploy.push --param runs/soft                      # prints the card; sends nothing
    python -m deploy.push --param runs/soft --push OWNER/NAME    # sends weights.safetensors, model.json, README.md

model.json and the card contain the command of the training as it was typed, with its paths. Log in before: hf auth
login.
"""

from configs import command
from deploy.arguments import Parser
from registry import UserError

EXAMPLE = "--push OWNER/NAME"


def parser() -> Parser:
    """Defines the flags."""
    p = Parser("deploy.push", __doc__)
    p.add_argument("--push", default="", metavar="OWNER/NAME", help="send to this repository; it is made if needed")
    p.add_argument("--private", action="store_true", help="a new repository is private")
    return p


def push(weights, repository: str, private: bool = False) -> str:
    """Sends weights, description and card as one commit.

    Args:
        weights: what `pretrained.load` returned.
        repository: OWNER/NAME.
        private: of a new repository.

    Returns:
        The address of the repository.

    Raises:
        UserError: the extra `hub` is missing, or the hub refuses.
    """
    import pretrained
    from deploy.card import card
    from pretrained import hub

    hub.check_name(repository, EXAMPLE)
    library = hub.library()
    contents = {name: (weights.folder / name).read_bytes() for name in (pretrained.WEIGHTS, pretrained.DESCRIPTION)}
    contents["README.md"] = card(weights, repository).encode()
    added = [library.CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        api = library.HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, added, commit_message=f"{weights.info['arch']}: weights, description, card")
    except Exception as error:  # no network, no login, no right to write: each its own kind
        raise UserError(f"Cannot push to {repository}: {hub.reason(error)}.\nLog in: hf auth login") from None
    return str(address)


def main(argv: list[str]) -> None:
    """Prints the card, or sends the files."""
    args = parser().parse_args(argv)
    if args.private and not args.push:
        raise UserError(f"--private is for a new repository: add {EXAMPLE}, or leave it out.")
    import pretrained
    from deploy.card import card
    from pretrained.players import player_of

    weights = pretrained.load(args.param)
    player_of(weights, "network", arch=args.arch)  # checks that the weights fit
    if not args.push:
        print(card(weights, "OWNER/NAME"))
        return
    print(f"Sent to {push(weights, args.push, args.private)}; use it with --teacher_param hf:{args.push}")


if __name__ == "__main__":
    command.run(main)
