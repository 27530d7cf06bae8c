"""What is done with a message: C-STORE to the intake, C-ECHO, and a refusal for all else.

Owns the way from an outcome of the intake to a DIMSE status (PS3.4 annexes A and B, PS3.7 section
9.1). Knows neither sockets nor PDUs. Received bytes go to the intake as they came.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from triage.config import ReceiverConfig
from triage.errors import ObjectRefused, TriageError
from triage.ingest.acceptance import APPLICATION_CONTEXT, Context
from triage.ingest.admission import (
    OUT_OF_SERVICE,
    WRONG_CONTEXT,
    WRONG_VERSION,
    Caller,
    Rejection,
    peers_of,
    rejection,
)
from triage.ingest.association_request import Request
from triage.ingest.commands import (
    C_ECHO_RQ,
    C_STORE_RQ,
    COMPOSITE_OTHERS,
    NORMALISED,
    Command,
)
from triage.ingest.intake import Intake
from triage.ingest.negotiation import VERIFICATION
from triage.ingest.network_guard import (
    OWN_DECISION,
    ConnectionEnded,
    PeerTooSlow,
)
from triage.ingest.pdu_reader import ProtocolError
from triage.ingest.statuses import (
    CLASS_NOT_SUPPORTED,
    PROCESSING_FAILURE,
    SUCCESS,
    UNRECOGNISED_OPERATION,
    status_of,
)
from triage.records import Source
from triage.store import MIB

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status and Error Comment of one response."""

    status: int
    comment: str = ""


class StorageService:
    """The storage and verification services over one intake; safe for threads."""

    def __init__(self, intake: Intake, config: ReceiverConfig) -> None:
        self._intake = intake
        self._ae_title = config.ae_title
        self._peers = peers_of(config.peers)
        # The intake refuses what passes the limit; its rest is read away for the sake of what
        # comes behind it, but not without end.
        self.most_bytes = 2 * config.maximum_object_mib * MIB

    def refusal(self, request: Request, *, address: str, certificate: str) -> Rejection | None:
        """Return how to reject a request, None to accept it."""
        caller = Caller(
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=address,
            certificate_subject=certificate,
        )
        if not request.protocol_version & 1:
            return WRONG_VERSION
        if request.application_context != APPLICATION_CONTEXT:
            return WRONG_CONTEXT
        refused = rejection(caller, ae_title=self._ae_title, peers=self._peers)
        proposed = {proposal.abstract_syntax for proposal in request.proposals}
        if refused is None and proposed == {VERIFICATION}:
            # Every monitoring tool shows a rejection, few show the status of a C-ECHO; a sender of
            # images is let in, because A7xx tells it more.
            return OUT_OF_SERVICE if self._is_out_of_service else None
        return refused

    def answer(
        self, command: Command, context: Context, data: Iterator[memoryview], *, sender: str
    ) -> Answer | None:
        """Serve one request; None where it has no response. `data` may be left unread.

        Raises ProtocolError for what is no request, and whatever `data` raises.
        """
        if command.field == C_STORE_RQ:
            if context.abstract_syntax == VERIFICATION:
                return Answer(status=CLASS_NOT_SUPPORTED)
            return self._store(command, context, data, sender)
        if command.field == C_ECHO_RQ:
            if self._is_out_of_service:
                return Answer(status=PROCESSING_FAILURE, comment="nothing can be stored now")
            return Answer(status=SUCCESS)
        if command.is_cancel:
            return None
        return Answer(status=_refusing(command.field))

    @property
    def _is_out_of_service(self) -> bool:
        return bool(self._intake.fault) or not self._intake.alive

    def _store(
        self, command: Command, context: Context, data: Iterator[memoryview], sender: str
    ) -> Answer:
        try:
            self._intake.accept(
                data,
                transfer_syntax_uid=context.transfer_syntax,
                source=Source.C_STORE,
                sender_ae_title=sender,
                c_store_priority=command.priority,
                expected_sop_class_uid=command.sop_class_uid,
                expected_sop_instance_uid=command.sop_instance_uid,
            )
        except (ConnectionEnded, PeerTooSlow, ProtocolError):
            raise  # the data set did not come to its end: nobody can be answered
        except ObjectRefused as refusal:
            return Answer(status=status_of(refusal), comment=str(refusal))  # the intake logged it
        except TriageError as error:
            log.error("c_store_failed", reason=str(error), hint=error.hint)
            return Answer(status=status_of(error), comment=str(error))
        except Exception:
            # The top of our code for this object: the association and its other objects go on.
            log.exception("c_store_failed")
            return Answer(status=PROCESSING_FAILURE, comment="internal error")
        return Answer(status=SUCCESS)


def _refusing(field: int) -> int:
    """Return the status for a service that is not offered. Raises ProtocolError."""
    if field in COMPOSITE_OTHERS:
        return CLASS_NOT_SUPPORTED
    if field in NORMALISED:
        return UNRECOGNISED_OPERATION
    raise ProtocolError(OWN_DECISION, "a message that is no request")
