"""`triage migrate`: bring the database to this program's revision."""

import argparse

from triage.cli.verbs import DONE, Verbs, add_verb, configuration, print_json


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    add_verb(
        verbs,
        "migrate",
        migrate,
        says="create the database or bring it to this program's revision",
        example="triage migrate --config /etc/triage/triage.toml",
        json_document=True,
    )


def migrate(arguments: argparse.Namespace) -> int:
    from triage.database.connection import migrate as apply

    applied = apply(configuration(arguments).database.url)
    if arguments.json:
        print_json({"applied": applied})
    elif applied:
        print(f"Applied: {', '.join(applied)}.")
    else:
        print("Nothing to apply: the database is at this program's revision.")
    return DONE
