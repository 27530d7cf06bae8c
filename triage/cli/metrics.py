"""`triage metrics`: the metrics for Prometheus as text, from the database, the daemon up or down.

The same that [metrics] serves on a port; for node_exporter's textfile collector, or a look.
"""

import argparse
import sys

from triage.cli.verbs import DONE, Verbs, add_verb, configuration


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    add_verb(
        verbs,
        "metrics",
        metrics,
        says="print the metrics for Prometheus, whether the daemon runs or not",
        example="triage metrics > /var/lib/prometheus/node-exporter/triage.prom",
    )


def metrics(arguments: argparse.Namespace) -> int:
    from triage.operations.metrics import exposition

    sys.stdout.write(exposition(configuration(arguments)).decode("utf-8"))
    return DONE
