"""Bundles, which are saved once, never changed and loaded without executing anything; one of them is the champion.

A bundle is a folder of Parquet, JSON and LightGBM text files with a manifest that holds the SHA-256 of each. The
registry is a table of events (`registered`, `promoted`, `refused`, `rolled_back`), each with the SHA-256 of the
manifest and the reason for the decision. The champion is the bundle of the last promotion.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from models.errors import AlmanacError
from models.moments import time_text
from models.scenario import AsOf, File, FitResult, Scenario
from tasks.storage.layout import Layout
from tasks.storage.store import Store, digest

KINDS = (".parquet", ".json", ".txt")
ROLLED_BACK = "rolled_back"
MANIFEST = "manifest.json"
MANIFEST_SHA256 = "manifest_sha256"
_UNREADABLE = (
    ValueError,
    TypeError,
    RecursionError,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)
FORMAT = "format"
"""The field of a manifest for the format of the bundle's files, one of `Scenario.formats`; if it is absent, 1."""


class BundleError(AlmanacError):
    """There is no such bundle, or its files do not match its manifest."""


class BundleFormatError(BundleError):
    """The manifest of a bundle states a format that this version of the scenario does not load."""


def save(
    store: Store,
    scenario: str,
    result: FitResult,
    contents: Mapping[str, File],
    facts: Mapping[str, Any],
    as_of: AsOf,
    run_id: str,
) -> int:
    """Save and register a bundle; return its number. A `run_id` that is already registered is not saved again."""
    registry = events(store, scenario)
    if registry is not None:
        same = registry.filter(run_id=run_id, event="registered")
        if same.height:
            return int(same["bundle"][0])
    number = _claim(store, scenario)
    place = folder(scenario, number)
    files = {}
    for name, content in sorted(contents.items()):
        path, data = _encode(name, content)
        store.put(f"{place}/{path}", data)
        files[path] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = {
        "scenario": scenario,
        "bundle": number,
        "as_of": as_of.isoformat(),
        "run_id": run_id,
        "features": list(result.features),
        "headline": dict(result.headline),
        "loss": result.loss,
        "notes": list(result.notes),
        "created": datetime.now(UTC).isoformat(),
        "files": files,
        **facts,
    }
    store.put_json(f"{place}/{MANIFEST}", manifest)
    _record(store, scenario, number, "registered", manifest, "trained")
    return number


def promote(store: Store, scenario: str, number: int, reason: str) -> None:
    """Make a bundle the champion, with a reason that stays on record."""
    _record(store, scenario, number, "promoted", manifest(store, scenario, number), reason)


def refuse(store: Store, scenario: str, number: int, reason: str) -> None:
    """Record why a bundle did not become the champion."""
    _record(store, scenario, number, "refused", manifest(store, scenario, number), reason)


def roll_back(store: Store, scenario: str, number: int, before: int, reason: str) -> None:
    """Revert the promotion of `number` and make `before` the champion again; both or neither."""
    at = datetime.now(UTC)
    facts, why = manifest(store, scenario, before), f"Back from bundle {number}: {reason}"
    rows = [
        _row(number, ROLLED_BACK, at, manifest(store, scenario, number), reason),
        _row(before, "promoted", at + timedelta(microseconds=1), facts, why),
    ]
    once = f"{ROLLED_BACK}-{number}-{at.isoformat()}"
    store.append(Layout(scenario).table("registry"), pl.DataFrame(rows), once=once)


def no_bundle(store: Store, scenario: str) -> str:
    """The message for a scenario without a bundle."""
    return f"{store.uri}: there is no bundle for {scenario} yet. Train one: python -m flows {scenario} train"


def events(store: Store, scenario: str) -> pl.DataFrame | None:
    """The registry, oldest event first; None if no bundle has been trained yet."""
    registry = store.find(Layout(scenario).table("registry"))
    return None if registry is None else registry.sort("at", "bundle").collect()


def champion(store: Store, scenario: str) -> int | None:
    """The bundle that scoring uses; None if no bundle has been promoted yet."""
    registry = events(store, scenario)
    promotions = None if registry is None else registry.filter(event="promoted")
    return None if promotions is None or promotions.is_empty() else int(promotions["bundle"][-1])


