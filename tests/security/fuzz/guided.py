"""Fuzzing led by coverage: `python -m tests.security.fuzz.guided TARGET SECONDS`, with atheris.

Atheris sees which lines an input reaches and keeps those that reach new ones. It ends its process
itself, so each target has one of its own.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST_INPUT = 1 << 16
SLOWEST_S = 5
MOST_MIB = 2048


def main(target: str, seconds: int) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["triage", "pydicom"]):
        from tests.security.fuzz.running import keep, try_one
        from tests.security.fuzz.targets import REGRESSIONS, TARGETS, seeds, silence

    def once(data: bytes) -> None:
        _, fault = try_one(TARGETS[target], data)
        if fault:
            keep(target, data, fault, REGRESSIONS)
            raise SystemExit(1)

    with silence(), tempfile.TemporaryDirectory(prefix="triage-fuzz-") as corpus:
        for number, seed in enumerate(seeds(target)):
            if len(seed) <= LONGEST_INPUT:
                (Path(corpus) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}"]
        # What ends the process itself is kept by atheris, under a name that the tests replay.
        options.append(f"-artifact_prefix={REGRESSIONS}/{target}-")
        options += [f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MIB}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, corpus], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
