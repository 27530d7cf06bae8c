"""The database revision that this program needs. Light: `triage status` reads it too."""

HEAD = "0003"
# Stands where a restore has not come to its end, with 8 digits of the backup: alembic keeps 32
# characters.
UNFINISHED = "unfinished-restore-"
UNFINISHED_HINT = "A restore was broken off: run the same `triage restore` again."
