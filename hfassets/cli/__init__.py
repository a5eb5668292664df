"""The command-line face, thin: one file a noun."""
