"""mosaicml-streaming as it is installed, made importable beside a CPU build of torch."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="session")
def streaming() -> Any:
    """The unmodified library. Its torchvision is built for CUDA and asks for two operators that a CPU torch lacks."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found = importlib.import_module("streaming")
    found._library = library
    return found
