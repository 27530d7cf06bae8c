"""`make bench`: run every measurement, print a table for people and one JSON line for programs."""

import json
import platform
import sys
from itertools import chain

from tests.benchmarks import commands, flags, receive


def main() -> int:
    """Run all, one after the other: on two cores they would disturb each other."""
    print(f"{platform.machine()}, Python {platform.python_version()}; medians of the runs\n")
    rows = []
    for row in chain(commands.measure(), flags.measure(), receive.measure()):
        rows.append(row)
        spread = f"{min(row.values):.4g} to {max(row.values):.4g}"
        print(f"{row.what:<48}  {row.median:>9.4g} {row.unit:<10} ({spread})", flush=True)
    print(json.dumps([row.document() for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
