"""The header is read as the sender meant it, cleaned, and never at the price of the process."""

import io
import os
import time
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.assurance import requirement
from tests.dicom_files import make_ct_slice, make_dx, make_sr, to_bytes
from triage.errors import IdentifiersInvalid, ObjectRefused, ObjectUnparsable
from triage.ingest.elements import Bounds
from triage.ingest.header import HeaderLimits, clean, decode_text, read_header
from triage.ingest.part10 import (
    ANY_RATIO_MIB,
    META_BYTES,
    DataSet,
    digest_of,
    file_meta,
    is_uid,
    split,
)
from triage.records import Header
from triage.store import MIB

LIMITS = HeaderLimits()


def header_of(data: bytes, limits: HeaderLimits = LIMITS) -> Header:
    return read_header(split(data), limits)


def without_meta(data: bytes) -> bytes:
    return bytes(split(data).encoded[:])


NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}


@pytest.mark.parametrize("transfer_syntax", NATIVE.values(), ids=NATIVE)
def test_every_native_syntax_reads_alike(transfer_syntax: str) -> None:
    elements = {
        "AccessionNumber": "A1",
        "StudyDescription": "Chest",
        "PatientAge": "045Y",
        "ViewPosition": "PA",
        "ImageLaterality": "L",
    }
    ds = make_dx(transfer_syntax=transfer_syntax, **elements)
    header = header_of(to_bytes(ds))
    assert header.transfer_syntax_uid == transfer_syntax
    assert header.study_instance_uid == ds.StudyInstanceUID
    assert header.sop_instance_uid == ds.SOPInstanceUID
    assert (header.accession_number, header.study_description) == ("A1", "Chest")
    assert (header.patient_age, header.view_position, header.laterality) == ("045Y", "PA", "L")
    assert (header.rows, header.columns) == (ds.Rows, ds.Columns)
    assert header.has_pixels


@pytest.mark.parametrize("transfer_syntax", [*NATIVE.values()][:3], ids=[*NATIVE][:3])
def test_a_bare_data_set_is_read_by_its_first_element(transfer_syntax: str) -> None:
    data = to_bytes(make_dx(transfer_syntax=transfer_syntax))
    assert header_of(without_meta(data)).transfer_syntax_uid == transfer_syntax


def test_a_file_without_preamble_is_read() -> None:
    data = to_bytes(make_dx())
    assert header_of(data[132:]) == header_of(data)


def test_a_file_that_says_explicit_and_is_implicit_is_read() -> None:
    ds = make_dx(transfer_syntax=uid.ImplicitVRLittleEndian)
    wrong = DataSet(
        transfer_syntax_uid=uid.ExplicitVRLittleEndian, encoded=without_meta(to_bytes(ds))
    )
    assert read_header(wrong, LIMITS).sop_instance_uid == ds.SOPInstanceUID


def test_an_object_without_pixels_has_none() -> None:
    assert not header_of(to_bytes(make_sr())).has_pixels


def test_the_first_procedure_code_is_read() -> None:
    codes = []
    for value in ("XR1", "XR2"):
        code = Dataset()
        code.CodeValue = value
        codes.append(code)
    ds = make_dx(ProcedureCodeSequence=codes)
    assert header_of(to_bytes(ds)).procedure_code == "XR1"


def test_numbers_that_are_none_do_not_refuse_an_image() -> None:
    ds = make_dx()
    ds.add_new(0x00280008, "IS", "3")
    data = to_bytes(ds).replace(b"IS\x02\x003 ", b"IS\x02\x003A")
    assert header_of(data).number_of_frames == 1


CHARACTER_SETS = {
    "latin-1": ("ISO_IR 100", "Buc^Jérôme", "Buc^Jérôme".encode("latin-1")),
    "utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東", "Wang^XiaoDong=王^小東".encode()),
    "latin-9": ("ISO_IR 203", "Šimek^€", "Šimek^€".encode("iso8859_15")),
    "greek": ("ISO_IR 126", "Διονυσιος", "Διονυσιος".encode("iso8859_7")),
    "code extension": (
        "\\ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
    ),
    "korean": (
        "\\ISO 2022 IR 149",
        "Hong^Gildong=洪^吉洞",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
    ),
    "unknown": ("ISO_IR 999", "M\xfcller", b"M\xfcller"),
}


