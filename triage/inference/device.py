"""Devices: which one, in which arithmetic, and what its errors mean.

Errors of the device are told apart by kind, because what helps differs: a batch that does not
fit is made smaller; a broken CUDA context never recovers within the process, which has to end;
anything else belongs to the input. They are raised after the `except` block has ended: inside
it the traceback would keep the tensors alive whose memory is needed.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import torch

from triage.errors import ConfigError, DeviceFault, DeviceOutOfMemory, InferenceError, TriageError

T = TypeVar("T")
CPU_OUT_OF_MEMORY = re.compile(r"not enough memory|can't allocate memory|bad_alloc", re.IGNORECASE)
CUDA_FAULT = re.compile(r"\bCUDA\b|\bcu(?:BLAS|DNN)", re.IGNORECASE)
DEVICE = "It is auto, cpu, cuda or cuda:N: correct --device, or devices in [[models]]."
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; raises ConfigError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not known", hint=DEVICE) from error
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device {name!r} is neither cpu nor cuda", hint=DEVICE)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} does not exist: torch sees {torch.cuda.device_count()} GPUs",
            hint="Correct --device, or devices in [[models]], or install the CUDA build of torch.",
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU; float16 overflows in Gemma 3."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ConfigError(
            f"dtype {name!r} is not auto, {' or '.join(DTYPES)}",
            hint="Correct --dtype, or [inference] dtype in triage.toml.",
        )
    return DTYPES[name]


def device_class(device: torch.device) -> str:
    """Kind of hardware a known answer holds for: `cpu`, or `cuda-` and compute capability."""
    if device.type == "cpu":
        return "cpu"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda-{major}.{minor}"


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` or `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def on_device(work: Callable[[], T], *, final: bool = True) -> T:
    """Run `work` without gradients; raises DeviceOutOfMemory, DeviceFault or InferenceError.

    With `final` no tensor that it makes can ever take part in a gradient: not for weights.
    """
    failure: TriageError
    try:
        with torch.inference_mode() if final else torch.no_grad():
            return work()
    except (RuntimeError, MemoryError) as error:
        failure = classify_failure(error)
    if isinstance(failure, DeviceOutOfMemory) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise failure


def classify_failure(error: Exception) -> TriageError:
    """Tell what kind of trouble an error of torch is. Its text holds no patient data."""
    first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or CPU_OUT_OF_MEMORY.search(
        first_line
    ):
        return DeviceOutOfMemory("the batch did not fit the memory of the device")
    if isinstance(error, torch.AcceleratorError) or CUDA_FAULT.search(first_line):
        return DeviceFault(f"the device failed: {first_line}")
    return InferenceError(f"the model failed on this image: {first_line}")