def for_as_of(store: Store, scenario: str, as_of: AsOf) -> int:
    """The bundle to score `as_of` with: the champion or, if it was trained on data after `as_of`, an older bundle.

    The older bundle is the last champion, else the last bundle, that was trained on no later data. Raises `BundleError`
    if there is none.
    """
    registry = events(store, scenario)
    if registry is None:
        raise BundleError(no_bundle(store, scenario))
    fit = registry.filter(pl.col("as_of") <= as_of.isoformat())
    promotions = fit.filter(event="promoted")
    candidates = promotions if promotions.height else fit
    if candidates.is_empty():
        oldest = type(as_of).fromisoformat(min(registry["as_of"].to_list()))
        raise BundleError(
            f"{store.uri}: no bundle of {scenario} was trained on data up to {time_text(as_of)} or earlier; "
            f"the oldest was trained on data up to {time_text(oldest)}. Train one on "
            f"data up to then (`python -m flows {scenario} train --help`), or name a bundle with --bundle."
        )
    return int(candidates["bundle"][-1])


def manifest(store: Store, scenario: str, number: int) -> dict[str, Any]:
    """The manifest of a bundle. Raises `BundleError` for an unknown number."""
    path = f"{folder(scenario, number)}/{MANIFEST}"
    try:
        content = store.get_json(path)
    except ValueError:
        raise BundleError(
            f"{store.uri}/{path}: cannot be read. Choose another bundle with --bundle, or train again."
        ) from None
    if content is None:
        registry = events(store, scenario)
        numbers = [] if registry is None else sorted(registry["bundle"].unique())
        choice = ", ".join(map(str, numbers)) or "none"
        raise BundleError(f"{store.uri}: there is no bundle {number} of {scenario}. Found: {choice}.")
    return dict(content)


@lru_cache(maxsize=4)
def model(scenario: Scenario, store: Store, number: int) -> Any:
    """A bundle's model, loaded once per process. Raises the errors of `load_model`."""
    return load_model(scenario, store, number)


def load_model(scenario: Scenario, store: Store, number: int) -> Any:
    """A bundle's model, loaded from its files.

    Raises `BundleFormatError` if the manifest states a format that is not in `scenario.formats`, and `BundleError` for
    the reasons of `files`, or if the scenario cannot load the files.
    """
    place = f"{store.uri}/{folder(scenario.name, number)}"
    number_of_format = manifest(store, scenario.name, number).get(FORMAT, 1)
    if number_of_format not in scenario.formats:
        raise BundleFormatError(
            f"{place}: saved by another version of Almanac, in format {number_of_format}. This version reads "
            f"{', '.join(map(str, scenario.formats))}. Train a new bundle with "
            f"`python -m flows {scenario.name} train`, or name another with --bundle."
        )
    contents = files(store, scenario.name, number)
    try:
        return scenario.load(contents)
    except Exception as error:
        raise BundleError(
            f"{place}: the files are intact and in a format that this version reads, but loading them failed "
            f"({type(error).__name__}: {error}). Look for the cause in the code of {scenario.name} or in a library "
            f"that has changed. To go on without this bundle, promote another: python -m flows {scenario.name} "
            "promote --bundle N --reason TEXT"
        ) from error


def files(store: Store, scenario: str, number: int) -> dict[str, File]:
    """The content of a bundle's files by name, checked against the manifest, which is checked against the registry.

    Nothing is executed. Raises `BundleError` for a file that is missing, changed, or neither Parquet, JSON nor text,
    and for a manifest that is not the registered one.
    """
    place = folder(scenario, number)
    facts = manifest(store, scenario, number)
    if _registered_sha256(store, scenario, number) not in (None, _sha256(facts)):
        raise BundleError(
            f"{store.uri}/{place}/{MANIFEST}: not the manifest that was registered. Nothing was loaded; choose another "
            "bundle with --bundle, or train again, and find out who wrote it."
        )
    return _contents(facts, lambda path: store.get(f"{place}/{path}"), f"{store.uri}/{place}")


def _registered_sha256(store: Store, scenario: str, number: int) -> str | None:
    """The hash of a bundle's manifest in the registry; None for a bundle of an earlier version, which wrote none."""
    registry = events(store, scenario)
    if registry is None or MANIFEST_SHA256 not in registry.columns:
        return None
    rows = registry.filter(bundle=number, event="registered")
    return rows[MANIFEST_SHA256][0] if rows.height else None


