"""What deploy/INTEGRATION.md says of reading and watching is tried: queries, JSON, monitoring."""

import json
import re
import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.entries import finding
from tests.conftest import run_on_server
from tests.database.table_rows import add_study
from tests.database.test_reading import ENTRY
from tests.deploy.documents import (
    Sandbox,
    block,
    blocks,
    configure,
    free_port,
    make_host,
    needs,
    read,
    section,
    table,
)
from tests.dicom_files import make_dx
from tests.flows.program import Program, until
from triage.config import Config, load_config
from triage.database.connection import Database, open_database
from triage.database.url import PostgresTarget, parse_url
from triage.pocket.phantoms import generate

GUIDE = read("INTEGRATION.md")
LANGUAGES = {"sh", "toml", "json", "lua", "sql", "yaml", "ini", "text"}
Row = tuple[Any, ...]


def test_every_block_has_a_kind_that_is_tried_here() -> None:
    assert set(re.findall(r"^```(\w+)\n", GUIDE, re.MULTILINE)) == LANGUAGES


# --- section 6: the view on PostgreSQL, as the reader that the guide makes


@pytest.fixture
def reader(postgres_url: str) -> Iterator[Callable[[str], list[Row]]]:
    """Run statements as the login of the guide."""
    import pg8000.native

    run_on_server(postgres_url, block(GUIDE, "sql", "IN ROLE triage_reader"))
    target = parse_url(postgres_url.replace("postgres@", "ris@"))
    assert isinstance(target, PostgresTarget)
    connection = pg8000.native.Connection(**target.arguments(application_name="", timeout_s=60))
    yield lambda statement: [tuple(row) for row in connection.run(statement)]
    connection.close()
    run_on_server(postgres_url, "DROP ROLE ris")


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    opened = open_database(postgres_url)
    yield opened
    opened.dispose()


def query(lead: str) -> str:
    """Return the query that follows a sentence of the guide."""
    rest = section(GUIDE, "Queries").split(lead, 1)[1]
    return blocks(rest, "sql")[0]


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def fill(db: Database) -> None:
    """A flagged STAT, a calm one that waits long, a failed one, one acknowledged, one of old."""
    hit, miss = finding("pneumothorax", 0.93, flagged=True), finding("nodule", 0.1, flagged=False)
    since = {"received_at": ago(30), "waiting_since": ago(30)}
    add_study(
        db, "1.1", accession_number="A1", priority="STAT", priority_source="model",
        flagged_at=ago(20), analysed_at=ago(20), findings=[hit, miss], sort_key="1",
        sender_ae_title="CR1", number_of_study_related_instances=2, images_eligible=2,
        images_analysed=2, **since,
    )  # fmt: skip
    add_study(
        db, "1.2", accession_number="A2", sort_key="2", sender_ae_title="CR1",
        received_at=ago(90_000), waiting_since=ago(7300), findings=[miss],
        number_of_study_related_instances=1, images_eligible=1, images_analysed=1,
    )  # fmt: skip
    add_study(
        db, "1.3", accession_number="A3", sort_key="3", sender_ae_title="CT1",
        analysis="failed", analysis_reason="failed: the decoder died", images_eligible=1,
        number_of_study_related_instances=300, **since,
    )  # fmt: skip
    add_study(
        db, "1.4", accession_number="A4", sort_key=None, state="acknowledged", priority="STAT",
        flagged_at=ago(10), acknowledged_at=ago(1), acknowledged_by="jdoe", findings=[hit],
        sender_ae_title="CT1", number_of_study_related_instances=1, **since,
    )  # fmt: skip


def test_the_queries_answer_their_questions(
    postgres: Database, reader: Callable[[str], list[Row]]
) -> None:
    fill(postgres)
    assert [row[1] for row in reader(query("Flagged STAT studies"))] == ["A1"]
    assert [(row[1], row[3]) for row in reader(query("Waiting for over"))] == [("A2", 121)]
    senders = reader(query("Per sender today"))
    assert [row[:4] for row in senders] == [("CR1", 1, 1, 2), ("CT1", 2, 1, 301)]
    assert reader(query("Not analysed, and why")) == [("failed", "failed: the decoder died", 1)]
    ((modality, studies, p50_s, p95_s),) = reader(query("From the first image to the flag"))
    assert (modality, studies) == ("DX", 2)
    assert 10 <= p50_s <= p95_s <= 21
    assert reader(query("Flagged findings")) == [(1, "A1", "pneumothorax", 0.93)]


