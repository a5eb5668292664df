"""A small byte-level BPE tokenizer as a model repo, trained on the standard library.

Invariant: for one installed Python the vocabulary and the merges are always the same.
"""

from __future__ import annotations

from pathlib import Path

import orjson
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
    write_readme(folder, {"license": "apache-2.0", "language": ["en"]}, "A small byte-level BPE tokenizer.")


def _write(path: Path, document: object) -> None:
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
