"""The C-STORE and C-ECHO receiver (PS3.4 annexes A and B, PS3.7 section 9.1), on pynetdicom.

Owns the listeners, the DIMSE statuses and the end of associations. Received bytes go to the intake
as they came: nothing is decoded here. Knows neither store nor database.

Every status but 0x0000 means "not held": a sender may delete its copy after 0x0000 only, and gets
that only when file and row are durable.
"""

import socket
import threading
import time
from collections.abc import Sequence
from socketserver import BaseServer
from ssl import SSLContext
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import ThreadedAssociationServer

from triage.config import ReceiverConfig
from triage.errors import (
    CommandMismatch,
    ConfigError,
    DatabaseUnavailable,
    IdentifiersInvalid,
    ObjectRefused,
    ObjectUnparsable,
    OutOfSpace,
    StoreError,
    TriageError,
)
from triage.ingest.admission import OUT_OF_SERVICE, Caller, Rejection, peers_of, rejection
from triage.ingest.intake import Intake
from triage.ingest.negotiation import STORAGE_SERVICE_CLASS, VERIFICATION, supported
from triage.ingest.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid
from triage.ingest.tls import peer_common_name, server_context
from triage.records import Source
from triage.store import MIB

log = structlog.get_logger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110  # PS3.7 annex C.5.21: an error of ours that no line below names
STATUSES: dict[type[TriageError], int] = {  # PS3.4 table B.2-1
    OutOfSpace: 0xA700,  # refused, out of resources: the sender tries again
    StoreError: 0xA701,
    DatabaseUnavailable: 0xA702,
    CommandMismatch: 0xA900,  # data set does not match SOP class (or instance) of the command
    ObjectUnparsable: 0xC000,  # cannot understand
    IdentifiersInvalid: 0xC001,
    ObjectRefused: 0xC002,
}

C_STORE_RQ = 0x0001  # PS3.7 table 9.3-1
UNKNOWN_INSTANCE = "0.0"  # shown to the library for an ill-formed Affected SOP Instance UID
_IDENTIFIERS = ("AffectedSOPClassUID", "AffectedSOPInstanceUID")
_Told = dict[int, tuple[str, ...]]  # message ID -> SOP Class and Instance UID as the sender wrote

MAXIMUM_PDU_BYTES = 131072
TIMEOUT_S = 30.0  # silence of a peer, in negotiation, inside a PDU or between messages
MOST_UNANSWERED = (
    4  # messages of a peer that does not wait for responses (window is 1, PS3.7 D.3.3.3)
)
POLL_S = 0.1


