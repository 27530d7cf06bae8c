"""Commands of the program as processes of their own that need not import the libraries again.

A start of `python -m triage` that sees an image spends seconds on torch and transformers. Here one
process has imported them; for each command it forks a child that has the words, environment,
directory, streams and exit code of a command, and imports the program itself anew. What
measures a start, memory or threads, and a daemon, is started as users do, not here.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    "pydicom",
    "pynetdicom",
    "sqlalchemy",
    "scipy.stats",
    "sklearn.linear_model",
    "torch",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.siglip.modeling_siglip",
)
ONE_AT_A_TIME = threading.Lock()


def run(
    words: Sequence[str], *, directory: Path, environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run `triage` with these words to its end."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        job = {
            "words": [*words],
            "directory": str(directory),
            "environ": {**environ},
            "streams": [str(path) for path in streams],
        }
        with ONE_AT_A_TIME:
            server = _server()
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
            code = int(server.stdout.readline())
        stdout, stderr = (path.read_text("utf-8") for path in streams)
    return subprocess.CompletedProcess(["triage", *words], code, stdout, stderr)


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """Start the process that forks; it ends when its input does, with this one at the latest."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()  # so that no child copies the libraries to look for garbage in them
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            os._exit(_become(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(job: Mapping[str, Any]) -> int:
    """Be the command; return its exit code.

    Its own last words are called, the libraries are not taken down: that would copy them.
    """
    os.environ.clear()
    os.environ.update(job["environ"])
    os.chdir(job["directory"])
    for descriptor, path in enumerate((os.devnull, *job["streams"])):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.argv = ["triage", *job["words"]]
    code: object = 0
    try:
        runpy.run_module("triage", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(bool(code)) if not isinstance(code, int) else code


if __name__ == "__main__":
    _serve()
