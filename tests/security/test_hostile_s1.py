"""S1: what published advisories describe, done to the whole program under a system-call trace.

Objects of `bombs.advisories`, files of no honest kind in the watched folder, AE titles that a
shell or a path would read otherwise, and connections that come and go. Bounds: nothing hostile is
analysed; no file is made, renamed or opened for writing outside store, database and the folder's
own; no program is started; no connection is opened; every stored file has a clean preamble and may
not be run; under 256 MiB and 5 s each.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assurance import Evidence, requirement
from tests.flows.program import Program, until
from tests.ingest.raw_peer import REJECTED, calling, request
from tests.security.attacked import TracedProgram, attack, attacked, listing
from tests.security.bombs import SHELL, advisories, files
from tests.security.receivers import ours, store_s
from tests.security.test_hostile_s2 import fault_of
from tests.security.watching import descriptors, growing, threads

DROPS, DROPS_LONG = 300, 5000
CALM_MIB = 10.0
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
CALL = re.compile(r"^\d+ +(\w+)\((.*)$")
FAILED = re.compile(r"\) += -1 E\w+")
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
DIRECTORY = re.compile(r"(?:AT_FDCWD|\d+)<((?:[^<>]|\\.)*)>, $")
NAMING = {"creat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"}
NAMING |= {"mkdir", "mkdirat", "unlink", "unlinkat"}
PICKLED = re.compile(r"\.(bin|pt|pth|ckpt|pkl|pickle|joblib)\"")
LIBRARIES = "/site-packages/"  # Python has .pth files of its own there
SECRET = "secret.dcm"  # what DICOMDIR and link point at, outside of the folder
HARMLESS = ("/dev/null", "/dev/tty", "/proc/")

pytestmark = [
    pytest.mark.long_only,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the installation lies, and nothing else."""
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def program(sqlite_template: Path, outside: Path) -> Iterator[Program]:
    with attacked(outside / "house", sqlite_template, TracedProgram) as running:
        yield running


@requirement("M4", bound="no connection but local ones, no pickled file opened, from its start on")
def test_m4_a_start_fetches_nothing_and_opens_no_pickle(
    program: TracedProgram, evidence: Evidence
) -> None:
    calls = [
        (call[1], call[2])
        for line in program.trace.read_text("utf-8", "replace").splitlines()
        if (call := CALL.match(line))
    ]
    connected = [what for name, what in calls if name == "connect" and "AF_UNIX" not in what]
    opened = [what for name, what in calls if name in ("open", "openat")]
    pickled = [what for what in opened if PICKLED.search(what) and LIBRARIES not in what]
    evidence.record(trials=len(opened), losses=len(connected) + len(pickled))
    assert any(".safetensors" in what for what in opened)
    assert connected == []
    assert pickled == []


@pytest.mark.timeout(600)
@requirement("S1", bound="nothing written outside the store, nothing started, under every cap")
def test_s1_advisories_reach_nothing(
    program: TracedProgram, outside: Path, evidence: Evidence
) -> None:
    assert program.process is not None
    began = program.trace.read_text("utf-8", "replace").count("\n")
    before = listing(outside)
    fates = attack(program, advisories())
    titles = reach_by_titles(program)
    plant(program, outside)
    lines = program.trace.read_text("utf-8", "replace").splitlines()[began:]
    broken = [f"{fate.name}: {fault}" for fate in fates if (fault := fault_of(fate, long=False))]
    broken += [f"held: {fate.name}" for fate in fates if fate.held and "path" in fate.name]
    broken += titles + breaches(lines, program.directory)
    broken += [f"made: {path}" for path in listing(outside) - before if not is_own(path)]
    broken += stored_faults(program.directory / "store")
    largest = max(fates, key=lambda fate: fate.growth.worst_mib)
    evidence.record(
        trials=len(fates) + len(SHELL) + len(files()),
        losses=len(broken),
        worst=f"{largest.growth.worst_mib:.0f} MiB,"
        f" {max(fate.decided_s for fate in fates):.1f} s under the trace",
    )
    assert broken == []


