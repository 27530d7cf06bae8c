"""`python -m triage.pocket`: train the pocket model from its seed and write its bundle."""

import argparse
import json
from pathlib import Path

from triage.pocket import BUNDLE


def main() -> None:
    """Build the bundle and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m triage.pocket", description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLE, help="directory to write or replace")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and of their order")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    arguments = parser.parse_args()

    from triage.pocket.build import build, set_threads

    set_threads(arguments.threads)
    bundle = build(arguments.out, seed=arguments.seed)
    print(json.dumps(bundle.manifest.figures, indent=1))


if __name__ == "__main__":
    main()
