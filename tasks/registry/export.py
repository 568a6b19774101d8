"""Exporting a bundle for other programs: its ONNX graphs, the facts that a caller needs, and its own files."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import obstore

from models.interchange import IR_VERSION, ML_OPSET, OPSET, Graph, Interchange, Port
from models.scenario import HasEstimators, Scenario
from tasks.registry import bundles
from tasks.registry.bundles import BundleError
from tasks.storage.faults import first_line
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.storage.uris import object_store

ABOUT, README, PLAIN = "interchange.json", "README.md", "plain"


class ExportError(BundleError):
    """A bundle cannot be exported, or the given folder cannot be written."""


def export(scenario: Scenario, store: Store, number: int, to: str) -> dict[str, Any]:
    """Write a bundle to a folder, local or in Blob Storage, and return a summary. Existing files are replaced.

    It writes `<name>.onnx` for each graph, `interchange.json`, `README.md`, and the bundle's own files in `plain/`.
    Raises the errors of `tasks.registry.bundles.load_model`, and `ExportError` if the scenario exports nothing or the
    folder cannot be written.
    """
    facts = bundles.manifest(store, scenario.name, number)
    model = bundles.load_model(scenario, store, number)
    if not isinstance(scenario, HasEstimators):
        raise ExportError(f"{scenario.name}: this scenario exports nothing. Its bundles are in {store.uri}.")
    interchange = scenario.interchange(model)
    contents = {f"{graph.name}.onnx": _with_facts(graph, facts) for graph in interchange.graphs}
    contents[ABOUT] = json.dumps(_about(interchange, facts), indent=1, default=str).encode()
    contents[README] = _readme(interchange, facts).encode()
    for name in facts["files"]:
        contents[f"{PLAIN}/{name}"] = store.get(f"{Layout(scenario.name).bundle(number)}/{name}") or b""
    try:
        folder = object_store(to, create=True)
        for name, content in contents.items():
            folder.put(name, content)
    except (OSError, obstore.exceptions.BaseError) as error:
        raise ExportError(
            f"--to {to}: cannot be written: {first_line(error)}\nExpected a folder or container that this user may write."
        ) from None
    return {
        "bundle": number,
        "to": to,
        "graphs": [g.name for g in interchange.graphs],
        "files": sorted(contents),
    }


def _identity(facts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(facts[name]) for name in ("scenario", "bundle", "as_of", "run_id", "code", "created")}


def _with_facts(graph: Graph, facts: Mapping[str, Any]) -> bytes:
    """The graph with its origin and the order of its columns in its metadata."""
    import onnx

    model = onnx.load_from_string(graph.onnx)
    ports = {port.name: list(port.columns) for port in (*graph.inputs, *graph.outputs) if port.columns}
    onnx.helper.set_model_props(model, {**_identity(facts), "columns": json.dumps(ports)})
    return bytes(model.SerializeToString())


def _about(interchange: Interchange, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_identity(facts),
        "onnx": {"ai.onnx": OPSET, "ai.onnx.ml": ML_OPSET, "ir_version": IR_VERSION},
        "graphs": {
            f"{graph.name}.onnx": {
                "inputs": [asdict(port) for port in graph.inputs],
                "outputs": [asdict(port) for port in graph.outputs],
            }
            for graph in interchange.graphs
        },
        "headline": facts["headline"],
        "options": facts["options"],
        "versions": facts["versions"],
        **interchange.facts,
    }


def _readme(interchange: Interchange, facts: Mapping[str, Any]) -> str:
    lines = [
        f"# Bundle {facts['bundle']} of {facts['scenario']}",
        "",
        f"Trained on data up to {facts['as_of']} by Almanac {facts['code']}.",
        f"ONNX opset {OPSET} (ai.onnx.ml {ML_OPSET}); the order of columns is in {ABOUT} and in each graph's metadata.",
        "",
    ]
    for graph in interchange.graphs:
        lines += [f"## {graph.name}.onnx", "", *_ports("in", graph.inputs), *_ports("out", graph.outputs), ""]
    if not interchange.graphs:
        lines += ["No estimator of this bundle can be expressed as a graph.", ""]
    lines += ["## What is not in the graphs", "", *(f"- {one}" for one in interchange.outside), ""]
    lines += [f"`{PLAIN}/` holds the bundle's own files: LightGBM text, Parquet and JSON.", ""]
    return "\n".join(lines)


def _ports(side: str, ports: tuple[Port, ...]) -> list[str]:
    def width(port: Port) -> str:
        return f"{len(port.columns)} columns" if port.columns else "one per row"

    return [f"- {side} `{port.name}` ({port.kind}, {width(port)}): {port.about}" for port in ports]
