"""A small memory of what was just looked at, so that the words need no second look."""

from collections import OrderedDict

from triage.records import Job, Subject
from triage.worker.models import Remembered


class Memory:
    """The last `size` subjects by (subject, generation); the oldest is forgotten first."""

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[Subject, int, int], Remembered] = OrderedDict()

    def keep(self, job: Job, entry: Remembered) -> None:
        self._entries[_key(job)] = entry
        self._entries.move_to_end(_key(job))
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def take(self, job: Job) -> Remembered | None:
        """Return and forget what is remembered of the job's subject."""
        return self._entries.pop(_key(job), None)

    def clear(self) -> None:
        self._entries.clear()


def _key(job: Job) -> tuple[Subject, int, int]:
    return job.subject, job.subject_id, job.generation
