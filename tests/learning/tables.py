"""Label tables for tests, written as a person writes them."""

from pathlib import Path

from triage.learning.material.labels import LabelRow, LabelTable


def write_labels(directory: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Write a file of labels; the first line names the columns."""
    path = directory / "labels.csv"
    path.write_bytes("\r\n".join([*lines, ""]).encode(encoding))
    return path


def table_of(*rows: LabelRow, findings: tuple[str, ...] = ("effusion",)) -> LabelTable:
    return LabelTable(findings=findings, rows=rows, digest="", subject_column="file")


def label_row(line: int, *, group: str = "", split: str = "", truth: float = 0.0) -> LabelRow:
    return LabelRow(
        subject=f"{line}.png", group=group, truth=(truth,), split=split, strata={}, line=line
    )