class StorageReceiver:
    """The receive role: listens from `start` to `stop`."""

    def __init__(self, intake: Intake, config: ReceiverConfig) -> None:
        self._intake = intake
        self._config = config
        self._peers = peers_of(config.peers)
        self._entity = _entity(config)
        self._servers: list[_Listener] = []
        self._threads: list[threading.Thread] = []
        self._port = config.port
        self._tls_port: int | None = None
        self._told: WeakKeyDictionary[Association, _Told] = WeakKeyDictionary()

    def start(self) -> None:
        """Listen. Raises ConfigError if a port or a certificate cannot be used."""
        _config.LOG_HANDLER_LEVEL = "none"
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        config = self._config
        context = _tls_context(config)
        self._port = self._listen(config.port, None)
        try:
            if context is not None:
                self._tls_port = self._listen(config.tls_port, context)
        except ConfigError:
            self.stop(drain_s=0)
            raise
        log.info("receiver_listens", host=config.host, port=self.port, tls_port=self._tls_port)

    @property
    def port(self) -> int:
        """The port that is listened on (of interest where [receiver] port is 0)."""
        return self._port

    @property
    def tls_port(self) -> int | None:
        """The TLS port that is listened on, if any."""
        return self._tls_port

    @property
    def alive(self) -> bool:
        """Whether every listener still listens."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return len(self._entity.active_associations)

    def stop(self, *, drain_s: float = 20.0) -> None:
        """Stop listening, let open associations end for up to `drain_s`, abort the rest.

        The library's own shutdown aborts transfers under way; here a sender that is in the middle
        of a study gets its answers first.
        """
        for server in self._servers:
            server.shutdown()
        for thread in self._threads:
            thread.join()
        self._servers.clear()
        self._threads.clear()
        deadline_s = time.monotonic() + drain_s
        while self._entity.active_associations and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        for association in self._entity.active_associations:
            association.abort()
        log.info("receiver_stopped")

    def _listen(self, port: int, context: SSLContext | None) -> int:
        try:
            server = self._entity.make_server(
                (self._config.host, port),
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._on_requested),
                    (evt.EVT_SOP_COMMON, _serve_as_storage),
                    (evt.EVT_PDU_RECV, self._on_pdu),
                    (evt.EVT_DIMSE_RECV, self._on_message),
                    (evt.EVT_C_STORE, self._on_store),
                ],
                server_class=_Listener,
                tls=context,
            )
        except OSError as error:
            raise ConfigError(
                f"[receiver] {self._config.host} port {port} cannot be listened on"
                f" ({error.strerror or error})",
                hint="Choose another port, or stop what uses this one.",
            ) from error
        thread = threading.Thread(
            target=server.serve_forever, args=(POLL_S,), name=f"listener-{port}", daemon=True
        )
        thread.start()
        self._servers.append(server)
        self._threads.append(thread)
        return int(server.server_address[1])

    def _on_requested(self, event: Event) -> None:
        """Admit or reject, and put up for negotiation what we support of what was proposed."""
        association = event.assoc
        request = association.requestor.primitive
        proposed = [
            (str(context.abstract_syntax), [str(syntax) for syntax in context.transfer_syntax])
            for context in request.presentation_context_definition_list
        ]
        caller = Caller(
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=association.requestor.address,
            certificate_subject=peer_common_name(association.dul.socket.socket),
        )
        refused = self._refusal(caller, proposed)
        if refused is not None:
            log.warning(
                "association_rejected",
                address=caller.address,
                calling_ae_title=caller.calling_ae_title,
                reason=refused.reason,
            )
            association.acse.send_reject(refused.result, refused.source, refused.diagnostic)
            association.kill()
            return
        association.acceptor.supported_contexts = _contexts(proposed)

    def _refusal(
        self, caller: Caller, proposed: Sequence[tuple[str, Sequence[str]]]
    ) -> Rejection | None:
        refused = rejection(caller, ae_title=self._config.ae_title, peers=self._peers)
        if refused is None and {abstract for abstract, _ in proposed} == {VERIFICATION}:
            # Monitoring asks by C-ECHO, which has no status for "not now"; a sender of images is
            # let in, because A7xx tells it more than a rejection.
            return OUT_OF_SERVICE if self._intake.fault or not self._intake.alive else None
        return refused

    def _on_pdu(self, event: Event) -> None:
        """Bound what one association may hold in memory, before it is held."""
        dimse = event.assoc.dimse
        message = dimse.message
        size_bytes = message.data_set.tell() if message is not None else 0
        too_large = size_bytes > self._config.maximum_object_mib * MIB
        if too_large or dimse.msg_queue.qsize() > MOST_UNANSWERED:
            log.warning(
                "association_aborted",
                address=event.assoc.requestor.address,
                reason="object too large" if too_large else "too many unanswered messages",
            )
            dimse.message = None
            event.assoc.dul.event_queue.put("Evt19")  # PS3.8 table 9-10: A-ABORT, then closed

    def _on_message(self, event: Event) -> None:
        """Let a C-STORE with odd identifiers through to the intake, which has a status for it.

        The library ends the association where it does not know the SOP Class of the command, or
        cannot hold the UID: the rest of the study would be lost with one bad object. So it is shown
        identifiers that it takes, and the intake those that the sender wrote.
        """
        command = event.message.command_set
        if command.CommandField != C_STORE_RQ:
            return
        told = (str(command.get(name) or "") for name in _IDENTIFIERS)
        self._told.setdefault(event.assoc, {})[command.MessageID] = tuple(told)
        context = event.assoc._accepted_cx.get(event.message.context_id)
        if context is not None:
            command.AffectedSOPClassUID = context.abstract_syntax
        if not is_uid(str(command.get("AffectedSOPInstanceUID") or "")):
            command.AffectedSOPInstanceUID = UNKNOWN_INSTANCE

    def _on_store(self, event: Event) -> Dataset:
        """Hand one object to the intake and turn the outcome into a status."""
        request = event.request
        sop_class_uid, sop_instance_uid = self._told[event.assoc].pop(request.MessageID)
        data = request.DataSet.getvalue() if request.DataSet is not None else b""
        try:
            self._intake.accept(
                data,
                transfer_syntax_uid=str(event.context.transfer_syntax),
                source=Source.C_STORE,
                sender_ae_title=event.assoc.requestor.ae_title,
                c_store_priority=request.Priority,
                expected_sop_class_uid=sop_class_uid,
                expected_sop_instance_uid=sop_instance_uid,
            )
        except ObjectRefused as refusal:
            return _response(status_of(refusal), str(refusal))  # the intake has logged it
        except TriageError as error:
            log.error("c_store_failed", reason=str(error), hint=error.hint)
            return _response(status_of(error), str(error))
        except Exception:
            # The top of our code in the library's thread, which would answer Cxxx: "never again".
            log.exception("c_store_failed")
            return _response(PROCESSING_FAILURE, "internal error")
        return _response(SUCCESS)


def status_of(error: TriageError) -> int:
    """Return the C-STORE status for an error, by the nearest class that the table names."""
    return next(
        (STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), PROCESSING_FAILURE
    )


class _Listener(ThreadedAssociationServer):  # type: ignore[misc]
    """The library's server, with the TLS handshake in the connection's own thread."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, *args: Any, tls: SSLContext | None, **options: Any) -> None:
        self._tls = tls
        super().__init__(*args, **options)

    def finish_request(self, request: socket.socket, client_address: Any) -> None:
        """Bound every wait for the peer, then let the library take over."""
        request.settimeout(TIMEOUT_S)
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def shutdown(self) -> None:
        """Stop listening; the library's own wants to be in the entity's list of servers."""
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that failed before it became an association."""
        log.warning("connection_failed", address=str(client_address[0]))


def _entity(config: ReceiverConfig) -> AE:
    entity = AE(ae_title=config.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_associations = config.maximum_associations
    entity.maximum_pdu_size = MAXIMUM_PDU_BYTES
    entity.acse_timeout = entity.network_timeout = TIMEOUT_S
    # Replaced per association by what `negotiation` supports; the library wants one to start.
    entity.add_supported_context(VERIFICATION)
    return entity


def _tls_context(config: ReceiverConfig) -> SSLContext | None:
    if not config.tls_enabled:
        return None
    return server_context(
        certificate=config.certificate, key=config.key, client_ca=config.client_ca
    )


def _contexts(proposed: Sequence[tuple[str, Sequence[str]]]) -> list[PresentationContext]:
    return [build_context(abstract, syntaxes) for abstract, syntaxes in supported(proposed).items()]


def _serve_as_storage(event: Event) -> dict[str, SOPClassCommonExtendedNegotiation]:
    """Let the library serve every accepted class but C-ECHO's as storage, whatever its UID."""
    items = {}
    for context in event.assoc.acceptor.supported_contexts:
        if context.abstract_syntax != VERIFICATION:
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = context.abstract_syntax
            item.service_class_uid = STORAGE_SERVICE_CLASS
            items[str(context.abstract_syntax)] = item
    return items


def _response(status: int, comment: str = "") -> Dataset:
    response = Dataset()
    response.Status = status
    if comment:
        # (0000,0902) is LO: 64 characters, no backslash.
        response.ErrorComment = comment.replace("\\", "/").encode("ascii", "replace")[:64].decode()
    return response
