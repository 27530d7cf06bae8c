"""The decoder process: `python -m triage.imaging.decode_process SOCKET MEMORY_MIB`.

One request, one answer, over the socket that the pool handed down; float arrays travel in a
memory file (memfd) that comes with the request. Before anything hostile is read, the process
gives up the network, growth of memory and files, core dumps and new privileges, and asks to die
with its parent. Nothing of an object is printed: the standard streams lead nowhere.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

FRAME: Final = struct.Struct("<L")  # length of the JSON that follows
MAXIMUM_MESSAGE_BYTES: Final = 64 << 20

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    confine(int(sys.argv[2]))
    _forget_streams()
    serve(channel)


# --- confinement


def confine(memory_mib: int) -> None:
    """Give up what decoding does not need; what the kernel refuses is done without.

    Called before numpy is imported: a process with threads may not enter a user namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Containers and hardened kernels may forbid this; the unit file shuts the network as well.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    limit = memory_mib << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # also bounds memory files
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds the image


def _forget_streams() -> None:
    """Codecs write to the standard streams, and what they write may identify a patient."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


# --- protocol


def serve(channel: socket.socket) -> None:
    """Answer requests until the pool hangs up, or until one has broken this process."""
    import triage.imaging.subject  # noqa: F401 - slow; a task's deadline starts after it

    send(channel, {"ready": os.getpid()})
    while True:
        request, memory_fd = receive(channel)
        if request is None:
            return
        try:
            answer = _answer(request, memory_fd)
        except MemoryError:
            send(channel, {"crashed": "ran out of memory"})
            return  # the heap is exhausted or in pieces
        finally:
            if memory_fd is not None:
                os.close(memory_fd)
        send(channel, answer)


def _answer(request: dict[str, Any], memory_fd: int | None) -> dict[str, Any]:
    """Top of the process: any other exception is a fault of this program, told by its place."""
    from triage.errors import DecodeError, StoreError
    from triage.imaging.subject import decode_subject

    task = _task(request)
    try:
        subject = decode_subject(task)
    except (DecodeError, StoreError) as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        return {"crashed": f"met {type(error).__name__} {_place(error)}"}
    views, offset = [], 0
    for spec, array in subject.views.items():
        if memory_fd is not None:
            os.pwrite(memory_fd, array.data, offset)
        views.append({"shape": array.shape, "digests": subject.view_digests[spec]})
        offset += array.nbytes
    facts = {name: getattr(subject.facts, name) for name in subject.facts.__slots__}
    return {
        "views": views,
        "refused": [subject.refused.get(spec, "") for spec in task.specs],
        "pixel_digests": subject.pixel_digests,
        "facts": facts,
    }


def _place(error: BaseException) -> str:
    """Module and line where `error` arose: its text may quote the object."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "somewhere"
    return f"in {Path(trace.tb_frame.f_code.co_filename).stem} line {trace.tb_lineno}"


def _task(request: dict[str, Any]) -> Any:
    from triage.imaging.dataset import DecodeLimits
    from triage.imaging.subject import DecodeTask
    from triage.records import ViewSpec

    return DecodeTask(
        paths=tuple(map(Path, request["paths"])),
        specs=tuple(ViewSpec(**spec) for spec in request["specs"]),
        limits=DecodeLimits(**request["limits"]),
    )


def send(channel: socket.socket, message: dict[str, Any], memory_fd: int | None = None) -> None:
    """One message; `memory_fd` travels beside it (SCM_RIGHTS)."""
    body = json.dumps(message).encode()
    if memory_fd is None:
        channel.sendall(FRAME.pack(len(body)))
    else:
        socket.send_fds(channel, [FRAME.pack(len(body))], [memory_fd])
    channel.sendall(body)


def receive(
    channel: socket.socket, *, deadline_s: float | None = None
) -> tuple[dict[str, Any] | None, int | None]:
    """One message and the descriptor that came with it; (None, None) at the end of the stream.

    Raises ValueError for a message that is no JSON object or too long, TimeoutError at
    `deadline_s` of the monotonic clock, however slowly the message comes.
    """
    _limit(channel, deadline_s)
    head, fds, _flags, _address = socket.recv_fds(channel, FRAME.size, 1)
    memory_fd = fds[0] if fds else None
    head += _exactly(channel, FRAME.size - len(head), deadline_s) if head else b""
    if len(head) < FRAME.size:
        return None, memory_fd
    (length,) = FRAME.unpack(head)
    if length > MAXIMUM_MESSAGE_BYTES:
        raise ValueError("The message is too long.")
    body = _exactly(channel, length, deadline_s)
    if len(body) < length:
        return None, memory_fd
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("The message is no object.")
    return message, memory_fd


def _limit(channel: socket.socket, deadline_s: float | None) -> None:
    if deadline_s is None:
        return
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    channel.settimeout(left_s)


def _exactly(channel: socket.socket, count: int, deadline_s: float | None) -> bytes:
    """`count` bytes, fewer only at the end of the stream."""
    parts = []
    while count > 0:
        _limit(channel, deadline_s)
        part = channel.recv(min(count, 1 << 20))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
