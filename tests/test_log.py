"""Log lines are JSON for machines and never hold patient data."""

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog
from pydicom import valuerep
from pydicom.uid import UID

from tests.assurance import requirement
from triage.log import REDACTED, configure_logging, is_private


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(level="info", form="auto", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def documents(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_document_when_the_stream_is_no_terminal(lines: io.StringIO) -> None:
    structlog.get_logger("triage.worker").info("job_done", job_id=7, study_instance_uid="1.2")
    (line,) = documents(lines)
    assert line["event"] == "job_done"
    assert (line["job_id"], line["study_instance_uid"], line["level"]) == (7, "1.2", "info")
    assert str(line["timestamp"]).endswith("Z")


@requirement("P1")
@pytest.mark.parametrize(
    "key",
    [
        "patient_name",
        "patient_id",
        "issuer_of_patient_id",
        "patient_birth_date",
        "accession_number",
        "study_description",
        "referring_physician_name",
        "institution_name",
        "caption",
    ],
)
def test_a_key_that_may_hold_patient_data_loses_its_value(lines: io.StringIO, key: str) -> None:
    structlog.get_logger("triage").error("careless", **{key: "SECRET^VALUE"})
    assert "SECRET" not in lines.getvalue()
    assert documents(lines)[0][key] == REDACTED


def test_uids_and_states_stay_readable() -> None:
    assert not any(map(is_private, ["sop_instance_uid", "job_id", "sender_ae_title", "state"]))


def test_library_lines_pass_through_the_same_chain(lines: io.StringIO) -> None:
    logging.getLogger("sqlalchemy.pool").warning("pool %s", "grew")
    (line,) = documents(lines)
    assert (line["event"], line["logger"]) == ("pool grew", "sqlalchemy.pool")


def test_pynetdicom_cannot_print_identifiers_at_info(lines: io.StringIO) -> None:
    logging.getLogger("pynetdicom.acse").info("(0010,0010) PN [SECRET^VALUE]")
    assert lines.getvalue() == ""


def test_a_traceback_is_logged_without_local_variables(lines: io.StringIO) -> None:
    def reads(secret: str) -> None:
        raise ValueError(len(secret))

    try:
        reads("SECRET^VALUE")
    except ValueError:
        structlog.get_logger("triage").exception("thread_ended")
    (line,) = documents(lines)
    assert "SECRET" not in lines.getvalue()
    assert "ValueError" in json.dumps(line["exception"])
    assert lines.getvalue().count("\n") == 1


@requirement("P1")
@pytest.mark.parametrize("form", ["json", "console"])
def test_the_text_of_an_error_that_may_quote_an_object_is_left_out(form: str) -> None:
    stream = io.StringIO()
    configure_logging(level="info", form=form, stream=stream)
    try:
        try:
            float("^".join(("SECRET", "VALUE")))
        except ValueError as error:
            raise RuntimeError("the device is gone") from error
    except RuntimeError:
        structlog.get_logger("triage").exception("thread_ended")
    assert "SECRET^VALUE" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert "the device is gone" in stream.getvalue()


def test_a_warning_is_logged_by_its_place_without_its_text(lines: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)  # pytest had put its own capture in between
        warnings.warn("Invalid value for VR DA: 'SECRET^VALUE'", UserWarning, stacklevel=1)
    (line,) = documents(lines)
    assert (line["event"], line["category"]) == ("library_message", "UserWarning")
    assert "test_log.py:" in str(line["place"])
    assert "SECRET" not in lines.getvalue()


@requirement("P1")
@pytest.mark.parametrize("name", ["pydicom", "pydicom.valuerep", "pynetdicom.utils"])
def test_the_dicom_libraries_cannot_quote_an_object(lines: io.StringIO, name: str) -> None:
    library = logging.getLogger(name)
    library.error("Non-conformant value 'SECRET^VALUE'")
    (line,) = documents(lines)
    assert (line["event"], line["logger"]) == ("library_message", name)
    assert "SECRET" not in lines.getvalue()


@requirement("S1")
def test_odd_uids_of_a_peer_neither_fill_the_log_nor_are_remembered() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        configure_logging(level="info", form="json", stream=stream)
        for number in range(100):
            UID(f"1.2.{number}.007")
    remembered = vars(valuerep).get("__warningregistry__", {})
    assert not [key for key in remembered if ".007" in str(key)]
    assert stream.getvalue() == ""


def test_a_library_that_sets_its_own_level_stays_quiet(lines: io.StringIO) -> None:
    library = logging.getLogger("pydicom")
    library.setLevel(logging.DEBUG)
    library.warning("anything")
    logging.getLogger("tokenizers").setLevel(logging.DEBUG)
    logging.getLogger("tokenizers").debug("anything")
    assert lines.getvalue() == ""


def test_text_in_the_place_of_a_uid_is_not_logged(lines: io.StringIO) -> None:
    for value in ("SECRET^VALUE", "", "1.2.3"):
        structlog.get_logger("triage").warning("object_quarantined", sop_instance_uid=value)
    assert [line["sop_instance_uid"] for line in documents(lines)] == [REDACTED, "", "1.2.3"]


@requirement("P1")
@pytest.mark.parametrize("form", ["json", "console"])
def test_notes_and_the_members_of_a_group_are_left_out_too(form: str) -> None:
    stream = io.StringIO()
    configure_logging(level="info", form=form, stream=stream)
    inner = ExceptionGroup("SECRET^INNER", [OSError("SECRET^FILE"), RuntimeError("device gone")])
    parsed = SyntaxError("SECRET^WORD", ("", 1, 1, "SECRET^LINE"))
    outer = ExceptionGroup("SECRET^OUTER", [inner, parsed])
    for each in (outer, inner, *inner.exceptions):
        each.add_note("SECRET^NOTE")
    try:
        raise outer
    except ExceptionGroup:
        structlog.get_logger("triage").exception("task_failed")
    assert "SECRET" not in stream.getvalue()
    assert "ExceptionGroup" in stream.getvalue()
    if form == "json":
        assert "device gone" in stream.getvalue()
        assert "OSError" in stream.getvalue()


def test_a_group_that_is_its_own_origin_is_logged(lines: io.StringIO) -> None:
    member = ValueError("SECRET^VALUE")
    group = ExceptionGroup("several", [member])
    member.__context__ = group
    try:
        raise group
    except ExceptionGroup:
        structlog.get_logger("triage").exception("task_failed")
    assert "SECRET" not in lines.getvalue()
    assert len(documents(lines)) == 1


@requirement("P1")
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_thread_of_a_library_that_fails_is_logged_by_type_and_place(
    form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = "/in/SECRET^VALUE.dcm"

    def opens_a_file() -> None:
        raise FileNotFoundError(2, "no such file", path)

    stream = io.StringIO()
    configure_logging(level="info", form=form, stream=stream)
    thread = threading.Thread(target=opens_a_file, name="observer")
    thread.start()
    thread.join()
    said = stream.getvalue()
    for told in ("thread_failed", "observer", "FileNotFoundError", "test_log.py", "opens_a_file"):
        assert told in said
    assert "SECRET" not in said + "".join(capfd.readouterr())


def test_a_thread_that_leaves_on_purpose_says_nothing(lines: io.StringIO) -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert lines.getvalue() == ""
