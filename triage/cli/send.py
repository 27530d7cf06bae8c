"""`triage send`: send files and folders to a running daemon, as a modality would."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from triage.cli.text import clean
from triage.cli.verbs import DONE, FAILED, UsageError, Verbs, add_verb, configuration, print_json

if TYPE_CHECKING:
    from triage.cli.sending import Destination, Sent

LISTENS_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104
PRIORITIES = ("low", "medium", "high")


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "send",
        send,
        says="send DICOM files and folders to a running daemon by C-STORE",
        example="triage send --to 192.0.2.5:11112 studies/",
        json_document=True,
    )
    parser.add_argument("paths", metavar="PATH", type=Path, nargs="+", help="file or folder")
    parser.add_argument(
        "--to", metavar="HOST:PORT", help="where to (default: [receiver] of the configuration)"
    )
    parser.add_argument(
        "--called", metavar="AE", help="called AE title (default: [receiver] ae_title)"
    )
    parser.add_argument("--calling", metavar="AE", default="TRIAGE_SEND", help="own AE title")
    parser.add_argument(
        "--priority", choices=PRIORITIES, default="medium", help="C-STORE Priority (0000,0700)"
    )


def send(arguments: argparse.Namespace) -> int:
    from triage.cli import sending

    missing = [path for path in arguments.paths if not path.exists()]
    if missing:
        raise UsageError(f"{missing[0]} does not exist", hint="Name files or folders that do.")
    sent: list[Sent] = []
    for each in sending.send(
        sending.files_below(arguments.paths), _destination(arguments), priority=arguments.priority
    ):
        sent.append(each)
        if not arguments.json:
            print(_said(each), flush=True)
    stored = sum(each.stored for each in sent)
    if arguments.json:
        print_json({"stored": stored, "files": [_document(each) for each in sent]})
    else:
        print(f"{stored} of {len(sent)} files stored.")
    return DONE if stored == len(sent) else FAILED


def _destination(arguments: argparse.Namespace) -> "Destination":
    from triage.cli.sending import Destination

    receiver = configuration(arguments).receiver
    host, port = receiver.host, str(receiver.port)
    if host in LISTENS_EVERYWHERE:
        host = "127.0.0.1"
    if arguments.to:
        host, _, port = arguments.to.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"{arguments.to or port} names no host and port",
            hint="Write --to HOST:PORT, for example --to 192.0.2.5:11112.",
        )
    return Destination(
        host=host.strip("[]"),
        port=int(port),
        called_ae_title=arguments.called or receiver.ae_title,
        calling_ae_title=arguments.calling,
    )


def _said(each: "Sent") -> str:
    status = "not sent" if each.status is None else f"0x{each.status:04X}"
    return clean(f"{status}  {each.path}  {each.comment}".rstrip())


def _document(each: "Sent") -> dict[str, object]:
    return {
        "path": each.path,
        "stored": each.stored,
        "status": each.status,
        "comment": each.comment,
    }
