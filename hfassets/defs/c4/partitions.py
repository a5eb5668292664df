"""Keys and names of the c4 group."""

import dagster as dg

GROUP = "c4"
OWNERS = ["team:data-preparation"]

SHARDS = dg.AssetKey("c4_shards")

# The repos that are streamed: they hang on nothing that is downloaded.
SOURCES = "c4_source"
