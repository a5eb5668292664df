"""Keys and names of the distillation group."""

import dagster as dg

GROUP = "distillation"
OWNERS = ["team:data-preparation"]

FILE = dg.AssetKey("distillation_file")
SUMMARY = dg.AssetKey("distillation_summary")

# The repos that are read: they hang on nothing that is downloaded.
SOURCES = "distillation_source"
