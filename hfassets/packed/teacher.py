"""A causal language model that says what it expects behind each token.

Invariant: what is said of a position is what one forward pass over its row alone would say, within the precision of
the numbers; no code that comes with a model is run, no pickled weights are read. torch is imported with a model.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hfassets.errors import DataError, UsageError

DType = Literal["auto", "bfloat16", "float32"]
_HEAD_BYTES = 16 << 20
"""Logits that are looked at in one go: those of all tokens of a batch can be more than a device has."""
_PROBED = 8
_LARGE = 4096.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected behind each of n positions, by k tokens: `ids` int32 and `logprobs` float32 of shape (n, k), the
    likeliest first; `rest` float32 of shape (n,), the mass of all other tokens; `followed` float32 of shape (n,), the
    log-probability of a given token, nan where none is given.
    """

    ids: Any
    logprobs: Any
    rest: Any
    followed: Any


class Teacher:
    """A model on a device. `dtype` auto: bfloat16 on a GPU that has it, else float32. `threads`: of the process from
    now on, None = as torch has it.

    Raises UsageError when torch is not installed, DataError for a folder that has no such model.
    """

    def __init__(
        self, path: Path, name: str, dtype: DType = "auto", device: str = "auto", threads: int | None = None
    ) -> None:
        check_torch()
        import torch

        if threads is not None:
            torch.set_num_threads(threads)

        self.device = _device(device)
        fast = self.device.startswith("cuda") and torch.cuda.is_bf16_supported()
        self.dtype = "bfloat16" if dtype == "bfloat16" or (dtype == "auto" and fast) else "float32"
        self._model = load_causal_model(path, name, getattr(torch, self.dtype)).to(self.device).eval()
        self._body = self._model.base_model
        self._head = self._model.get_output_embeddings()
        self.sliced = self._head_stands_alone()

    @property
    def vocab_size(self) -> int:
        """Tokens that it can say."""
        return int(self._head.weight.shape[0])

    def expect(self, ids: Any, lengths: Any, wanted: Any, followers: Any, k: int, temperature: float = 1.0) -> Expected:
        """What is expected behind the wanted positions, row by row.

        `ids`: int32 of shape (rows, tokens), padded behind `lengths`; `wanted`: booleans, `followers`: the token behind
        each position or -1, of the same shape.
        """
        import torch

        with torch.inference_mode():
            tokens = torch.from_numpy(ids.astype(np.int64)).to(self.device)
            mask = None
            if int(lengths.min()) < ids.shape[1]:
                there = np.arange(ids.shape[1])[None, :] < lengths[:, None]
                mask = torch.from_numpy(there.astype(np.int64)).to(self.device)
            chosen = torch.from_numpy(wanted).to(self.device)
            behind = torch.from_numpy(followers[wanted].astype(np.int64)).to(self.device)
            blocks: Iterator[Any]
            if self.sliced:
                states = self._body(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state[chosen]
                step = max(1, _HEAD_BYTES // (4 * self.vocab_size))
                blocks = (self._head(states[start : start + step]) for start in range(0, len(states), step))
            else:
                step = int(wanted.sum())
                blocks = iter([self._model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[chosen]])
            found = [
                _summed_up(logits, behind[number * step : (number + 1) * step], k, temperature)
                for number, logits in enumerate(blocks)
            ]
            return Expected(*(np.concatenate([one[place] for one in found]) for place in range(4)))

    def _head_stands_alone(self) -> bool:
        """Whether the logits are what the output layer makes of the body's states; some models scale or cap them."""
        import torch

        if self._head is None or self._body is self._model:
            raise DataError(f"{type(self._model).__name__}: a model without an output layer; choose a causal one")
        # A cap hardly changes small logits, and these here may all be small: they are made large, by a power of two.
        large = self._head.register_forward_hook(lambda _module, _given, logits: logits * _LARGE)
        try:
            with torch.inference_mode():
                tokens = torch.arange(min(_PROBED, self.vocab_size), device=self.device)[None, :]
                expected = self._model(input_ids=tokens, use_cache=False).logits
                found = self._head(self._body(input_ids=tokens, use_cache=False).last_hidden_state)
                return torch.equal(found, expected)
        finally:
            large.remove()


def check_torch() -> None:
    """Raise UsageError when torch or transformers is not installed."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"a teacher needs {' and '.join(missing)}: pip install 'hfassets[teacher]'")


def gpu_count() -> int:
    """How many processes have a model each: as many as there are GPUs, else one.

    Raises UsageError when torch is not installed.
    """
    check_torch()
    import torch

    return max(1, torch.cuda.device_count())


def gpu_of(process: str, count: int) -> int:
    """Which of several GPUs a worker process takes, by its name in the pool: they come one after the other."""
    number = process.rpartition("-")[2]
    return (int(number) - 1) % count if number.isdecimal() and int(number) else 0


def _device(wanted: str) -> str:
    import torch

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here")
    return f"cuda:{gpu_of(multiprocessing.current_process().name, torch.cuda.device_count())}"


def load_causal_model(path: Path, name: str, dtype: Any = None) -> Any:
    """A causal language model of a folder, by transformers; `dtype`: a torch dtype, None = as its config says.

    Raises UsageError when torch is not installed, DataError for what cannot be loaded without running foreign code.
    """
    transformers = usable_transformers()
    if not list(path.glob("*.safetensors")):
        raise DataError(f"{name}: no *.safetensors in it; weights in other forms are not read, they can hold programs")
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype or "auto", use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise DataError(f"{name}: transformers cannot load it: {' '.join(str(error).split())[:300]}") from error


def usable_transformers() -> Any:
    """The library, whatever became of a torchvision beside it; raises UsageError when torch is not installed.

    The torchvision of PyPI is built for CUDA and fails to load beside a CPU build of torch; transformers then fails as
    well, though no language model has a use for it.
    """
    check_torch()
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        vars(importlib.import_module("transformers.utils.import_utils"))["_torchvision_available"] = False
    return importlib.import_module("transformers")


def _summed_up(logits: Any, behind: Any, k: int, temperature: float) -> tuple[Any, Any, Any, Any]:
    """Ids, log-probabilities, rest and log-probability of a token, from logits of shape (n, vocabulary)."""
    import torch

    logits = logits.float()
    if temperature != 1:
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    top, ids = torch.topk(logprobs, min(k, logits.shape[-1]), dim=-1)
    rest = (1 - top.double().exp().sum(dim=-1)).clamp(min=0).float()
    given = behind.clamp(min=0)
    followed = logprobs.gather(1, given[:, None])[:, 0]
    followed[behind < 0] = float("nan")
    return tuple(one.cpu().numpy() for one in (ids.int(), top, rest, followed))  # type: ignore[return-value]
