"""One tree of errors: transient (trying again can help) or permanent (it cannot).

The kind alone decides the retry, the DIMSE status and the exit code. Every error is one plain
sentence; `hint` is the operator's next step. Neither may hold patient data: both reach logs.
"""


class TriageError(Exception):
    """The root: `str(error)` says what happened, `error.hint` what to do next."""

    hint: str = "Run `triage status` for the state of the daemon."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (decode pool); the keyword must survive the journey.
        return (_rebuild, (type(self), str(self), self.hint))


def _rebuild(kind: type[TriageError], message: str, hint: str) -> TriageError:
    return kind(message, hint=hint)


class TransientError(TriageError):
    """Trying again later can succeed."""


class PermanentError(TriageError):
    """Trying again cannot succeed without a change by a person."""


# --- configuration and installation


class ConfigError(PermanentError):
    """triage.toml, the environment or the command line cannot be used."""

    hint = "Correct the named key in triage.toml; every key is explained in the shipped sample."


class RevisionError(PermanentError):
    """The database is at another revision than this program."""

    hint = "Run `triage migrate`, then start again."


# --- resources


class OutOfSpace(TransientError):
    """The store's file system has less than its margin free, or a write met ENOSPC."""

    hint = "Free space on the store's file system or lower [store] minimum_free_mib."


class StoreError(TransientError):
    """The store could not write, sync or read; a failed fsync is never retried."""

    hint = "Check the disk and the mount of [store] path, then run `triage check`."


class DatabaseUnavailable(TransientError):
    """The database did not answer or its write lock was not free in time."""

    hint = "Check that the database of [database] url is up, then run `triage check`."


class DatabaseRejected(PermanentError):
    """The database refused a statement; the message names the constraint, never a value."""

    hint = "This is a defect of triage: note the message and the time, then run `triage check`."


class StaleLease(TransientError):
    """The job was claimed by another worker meanwhile; this result is not written."""

    hint = "Nothing to do: the other worker's result counts."


# --- objects


class ObjectRefused(PermanentError):
    """An object cannot be taken in. Subclasses say why."""

    hint = "See `triage quarantine list`; correct the sender or release the object."


class IdentifiersInvalid(ObjectRefused):
    """Study, Series or SOP Instance UID missing or ill-formed (PS3.5 section 9)."""


class ObjectUnparsable(ObjectRefused):
    """The bytes are no DICOM data set, or break a limit of depth or count."""


class CommandMismatch(ObjectRefused):
    """SOP Class or Instance UID of the C-STORE command differs from the data set's."""


# --- looking


class DecodeError(PermanentError):
    """The pixels cannot be decoded although the syntax is supported."""

    hint = "Ask the sender for the image in another transfer syntax, then resend."


class DecodeUnsupported(DecodeError):
    """No decoder for this transfer syntax or object: not eligible, not a failure."""


class DecodeCrashed(TransientError):
    """The decoder process died, ran out of memory or out of time on this object."""

    hint = "The object may be hostile or damaged: `triage show STUDY`, then quarantine it."


class BundleError(PermanentError):
    """A model bundle is missing, changed, incomplete or of another format."""

    hint = "Run `triage bundle verify DIR`; deploy/MODELS.md says what each message means."


class KnownAnswerError(BundleError):
    """The known-answer image does not give its stored embedding on this hardware."""

    hint = "Run `triage check`; on new, trusted hardware `triage check --record`."


class InferenceError(PermanentError):
    """The model gave a non-finite or impossible answer for this image."""

    hint = "The image counts as failed, never as negative: `triage requeue STUDY` after a fix."


class DeviceOutOfMemory(TransientError):
    """The batch did not fit the device; it is halved and tried again."""

    hint = "Lower [inference] batch_size."


class DeviceFault(TransientError):
    """The device's context is broken; the process ends and is started again."""

    hint = "If it recurs, check the GPU (`nvidia-smi`, kernel log)."
