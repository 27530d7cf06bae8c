"""`triage run`: start the daemon, all of it or some roles."""

import argparse

from triage.cli.verbs import DONE, Verbs, add_verb, configuration

ROLES = ("receive", "watch", "schedule", "analyse")


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "run",
        run,
        says="run the daemon until it is told to stop",
        example="triage run --role receive --role schedule",
    )
    parser.add_argument(
        "--role",
        action="append",
        choices=ROLES,
        help="run this role only, in this process; may be given several times (default: all)",
    )


def run(arguments: argparse.Namespace) -> int:
    from triage import daemon

    config = configuration(arguments)
    code = daemon.run(config, set(arguments.role or ()))
    return DONE if code is None else code
