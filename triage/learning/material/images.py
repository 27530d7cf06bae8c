"""From a labelled subject to its views, rendered as the daemon would.

A subject has parts that are looked at one by one: a file is one, a study has one for each of its
images and series (DESIGN section 3.7). Two places hold them: a directory, and the store of the
configured daemon (`WORKLIST`). DICOM goes through the decode pool, whose processes may die of it;
PNG and JPEG are `pictures`' business.

Knows no encoder and no cache. Reasons name no file and no patient: they stand beside the row.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from triage.database.connection import Database
from triage.database.material import give_embeddings, known_studies, study_material
from triage.database.results import cached_embeddings
from triage.errors import (
    DecodeCrashed,
    DecodeError,
    DecodeUnsupported,
    PermanentError,
    StoreError,
)
from triage.imaging.dataset import DecodeLimits
from triage.imaging.decode_pool import DecodedSubject, DecodePool, DecodeTask
from triage.imaging.views import to_views, view_digest
from triage.learning.material.labels import FILE, STUDY, LabelError, LabelRow
from triage.learning.material.pictures import is_picture, read_picture
from triage.records import HeldInstance, SubjectContents, ViewSpec
from triage.rules.eligibility import (
    EligibilityPolicy,
    IntendedUse,
    ObjectFacts,
    eligible_object,
    eligible_pixels,
    fits,
    mapped,
)

MAXIMUM_FILE_MIB: Final = DecodeLimits().maximum_file_mib
Vector = NDArray[np.float32]  # (D,)


class Unreadable(PermanentError):
    """The images of one row cannot be looked at; the message says why."""

    hint = "Correct or remove the row, or leave such rows out by --skip-unreadable."


UNREADABLE: Final = (DecodeError, DecodeCrashed, StoreError, Unreadable)  # of one row


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One image or series: files that are decoded together."""

    digest: str  # SHA-256 hex of what its views depend on beside the rendering
    paths: tuple[Path, ...]
    policy: EligibilityPolicy | None = None  # what its pixels are held against; None: nothing
    study_id: int | None = None  # row of its study, where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The views of one part, (V, C, S, S) float32 in 0..1; none where `reason` says why."""

    views: NDArray[np.float32]
    digests: tuple[str, ...]
    reason: str = ""


class Images(Protocol):
    """Where subjects are found."""

    subject_column: str  # the column of the labels that names them

    def require(self, rows: Sequence[LabelRow]) -> None:
        """Raise LabelError where a row names what is not there."""

    def parts(self, row: LabelRow) -> tuple[Part, ...]:
        """Return what is to be looked at, in order; raises Unreadable or StoreError."""

    def known(self, keys: Sequence[str]) -> dict[str, Vector]:
        """Return those of the embeddings, by cache key, that are kept there."""

    def give(self, embeddings: Mapping[int, Mapping[str, Vector]]) -> None:
        """Keep new embeddings there, by study and cache key."""


class DirectoryImages:
    """Files below one directory; whatever they are, each is looked at as it is labelled."""

    subject_column = FILE

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise PermanentError(
                f"there is no directory {root}", hint="Name the directory that paths start from."
            )
        self._root = root.resolve()

    def require(self, rows: Sequence[LabelRow]) -> None:
        missing = [row.line for row in rows if not self._path(row).is_file()]
        if missing:
            more = f" (and {len(missing) - 1} more rows)" if missing[1:] else ""
            raise LabelError(
                f"row {missing[0]}, column {FILE!r} of the labels{more} names no file below"
                f" {self._root}"
            )

    def parts(self, row: LabelRow) -> tuple[Part, ...]:
        path = self._path(row)
        if not path.is_file():  # a pipe would never answer
            raise Unreadable("there is no such file")
        return (Part(digest=_digest_of_file(path), paths=(path,)),)

    def known(self, keys: Sequence[str]) -> dict[str, Vector]:
        return {}

    def give(self, embeddings: Mapping[int, Mapping[str, Vector]]) -> None:
        """A directory of images is never written to."""

    def _path(self, row: LabelRow) -> Path:
        path = (self._root / row.subject).resolve()
        if not path.is_relative_to(self._root):
            raise LabelError(
                f"row {row.line}, column {FILE!r} of the labels leads out of the images directory"
            )
        return path


