"""Which presentation contexts are accepted (PS3.8 annex D.3.2, PS3.4 annex B).

Owns the choice of storage classes and transfer syntaxes. Our order decides, never the order in
which a sender proposed: a syntax that triage can decode is taken before one that it cannot, and a
native or lossless one before a lossy one. What cannot be decoded (video, private syntaxes) is
accepted where nothing else was proposed: it is stored, and shown as not analysed.

The tables say what may be sent; `triage.imaging` says what can be decoded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom._uid_dict import UID_dictionary

from triage.ingest.part10 import is_uid

VERIFICATION: Final = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLevel:
    """What a storage SCP says of itself in extended negotiation (PS3.4 B.3.1.4)."""

    level: int
    signature_level: int
    coercion: int

    @property
    def application_information(self) -> bytes:
        """Service-class-application-information, table B.3-2."""
        return bytes((self.level, 0, self.signature_level, 0, self.coercion, 0))


# All elements are kept, bit by bit, and none is changed.
STORAGE_LEVEL: Final = StorageLevel(level=2, signature_level=3, coercion=0)

DECODABLE: Final = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.8.1",  # deflated image frame
    "1.2.840.10008.1.2.1.99",  # deflated explicit VR little endian
    "1.2.840.10008.1.2.2",  # explicit VR big endian
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.203",  # HTJ2K
)
_PLACES: Final = {syntax: place for place, syntax in enumerate(DECODABLE)}

_DICOM_ROOT: Final = "1.2.840.10008."
_COMPOSITE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_STORAGE_MANAGEMENT: Final = "1.2.840.10008.5.1.4.1.1.201."
# Storage classes outside the usual branch: retired ones, and objects of no patient, which the
# intake refuses with a reason that the sender and the quarantine show.
_ELSEWHERE: Final = frozenset(
    str(uid)
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "SOP Class"
    and "Storage" in name
    and not uid.startswith("1.2.840.10008.1.")  # directories and commitment
    and not uid.startswith(_COMPOSITE_STORAGE)
)


def is_storage(abstract_syntax: str) -> bool:
    """Whether instances of this SOP Class may be stored.

    Classes that a later edition adds to the storage branch count, and so do private classes: one
    unknown object must not sink the study that it comes with.
    """
    if abstract_syntax.startswith(_COMPOSITE_STORAGE):
        return not abstract_syntax.startswith(_STORAGE_MANAGEMENT)
    if abstract_syntax.startswith(_DICOM_ROOT):
        return abstract_syntax in _ELSEWHERE
    return is_uid(abstract_syntax)


def by_preference(transfer_syntaxes: Iterable[str]) -> list[str]:
    """Sort proposed transfer syntaxes, best first; undecodable ones last, in the sender's order."""
    proposed = [syntax for syntax in dict.fromkeys(transfer_syntaxes) if is_uid(syntax)]
    return sorted(proposed, key=lambda syntax: _PLACES.get(syntax, len(_PLACES)))


def supported(
    proposed: Iterable[tuple[str, Sequence[str]]],
) -> dict[str, list[str]]:
    """Return what this side supports of what a peer proposed: syntaxes per abstract syntax.

    `proposed` holds one (abstract syntax, transfer syntaxes) per presentation context; one SOP
    Class may stand in several.
    """
    offers: dict[str, list[str]] = {}
    for abstract_syntax, transfer_syntaxes in proposed:
        if abstract_syntax == VERIFICATION or is_storage(abstract_syntax):
            offers.setdefault(abstract_syntax, []).extend(transfer_syntaxes)
    ordered = {abstract: by_preference(syntaxes) for abstract, syntaxes in offers.items()}
    return {abstract: syntaxes for abstract, syntaxes in ordered.items() if syntaxes}
