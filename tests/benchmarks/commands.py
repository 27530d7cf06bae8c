"""What a tired person waits for: `status` and `worklist` beside a long history.

The wall time of the whole command counts, interpreter and imports included.
"""

import subprocess
import sys
import time
from collections.abc import Iterator

from tests.benchmarks.history import History, fill
from tests.benchmarks.measuring import (
    Conditions,
    Note,
    Row,
    at_most,
    configuration,
    environment,
    free_port,
    program,
    say,
)
from tests.benchmarks.stores import each_database

TITLE = "Commands beside 100,000 studies and 1,000,000 events"
STUDIES = 100_000
EVENTS = 1_000_000
RUNS = 9
COMMAND_S = 0.5
IMPORT_S = 0.2
IMPORT = (
    "import time; begun = time.perf_counter(); import triage.cli.command_line;"
    " print(time.perf_counter() - begun)"
)


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield seconds for a bare interpreter, the imports, and the commands on both databases."""
    runs = 3 if conditions.quick else RUNS
    bare = tuple(_seconds([sys.executable, "-c", "pass"]) for _ in range(runs))
    yield Row(what="python -c pass", values=bare, unit="s")
    imports = tuple(_import_s() for _ in range(runs))
    yield Row(what="import of the CLI", values=imports, unit="s", limit=at_most(IMPORT_S))
    history = History(
        studies=conditions.count(STUDIES),
        instances=conditions.count(STUDIES),
        events=conditions.count(EVENTS),
    )
    for name, url, folder in each_database(conditions):
        say(f"  {name}: {history.studies:,} studies, {history.events:,} events")
        fill(url, history)
        config = configuration(folder, free_port(), url=url)
        held = f"open {history.studies // 2}", "Only the first 50 are shown"
        for words, proof in zip(("status", "worklist --limit 50"), held, strict=True):
            command = [*program(config), *words.split()]
            values = tuple(_seconds(command, proof) for _ in range(runs))
            yield Row(
                what=f"triage {words}, {name}", values=values, unit="s", limit=at_most(COMMAND_S)
            )
    yield Note(text="Half of the studies are open, a tenth is flagged; events lie over 30 days.")


def _seconds(command: list[str], proof: str = "") -> float:
    """Return the wall time. Raises RuntimeError without `proof`: an error is quickly said."""
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(COLUMNS="160")
    )
    seconds = time.perf_counter() - started
    if proof not in done.stdout:
        raise RuntimeError(f"{command[-1]} failed: {done.stderr[-500:]}")
    return seconds


def _import_s() -> float:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    return float(done.stdout)
