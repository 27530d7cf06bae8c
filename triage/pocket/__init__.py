"""The built-in model of demonstration and tests: phantoms, training and the shipped bundle."""

from pathlib import Path
from typing import Final

BUNDLE: Final = Path(__file__).parent / "bundle"
