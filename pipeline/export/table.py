"""A table of pages as JSON Lines, CSV or Parquet, row after row."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from pipeline.errors import UsageError
from pipeline.export.files import STDOUT, complete_file, is_special, part_of, place_of

TableFormat = Literal["jsonl", "csv", "parquet"]
Kind = Literal["str", "int", "float", "bool", "datetime", "json"]
Rows = Iterator[dict[str, Any]]

_PARQUET_ROWS = 2_000  # a row group: some megabytes of text


def write_table(out: Path, format: TableFormat, kinds: Mapping[str, Kind], rows: Rows) -> None:
    """`kinds` are the columns in their order; each row has them all. A Decimal keeps the digits that it was read with.

    Raises:
        UsageError: `out` does not fit the format, or Parquet without pyarrow.
    """
    if format == "parquet":
        _write_parquet(out, kinds, rows)
        return
    write = _write_jsonl if format == "jsonl" else _write_csv
    if str(out) in STDOUT:
        write(sys.stdout, kinds, rows)
        return
    target = place_of(out, format)
    with target.open("w", encoding="utf-8", newline="") if is_special(target) else complete_file(target) as file:
        write(file, kinds, rows)


def _write_jsonl(stream: TextIO, kinds: Mapping[str, Kind], rows: Rows) -> None:
    for row in rows:
        stream.write(_json(row) + "\n")


def _write_csv(stream: TextIO, kinds: Mapping[str, Kind], rows: Rows) -> None:
    from pipeline.query.formats import write_csv

    def cell(name: str, value: Any) -> str | None:
        if value is None or isinstance(value, str):
            return value if kinds[name] != "json" or value is None else _json(value)
        return _json(value) if isinstance(value, bool | dict | list) else str(value)

    write_csv(stream, list(kinds), ([cell(name, row[name]) for name in kinds] for row in rows))


def _write_parquet(out: Path, kinds: Mapping[str, Kind], rows: Rows) -> None:
    try:
        import pyarrow  # an extra: 45 MB
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow; pip install 'pagepack[parquet]'") from error
    target = place_of(out, "parquet")
    moment = pyarrow.timestamp("us", tz="UTC")
    of_kind = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_(), "datetime": moment}
    schema = pyarrow.schema([(name, of_kind.get(kind, pyarrow.string())) for name, kind in kinds.items()])

    def cell(name: str, value: Any) -> Any:
        if value is not None and kinds[name] == "json":
            return _json(value)
        return float(value) if value is not None and kinds[name] == "float" else value

    with part_of(target) as part, parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        while some := list(itertools.islice(rows, _PARQUET_ROWS)):
            cells = [{name: cell(name, row[name]) for name in kinds} for row in some]
            writer.write_table(pyarrow.Table.from_pylist(cells, schema=schema))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str | float:
    return value.isoformat() if isinstance(value, datetime) else float(value)
