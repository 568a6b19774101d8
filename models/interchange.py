"""What a scenario hands to others: ONNX graphs of its estimators, and what they do not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
"""Of `ai.onnx`, of `ai.onnx.ml` and of the file format: known to ONNX Runtime since 1.14 (2023)."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: `columns` in their order, or one per row where there is a single one."""

    name: str
    kind: str
    columns: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Graph:
    """An ONNX graph as bytes; every input has a row per row to score."""

    name: str
    onnx: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Interchange:
    """`graphs` to score with elsewhere, `facts` that a caller needs beside them, ready for JSON, and in
    words what of the scenario's answer is `outside` the graphs."""

    graphs: Sequence[Graph]
    outside: Sequence[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
