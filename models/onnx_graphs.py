"""Building blocks of ONNX graphs: trees of LightGBM and of plain arrays, and operations on their outputs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.interchange import IR_VERSION, ML_OPSET, OPSET, Graph, Port
from models.lightgbm_text import booster_of

_KINDS = {"float": 1, "double": 11, "int64": 7, "string": 8}
_NAN_IS_MISSING = 2 << 2


def _operation(kind: str, *, is_reflected: bool = False) -> Callable[["Value", Any], "Value"]:
    def operation(one: "Value", other: Any) -> "Value":
        return one.builder.op(kind, *((other, one) if is_reflected else (one, other)))

    return operation


def _function(kind: str) -> Callable[["Value"], "Value"]:
    return lambda value: value.builder.op(kind, value)


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a graph by its name; an operation on it adds a node. `//` is the division of whole numbers."""

    builder: "Builder"
    name: str
    __array_ufunc__: ClassVar[None] = None  # an array on the left leaves the operation to the value

    __add__, __radd__ = _operation("Add"), _operation("Add", is_reflected=True)
    __sub__, __rsub__ = _operation("Sub"), _operation("Sub", is_reflected=True)
    __mul__, __rmul__ = _operation("Mul"), _operation("Mul", is_reflected=True)
    __truediv__, __rtruediv__ = _operation("Div"), _operation("Div", is_reflected=True)
    __floordiv__, __mod__, __pow__ = _operation("Div"), _operation("Mod"), _operation("Pow")
    __and__, __or__, __matmul__ = _operation("And"), _operation("Or"), _operation("MatMul")
    __lt__, __gt__ = _operation("Less"), _operation("Greater")
    __le__, __ge__ = _operation("LessOrEqual"), _operation("GreaterOrEqual")
    __neg__, __invert__, __abs__ = _function("Neg"), _function("Not"), _function("Abs")
    equals, is_nan = _operation("Equal"), _function("IsNaN")
    exp, log, sqrt = _function("Exp"), _function("Log"), _function("Sqrt")


