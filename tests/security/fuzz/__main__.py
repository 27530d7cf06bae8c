"""`make fuzz`: every target for a while; exit code 1 where something broke.

Where atheris could be installed, coverage leads a second search. What breaks a target is written
to tests/security/fuzz/regressions, which `make test` replays.
"""

import argparse
import importlib.util
import subprocess
import sys
import time

from tests.security.fuzz.running import MOST_GROWTH_MIB, fuzz
from tests.security.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=300, help="for each target (default 300)")
    parser.add_argument("--draw-from", type=int, default=int(time.time()), help="seed of the draw")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"there is no target {min(unknown)!r}")
    broken = 0
    for target in arguments.targets or TARGETS:
        done = fuzz(target, seconds=arguments.seconds, draw_from=arguments.draw_from)
        print(
            f"{target}: {done.trials} inputs from {arguments.draw_from}, slowest"
            f" {done.slowest_s:.2f} s, growth {done.growth_mib:.0f} MiB,"
            f" {len(done.broken)} broken",
            flush=True,
        )
        broken += len(done.broken) + (done.growth_mib > MOST_GROWTH_MIB)
        if importlib.util.find_spec("atheris"):
            broken += led_by_coverage(target, arguments.seconds)
        else:
            print(f"{target}: not searched by coverage: atheris is not installed", flush=True)
    return 1 if broken else 0


def led_by_coverage(target: str, seconds: int) -> bool:
    """Whether a process of its own, led by coverage, found something."""
    command = [sys.executable, "-m", "tests.security.fuzz.guided", target, str(seconds)]
    return subprocess.run(command, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
