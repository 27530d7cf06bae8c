"""Frozen records that travel between rooms. Names are DICOM keywords in snake_case.

Data goes bytes -> rows -> arrays -> findings -> worklist; each record below belongs to one
of those steps and is never changed after it is made.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Source(StrEnum):
    """By which door an object came."""

    C_STORE = "c-store"
    FOLDER = "folder"
    RECONCILE = "reconcile"  # found in the store without a row at start-up


class ObjectState(StrEnum):
    """Disposition of one received object (DESIGN section 6)."""

    STORED = "stored"  # held; the one that counts for its SOP Instance UID
    DUPLICATE = "duplicate"  # data set bytes equal to one held: no work
    REVISION = "revision"  # same pixels, other header: newest header is shown
    CONFLICT = "conflict"  # other pixels under the same UID: both held, alarm
    QUARANTINED = "quarantined"  # not taken in, kept aside
    REFUSED = "refused"  # not taken in, not kept


class JobKind(StrEnum):
    ANALYSE = "analyse"
    CAPTION = "caption"
    DELIVER = "deliver"


class JobState(StrEnum):
    QUEUED = "queued"  # waits for its due time and a worker
    LEASED = "leased"  # a worker holds it until the lease ends
    DONE = "done"
    DEAD = "dead"  # dead letter: out of attempts or failed permanently
    SUPERSEDED = "superseded"  # a newer generation took its place


class Subject(StrEnum):
    """What a job or a result is about."""

    IMAGE = "image"  # one instance: projection radiography (DESIGN section 3.7)
    SERIES = "series"  # one closed series: everything else with pixels


class Rank(StrEnum):
    """Terms of Requested Procedure Priority (0040,1003), most urgent first."""

    STAT = "STAT"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    ROUTINE = "ROUTINE"
    LOW = "LOW"


class Analysis(StrEnum):
    PENDING = "pending"
    ANALYSED = "analysed"
    NOT_ELIGIBLE = "not_eligible"
    FAILED = "failed"


class StudyState(StrEnum):
    ARRIVING = "arriving"
    READY = "ready"
    ACKNOWLEDGED = "acknowledged"
    EXPIRED = "expired"


class AlarmCode(StrEnum):
    """What an open alarm is about; each has its section in deploy/RUNBOOK.md."""

    PIXEL_CONFLICT = "pixel_conflict"  # two images under one SOP Instance UID
    TWO_PATIENTS = "two_patients"  # two patients under one Study Instance UID
    OBJECTS_MISSING = "objects_missing"  # rows whose files are gone from the store
    OBJECTS_UNREADABLE = "objects_unreadable"  # files in the store that cannot be taken in
    OBJECTS_DAMAGED = "objects_damaged"  # a stored file does not hold what was received
    FOLDER_MISSING = "folder_missing"
    FOLDER_UNREADABLE = "folder_unreadable"  # a watched folder hides entries
    FOLDER_FAILED = "folder_failed"  # files there were neither taken in nor kept aside
    AUDIT_WAITS = "audit_waits"  # audit messages are not spooled or not delivered
    DRIFT = "drift"  # studies are no longer like those that a model was put into service on


class Mode(StrEnum):
    SERVE = "serve"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What intake reads of one object, cleaned (no NUL, no lone surrogate, bounded length).

    Empty string = absent. `study_date`, `study_time` and birth date stay as received (DA, TM).
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    accession_number: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_sex: str = ""
    patient_birth_date: str = ""
    patient_age: str = ""  # AS, e.g. 045Y
    referring_physician_name: str = ""
    institution_name: str = ""
    station_name: str = ""
    current_patient_location: str = ""
    study_description: str = ""
    series_description: str = ""
    procedure_code: str = ""  # first Procedure Code Sequence item, Code Value
    study_date: str = ""
    study_time: str = ""
    timezone_offset_from_utc: str = ""  # (0008,0201)
    body_part_examined: str = ""
    view_position: str = ""
    laterality: str = ""  # Image Laterality, else Laterality
    image_type: tuple[str, ...] = ()
    presentation_intent_type: str = ""  # FOR PRESENTATION | FOR PROCESSING
    burned_in_annotation: str = ""
    photometric_interpretation: str = ""
    rows: int = 0
    columns: int = 0
    number_of_frames: int = 1
    instance_number: int | None = None
    has_pixels: bool = False  # Pixel Data, Float Pixel Data or Double Float Pixel Data present


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One object that is durable in the store and waits for its row."""

    header: Header
    digest: str  # SHA-256 hex of transfer syntax UID + data set bytes as received
    path: str  # relative to the store
    size_bytes: int
    source: Source
    sender_ae_title: str = ""
    c_store_priority: int | None = None  # (0000,0700): 0 medium, 1 high, 2 low


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which bundle spoke. `version` is "" where it could not be loaded; its digest is not known."""

    name: str
    version: str
    digest: str

    @property
    def loaded(self) -> bool:
        return bool(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One calibrated score of one finding. `raises_to` is the rank that a flag asks for."""

    name: str
    code: Code | None
    probability: float
    operating_point: float
    flagged: bool
    raises_to: Rank = Rank.HIGH


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisResult:
    """What one bundle says of one subject at one generation."""

    model: ModelIdentity | None  # None: no bundle spoke (nothing configured, nothing fits)
    mode: Mode
    analysis: Analysis  # ANALYSED, NOT_ELIGIBLE or FAILED
    reason: str = ""  # for a person, when not ANALYSED
    findings: tuple[Finding, ...] = ()
    distance: float | None = None  # out-of-distribution distance, bundle's own unit
    not_for_clinical_use: bool = False
    embedding_keys: tuple[str, ...] = ()
    earlier: bool = False  # of a look before the subject's newest: only its flags still count


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    text: str
    prompt_digest: str  # SHA-256 hex of prompt text and generation settings
    model: ModelIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSpec:
    """How a bundle wants its subject rendered: the key of decode pool and embedding cache."""

    rendering: str  # dicom | google-cxr | ct-3-window | mr-volume
    size_px: int  # square side
    antialias: bool = True
    maximum_slices: int = 16  # equidistant sampling of a volume
    crops: int = 0  # n: beside a single image n x n overlapping crops of it at full resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One claimed job: the lease is (owner, fence) and ends at `lease_expires_at`."""

    id: int
    kind: JobKind
    subject: Subject
    subject_id: int  # instances.id or series.id
    study_id: int
    generation: int
    attempts: int  # counted at the claim, so the first run sees 1
    fence: int
    owner: str
    due_at: datetime
    lease_expires_at: datetime
    rank: int = 0  # 0 most urgent, as it was at the claim
    lease_lost: bool = False  # a worker died or hung with it: it may have been the cause


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldInstance:
    """One stored object of a subject, as the worker needs it."""

    id: int
    path: str
    header: Header
    pixel_digest: str | None = None
    contests_id: int | None = None  # the instance whose SOP Instance UID it shares
    sender_ae_title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectContents:
    """Everything about one subject that eligibility and decoding need, in arrival order."""

    subject: Subject
    subject_id: int
    study_id: int
    generation: int
    instances: tuple[HeldInstance, ...] = field(default=())
    too_old: bool = False  # its study was, on arrival (rules.eligibility.is_too_old)
    # Where the one instance only waits for the comparison of its pixels: the one held under the
    # same SOP Instance UID. Nothing is analysed then.
    contested: HeldInstance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What the pixels of one decoded subject say, for eligibility. Values in modality units."""

    rows: int  # the smallest image of the subject
    columns: int
    number_of_frames: int  # over all its objects
    minimum: float  # over unpadded, finite values; 0.0 where there are none
    maximum: float
    finite: bool  # no NaN or infinity among the stored values
    blank: bool  # every image is constant, nearly so, or padding only
