"""A table of labels is read whole and exactly, or refused with the row and the column."""

import hashlib
import math
import os
from pathlib import Path

import pytest

from tests.learning.tables import write_labels
from triage.learning.material.label_columns import Asked
from triage.learning.material.label_reading import MAXIMUM_BYTES, read_labels
from triage.learning.material.labels import FILE, STUDY, FindingSource, LabelError, LabelTable

RADIOGRAPHS = Path(
    os.environ.get("TRIAGE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")
).joinpath("radiographs")


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(LabelError) as raised:
        read_labels(path, Asked(**options))  # type: ignore[arg-type]
    return str(raised.value)


def truths(table: LabelTable) -> list[tuple[float | None, ...]]:
    """None where a label is masked: NaN equals nothing."""
    return [tuple(None if math.isnan(v) else v for v in row.truth) for row in table.rows]


def test_each_row_is_a_subject_with_its_patient_its_split_and_its_strata(tmp_path: Path) -> None:
    path = write_labels(
        tmp_path,
        "file,patient_group,effusion,fracture,split,sex,age,manufacturer,ward",
        "a/1.dcm,p1,1,0,train,F,063Y,ACME,W3",
        "./a/2.png,p2,0,1,,,,,",
    )
    named = Asked(findings=["effusion", "fracture"], strata=["ward"])
    table = read_labels(path, named)
    assert table.findings == ("effusion", "fracture")
    first, second = table.rows
    assert (first.subject, first.group, first.split, first.line) == ("a/1.dcm", "p1", "train", 2)
    assert first.strata == {"sex": "F", "age": "063Y", "manufacturer": "ACME", "ward": "W3"}
    assert (second.subject, second.group, second.split, second.line) == ("a/2.png", "p2", "", 3)
    assert table.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_blank_label_is_masked_and_never_negative(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,effusion,fracture", "1,1,", "2, ,0", "3,1.0,0.0")
    table = read_labels(path, Asked(findings=["effusion", "fracture"]))
    assert truths(table) == [(1.0, None), (None, 0.0), (1.0, 0.0)]


def test_a_column_of_two_words_becomes_a_finding_where_one_of_them_is_named(
    tmp_path: Path,
) -> None:
    path = write_labels(tmp_path, "file,Label,portable", "1,Abnormal,1", "2,normal,0", "3,,1")
    table = read_labels(path, Asked(positive={"label": "abnormal"}))
    assert (table.findings, truths(table)) == (("abnormal",), [(1.0,), (0.0,), (None,)])
    assert table.sources == (
        FindingSource(column="Label", positive="abnormal", negative=("normal",)),
    )
    both = read_labels(path, Asked(findings=["portable"], positive={"label": "abnormal"}))
    assert both.findings == ("portable", "abnormal")
    assert [each["positives"] for each in both.taken()] == [2, 1]


WORDS = ("1,pneumonia", "2,no finding", "3,effusion", "4,", "5,normal")


def test_words_that_are_negative_are_named_where_a_column_has_more_than_two(
    tmp_path: Path,
) -> None:
    path = write_labels(tmp_path, "file,finding", *WORDS)
    positive = {"finding": "pneumonia"}
    said = refusal(path, positive=positive)
    assert "says 'pneumonia', 'no finding', 'effusion', 'normal': which of them mean" in said
    negative = {"Finding": ["No Finding", "normal", "effusion"]}
    table = read_labels(path, Asked(positive=positive, negative=negative))
    assert truths(table) == [(1.0,), (0.0,), (0.0,), (None,), (0.0,)]
    said = refusal(path, positive=positive, negative={"finding": ["no finding", "normal"]})
    assert "row 4, column 'finding' of the labels is neither 'pneumonia' nor a word of" in said
    assert "effusion" not in said


def test_a_column_of_many_words_is_not_quoted(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,note", *(f"{n},Patient {n}" for n in range(50)))
    said = refusal(path, positive={"note": "Patient 3"})
    assert "holds 50 different words" in said
    assert "Patient 7" not in said


WRONG_WORDS = {
    "a typo": ({"positive": {"finding": "pneumnia"}}, "never says 'pneumnia'; it says 'pneumonia'"),
    "in no row": ({"positive": {"blank": "x"}}, "never says 'x'; it is blank in every row"),
    "both": (
        {"positive": {"finding": "normal"}, "negative": {"finding": ["Normal"]}},
        "--positive and --negative both name the word 'normal'",
    ),
    "no positive": (
        {"positive": {"finding": "pneumonia"}, "negative": {"blank": ["x"]}},
        "--negative names the column 'blank', and --positive does not",
    ),
}


@pytest.mark.parametrize(("options", "said"), WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_words_that_cannot_be_meant_are_refused(
    tmp_path: Path, options: dict[str, object], said: str
) -> None:
    path = write_labels(tmp_path, "file,finding,blank", *(f"{row}," for row in WORDS))
    assert said in refusal(path, **options)


def test_words_of_a_file_reach_a_message_escaped_and_cut(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,finding", "1,\x1b[2J" + "y" * 90, "2,b", "3,c")
    said = refusal(path, positive={"finding": "b"})
    assert "\x1b" not in said
    assert "y" * 40 not in said


def test_of_several_columns_of_1_and_0_the_findings_must_be_named(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,effusion,contrast", "1,1,1", "2,0,0")
    said = refusal(path)
    assert "2 columns of the labels hold 1 and 0" in said
    assert "'effusion', 'contrast'" in said


def test_what_says_where_a_row_belongs_is_no_finding_by_itself(tmp_path: Path) -> None:
    path = write_labels(
        tmp_path, "file,effusion,train,Fold,portable,matched,site_2", "1,1,1,0,1,0,1"
    )
    table = read_labels(path, Asked(strata=["site_2"]))
    assert table.findings == ("effusion",)
    assert table.rows[0].strata == {"portable": "1", "matched": "0", "site_2": "1"}


def test_a_bundles_findings_are_taken_and_no_other_column(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,Effusion,contrast", "1,1,1", "2,0,0")
    assert read_labels(path, Asked(offered=["nodule", "effusion"])).findings == ("effusion",)
    assert "no column of a finding of the bundle: 'nodule'" in refusal(path, offered=["nodule"])


@pytest.mark.parametrize(
    "head", ["Patient_Group ,SPLIT,Sex", "group id,split,sex", "PatientID,Split, SEX"]
)
def test_names_of_columns_are_known_by_their_letters(tmp_path: Path, head: str) -> None:
    path = write_labels(tmp_path, f"File,effusion,{head}", "1.png,1,p1,Train,F", "2.png,0,p1,,M")
    table = read_labels(path)
    assert [row.group for row in table.rows] == ["p1", "p1"]
    assert [row.split for row in table.rows] == ["train", ""]
    assert table.rows[0].strata == {"sex": "F"}


def test_two_columns_of_patients_are_refused(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,effusion,patient_id,patient_group", "1,1,a,b")
    said = refusal(path)
    assert "columns 3 and 4 of the labels both name the patient: 'patient_id'" in said


def test_a_row_without_its_patient_is_refused_where_there_is_a_column_of_them(
    tmp_path: Path,
) -> None:
    path = write_labels(tmp_path, "file,effusion,patient_id", "1,1,a", "2,0, ")
    assert "row 3, column 'patient_id' of the labels is blank" in refusal(path)


def test_only_named_findings_are_read_where_they_are_named(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,effusion,portable", "1,1,1", "2,0,0")
    assert read_labels(path, Asked(findings=["effusion"])).findings == ("effusion",)


def test_numbers_and_texts_are_no_findings(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,effusion,width,note", "1,1,512,x", "2,0,480,", "3,,1,y")
    assert read_labels(path).findings == ("effusion",)


def test_a_studys_labels_name_its_uid(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "study_instance_uid,effusion", "1.2.840.1,1")
    table = read_labels(path)
    assert (table.subject_column, table.rows[0].subject) == (STUDY, "1.2.840.1")


def test_what_a_spreadsheet_adds_is_read_over(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file , effusion", " 1.png ,1", ",", "", "2.png,0")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [(row.subject, row.line) for row in read_labels(path).rows] == [
        ("1.png", 2),
        ("2.png", 5),
    ]


WRONG_ROWS = {
    "uncertain": ("1,1,p,\n2,-1,p,", "row 3, column 'effusion' of the labels is neither 1, 0 nor"),
    "no subject": ("1,1,p,\n,1,p,", "row 3, column 'file' of the labels is blank"),
    "twice": ("1,1,p,\n2,0,p,\n./1,1,p,", "row 4, column 'file' of the labels names the same as r"),
    "split": ("1,1,p,training", "row 2, column 'split' of the labels is none of train, val, test"),
    "patient": (
        "1,1,p,train\n2,0,q,val\n3,0,p,test",
        "row 4, column 'patient_group' of the labels is the patient of row 2, in another split",
    ),
    "absolute": ("1,1,p,\n/etc/passwd,1,p,", "row 3, column 'file' of the labels is no path rel"),
    "drive": ("C:/x.png,1,p,", "row 2, column 'file' of the labels is no path relative"),
    "backslash": ("a\\..\\x.png,1,p,", "row 2, column 'file' of the labels is no path relative"),
    "upwards": ("a/../../x.png,1,p,", "row 2, column 'file' of the labels leads out of"),
    "nowhere": (".,1,p,", "row 2, column 'file' of the labels leads out of"),
    "escape": ("a\x1b[2J,1,p,", "row 2, column 'file' of the labels holds characters"),
    "short": ("1,1,p", "row 2 of the labels has 3 cells under 4 column names"),
    "long": ("1,1,p,,", "row 2 of the labels has 5 cells under 4 column names"),
    "open quote": ('1,1,p,\n2,"1,p,\n', "row 3 of the labels is no CSV"),
    "endless cell": ("1,1," + "p" * 5000 + ",", "row 2, column 'patient_group' of the labels is l"),
    "nothing": ("", "the labels have column names but no row"),
}


@pytest.mark.parametrize(("rows", "said"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_an_error_names_row_and_column(tmp_path: Path, rows: str, said: str) -> None:
    path = write_labels(tmp_path, "file,effusion,patient_group,split", rows)
    message = refusal(path, findings=["effusion"])
    assert said in message
    assert "passwd" not in message  # a cell may identify a patient: none is quoted


def test_a_finding_with_a_strange_cell_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "file,effusion", "1,1", "2,1", "3,uncertain")
    assert "row 4, column 'effusion'" in refusal(path)
    with pytest.raises(LabelError) as refused:
        read_labels(path)
    assert "--positive effusion=WORD" in refused.value.hint


def test_labels_of_the_other_kind_of_subject_are_told_where_they_belong(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "study_instance_uid,effusion", "1.2.3,1")
    with pytest.raises(LabelError) as refused:
        read_labels(path, Asked(subject_column=FILE))
    assert refused.value.hint == "Labels of studies go with --images WORKLIST."


WRONG_HEADS = {
    "semicolons": ("file;effusion", "separate their columns by semicolons"),
    "tabs": ("file\teffusion", "separate their columns by tabs"),
    "no subject": ("name,effusion", "study_instance_uid; they have 'name', 'effusion'"),
    "twice": ("file,effusion,effusion", "columns 2 and 3 of the labels have one name"),
    "no finding": ("file,note", "hold no finding"),
    "odd name": ("file,a/b", "has a name that a bundle cannot hold"),
}


@pytest.mark.parametrize(("head", "said"), WRONG_HEADS.values(), ids=WRONG_HEADS)
def test_column_names_that_cannot_be_used_are_refused(tmp_path: Path, head: str, said: str) -> None:
    cells = "1.png" + ",1" * head.count(",") if "note" not in head else "1.png,x"
    assert said in refusal(write_labels(tmp_path, head, cells))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"findings": ["effusion"]}, "'effusion', which is named as a finding"),
        ({"strata": ["ward"]}, "'ward', which is named as a stratum"),
        ({"positive": {"label": "yes"}}, "'label', which is named as a column of --positive"),
        (
            {"findings": ["fracture"], "positive": {"note": "fracture"}},
            "two findings have the name 'fracture'",
        ),
        ({"subject_column": STUDY}, "have no column study_instance_uid"),
    ],
)
def test_columns_that_are_named_must_be_there(
    tmp_path: Path, options: dict[str, object], said: str
) -> None:
    path = write_labels(tmp_path, "file,fracture,note", "1.png,1,fracture")
    assert said in refusal(path, **options)


def test_a_uid_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "study_instance_uid,effusion", "1.2.3,1", "../x,0")
    assert "row 3, column 'study_instance_uid' of the labels is no unique" in refusal(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("file,x\r\nä,1\r\n".encode("utf-16"), "are UTF-16"),
        ("file,x\r\n1,1\r\nä,1\r\n".encode("latin-1"), "not UTF-8 text: row 3"),
        (b"file,x\n1,1\n\0,1\n", "row 3 holds a zero byte"),
        (b"", "are empty"),
        (b"file,x\n" + b'1,"' + b"y" * 200_000 + b'"\n', "row 2 of the labels is no CSV"),
    ],
)
def test_bytes_that_are_no_table_are_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(raw)
    assert said in refusal(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with path.open("wb") as file:
        file.truncate(MAXIMUM_BYTES + 1)
    assert "is larger than" in refusal(path)


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is no plain file" in refusal(tmp_path / "pipe")
    assert "does not exist" in refusal(tmp_path / "absent")


@pytest.mark.skipif(not RADIOGRAPHS.is_dir(), reason="the radiographs are not on this machine")
def test_the_radiographs_labels_are_usable_as_they_are() -> None:
    table = read_labels(RADIOGRAPHS / "labels.csv", Asked(positive={"label": "abnormal"}))
    assert table.findings == ("abnormal",)
    splits = [row.split for row in table.rows]
    assert [splits.count(name) for name in ("train", "val", "test")] == [968, 140, 199]
    assert {"source", "matched", "view", "age_group"} <= set(table.rows[0].strata)
    assert table.is_grouped