def test_every_query_of_the_guide_is_tried() -> None:
    assert len(blocks(section(GUIDE, "Queries"), "sql")) == 6


def test_the_reader_may_read_the_view_and_no_table(
    postgres: Database, reader: Callable[[str], list[Row]]
) -> None:
    from pg8000.exceptions import DatabaseError

    assert reader("SELECT count(*) FROM worklist") == [(0,)]
    with pytest.raises(DatabaseError, match="permission denied"):
        reader("SELECT count(*) FROM studies")


def test_an_administrator_can_make_the_role_by_hand(postgres_url: str) -> None:
    made = block(GUIDE, "sql", "CREATE ROLE triage_reader").replace("triage_reader", "by_hand")
    run_on_server(postgres_url, *filter(str.strip, made.split(";")))
    run_on_server(postgres_url, "SET ROLE by_hand", "SELECT count(*) FROM worklist")
    run_on_server(postgres_url, "DROP OWNED BY by_hand", "DROP ROLE by_hand")


def columns() -> list[list[str]]:
    return table(section(GUIDE, "Columns"))


def test_the_table_of_columns_is_the_contract_with_the_types_of_postgresql(
    postgres: Database, reader: Callable[[str], list[Row]]
) -> None:
    assert [row[0] for row in columns()] == ENTRY.split()
    types = reader(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
        " WHERE a.attrelid = 'worklist'::regclass AND a.attnum > 0 ORDER BY a.attnum"
    )
    assert [(row[0], row[1]) for row in columns()] == types


# --- sections 7 and 8: a running daemon


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[tuple[Program, Sandbox]]:
    """The demonstration with one flagged study, configured where the check line looks."""
    directory = tmp_path_factory.mktemp("daemon")
    shutil.copyfile(sqlite_template, directory / "triage.sqlite")
    program = Program(directory, f"sqlite:///{directory}/triage.sqlite")
    host = Sandbox(directory=directory)
    configure_daemon(program, host)
    program.start()
    try:
        phantom = generate(1, finding="pneumothorax", size_px=256)
        chest = make_dx(phantom.pixels, bits_stored=phantom.bits_stored)
        assert program.send([chest], ae_title="CR_ROOM_1") == [0x0000]
        until(lambda: all(study["caption"] for study in program.worklist().values()))
        yield program, host
    finally:
        program.stop()


def configure_daemon(program: Program, host: Sandbox) -> None:
    with program.configuration.open("a") as file:
        file.write(f"\n{block(GUIDE, 'toml', '[metrics]')}port = {free_port()}\n")
    place = host.path("/etc/triage/triage.toml")
    place.parent.mkdir(parents=True)
    place.symlink_to(program.configuration)


def entry(program: Program) -> dict[str, Any]:
    (study,) = json.loads(program.call("worklist", "--json").stdout)["studies"]
    assert isinstance(study, dict)
    return study


def test_the_examples_have_the_types_of_real_output(daemon: tuple[Program, Sandbox]) -> None:
    found = entry(daemon[0])
    assert list(found) == ENTRY.split()
    for name, _, _, example, _ in columns():
        assert type(found[name]) in (type(json.loads(example)), type(None)), name
    shown = {"findings": "operating_point", "models": "digest"}
    for name, holding in shown.items():
        example = json.loads(block(GUIDE, "json", f'"{holding}"'))
        assert {key: type(value) for key, value in found[name][0].items() if value is not None} == {
            key: type(value)
            for key, value in example.items()
            if key != "code" or found[name][0]["code"]
        }
    assert found["state"] in columns()[26][4]


