"""The README of the data scientist: its commands work in order, its map names every file."""

import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.benchmarks import learning_served, learning_table, report
from tests.benchmarks.measuring import daemon
from tests.deploy.documents import Sandbox, configure, free_port, make_host, section
from tests.flows.program import until
from tests.learning import films
from triage.cli.command_line import parser
from triage.config import load_config
from triage.database.connection import open_database
from triage.database.tables import ResultRow
from triage.inference.bundle import load_bundle
from triage.learning.judging.statistics import needed_positives
from triage.learning.material.label_reading import read_labels
from triage.learning.methods import METHODS
from triage.records import Mode

ROOM = Path(__file__).parents[2] / "triage" / "learning"
README = (ROOM / "README.md").read_text("utf-8")
STEP = re.compile(r"^```(sh|toml|csv)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WEIGHTS = "/srv/models/medsiglip-448"
# What keeps a test short, added to commands that take it; nothing else is changed.
SHORTER = {"triage simulate": " --studies 300 --runs 4", "triage evaluate": " --rounds 100"}
SHORTER["triage train --method logistic"] = " --folds 2 --l2 0.1"


@pytest.fixture
def host(tmp_path: Path, sqlite_url: str) -> Sandbox:
    """A host on which weights, films and their labels have arrived."""
    host = make_host(tmp_path, sqlite_url)
    config = host.path("/etc/triage/triage.toml")
    config.write_text(config.read_text().replace("port = 0", f"port = {free_port()}"))
    films.text_reader(host.path(WEIGHTS))
    films.write_films(host.path("/srv/films"))
    labels = host.path("/srv/films/labels.csv")
    labels.write_text(labels.read_text().replace("disc,other", "pneumonia,portable", 1))
    host.path("/srv/reports").mkdir()
    return host


def steps() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in STEP.finditer(README)]


def commands() -> list[str]:
    bodies = (body for language, body in steps() if language == "sh")
    return [line for body in bodies for line in body.splitlines()]


def shorter(command: str) -> str:
    return command + "".join(more for start, more in SHORTER.items() if command.startswith(start))


@pytest.mark.timeout(600)
def test_the_commands_work_in_the_order_of_the_readme(host: Sandbox) -> None:
    said: dict[str, str] = {}
    for language, body in steps():
        if language == "toml":
            configure(host, body)
        for command in body.splitlines() if language == "sh" else ():
            if command.startswith("triage replay --shadow"):
                receive_films(host)
            done = host.run(shorter(command))
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr
            said[command] = done.stdout
    assert "not supported" in next(text for key, text in said.items() if "calibrate" in key)
    config = load_config(host.path("/etc/triage/triage.toml"), {})
    assert [model.mode for model in config.models] == [Mode.SHADOW, Mode.SHADOW]
    record = load_bundle(host.path("/var/lib/triage/bundles/chest-1-local")).manifest.calibration
    assert record is not None
    assert "pneumonia" in record.refusals  # of so few films no sensitivity can be promised
    written = {path.name for path in host.path("/srv/reports").iterdir()}
    assert written == {"chest-1", "test-00.png", "waiting.png"}


def receive_films(host: Sandbox) -> None:
    """Let the daemon look at some films, so that served models and shadows have said something."""
    config = host.path("/etc/triage/triage.toml")
    pictures = sorted(host.path("/srv/films").glob("test-*.png"))
    learning_served.write_dicom(pictures, host.path("/srv/incoming"))
    port = load_config(config, {}).receiver.port
    with daemon(config, port):
        assert host.run(f"triage send --to 127.0.0.1:{port} /srv/incoming").returncode == 0
        until(lambda: shadowed(host) == len(pictures))


def shadowed(host: Sandbox) -> int:
    """Count the studies of which the shadow has said something; they wait for no shadow."""
    database = open_database(load_config(host.path("/etc/triage/triage.toml"), {}).database.url)
    try:
        with database.read() as connection:
            names = connection.execute(select(ResultRow.bundle_name)).scalars()
            return list(names).count("chest-1")
    finally:
        database.dispose()


def test_there_are_no_other_fenced_blocks() -> None:
    fences = re.findall(r"^```(\w*)\n", README, re.MULTILINE)
    assert set(fences) - {""} == {"sh", "toml", "csv"}


def test_commands_in_the_running_text_are_accepted_by_the_command_line() -> None:
    inline = [words for words in re.findall(r"`(triage [^`]+)`", README) if "STUDY" in words]
    assert inline
    for command in inline:
        parser().parse_args(shlex.split(command)[1:])


def test_the_example_of_labels_is_a_table_of_labels(tmp_path: Path) -> None:
    (example,) = (body for language, body in steps() if language == "csv")
    (tmp_path / "labels.csv").write_text(example)
    table = read_labels(tmp_path / "labels.csv")
    assert (table.findings, len(table.rows)) == (("pneumonia",), 3)


def test_the_counts_of_patients_are_those_of_the_program() -> None:
    assert "59 patients" in README
    assert "93 allow one miss" in README
    assert [needed_positives(0.95, misses) for misses in (0, 1)] == [59, 93]


def test_every_method_is_named() -> None:
    for name in METHODS:
        assert re.search(rf"`{name}\b|--method {name}\b", README), name


def test_the_map_names_every_file_of_the_room() -> None:
    told = section(README, "Map of this room")
    own = {path.name for path in ROOM.rglob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"`(\w+\.py)`", told))
    of_report = {name for name in own if name.startswith("report_")}
    methods = {path.name for path in (ROOM / "methods").glob("*.py")}
    assert own - named - of_report - methods == set()
    assert named <= own
    assert "`report_*.py`" in told
    rooms = {path.name for path in ROOM.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(re.findall(r"`(\w+)/`:", told))


def test_the_table_of_results_is_that_of_the_run() -> None:
    """Both markers stand, so that a run can write between them; the title says what it tests."""
    results = (ROOM / "RESULTS.md").read_text("utf-8")
    assert results.count(report.BEGIN) == results.count(report.END) == 1
    assert "test the tools, not the papers" in learning_table.TITLE
    assert learning_table.TITLE in results
