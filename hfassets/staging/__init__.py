"""Data on the node that works with it: copied in parallel, proven while it is copied, found again by the next job."""

from hfassets.staging.copy import Staged, StagingRequest, stage_tree
from hfassets.staging.tree import SourceFile, SourceTree, read_tree

__all__ = ["SourceFile", "SourceTree", "Staged", "StagingRequest", "read_tree", "stage_tree"]
