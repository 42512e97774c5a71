"""vLLM's CPU build as one more row of `bench_engine`: it runs under an interpreter of its own, for it pins its torch.

    benchmarks.bench_engine --vllm-python /path/to/venv/bin/python

`Vllm` starts this file there, which loads the same checkpoint once, reads the same tokens and pixels, and then times
all pages at once whenever a line comes in. Prefixes and processed images are not kept from one round to the next.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Vllm:
    """A child process with the model loaded and warm."""

    def __init__(self, python: Path, folder: Path, requests: list[Any], dtype: str) -> None:
        import torch

        pages = [(list(request.tokens), request.images[0].pixels.tolist()) for request in requests]
        with tempfile.NamedTemporaryFile(delete=False) as file:
            pickle.dump(pages, file)
        settings = {
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as the others, who leave their threads to the kernel
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, whose processor time is all of it
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_NO_USAGE_STATS": "1",
        }
        tokens = requests[0].sampling.max_tokens
        arguments = [str(python), "-P", __file__, str(folder), file.name, dtype, str(tokens)]
        self.process = subprocess.Popen(
            arguments, env=os.environ | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == {"ready": True}
        Path(file.name).unlink()

    def run(self) -> dict[str, Any]:
        """Seconds, processor seconds, tokens of each page."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        """The next line that is ours: vLLM itself prints to the same place."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"vLLM ended with {self.process.wait()}; its words are above")


def _serve(folder: str, pages: str, dtype: str, max_tokens: int) -> None:
    import numpy as np
    from PIL import Image
    from vllm import LLM, SamplingParams

    model = LLM(
        model=folder, tokenizer_mode="mistral", config_format="mistral", load_format="mistral", dtype=dtype,
        max_model_len=4096, max_num_seqs=16, enable_prefix_caching=False, mm_processor_cache_gb=0,
        limit_mm_per_prompt={"image": 1}, seed=0,
    )  # fmt: skip
    with open(pages, "rb") as file:
        prompts = [
            {
                "prompt_token_ids": tokens,
                "multi_modal_data": {"image": Image.fromarray(np.asarray(pixels, np.uint8))},
            }
            for tokens, pixels in pickle.load(file)
        ]
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, min_tokens=max_tokens, ignore_eos=True)
    model.generate(prompts[:1], sampling, use_tqdm=False)
    model.generate(prompts, sampling, use_tqdm=False)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        results = model.generate(prompts, sampling, use_tqdm=False)
        times = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps({**times, "tokens": [list(one.outputs[0].token_ids) for one in results]}), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
