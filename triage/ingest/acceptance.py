"""The answers to an association request (PS3.8 9.3.3 to 9.3.8, PS3.7 annex D.3), with pynetdicom.

Owns the encoding of what is agreed and of the short PDUs. `negotiation` decides which contexts are
taken, `admission` who is let in. Does no input or output.
"""

import struct
from dataclasses import dataclass
from typing import Final

from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from triage.ingest.admission import Rejection
from triage.ingest.association_request import Proposal, Request
from triage.ingest.negotiation import STORAGE_LEVEL, VERIFICATION, supported
from triage.ingest.network_guard import MAXIMUM_PDU_BYTES, AbortReason
from triage.ingest.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_uid,
)

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_ACCEPTED: Final = 0
_CLASS_NOT_SUPPORTED: Final = 3
_SYNTAXES_NOT_SUPPORTED: Final = 4
_ECHOED: Final = slice(10, 74)  # titles and reserved bytes, given back as they came (table 9-17)
_SHORT: Final = struct.Struct(">BxIBBBB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What was agreed, and the A-ASSOCIATE-AC that says so."""

    contexts: dict[int, Context]
    encoded: bytes


def accept(request: Request) -> Acceptance:
    """Decide about every proposed context and encode the answer."""
    roles = {role.sop_class_uid: (role.scu, role.scp) for role in request.user.roles}
    results: list[PresentationContext] = []
    role_items: dict[str, object] = {}
    for proposal in request.proposals:
        if not any(map(is_uid, proposal.transfer_syntaxes)):
            results.append(_refused(proposal, _SYNTAXES_NOT_SUPPORTED))
            continue
        if not is_uid(proposal.abstract_syntax):
            results.append(_refused(proposal, _CLASS_NOT_SUPPORTED))
            continue
        # One by one: together, contexts of one class cost the product of their syntaxes.
        decided, items = negotiate_as_acceptor([_shown(proposal)], _offers(proposal), roles)
        results += decided
        role_items |= {item.sop_class_uid: item for item in items}
    accepted = {
        result.context_id: Context(
            abstract_syntax=str(result.abstract_syntax),
            transfer_syntax=str(result.transfer_syntax[0]),
        )
        for result in results
        if result.result == _ACCEPTED
    }
    answer = A_ASSOCIATE()
    answer.application_context_name = APPLICATION_CONTEXT
    answer.calling_ae_title = answer.called_ae_title = "ECHOED"
    answer.result = _ACCEPTED
    answer.result_source = 1
    answer.presentation_context_definition_results_list = results
    answer.user_information = [
        *_own_items(),
        *role_items.values(),
        *_answers(request, accepted),
    ]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answer)
    encoded = bytearray(pdu.encode())
    encoded[_ECHOED] = request.encoded[_ECHOED]
    return Acceptance(contexts=accepted, encoded=bytes(encoded))


def rejected(rejection: Rejection) -> bytes:
    """Encode an A-ASSOCIATE-RJ."""
    return _SHORT.pack(0x03, 4, 0, rejection.result, rejection.source, rejection.diagnostic)


def released() -> bytes:
    """Encode an A-RELEASE-RP."""
    return _SHORT.pack(0x06, 4, 0, 0, 0, 0)


def aborted(abort: AbortReason) -> bytes:
    """Encode an A-ABORT."""
    return _SHORT.pack(0x07, 4, 0, 0, abort.source, abort.reason)


def _offers(proposal: Proposal) -> list[PresentationContext]:
    offers = []
    proposed = [(proposal.abstract_syntax, proposal.transfer_syntaxes)]
    for abstract_syntax, transfer_syntaxes in supported(proposed).items():
        offer = build_context(abstract_syntax, transfer_syntaxes)
        offer.scu_role, offer.scp_role = True, False  # of the requestor
        offers.append(offer)
    return offers


def _shown(proposal: Proposal) -> PresentationContext:
    """The proposal as the library sees it: of its transfer syntaxes those that are UIDs."""
    syntaxes = [syntax for syntax in proposal.transfer_syntaxes if is_uid(syntax)]
    context = build_context(proposal.abstract_syntax, syntaxes)
    context.context_id = proposal.context_id
    return context


def _refused(proposal: Proposal, result: int) -> PresentationContext:
    """Refuse what the library cannot hold; the syntax in the answer counts for nothing then."""
    context = build_context(VERIFICATION, [IMPLICIT_VR_LITTLE_ENDIAN])
    context.context_id = proposal.context_id
    context.result = result
    return context


def _own_items() -> list[object]:
    length = MaximumLengthNotification()
    length.maximum_length_received = MAXIMUM_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def _answers(request: Request, accepted: dict[int, Context]) -> list[object]:
    """Answer the extended items that want an answer: one operation at a time, level 2 storage."""
    answers: list[object] = []
    if request.user.has_window:
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = 1
        window.maximum_number_operations_performed = 1
        answers.append(window)
    storage = {context.abstract_syntax for context in accepted.values()} - {VERIFICATION}
    for sop_class_uid in request.user.extended_sop_class_uids:
        if sop_class_uid in storage:
            level = SOPClassExtendedNegotiation()
            level.sop_class_uid = sop_class_uid
            level.service_class_application_information = STORAGE_LEVEL.application_information
            answers.append(level)
    return answers
