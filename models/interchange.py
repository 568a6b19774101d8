"""What a scenario exports: ONNX graphs of its estimators, and a description of what they do not contain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
"""Versions of `ai.onnx`, of `ai.onnx.ml` and of the file format, which ONNX Runtime supports since 1.14 (2023)."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: a matrix with `columns` in this order; without `columns`, one value per row."""

    name: str
    kind: str
    columns: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Graph:
    """An ONNX graph as bytes; every input has one row for each row to score."""

    name: str
    onnx: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Interchange:
    """`graphs` for scoring elsewhere, JSON-ready `facts` that a caller needs to use them, and descriptions of what is
    `outside` the graphs."""

    graphs: Sequence[Graph]
    outside: Sequence[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