@pytest.mark.parametrize(("term", "text", "raw"), CHARACTER_SETS.values(), ids=CHARACTER_SETS)
def test_text_is_decoded_by_its_character_set(term: str, text: str, raw: bytes) -> None:
    assert decode_text(raw, term.split("\\")) == text


@settings(max_examples=300, deadline=None)
@given(
    raw=st.binary(max_size=64),
    terms=st.lists(
        st.sampled_from(["", "ISO_IR 192", "ISO 2022 IR 87", "ISO 2022 IR 149", "GB18030", "x"]),
        max_size=3,
    ),
)
def test_any_bytes_become_text_that_databases_take(raw: bytes, terms: list[str]) -> None:
    text = clean(decode_text(raw, terms))
    assert "\0" not in text
    text.encode("utf-8")  # no lone surrogates


def test_text_is_cleaned() -> None:
    assert clean("  A\0B\r\nC\ud800\x1b[31m  ") == "ABC[31m"
    assert len(clean("x" * 10_000)) == 256


@pytest.mark.parametrize("value", [None, "", "no.uid"], ids=["missing", "empty", "ill-formed"])
@pytest.mark.parametrize(
    "keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_object_without_a_usable_identifier_is_refused(keyword: str, value: str | None) -> None:
    ds = make_dx()
    if value is None:
        delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)
    with pytest.raises(IdentifiersInvalid):
        read_header(explicit(ds), LIMITS)


def explicit(ds: Dataset) -> DataSet:
    return DataSet(transfer_syntax_uid=uid.ExplicitVRLittleEndian, encoded=_bare(ds))


def _bare(ds: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "..", "1.2.x", ".1", "1..2", "1." * 40 + "1", "1.2\n3", "\uff11.2"]
)
def test_what_is_no_uid_is_none(text: str) -> None:
    assert not is_uid(text)


@requirement("S1")
def test_a_traversal_uid_is_refused() -> None:
    data = _bare(make_dx()).replace(b"1.2.840.10008.5.1.4.1.1.1.1", b"../../../../etc/passwd-----")
    with pytest.raises(IdentifiersInvalid):
        read_header(DataSet(transfer_syntax_uid=uid.ExplicitVRLittleEndian, encoded=data), LIMITS)


def test_an_identifier_that_occurs_twice_is_refused() -> None:
    data = _bare(make_dx())
    start = data.index(b"\x20\x00\x0d\x00UI")
    length = 8 + int.from_bytes(data[start + 6 : start + 8], "little")
    twice = data[:start] + data[start : start + length] + data[start:]
    with pytest.raises(ObjectUnparsable, match="twice"):
        read_header(DataSet(transfer_syntax_uid=uid.ExplicitVRLittleEndian, encoded=twice), LIMITS)


def test_pixel_data_without_rows_is_refused() -> None:
    ds = make_dx()
    del ds.Rows
    with pytest.raises(ObjectUnparsable, match="Rows"):
        header_of(to_bytes(ds))


NO_DICOM = {
    "empty": b"",
    "text": b"Dear radiologist, this is a letter.",
    "preamble only": bytes(128),
    "zip": b"PK\x03\x04" + bytes(100),
    "prefix only": bytes(128) + b"DICM",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
}


@pytest.mark.parametrize("data", NO_DICOM.values(), ids=NO_DICOM)
def test_what_is_no_dicom_is_refused(data: bytes) -> None:
    with pytest.raises(ObjectUnparsable):
        header_of(data)


def test_a_truncated_file_is_refused() -> None:
    data = to_bytes(make_dx())
    with pytest.raises(ObjectUnparsable, match="cut short"):
        header_of(data[:-10])


@requirement("S1")
def test_a_dicomdir_is_refused_as_what_it_is() -> None:
    data = to_bytes(make_dx())
    meta = file_meta(
        sop_class_uid="1.2.840.10008.1.3.10",
        sop_instance_uid="1.2",
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
    )
    with pytest.raises(ObjectRefused, match="DICOMDIR"):
        header_of(meta + without_meta(data))


def deflated(content: bytes) -> DataSet:
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return DataSet(
        transfer_syntax_uid=uid.DeflatedExplicitVRLittleEndian,
        encoded=stream.compress(content) + stream.flush(),
    )


