"""The Dagster face of `hfassets.staging`."""