class WorklistImages:
    """Studies of the configured database, by Study Instance UID; pixels are in its store.

    Eligible is what the daemon would look at with this intended use, also in a study that was
    too old on arrival: that says where a study stands on the list, and nothing of its images.
    """

    subject_column = STUDY

    def __init__(
        self,
        database: Database,
        resolve: Callable[[str], Path],
        *,
        policy: EligibilityPolicy,
        by: str,
        use: IntendedUse | None = None,
    ) -> None:
        self._database = database
        self._resolve = resolve
        self._policy = policy
        self._by = by  # the OS user, told in the study's events
        self._use = use or IntendedUse()

    def require(self, rows: Sequence[LabelRow]) -> None:
        with self._database.read() as connection:
            there = known_studies(connection, [row.subject for row in rows])
        missing = [row.line for row in rows if row.subject not in there]
        if missing:
            more = f" (and {len(missing) - 1} more rows)" if missing[1:] else ""
            raise LabelError(
                f"row {missing[0]}, column {STUDY!r} of the labels{more} names no study of the"
                " database",
                hint="Send the study to the daemon first; `triage worklist --all` shows all.",
            )

    def parts(self, row: LabelRow) -> tuple[Part, ...]:
        with self._database.read() as connection:
            material = study_material(connection, row.subject)
        if material is None:
            raise Unreadable("the database knows no such study")
        if material.two_patients:
            raise Unreadable("two patients have this Study Instance UID")
        if material.arriving:
            raise Unreadable("images of the study are still arriving")
        found: list[Part] = []
        reason = "the images have expired" if material.expired else "the study has no images"
        for contents in material.subjects:
            usable, reason = self._usable(contents)
            if usable:
                found.append(self._part(usable, material.study_id))
        if not found:
            raise Unreadable(reason)
        return tuple(found)

    def known(self, keys: Sequence[str]) -> dict[str, Vector]:
        with self._database.read() as connection:
            return cached_embeddings(connection, keys)

    def give(self, embeddings: Mapping[int, Mapping[str, Vector]]) -> None:
        give_embeddings(self._database, embeddings, by=self._by)

    def _usable(self, contents: SubjectContents) -> tuple[list[HeldInstance], str]:
        """The instances of one image or series that are looked at; where none, why."""
        usable: list[HeldInstance] = []
        reason = ""
        for instance in contents.instances:
            verdict = eligible_object(instance.header, ObjectFacts(), self._policy)
            if verdict.may_look:
                usable.append(instance)
            reason = verdict.reason or reason
        if not usable:
            return [], reason
        # As the worker does: the first usable image of a series speaks for the intended use.
        header = mapped(
            usable[0].header, sender_ae_title=usable[0].sender_ae_title, policy=self._policy
        )
        verdict = fits(self._use, header)
        return (usable, "") if verdict.may_look else ([], verdict.reason)

    def _part(self, usable: Sequence[HeldInstance], study_id: int) -> Part:
        named = "\n".join(instance.path for instance in usable)  # each holds its object's digest
        return Part(
            digest=hashlib.sha256(named.encode()).hexdigest(),
            paths=tuple(self._resolve(instance.path) for instance in usable),
            policy=self._policy,
            study_id=study_id,
        )


def images_at(place: Images | Path) -> Images:
    """Return where the images are: a directory is looked into as it is."""
    return DirectoryImages(place) if isinstance(place, Path) else place


class Decoder:
    """Draws parts in `processes` processes and as many threads; used in a `with` statement."""

    def __init__(self, processes: int = 2) -> None:
        self._processes = processes
        self._stack = ExitStack()
        self._pool: DecodePool | None = None  # made for the first DICOM file
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="pictures")

    def __enter__(self) -> Self:
        self._stack.callback(self._threads.shutdown, wait=True, cancel_futures=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def draw(self, part: Part, spec: ViewSpec) -> "Callable[[], Drawn]":
        """Begin with a part; what is returned waits for its views.

        That raises DecodeError, DecodeUnsupported, DecodeCrashed or StoreError.
        """
        if len(part.paths) == 1 and is_picture(part.paths[0]):
            return self._threads.submit(_draw_picture, part.paths[0], spec).result
        if self._pool is None:
            self._pool = self._stack.enter_context(DecodePool(self._processes))
        pending = self._pool.submit(DecodeTask(paths=part.paths, specs=(spec,)))
        return lambda: _drawn(pending, part, spec)


def views_of(path: Path, spec: ViewSpec) -> NDArray[np.float32]:
    """Return the views (V, C, S, S) of one DICOM, PNG or JPEG file; for many, use a `Decoder`.

    Raises DecodeError, DecodeUnsupported, DecodeCrashed or StoreError.
    """
    with Decoder(1) as decoder:
        return decoder.draw(Part(digest="", paths=(path,)), spec)().views


def _draw_picture(path: Path, spec: ViewSpec) -> Drawn:
    views = to_views(read_picture(path, spec.rendering), spec)
    return Drawn(views=views, digests=tuple(map(view_digest, views)))


def _drawn(pending: "Future[DecodedSubject]", part: Part, spec: ViewSpec) -> Drawn:
    decoded = pending.result()
    if spec in decoded.refused:
        raise DecodeUnsupported(decoded.refused[spec])
    reason = ""
    if part.policy is not None:
        reason = eligible_pixels(decoded.facts, part.policy).reason
    return Drawn(views=decoded.views[spec], digests=decoded.view_digests[spec], reason=reason)


def _digest_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAXIMUM_FILE_MIB << 20:
                raise Unreadable(f"the file is larger than {MAXIMUM_FILE_MIB} MiB")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreError(f"the file cannot be read ({reason})") from error
