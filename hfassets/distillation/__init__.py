"""The distillation mix: rows of many sources as one format, in the shares that a mix asks for."""