class Builder:
    """A graph under construction."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def op(self, kind: str, *inputs: Any, domain: str = "", **attributes: Any) -> Value:
        """Add a node with one output, and return the output."""
        from onnx import helper

        output = f"{kind.lower()}_{len(self._nodes)}"
        names = [self.value(one).name for one in inputs]
        self._nodes.append(helper.make_node(kind, names, [output], domain=domain, **attributes))
        return Value(self, output)

    def value(self, one: Any) -> Value:
        """A value; text names an input of the graph, and numbers become doubles that are part of it."""
        if isinstance(one, Value):
            return one
        return Value(self, one) if isinstance(one, str) else self.constant(one)

    def constant(self, values: Any, dtype: Any = np.float64) -> Value:
        """Add a tensor that is part of the graph, and return it."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return Value(self, name)

    def cast(self, value: Any, kind: str) -> Value:
        return self.op("Cast", value, to=_KINDS[kind])

    def column(self, value: Any, number: int) -> Value:
        """One column of a matrix, as a matrix of one column."""
        return self.op("Gather", value, self.constant([number], np.int64), axis=1)

    def columns(self, value: Any, begin: int, end: int) -> Value:
        """The columns of a matrix from `begin` (included) to `end` (excluded)."""
        return self.op("Slice", value, *(self.constant([n], np.int64) for n in (begin, end, 1)))

    def rows(self, values: Any, numbers: Any, dtype: Any = np.float64) -> Value:
        """Rows, by number, of a tensor that becomes part of the graph."""
        return self.op("Gather", self.constant(values, dtype), numbers, axis=0)

    def unsqueeze(self, value: Any, axis: int = 1) -> Value:
        return self.op("Unsqueeze", value, self.constant([axis], np.int64))

    def squeeze(self, value: Any, axis: int = 1) -> Value:
        return self.op("Squeeze", value, self.constant([axis], np.int64))

    def total(self, value: Any, axis: int) -> Value:
        """The sums along an axis, which is removed."""
        return self.op("ReduceSum", value, self.constant([axis], np.int64), keepdims=0)

    def rising(self, columns: Sequence[Value]) -> Value:
        """The matrix of `columns`, each at least as large as the one before it."""
        maxima = [columns[0]]
        for column in columns[1:]:
            maxima.append(self.op("Max", maxima[-1], column))
        return self.op("Concat", *maxima, axis=1)

    def boosted(self, features: str, text: str) -> Value:
        """The raw score (rows, 1), in double precision, of a LightGBM model, the sum of its trees; see `for_single`."""
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        model = booster_of(for_single(text))
        width = [None, model.num_feature()]
        graph_of_trees = convert_lightgbm(model, initial_types=[("features", FloatTensorType(width))])
        trees = next(n for n in graph_of_trees.graph.node if n.op_type == "TreeEnsembleRegressor")
        trees.name, trees.input[:], trees.output[:] = "", [features], [f"trees_{len(self._nodes)}"]
        self._nodes.append(trees)
        return self.cast(trees.output[0], "double")

    def averaged(
        self,
        features: str,
        roots: NDArray[np.int32],
        feature: NDArray[np.int32],
        threshold: NDArray[np.float64],
        left: NDArray[np.int32],
        right: NDArray[np.int32],
        missing_left: NDArray[np.bool_],
        value: NDArray[np.float64],
    ) -> Value:
        """The mean of the trees' leaves (rows, 1), in double precision; arrays as in `models.machines.trees.Trees`."""
        tree = np.searchsorted(roots, np.arange(len(feature)), side="right") - 1
        begin, leaf = roots[tree], left == np.arange(len(left))
        attributes = {
            "n_targets": 1,
            "aggregate_function": "AVERAGE",
            "nodes_treeids": tree,
            "nodes_nodeids": np.arange(len(feature)) - begin,
            "nodes_featureids": feature,
            "nodes_values": single(threshold),
            "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
            "nodes_truenodeids": np.where(leaf, 0, left - begin),
            "nodes_falsenodeids": np.where(leaf, 0, right - begin),
            "nodes_missing_value_tracks_true": missing_left.astype(np.int64),
            "target_treeids": tree[leaf],
            "target_nodeids": (np.arange(len(feature)) - begin)[leaf],
            "target_ids": np.zeros(int(leaf.sum()), np.int64),
            "target_weights": value[leaf].astype(np.float32),
        }
        plain = {
            name: one.tolist() if isinstance(one, np.ndarray) else one for name, one in attributes.items()
        }
        trees = self.op("TreeEnsembleRegressor", features, domain="ai.onnx.ml", **plain)
        return self.cast(trees, "double")

    def graph(self, name: str, inputs: Sequence[Port], outputs: Sequence[tuple[Value, Port]]) -> Graph:
        """The graph of all nodes, checked; `outputs` are values with the ports that name them."""
        import onnx
        from onnx import helper

        results = [helper.make_node("Identity", [value.name], [port.name]) for value, port in outputs]
        graph = helper.make_graph(
            [*self._nodes, *results],
            name,
            [_info(port) for port in inputs],
            [_info(port) for _, port in outputs],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="almanac")
        onnx.checker.check_model(model)
        return Graph(name, model.SerializeToString(), tuple(inputs), tuple(port for _, port in outputs))


def for_single(text: str) -> str:
    """A LightGBM model's text, adapted so that the converted model scores single-precision features equally.

    Each threshold becomes the greatest single-precision number that is not above it. Where a missing value
    counts as zero, the side to which zero goes is made explicit. The objective's link is left out: the
    model's output is its raw score.
    """
    trees = re.sub(r"(?m)^objective=.*$", "objective=regression", text)
    trees = re.sub(r"(?m)^tree_sizes=.*\n", "", trees)
    return re.sub(
        r"(?ms)^threshold=(?P<threshold>[^\n]*)\ndecision_type=(?P<decision>[^\n]*)$", _decisions, trees
    )


def _decisions(match: "re.Match[str]") -> str:
    thresholds = single(np.array(match["threshold"].split(), dtype=np.float64)).astype(np.float64)
    kinds = np.array(match["decision"].split(), dtype=np.int64)
    zero_is_missing = (kinds & 12) == 0
    left = np.where(zero_is_missing, thresholds >= 0, (kinds & 2) > 0)
    explicit = np.where(zero_is_missing, _NAN_IS_MISSING, kinds & ~2) + np.where(left, 2, 0)
    values = " ".join(repr(float(value)) for value in thresholds)
    return f"threshold={values}\ndecision_type={' '.join(map(str, explicit))}"


def single(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """The greatest single-precision numbers that are not above `threshold`: they split such numbers in the same way."""
    with np.errstate(over="ignore"):
        near = threshold.astype(np.float32)
    return np.where(near.astype(np.float64) > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def _info(port: Port) -> Any:
    from onnx import helper

    shape: list[str | int | None] = ["rows", len(port.columns)] if port.columns else ["rows"]
    return helper.make_tensor_value_info(port.name, _KINDS[port.kind], shape)
