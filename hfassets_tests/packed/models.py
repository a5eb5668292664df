"""Tiny models with random weights, on the tokenizer of the sample Hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hfassets.demo.hub_model import VOCABULARY, write_tokenizer
from hfassets.packed.teacher import usable_transformers

_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def save_model(folder: Path, kind: str = "Llama", *, tokenizer: Path | None = None, **given: Any) -> Any:
    """A model, saved with safetensors, and the tokenizer beside it."""
    transformers = usable_transformers()
    import torch

    torch.manual_seed(given.pop("seed", 0))
    config = getattr(transformers, f"{kind}Config")(**{"vocab_size": VOCABULARY, **_TINY, **given})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    # Of tokens that are all alike, nobody could tell which come first.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    model.save_pretrained(folder)
    if tokenizer is not None:
        shutil.copyfile(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    return model


def save_tokenizer(folder: Path) -> Path:
    """The sample Hub's."""
    folder.mkdir()
    write_tokenizer(folder)
    return folder