@needs("jq")
def test_every_line_over_json_answers(daemon: tuple[Program, Sandbox]) -> None:
    program, host = daemon
    uid = entry(program)["study_instance_uid"]
    lines = block(GUIDE, "sh", "triage worklist --json").splitlines()
    answers = []
    for line in lines:
        done = host.run(line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        answers.append(done.stdout.strip())
    first, long_waiting, by_sender, not_analysed, latency = answers
    assert first.split("\t")[3] == uid
    assert long_waiting == "0"
    assert json.loads(by_sender) == {"CR_ROOM_1": 1}
    assert not_analysed == ""
    assert json.loads(latency)["DX"]["count"] == 1


def check_line() -> str:
    """Return the command of NRPE without the change of user, which tests may not need."""
    line = block(GUIDE, "ini", "check_triage").strip().partition("=")[2]
    assert line.startswith("/usr/bin/sudo -n ")
    command = line.removeprefix("/usr/bin/sudo -n ")
    assert f"NOPASSWD: {command}\n" in block(GUIDE, "text", "NOPASSWD")
    assert f'"sudo -n {command}"' in block(GUIDE, "text", "check_by_ssh")
    return command


def plugin_states() -> dict[int, str]:
    return {int(row[0]): row[1] for row in table(section(GUIDE, "Nagios and Icinga"))}


def test_the_check_is_ok_beside_a_daemon_at_work(daemon: tuple[Program, Sandbox]) -> None:
    until(lambda: daemon[0].status()["health"] == "ok")
    done = daemon[1].run(check_line())
    assert done.returncode == 0
    assert done.stdout.startswith(plugin_states()[0])
    assert "|" not in done.stdout.splitlines()[0]  # would begin performance data


@pytest.mark.parametrize("code", [1, 2, 3])
def test_the_check_has_the_exit_code_and_first_line_of_the_table(
    code: int, tmp_path: Path, sqlite_url: str
) -> None:
    host = make_host(tmp_path, sqlite_url)
    if code == 1:
        program = Program(tmp_path, sqlite_url, demonstration=False)
        shutil.copy(program.configuration, host.path("/etc/triage/triage.toml"))
        program.start()
        try:
            until(lambda: program.status()["health"] == "degraded")
            done = host.run(check_line())
        finally:
            program.stop()
    elif code == 2:
        done = host.run(check_line())
    else:
        configure(host, "not = toml = at all")
        done = host.run(check_line())
    assert done.returncode == code
    first = done.stdout.splitlines()[0] if done.stdout else "nothing but a sentence"
    assert first.split(":")[0] in plugin_states()[code]


def test_the_scrape_finds_the_port_and_every_metric_of_the_alerts(
    daemon: tuple[Program, Sandbox],
) -> None:
    scrape, alerts = (yaml.safe_load(body) for body in blocks(GUIDE, "yaml"))
    default = Config().metrics
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == [
        f"{default.host}:{default.port}"
    ]
    port = load_config(daemon[0].configuration, {}).metrics.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        exposed = answer.read().decode()
    rules = [rule["expr"] for rule in alerts["groups"][0]["rules"]]
    named = re.findall(r"`(triage_\w+)\{", GUIDE)
    names = set(re.findall(r"triage_\w+", " ".join([*rules, *named])))
    assert len(names) == 4
    for name in names:
        assert re.search(rf"^{name}[ {{]", exposed, re.MULTILINE), name
    assert daemon[0].call("metrics").stdout.splitlines()[0] == exposed.splitlines()[0]


def test_a_database_that_cannot_be_reached_is_unknown_and_still_has_its_headline(
    tmp_path: Path,
) -> None:
    host = make_host(tmp_path, f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    done = host.run(check_line())
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].split(":")[0] in plugin_states()[3]


@needs("jq")
def test_the_line_over_the_log_shows_what_went_wrong(daemon: tuple[Program, Sandbox]) -> None:
    program, host = daemon
    port = program.port()
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.settimeout(10)
        stranger.recv(100)
    line = block(GUIDE, "sh", "journalctl")
    journal = re.match(r"journalctl [^|]*", line)
    assert journal
    lines = line.replace(journal[0], f"cat {program.log} ")
    assert until(lambda: host.run(lines).stdout)
    for each in map(json.loads, program.log.read_text().splitlines()[:5]):
        assert {"event", "level", "logger", "timestamp"} <= set(each)


def test_documents_that_are_named_exist() -> None:
    for name in set(re.findall(r"`([A-Z]+\.md)`", GUIDE)):
        assert (Path(__file__).parents[2] / "deploy" / name).is_file(), name