@requirement("S2")
def test_a_deflate_bomb_is_refused_before_it_fills_memory() -> None:
    bomb = deflated(bytes(100 * 1024 * 1024))
    started_s = time.monotonic()
    with pytest.raises(ObjectUnparsable, match="beyond the limit"):
        read_header(bomb, HeaderLimits(maximum_inflated_mib=16))
    assert time.monotonic() - started_s < 5


@requirement("S2")
def test_a_deflate_bomb_within_the_limit_is_told_by_its_ratio() -> None:
    """Zeros that never end are given up after half a gigabyte, not after two."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(stream.compress(bytes(MIB)) for _ in range(ANY_RATIO_MIB + 8))
    data = DataSet(transfer_syntax_uid=uid.DeflatedExplicitVRLittleEndian, encoded=bomb)
    with pytest.raises(ObjectUnparsable, match="further than any image"):
        read_header(data, HeaderLimits())


def test_a_damaged_or_cut_deflated_data_set_is_refused() -> None:
    whole = deflated(_bare(make_dx()))
    for encoded in (whole.encoded[:-20], b"\xff" * 50):
        with pytest.raises(ObjectUnparsable):
            read_header(
                DataSet(transfer_syntax_uid=whole.transfer_syntax_uid, encoded=encoded), LIMITS
            )


def test_large_values_of_a_deflated_data_set_are_counted_not_kept() -> None:
    ds = make_dx()
    ds.PixelData = bytes(2 * 1024 * 1024)
    limits = HeaderLimits(maximum_header_mib=1)
    assert read_header(deflated(_bare(ds)), limits).has_pixels


def test_bounds_reach_the_walk() -> None:
    with pytest.raises(ObjectUnparsable, match="too many"):
        header_of(to_bytes(make_dx()), HeaderLimits(bounds=Bounds(maximum_elements=5)))


@requirement("G3")
def test_our_file_is_read_by_others_and_keeps_the_data_set(tmp_path: Path) -> None:
    ds = make_ct_slice(make_dx().pixel_array.astype("int16"))
    data_set = split(to_bytes(ds))
    path = tmp_path / "ours.dcm"
    meta = file_meta(
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax_uid=data_set.transfer_syntax_uid,
    )
    path.write_bytes(meta + bytes(data_set.encoded[:]))
    read = pydicom.dcmread(path)
    assert read.SOPInstanceUID == ds.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == data_set.transfer_syntax_uid
    assert read.preamble == bytes(128)
    again = split(path.read_bytes())
    assert bytes(again.encoded[:]) == bytes(data_set.encoded[:])
    assert digest_of(again) == digest_of(data_set)


def test_the_digest_tells_transfer_syntaxes_apart() -> None:
    first = DataSet(transfer_syntax_uid="1.2", encoded=b"same")
    second = DataSet(transfer_syntax_uid="1.3", encoded=b"same")
    assert digest_of(first) != digest_of(second)


class Fed(bytes):
    """Deflated bytes that remember the largest piece asked for, and how much in all."""

    largest = total = 0

    def __getitem__(self, part: Any) -> Any:
        piece = super().__getitem__(part)
        self.largest = max(self.largest, len(piece))
        self.total += len(piece)
        return piece


def test_a_deflated_data_set_is_fed_once_and_in_small_pieces() -> None:
    """What zlib leaves of a piece is copied again with each call: pieces keep the cost linear."""
    ds = make_dx()
    ds.PixelData = os.urandom(3 * 1024 * 1024)
    encoded = Fed(deflated(_bare(ds)).encoded[:])
    data_set = DataSet(transfer_syntax_uid=uid.DeflatedExplicitVRLittleEndian, encoded=encoded)
    assert read_header(data_set, LIMITS).has_pixels
    assert encoded.largest <= 64 * 1024
    assert encoded.total <= len(encoded)


def test_our_meta_information_has_one_length_whatever_it_says() -> None:
    longest = "1." * 31 + "99"
    for text in ("1", "1.2", longest):
        meta = file_meta(
            sop_class_uid=text,
            sop_instance_uid=text,
            transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        )
        assert len(meta) == META_BYTES
        read = pydicom.dcmread(io.BytesIO(meta + _bare(make_dx())))
        assert read.file_meta.MediaStorageSOPInstanceUID == text
        assert read.file_meta.FileMetaInformationGroupLength == META_BYTES - 144
    most = file_meta(sop_class_uid=longest, sop_instance_uid=longest, transfer_syntax_uid=longest)
    assert len(most) == META_BYTES
