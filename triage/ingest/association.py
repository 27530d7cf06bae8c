"""One association from its first byte to its last: the acceptor of PS3.8 section 9.2.

Owns the order of what is read and said. The states of table 9-10 that an acceptor without open
choices can be in are the methods here: transport open (Sta2) `_request`, awaiting the local answer
(Sta3) `_answer`, established (Sta6) `_serve`, release requested (Sta8) `_release`, awaiting the
close of the transport (Sta13) `_await_close`. Each blocks its one thread until the peer acted or
its time is over.

One message is read, served and answered before the next is looked at, so a peer that does not wait
for responses fills its own send buffer and nothing of ours (window 1/1, PS3.7 D.3.3.3).
"""

import time
from collections.abc import Iterator
from typing import Protocol

import structlog

from triage.ingest import acceptance
from triage.ingest.acceptance import Acceptance, Context
from triage.ingest.admission import TOO_MANY, Rejection
from triage.ingest.association_request import Request, read
from triage.ingest.commands import Command, as_pdus, read_command, response
from triage.ingest.network_guard import (
    OWN_DECISION,
    ConnectionEnded,
    Limits,
    PeerTooSlow,
    Wire,
)
from triage.ingest.pdu_reader import PduReader, ProtocolError, read_request
from triage.ingest.storage_service import StorageService

log = structlog.get_logger(__name__)


class Desk(Protocol):
    """Who counts the associations and the connections without one."""

    def admit(self, association: "Association") -> bool:
        """Count an association as accepted; False where there are too many."""

    def dismiss(self, association: "Association") -> None:
        """Count it no longer, if it was; its connection waits to be closed."""

    def turned_away(self, *, calling_ae_title: str, address: str, reason: str) -> None:
        """Hear of a peer that was not who it should be. Never waits."""


class Association:
    """One connection of one peer."""

    def __init__(
        self, wire: Wire, address: str, *, service: StorageService, desk: Desk, limits: Limits
    ) -> None:
        self.wire = wire
        self.address = address
        self.idle_since_s: float | None = None  # monotonic; between two messages
        self._opened_s = time.monotonic()
        self._service = service
        self._desk = desk
        self._limits = limits
        self._is_established = False

    def run(self) -> None:
        """Hold the whole conversation. Returns when it is over, however it ended."""
        try:
            request = self._request()
            try:
                agreed = self._answer(request)
                if agreed is not None:
                    self._serve(request, agreed)
            finally:
                self._desk.dismiss(self)
        except ProtocolError as error:
            self._abort(error)
        except PeerTooSlow as error:
            self._abort(ProtocolError(OWN_DECISION, str(error)))
        except ConnectionEnded as error:
            self._ended(str(error))

    def _request(self) -> Request:
        try:
            self.wire.handshake(within_s=self._opening_left_s())
        except ConnectionEnded as error:
            self._desk.turned_away(calling_ae_title="", address=self.address, reason=str(error))
            raise
        return read(read_request(self.wire, remaining_s=self._opening_left_s))

    def _opening_left_s(self) -> float:
        return self._opened_s + self._limits.opening_s - time.monotonic()

    def _answer(self, request: Request) -> Acceptance | None:
        """Accept or reject; None is rejected."""
        self.wire.wait_at_most(self._limits.silence_s)
        refused = self._service.refusal(
            request, address=self.address, certificate=self.wire.peer_common_name
        )
        if refused is None and not self._desk.admit(self):
            refused = TOO_MANY
        if refused is not None:
            self._reject(request, refused)
            return None
        return acceptance.accept(request)

    def _reject(self, request: Request, refused: Rejection) -> None:
        log.warning(
            "association_rejected",
            address=self.address,
            calling_ae_title=request.calling_ae_title,
            reason=refused.reason,
        )
        if not refused.retry:
            self._desk.turned_away(
                calling_ae_title=request.calling_ae_title,
                address=self.address,
                reason=refused.reason,
            )
        self.wire.send(acceptance.rejected(refused))
        self._await_close()

    def _serve(self, request: Request, agreed: Acceptance) -> None:
        self.wire.send(agreed.encoded)
        self._is_established = True
        reader = PduReader(self.wire, self._limits, frozenset(agreed.contexts))
        while True:
            self.idle_since_s = time.monotonic()
            message = reader.command()
            self.idle_since_s = None
            if message is None:
                self._release()
                return
            context_id, command_set = message
            context = agreed.contexts[context_id]
            command = read_command(command_set)
            data: Iterator[memoryview] = iter(())
            if command.has_data_set:
                data = reader.data_set(context_id, most_bytes=self._service.most_bytes)
            encoded = self._response(command, context, data, request.calling_ae_title)
            if encoded:
                self.wire.send(
                    as_pdus(context_id, encoded, maximum_length=request.user.maximum_length)
                )

    def _response(
        self, command: Command, context: Context, data: Iterator[memoryview], sender: str
    ) -> bytes:
        answer = self._service.answer(command, context, data, sender=sender)
        for _ in data:  # what was refused before its end is still on its way
            pass
        if answer is None:
            return b""
        return response(command, answer.status, answer.comment)

    def _release(self) -> None:
        # Counted out first: the sender may come again as soon as it has its answer.
        self._desk.dismiss(self)
        self.wire.send(acceptance.released())
        self._await_close()

    def _abort(self, error: ProtocolError) -> None:
        log.warning("association_aborted", address=self.address, reason=str(error))
        try:
            self.wire.wait_at_most(self._limits.closing_s)
            self.wire.send(acceptance.aborted(error.abort))
        except ConnectionEnded:
            return
        self._await_close()

    def _await_close(self) -> None:
        self.wire.close(wait_s=self._limits.closing_s)

    def _ended(self, reason: str) -> None:
        if not self._is_established:
            log.info("connection_ended", address=self.address, reason=reason)
        elif self.wire.is_cut:
            self._abort(ProtocolError(OWN_DECISION, "the receiver stops"))
        else:
            log.warning("association_lost", address=self.address, reason=reason)
