"""The state machines of jobs and of received objects, one table each.

A state without successors is final. The CHECK constraints and the
queue's statements say the same; a test compares them. Source: DESIGN sections 3.6 and 6.
"""

from collections.abc import Mapping
from types import MappingProxyType

from triage.records import JobState, ObjectState

JOB_START = frozenset({JobState.QUEUED})

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset(
            {
                JobState.LEASED,  # claimed
                JobState.SUPERSEDED,  # a newer generation came first, or captions were switched off
            }
        ),
        JobState.LEASED: frozenset(
            {
                JobState.LEASED,  # the lease ran out and another worker claims it
                JobState.DONE,  # result committed under the same fence
                JobState.QUEUED,  # transient failure, lost lease, or handed back at stop
                JobState.DEAD,  # permanent failure, or out of attempts
                JobState.SUPERSEDED,  # a newer generation came meanwhile
            }
        ),
        # A person asks again, the model was found to drift, or a corrected date lists the study.
        JobState.DONE: frozenset({JobState.QUEUED}),
        JobState.DEAD: frozenset(
            {
                JobState.QUEUED,  # a person asks again
                JobState.SUPERSEDED,  # a newer generation makes the dead letter moot
            }
        ),
        JobState.SUPERSEDED: frozenset(),
    }
)

OBJECT_START = frozenset(ObjectState)  # the intake may decide on any of them at once

OBJECT_TRANSITIONS: Mapping[ObjectState, frozenset[ObjectState]] = MappingProxyType(
    {
        ObjectState.STORED: frozenset(
            {
                ObjectState.REVISION,  # its pixels were compared and are the held ones
                ObjectState.CONFLICT,  # its pixels were compared and differ
            }
        ),
        ObjectState.DUPLICATE: frozenset(),
        ObjectState.REVISION: frozenset(),
        ObjectState.CONFLICT: frozenset(
            {
                ObjectState.STORED,  # a person releases it: it counts from now on
                ObjectState.REVISION,  # a person says that it is the same image
                ObjectState.REFUSED,  # a person discards it
            }
        ),
        # Released by a person, an object passes the one door again and may end as any of these.
        ObjectState.QUARANTINED: frozenset(
            {
                ObjectState.STORED,
                ObjectState.DUPLICATE,
                ObjectState.REVISION,
                ObjectState.CONFLICT,
                ObjectState.REFUSED,  # discarded
            }
        ),
        ObjectState.REFUSED: frozenset(),
    }
)


def job_may_become(state: JobState, successor: JobState) -> bool:
    """Whether a job in `state` may enter `successor`."""
    return successor in JOB_TRANSITIONS[state]


def object_may_become(state: ObjectState, successor: ObjectState) -> bool:
    """Whether an object of disposition `state` may later get `successor`."""
    return successor in OBJECT_TRANSITIONS[state]
