"""What is sent, and by whom: CT- and DX-size objects as files, DCMTK's dcmsend as the sender."""

import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

from tests.dicom_files import make_ct_slice, make_dx, make_image, to_bytes

CT_PX = (512, 512)  # 0.5 MB of 16 bits
DX_PX = (2560, 2048)  # 10 MB
MULTI_FRAME_GRAYSCALE_WORD = "1.2.840.10008.5.1.4.1.1.7.3"
FRAME_BYTES = 2 * CT_PX[0] * CT_PX[1]
PATIENCE_S = 900.0


def write_ct(folder: Path, count: int) -> Path:
    """One series of noise, which no file system makes smaller."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    shared = {"study_instance_uid": generate_uid(), "series_instance_uid": generate_uid()}
    for number in range(count):
        plane = noise.integers(-1000, 1000, CT_PX, dtype=np.int16)
        ds = make_ct_slice(plane, position_mm=5.0 * number, InstanceNumber=number + 1, **shared)
        (folder / f"ct{number:04}.dcm").write_bytes(to_bytes(ds))
    return folder


def write_dx(folder: Path, count: int) -> Path:
    """Studies of one radiograph each."""
    folder.mkdir()
    noise = np.random.default_rng(1)
    for number in range(count):
        ds = make_dx(noise.integers(0, 4096, DX_PX, dtype=np.uint16))
        (folder / f"dx{number:04}.dcm").write_bytes(to_bytes(ds))
    return folder


def write_multi_frame(path: Path, frames: int) -> Path:
    """One object of `frames` CT-size frames, written without being held in memory."""
    ds = make_image(
        np.zeros(CT_PX, np.uint16),
        sop_class_uid=MULTI_FRAME_GRAYSCALE_WORD,
        modality="XA",
        NumberOfFrames=frames,
    )
    del ds.PixelData
    frame = np.random.default_rng(2).integers(0, 4096, CT_PX, dtype="<u2").tobytes()
    with path.open("wb") as file:
        file.write(to_bytes(ds))
        # (7FE0,0010) OW with a length of 32 bits, PS3.5 7.1.2
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, frames * len(frame)))
        for _ in range(frames):
            file.write(frame)
    return path


def split(folder: Path, into: Path, shares: int) -> list[Path]:
    """Link every file into one of `shares` folders, in turn; return the folders."""
    folders = [into / f"share{number}" for number in range(shares)]
    for share in folders:
        share.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        (folders[number % shares] / path.name).hardlink_to(path)
    return folders


def size_bytes(*folders: Path) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir())


def warm(*folders: Path) -> None:
    """Read all files, so that no run reads them from the disk."""
    for folder in folders:
        for path in folder.iterdir():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def send(shares: Sequence[Path], port: int, *, apart_s: float = 0.0) -> float:
    """Send each share on an association of its own, all at once; return the seconds to the last.

    With `apart_s` each begins that much after the one before. Raises RuntimeError if a sender
    fails.
    """
    started = time.monotonic()
    running = []
    for number, share in enumerate(shares):
        if number:
            time.sleep(apart_s)
        command = ["dcmsend", "-aec", "TRIAGE", "+sd", "127.0.0.1", str(port), str(share)]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    codes = [process.wait(PATIENCE_S) for process in running]
    took_s = time.monotonic() - started
    if any(codes):
        raise RuntimeError(f"dcmsend failed (exit codes {codes})")
    return took_s


def require_held(folder: Path, count: int) -> None:
    """Raise RuntimeError unless at least `count` objects lie below `folder`."""
    held = sum(1 for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 100_000)
    if held < count:
        raise RuntimeError(f"{held} of {count} objects are held")


def clear(folder: Path) -> None:
    shutil.rmtree(folder)
