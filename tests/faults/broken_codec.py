"""A codec that some objects break, inside the decoder processes of a real daemon and nowhere else.

The decoder imports `imagecodecs` as ever; a hook that Python itself offers (`sitecustomize`, on the
PYTHONPATH that the pool hands on) replaces its JPEG-LS decoder by one that obeys a mark at the end
of the code stream. So the process really dies of a signal, really hangs and really meets its limit
of memory.
"""

from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.dicom_files import make_dx

KILL, HANG, FILL = b"TRIAL-KILL", b"TRIAL-HANG", b"TRIAL-FILL"
HOOK = """
import importlib.abc, importlib.machinery, os, signal, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "imagecodecs":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            decode = module.jpegls_decode

            def obeying(data, *more, **named):
                if b"TRIAL-KILL" in data[-32:]:
                    os.kill(os.getpid(), signal.SIGSEGV)
                if b"TRIAL-HANG" in data[-32:]:
                    time.sleep(3600)
                if b"TRIAL-FILL" in data[-32:]:
                    import numpy
                    held = []
                    while True:
                        held.append(numpy.empty(64 << 20, numpy.uint8))
                return decode(data, *more, **named)

            module.jpegls_decode = obeying

        spec.loader.exec_module = exec_module
        return spec

if "triage.imaging.decode_process" in sys.orig_argv:
    sys.meta_path.insert(0, Finder())
"""


def install(directory: Path) -> Path:
    """Write the hook; return the folder that belongs on the PYTHONPATH of the daemon."""
    folder = directory / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder


def poison(mark: bytes, *, seed: int = 0) -> Dataset:
    """Return a radiograph whose code stream carries `mark`; nothing else is wrong with it."""
    pixels = np.random.default_rng(seed).integers(0, 4095, (128, 128), np.uint16)
    ds = make_dx(pixels, transfer_syntax=uid.JPEGLSLossless)
    import imagecodecs

    stream = imagecodecs.jpegls_encode(pixels)
    ds.PixelData = encapsulate([stream + mark + b"\0" * (len(stream + mark) % 2)])
    ds["PixelData"].is_undefined_length = True
    return ds


def floating(share: float, value: float, *, seed: int = 0) -> Dataset:
    """Return a radiograph of float pixels of which a share is NaN or infinite."""
    random = np.random.default_rng(seed)
    pixels = random.uniform(0, 4000, (128, 128)).astype(np.float32)
    pixels[random.random(pixels.shape) < share] = value
    return make_dx(pixels)