@requirement("S1", bound="flat memory, threads and descriptors after connections that drop")
def test_s1_connections_that_come_and_go_leave_nothing(
    tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    drops = DROPS_LONG if long else DROPS
    said = request()
    with ours(tmp_path) as receiver:
        pid, port = receiver.pid, receiver.port
        assert store_s(port) is not None
        had = descriptors(pid), threads(pid)
        with growing(pid) as growth:
            for number in range(drops):
                with calling(port) as peer:
                    peer.say(said[: number % (len(said) + 1)])
            until(lambda: (descriptors(pid), threads(pid)) <= had, patience_s=20)
    evidence.record(trials=drops, worst=growth.told())
    assert growth.worst_mib < CALM_MIB, growth.told()


def reach_by_titles(program: Program) -> list[str]:
    """Associate as and with hostile titles (CVE-2026-5663); return what went wrong."""
    port, wrong = program.port(), []
    for title in (*SHELL, ".."):
        with calling(port) as peer:
            peer.say(request(calling=title[:16]))
            heard = peer.hear()
            if heard is None or heard[0] != 2:  # this machine may call itself what it likes
                wrong.append(f"calling title {title!r} ended the association")
        with calling(port) as peer:
            peer.say(request(called=title[:16]))
            if peer.hear() != (REJECTED, bytes((0, 1, 1, 7))):
                wrong.append(f"called title {title!r} was not rejected")
    return wrong


def plant(program: Program, outside: Path) -> None:
    """Put hostile files into the watched folder; wait until each was looked at."""
    secret = outside / SECRET
    secret.write_bytes(files()["elf.dcm"])
    for name, content in files().items():
        (program.watched / name).write_bytes(content)
    (program.watched / "link.dcm").symlink_to(secret)
    (program.watched / "folder").symlink_to("/etc")
    until(lambda: _looked_at(program) >= len(files()), patience_s=60)
    secret.unlink()


def _looked_at(program: Program) -> int:
    """Return how many files left a trace: an instance, a quarantined or a refused object."""
    log = program.log.read_text("utf-8", "replace").splitlines()
    return sum('"source": "folder"' in line for line in log)


def breaches(lines: list[str], own: Path) -> list[str]:
    """Return each call that started a program, connected, or named a path outside of `own`."""
    found = []
    for line in lines:
        if (call := CALL.match(line)) is None:
            continue
        name, arguments = call[1], call[2]
        if name == "execve" or (name == "connect" and "AF_UNIX" not in arguments):
            found.append(line)
        elif SECRET in arguments:
            found.append(f"looked at what a link or a directory names: {line}")
        elif FAILED.search(line):
            continue
        elif name in NAMING or (name in ("open", "openat") and WRITES.search(arguments)):
            found += [f"{name} {path}" for path in paths_of(arguments) if not within(path, own)]
    return found


def paths_of(arguments: str) -> list[Path]:
    """Return the paths of a call, made whole by the directory that goes before them (strace -y)."""
    found = []
    for match in PATH.finditer(arguments):
        directory = DIRECTORY.search(arguments[: match.start()])
        found.append(Path(directory[1] if directory else "/") / match[1])
    return found


def within(path: Path, own: Path) -> bool:
    whole = Path(os.path.normpath(path))
    return whole.is_relative_to(own) or str(whole).startswith(HARMLESS)


def is_own(path: str) -> bool:
    """Whether a path of the listing belongs to the installation."""
    return Path(path).parts[0] == "house"


def stored_faults(store: Path) -> list[str]:
    """Return what is wrong with stored files: foreign code in the preamble, leave to be run."""
    found = []
    for path in store.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        if path.stat().st_mode & 0o111:
            found.append(f"may be run: {path.name}")
        head = path.read_bytes()[:132]
        if "quarantine" not in path.parts and head[128:] == b"DICM" and any(head[:128]):
            found.append(f"foreign preamble: {path.name}")
    return found


BREACHES = (
    '7 execve("/bin/sh", ["sh", "-c", "touch owned"], 0x0) = 0',
    "7 connect(4<socket:[1]>, {sa_family=AF_INET, sin_port=htons(80)}, 16) = -1 EINPROGRESS",
    '7 openat(AT_FDCWD</work>, "/etc/owned", O_WRONLY|O_CREAT, 0600) = 3</etc/owned>',
    '7 openat(AT_FDCWD</house>, "../owned", O_WRONLY|O_CREAT, 0600 <unfinished ...>',
    '7 rename("/house/store/a", "/tmp/owned") = 0',
    '7 renameat(5</house>, "a", 6</srv>, "b") = 0',
    '7 openat(AT_FDCWD</house>, "/srv/secret.dcm", O_RDONLY) = 3</srv/secret.dcm>',
)
HONEST = (
    '7 openat(AT_FDCWD</house>, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>',
    '7 openat(5</house/store>, "a.part", O_RDWR|O_CREAT|O_EXCL, 0600) = 3</house/store/a.part>',
    '7 mkdirat(5</house/store>, "ab", 0700) = -1 EEXIST (File exists)',
    '7 connect(4<socket:[1]>, {sa_family=AF_UNIX, sun_path="/run/x"}, 110) = 0',
    "7 <... openat resumed>) = 3</srv/x>",
)


def test_what_counts_as_a_breach() -> None:
    own = Path("/house")
    assert [line for line in BREACHES if not breaches([line], own)] == []
    assert [line for line in HONEST if breaches([line], own)] == []
