"""Data that somebody else has written, taken over: read once, and known by a manifest from then on."""

from hfassets.adopt.folder import Adopted, adopt_folder, adopted_manifest, verify_adopted
from hfassets.adopt.kinds import Kind, kind_of

__all__ = ["Adopted", "Kind", "adopt_folder", "adopted_manifest", "kind_of", "verify_adopted"]