def _sha256(facts: Mapping[str, Any]) -> str:
    """The hash of a manifest, the same before writing as after reading."""
    return digest(json.loads(json.dumps(facts, default=str)))


def read_manifest(place: Path) -> dict[str, Any]:
    """The manifest of a bundle whose files are in a local folder. Raises `BundleError` if it has none."""
    try:
        return dict(json.loads((place / MANIFEST).read_bytes()))
    except (OSError, ValueError):
        raise BundleError(
            f"{place}: there is no readable {MANIFEST}. Expected the files of a bundle."
        ) from None


def read_folder(place: Path) -> dict[str, File]:
    """`files` for a bundle in a local folder."""

    def read(path: str) -> bytes | None:
        return (place / path).read_bytes() if (place / path).is_file() else None

    return _contents(read_manifest(place), read, str(place))


def _contents(
    facts: Mapping[str, Any], content_of: Callable[[str], bytes | None], where: str
) -> dict[str, File]:
    contents: dict[str, File] = {}
    for path, entry in facts["files"].items():
        if not path.endswith(KINDS) or "/" in path or "\\" in path:
            raise BundleError(
                f"{where}/{path}: not a kind of file that a bundle may hold. Expected {', '.join(KINDS)}. "
                "Nothing was loaded; train again, and find out who wrote it."
            )
        data = content_of(path)
        if data is None or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise BundleError(
                f"{where}/{path}: {'missing' if data is None else 'changed'} since it was saved. "
                "Nothing was loaded; choose another bundle with --bundle, or train again."
            )
        try:
            contents[path.rsplit(".", 1)[0]] = _decode(path, data)
        except _UNREADABLE:
            raise BundleError(
                f"{where}/{path}: its content does not match the suffix of its name. "
                "Nothing was loaded; train again, and find out who wrote it."
            ) from None
    return contents


def _encode(name: str, content: File) -> tuple[str, bytes]:
    if isinstance(content, pl.DataFrame):
        if any(dtype == pl.Object for dtype in content.dtypes):
            raise BundleError(f"{name}: a bundle holds no Python objects. Expected columns of plain types.")
        buffer = io.BytesIO()
        content.write_parquet(buffer)
        return f"{name}.parquet", buffer.getvalue()
    if isinstance(content, str):
        return f"{name}.txt", content.encode()
    if not isinstance(content, dict):
        raise BundleError(f"{name}: a bundle holds frames, text and mappings, not {type(content).__name__}.")
    return f"{name}.json", json.dumps(content, sort_keys=True).encode()


def _decode(path: str, data: bytes) -> File:
    if path.endswith(".parquet"):
        return pl.read_parquet(io.BytesIO(data))
    return data.decode() if path.endswith(".txt") else dict(json.loads(data))


def _claim(store: Store, scenario: str) -> int:
    """The next free number, claimed atomically so that two trainings never share it."""
    registry = events(store, scenario)
    number = 1 if registry is None else max(registry["bundle"].to_list()) + 1
    while not store.create(f"{folder(scenario, number)}/claim.json", b"{}"):
        number += 1
    return number


def folder(scenario: str, number: int) -> str:
    """The folder of a bundle's files in a store."""
    return Layout(scenario).bundle(number)


def _record(
    store: Store, scenario: str, number: int, event: str, facts: Mapping[str, Any], reason: str
) -> None:
    at = datetime.now(UTC)
    once = f"{event}-{number}" if event == "registered" else f"{event}-{number}-{at.isoformat()}"
    rows = pl.DataFrame([_row(number, event, at, facts, reason)])
    store.append(Layout(scenario).table("registry"), rows, once=once)


def _row(number: int, event: str, at: datetime, facts: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {
        "bundle": number,
        "event": event,
        "at": at,
        "reason": reason,
        "as_of": facts["as_of"],
        "loss": float(facts["loss"]),
        "headline": json.dumps(facts["headline"], sort_keys=True),
        "run_id": facts["run_id"],
        MANIFEST_SHA256: _sha256(facts),
    }
