"""`python -m triage`: the console script without an installation."""

from triage.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
