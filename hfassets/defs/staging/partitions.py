"""Keys and names of the staging group."""

import dagster as dg

GROUP = "staging"
OWNERS = ["team:data-preparation"]

PREPROCESSED = dg.AssetKey("preprocessed_dataset")
