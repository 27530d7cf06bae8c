"""`make bench`: run every measurement, print a table for people and one JSON line for programs."""

import json
import platform
import sys

from tests.benchmarks import commands, flags, receive


def main() -> int:
    """Run all, one after the other: on two cores they would disturb each other."""
    rows = [*receive.measure(), *flags.measure(), *commands.measure()]
    width = max(len(row.what) for row in rows)
    print(f"\n{platform.machine()}, Python {platform.python_version()}; medians of the runs\n")
    for row in rows:
        spread = f"{min(row.values):.4g} to {max(row.values):.4g}"
        print(f"{row.what:<{width}}  {row.median:>9.4g} {row.unit:<10} ({spread})")
    print(json.dumps([row.document() for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
