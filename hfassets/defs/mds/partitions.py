"""Keys and names of the MDS group."""

import dagster as dg

GROUP = "mds"
OWNERS = ["team:data-preparation"]

TEXT = dg.AssetKey("text_mds")
TOKENIZED = dg.AssetKey("tokenized_mds")
CHUNKED = dg.AssetKey("chunked_mds")
SAMPLED = dg.AssetKey("sampled_mds")
TRAINING = dg.AssetKey("training_mds")
EXTENSION = dg.AssetKey("context_extension_mds")

# The repos that are read: they hang on nothing that is downloaded.
SOURCES = "mds_source"
