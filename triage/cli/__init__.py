"""The command line: one file per verb or family of verbs, heavy imports inside the verb.

Owns the words, the tables and the exit codes that people and scripts meet (DESIGN section 6).
Decides nothing: every verb asks the room that owns the answer.
"""

from triage.cli.command_line import main

__all__ = ["main"]
