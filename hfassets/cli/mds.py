"""`hfassets mds`: text to MDS, tokens, chunks, samples and training sets; with the names of the older scripts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

# name -> module of the command; older names lead to the same ones.
_COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("hf_to_mds", "jsonl_to_mds", "dolma_to_mds"), "hfassets.cli.mds_convert"),
    **dict.fromkeys(
        ("tokenize_mds", "tokenize_mds_subfolders", "split_dataset_into_chunks", "make"), "hfassets.cli.mds_tokens"
    ),
    **dict.fromkeys(("sample", "mix", "extend"), "hfassets.cli.mds_sample"),
    "recipes": "hfassets.cli.mds_recipes",
    **dict.fromkeys(
        ("merge", "make_recursive_root", "create_final_dataset_index", "count_instances", "verify", "show"),
        "hfassets.cli.mds_tools",
    ),
    **dict.fromkeys(("decode", "decompress", "to-jsonl", "upload", "move"), "hfassets.cli.mds_tools"),
}
_OLDER = {
    "sample_too_large_down": "sample",
    "sample_down_or_up_to_meet": "sample",
    "sample_from_folders": "sample",
    "sample_for_context_extension": "extend",
    "sample_for_context_extension_random": "extend",
    "merge_mds_to_one_index": "merge",
    "mds_to_jsonl": "to-jsonl",
    "upload_large_folder": "upload",
    "upload_dataset_by_subfolders": "upload",
    "decode_mds": "decode",
    "decode_all": "decode",
    "move_chunks": "move",
    "move_tokenized": "move",
    "move_out_final_sampled_chunks": "move",
}


class _Verbs(click.Group):
    """Imports a command when it is called; knows the older names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those to be listed, in the order of the work."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None for one that is not there."""
        name = _OLDER.get(cmd_name, cmd_name)
        if name not in _COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(_COMMANDS[name]), _attribute(name))
        return found


@click.group(cls=_Verbs)
def mds() -> None:
    """MDS datasets for training: convert, tokenize, chunk, sample, mix, verify.

    Every command leaves a folder with a manifest, goes on where it was when it is run again, and needs no order of
    steps to be remembered. StreamingDataset reads all that is written.
    """


def _attribute(name: str) -> str:
    return {"make": "make_", "show": "show_"}.get(name, name.replace("-", "_"))
