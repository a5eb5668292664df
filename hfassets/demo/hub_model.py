"""A small language model as a repo: a byte-level BPE tokenizer trained on the standard library, and random weights.

Invariant: for one installed Python vocabulary, merges and weights are always the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hfassets.demo.hub_corpus import passages
from hfassets.demo.hub_repos import write_readme

VOCABULARY = 4096
END = "<|endoftext|>"


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json, config.json, as transformers reads them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, "<|padding|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for _, text in passages()[::4]), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": END, "eos_token": END, "unk_token": END}
    _write(folder / "special_tokens_map.json", special)
    _write(
        folder / "tokenizer_config.json",
        {**special, "add_prefix_space": False, "model_max_length": 2048, "tokenizer_class": "GPTNeoXTokenizer"},
    )
    _write(
        folder / "config.json",
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "max_position_embeddings": 2048,
            "vocab_size": VOCABULARY,
        },
    )
    write_readme(folder, {"license": "apache-2.0", "language": ["en"]}, "A small language model with random weights.")


def write_model(folder: Path) -> None:
    """The tokenizer, and the weights that its config tells of, as transformers names them."""
    write_tokenizer(folder)
    config = orjson.loads((folder / "config.json").read_bytes())
    width, inner, count = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in": (VOCABULARY, width)}
    for layer in range(count):
        name = f"gpt_neox.layers.{layer}"
        shapes |= {f"{name}.attention.query_key_value": (3 * width, width), f"{name}.attention.dense": (width, width)}
        shapes |= {f"{name}.mlp.dense_h_to_4h": (inner, width), f"{name}.mlp.dense_4h_to_h": (width, inner)}
        shapes |= {f"{name}.{one}_layernorm": (width,) for one in ("input", "post_attention")}
    shapes |= {"gpt_neox.final_layer_norm": (width,), "embed_out": (VOCABULARY, width)}
    random = np.random.default_rng(0)
    weights = {}
    for name, shape in shapes.items():
        flat = len(shape) == 1
        weights[f"{name}.weight"] = np.ones(shape) if flat else random.normal(0, shape[-1] ** -0.5, shape)
        if "layers" in name or flat:
            weights[f"{name}.bias"] = np.zeros(shape[:1])
    tensors = {name: one.astype(np.float32) for name, one in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write(path: Path, document: object) -> None:
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
