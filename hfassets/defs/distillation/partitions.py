"""Keys and names of the distillation group."""

import dagster as dg

GROUP = "distillation"
OWNERS = ["team:data-preparation"]

FILE = dg.AssetKey("distillation_file")
TOKENS = dg.AssetKey("distillation_tokens")
TEACHER = dg.AssetKey("teacher_model")
LOGITS = dg.AssetKey("teacher_logits")
SUMMARY = dg.AssetKey("distillation_summary")

# The repos that are read: they hang on nothing that is downloaded.
SOURCES = "distillation_source"
