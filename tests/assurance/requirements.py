"""The promises: 68 requirements, each in one plain sentence, and whether they apply yet.

Where a promise is about a room that is not built, or needs what a test machine does not have, the
row stays and says so. What was found out about a promise stands in deploy/ASSURANCE.md, which the
trials write; nothing here is a result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Applies(StrEnum):
    """Whether a trial can be expected; one that exists decides in any case."""

    NOW = "now"
    NOT_BUILT = "not built"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One row.

    star: no open-source peer that was looked at keeps this promise. remark: why a row does not
    apply, or which part of one that does is left out.
    """

    code: str
    promise: str
    star: bool = False
    applies: Applies = Applies.NOW
    remark: str = ""

    @property
    def section(self) -> str:
        return SECTIONS[self.code[0]]


SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "N": "Network",
        "G": "Taking in",
        "D": "Durability",
        "Q": "Queue",
        "I": "Imaging",
        "M": "Model safety",
        "W": "Worklist safety",
        "O": "Outputs",
        "S": "Security",
        "P": "Privacy and operations",
    }
)
NO_WEB = "there is no web page yet"
NO_OUTPUTS = "the room of outputs is not built"

_ROWS = (
    # --- network
    Requirement(
        code="N1",
        star=True,
        promise="A sender reads success only after file, name, directory and row are synced, "
        "in this order.",
    ),
    Requirement(
        code="N2",
        promise="A full disk, a database that is away and a store that cannot be written are "
        "answered with A7xx; the sender's later try succeeds.",
    ),
    Requirement(
        code="N3",
        promise="A command that names another object or class than its data set is answered with "
        "A9xx, what cannot be read with Cxxx; neither is listed as received.",
    ),
    Requirement(
        code="N4",
        promise="What is out of scope or cannot be decoded is held and shown as not analysed, or "
        "its context is refused; it is never acknowledged and dropped.",
    ),
    Requirement(
        code="N5",
        promise="An echo succeeds while storing works; when it does not, an association is "
        "refused as transient.",
    ),
    Requirement(
        code="N6",
        promise="An unknown caller, a wrong called title and a wrong address are each rejected "
        "with the code of the Standard, and audited.",
    ),
    Requirement(
        code="N7",
        promise="128 contexts of mixed syntaxes are each answered; unlimited asynchronous "
        "operations are answered with one.",
    ),
    Requirement(
        code="N8",
        promise="100 idle or trickling connections from one address leave a real store working "
        "within 2 s.",
    ),
    Requirement(
        code="N9",
        promise="A PDU above the advertised length, and data before an association, close the "
        "link with less than 10 MiB of growth.",
    ),
    Requirement(
        code="N10",
        promise="The secure port speaks TLS 1.2 and 1.3 only, ties client certificates to peers "
        "and hears no clear text.",
    ),
    Requirement(
        code="N11",
        promise="Storage commitment is refused, so that no modality deletes on our word.",
        remark="there is no relay to an archive",
    ),
    Requirement(
        code="N12",
        promise="On SIGTERM no new caller is let in, transfers in hand are finished up to a "
        "limit; no accepted image is lost and no answer is half.",
    ),
    Requirement(
        code="N13",
        star=True,
        promise="The conformance statement is made from the table that negotiates; a live "
        "association proves its rows.",
    ),
    # --- taking in
    Requirement(
        code="G1",
        promise="The same bytes again, however often: one instance, one job, success each time.",
    ),
    Requirement(
        code="G2",
        star=True,
        promise="Other pixels under a known UID: both are held and acknowledged, the newcomer in "
        "quarantine, with an alarm; the analysed image is unchanged.",
    ),
    Requirement(
        code="G3",
        promise="The stored data set is the sent one, byte for byte; only preamble and file meta "
        "information are ours.",
    ),
    Requirement(
        code="G4",
        promise="A file that is written slowly, renamed or completed later gives one job; a part "
        "of it is never read.",
    ),
    Requirement(
        code="G5",
        promise="20,000 files dropped at once, while the daemon was down or its queue of events "
        "overflowed, are all found.",
    ),
    Requirement(
        code="G6",
        promise="A folder on the network is polled; one that is not mounted is an alarm, not an "
        "empty folder.",
    ),
    Requirement(
        code="G7",
        promise="A connection that is cut at any byte leaves no part of an object, in no folder.",
    ),
    Requirement(
        code="G8",
        promise="A series is complete after its quiet time; a late image opens the study again "
        "and is looked at; no earlier result is overwritten.",
    ),
    # --- durability
    Requirement(
        code="D1",
        promise="Killed at any moment: every image that was acknowledged is there, byte for "
        "byte, once, and is worked on.",
    ),
    Requirement(
        code="D2",
        star=True,
        promise="After a power cut every acknowledged image is there and the database is whole.",
        remark="on SQLite, by replay of traced system calls without what was not synced",
    ),
    Requirement(
        code="D3",
        star=True,
        promise="An error at a write, a sync, a rename or a commit: no false success, no crash "
        "loop, and `status` names the cause.",
    ),
    Requirement(
        code="D4",
        promise="Reconciliation at the start finds files without a row, rows without a file and "
        "changed files, and tells each.",
    ),
    Requirement(
        code="D5",
        promise="`status` shows SQLite's version and safe mode; an unsafe combination does not "
        "start.",
    ),
    Requirement(
        code="D6",
        promise="A backup under load restores to a consistent queue; the restored node repeats "
        "nothing.",
    ),
    Requirement(code="D7", promise="Migrations go forward and back on live rows and lose none."),
    # --- queue
    Requirement(
        code="Q1",
        promise="Two workers, either of them killed: each result is recorded once; a stale one "
        "is refused.",
    ),
    Requirement(
        code="Q2",
        promise="An expired lease, a clock that jumps an hour, a worker that sleeps: no loss and "
        "no double result.",
    ),
    Requirement(
        code="Q3",
        promise="What fails each time ends as a dead letter with its reason; its neighbours in "
        "the batch succeed.",
    ),
    Requirement(
        code="Q4",
        promise="A schedule that is late, doubled or dead for an hour is caught up with; no work "
        "lives in the scheduler.",
    ),
    Requirement(
        code="Q5",
        applies=Applies.NOT_BUILT,
        promise="Results for a receiver that was down for a day are all delivered, in order, "
        "none twice.",
        remark=NO_OUTPUTS,
    ),
    # --- imaging
    Requirement(
        code="I1",
        promise="Pixels are rendered as DCMTK renders them: both photometrics, windows and "
        "look-up tables, rescale, padding, 8 to 16 bits, signed or not.",
        remark="to one grey level of 256, as DCMTK truncates and we keep fractions; padding, which "
        "it windows, is compared with the Standard alone",
    ),
    Requirement(
        code="I2",
        promise="The same image has the same score in every accepted transfer syntax, within a "
        "stated difference.",
    ),
    Requirement(
        code="I3", promise="An image and its twin of inverted photometric get the same flag."
    ),
    Requirement(
        code="I4",
        promise="Wrong length, overlay only, blank, one pixel, colour, lateral, For Processing: "
        "not analysed, each with the right reason.",
    ),
    # --- model safety
    Requirement(
        code="M1",
        promise="An exception, a time-out, NaN, no memory, missing weights: not analysed, never "
        "a low score.",
    ),
    Requirement(
        code="M2",
        star=True,
        promise="A known answer that drifts, or a device that fails, takes the worker out of "
        "service within 60 s and says so.",
        remark="a fault of a CUDA device is made with a stand-in encoder",
    ),
    Requirement(
        code="M3",
        promise="A flag is the same alone, in a batch, after a restart, and on the processor as "
        "on the device.",
    ),
    Requirement(
        code="M4",
        promise="Only safetensors with pinned digests are loaded; a pickle or a changed byte is "
        "refused; nothing is fetched.",
    ),
    Requirement(
        code="M5",
        star=True,
        promise="Text in pixels and tags changes no priority and no stored field but the caption.",
    ),
    Requirement(
        code="M6",
        star=True,
        promise="Sensitivity and specificity by sex, age, view and maker come with a model; a "
        "group that is missing is named.",
        remark="in the report of an evaluation, which names the model's digest, not in the bundle",
    ),
    Requirement(
        code="M7",
        promise="A drift of flag rate or scores raises an alarm, for each scanner.",
        remark="shown with drawn scores and embeddings, not with images of a scanner that changed",
    ),
    # --- worklist safety
    Requirement(
        code="W1",
        star=True,
        promise="Effective priority is never below the order's; no study leaves the list without "
        "a person.",
    ),
    Requirement(
        code="W2",
        star=True,
        promise="What failed, and what waits beyond its time, stands above what was analysed and "
        "not flagged, with its own label and count.",
        remark=f"in the command line and the SQL view; {NO_WEB}",
    ),
    Requirement(
        code="W3",
        star=True,
        promise="The ceiling of waiting holds even when everything is flagged.",
    ),
    Requirement(
        code="W4",
        promise="A feed, a worker or a clock that is behind is said above the list; an empty "
        "list is never silent.",
        remark=f"in the command line; {NO_WEB}",
    ),
    Requirement(
        code="W5",
        applies=Applies.NOT_BUILT,
        promise="Previews are compressed and labelled as not for diagnosis; nothing is pointed "
        "at by default.",
        remark=NO_WEB,
    ),
    Requirement(
        code="W6",
        promise="Acknowledging and overriding are recorded with person and reason, and outlive a "
        "restart.",
    ),
    Requirement(
        code="W7",
        star=True,
        promise="Arrival to flag (p50, p95, longest) and the delay of what was not flagged are "
        "exported.",
        remark="QuCAD itself was not run, its configuration is written; the simulated waits are "
        "compared with the formulas of queueing instead",
    ),
    # --- outputs
    Requirement(
        code="O1",
        star=True,
        applies=Applies.NOT_BUILT,
        promise="The structured report passes dciodvfy and the rules of TID 1500; it says "
        "flagged, not flagged or not analysed, and by which version.",
        remark=NO_OUTPUTS,
    ),
    Requirement(
        code="O2",
        applies=Applies.NOT_BUILT,
        promise="A result joins its study under the same UID each time; sent again, it makes no "
        "second object.",
        remark=NO_OUTPUTS,
    ),
    Requirement(
        code="O3",
        applies=Applies.NOT_BUILT,
        promise="HL7 messages are preliminary and escaped, survive every answer and a time-out; "
        "priorities are mapped both ways.",
        remark=NO_OUTPUTS,
    ),
    Requirement(
        code="O4",
        applies=Applies.NOT_BUILT,
        promise="Priorities of UPS and FHIR tasks have exactly the values of their standards.",
        remark=NO_OUTPUTS,
    ),
    # --- security
    Requirement(
        code="S1",
        promise="What the published advisories describe writes no file outside the store, starts "
        "no process and grows past no cap.",
    ),
    Requirement(
        code="S2",
        promise="Bombs (deflate, RLE, JPEG 2000, dimensions, nesting, counts) are refused under "
        "256 MiB and 5 s each.",
    ),
    Requirement(
        code="S3",
        star=True,
        promise="Random and damaged PDUs, commands, data sets and files hang nothing for 5 s and "
        "raise nothing that is not caught.",
    ),
    Requirement(
        code="S4",
        applies=Applies.NOT_BUILT,
        promise="A script in a name, a caption or a file name does not run; pages allow none in "
        "line, and a table for spreadsheets opens inert.",
        remark=f"{NO_WEB}; the terminal shows control characters as replacements",
    ),
    Requirement(
        code="S5",
        applies=Applies.NOT_BUILT,
        promise="Without logins no page starts off loopback; sessions and roles hold, no other "
        "site can act through them, failed logins are audited.",
        remark=NO_WEB,
    ),
    Requirement(
        code="S6",
        star=True,
        promise="systemd-analyze gives the shipped units an exposure of at most 2.0 (receiver) "
        "and 2.5 (worker, all in one).",
        remark=NO_WEB,
    ),
    Requirement(
        code="S7",
        promise="Dependencies are locked, listed and audited, none below its safe version.",
        remark="locked by version, not by hash",
    ),
    # --- privacy and operations
    Requirement(
        code="P1",
        promise="No log, metric, temporary file, dump or error text holds a seeded name, id, "
        "birth date or accession number.",
    ),
    Requirement(
        code="P2",
        promise="Audit messages are valid by the Standard's schema, kept while the collector is "
        "down, and none is lost.",
    ),
    Requirement(
        code="P3",
        promise="Retention deletes pixels, embedding and caption together, audited; never of an "
        "unread flagged study.",
        remark="there is no preview and no legal hold yet",
    ),
    Requirement(
        code="P4",
        promise="`triage status` names each cause and ends with its code; its JSON is stable.",
    ),
    Requirement(
        code="P5",
        promise="At twice peak, memory, threads and descriptors of every process stay flat.",
        remark="for the minutes that the figures tell, not for 24 hours",
    ),
    Requirement(
        code="P6",
        promise="Upgrade and way back under load lose nothing; a new model changes no old result "
        "in silence.",
    ),
)
REQUIREMENTS: Mapping[str, Requirement] = MappingProxyType({row.code: row for row in _ROWS})
