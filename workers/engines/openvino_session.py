"""RapidOCR's networks computed by OpenVINO: in bfloat16 where the processor does, which ONNX Runtime's CPU kernels on
x86 do not, else in float32, which is no faster. benchmarks/RESULTS.md has the figures.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OpenVinoSession:
    """An ONNX file, called as RapidOCR calls its own sessions; by several threads at once, each with its own request.

    What it returns is overwritten by the same thread's next call.
    """

    def __init__(self, path: Path, precision: str, num_threads: int) -> None:
        """`precision`: bf16 or f32; `num_threads`: calls at once, each on a core of its own."""
        told = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": num_threads,
            "INFERENCE_NUM_THREADS": num_threads,
            "ENABLE_CPU_PINNING": False,  # several readers of a machine would take the same cores
        }
        self._model = _core().compile_model(path, "CPU", told)
        self._of_thread = threading.local()

    def __call__(self, images: NDArray[np.float32]) -> Any:
        """Images (count, 3, height, width) in, the network's one output."""
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._model.create_infer_request()
        request.infer([images], share_inputs=True)
        return request.get_output_tensor().data


def precision_here() -> str:
    """bf16 where this processor computes in it, else f32.

    Raises UsageError where OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise UsageError(
            "openvino is not installed; pip install 'pagepack[openvino]', or leave --ocr-runtime openvino out"
        )
    known: list[str] = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in known else "f32"


def _core() -> Any:
    """OpenVINO's devices.

    As it is imported it tells its makers so, over the network, and keeps a number for this user in their home: unless
    its package for that is not there.
    """
    sys.modules.setdefault("openvino_telemetry", ModuleType("openvino_telemetry"))
    import openvino

    return openvino.Core()
