"""hfassets: Hugging Face datasets on clusters as verified, resumable Dagster assets."""

__version__ = "0.1.0"
