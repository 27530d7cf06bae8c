"""What a person is told of a watched folder: that it is gone, hides entries, or keeps files.

What cannot be looked at is an alarm, not an empty folder: a mount or a right may be gone. The
message names the folder and counts; the name of a file may hold a patient's.
"""

from collections.abc import Sequence
from pathlib import Path

from triage.database.connection import Database
from triage.database.house import clear_alarm, raise_alarm
from triage.ingest.files import path_text
from triage.records import AlarmCode

NEXT_STEPS = {
    AlarmCode.FOLDER_MISSING: "Check the mount and the path in [folders] watch.",
    AlarmCode.FOLDER_UNREADABLE: "Give the user of triage the right to read everything below it;"
    " look for errors of its disk or mount.",
    AlarmCode.FOLDER_FAILED: "The log says why (folder_file_failed, object_refused): mend it, then"
    " `touch` the files, or take them out of the folder.",
}


class FolderAlarms:
    """The alarms of the watched folders, as one watcher has told them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._told: dict[tuple[Path, AlarmCode], str] = {}

    def tell_missing(self, root: Path, trouble: str) -> None:
        """Tell what is wrong with a folder that is not there; empty where it is."""
        self._tell(root, AlarmCode.FOLDER_MISSING, trouble)

    def tell_unreadable(self, root: Path, reasons: Sequence[str]) -> None:
        """Tell of entries that could not be looked at, by the reason for each."""
        hidden = ""
        if reasons:
            hidden = f"has entries that cannot be read ({len(reasons)}, first: {reasons[0]})"
        self._tell(root, AlarmCode.FOLDER_UNREADABLE, hidden)

    def tell_failed(self, root: Path, count: int) -> None:
        """Tell of files that were read in vain and that no quarantine lists."""
        left = f"has files that were neither taken in nor kept aside ({count})"
        self._tell(root, AlarmCode.FOLDER_FAILED, left if count else "")

    def _tell(self, root: Path, code: AlarmCode, trouble: str) -> None:
        """Raise an alarm where there is trouble, clear it where there is none, at each change."""
        if self._told.get((root, code)) == trouble:
            return
        with self._db.write() as connection:
            now = self._db.now(connection)
            if not trouble or (root, code) in self._told:
                clear_alarm(connection, code=code, subject=path_text(root), now=now)
            if trouble:
                raise_alarm(
                    connection,
                    code=code,
                    subject=path_text(root),
                    message=f"the watched folder {path_text(root)} {trouble}",
                    next_step=NEXT_STEPS[code],
                    now=now,
                )
        self._told[root, code] = trouble
