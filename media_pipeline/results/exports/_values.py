"""SQL expressions that turn a column into what text formats can hold.

DuckDB writes the text: a home of ten million rows never becomes Python objects.
"""

from __future__ import annotations

import pyarrow as pa


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def plain(value: str, kind: pa.DataType, depth: int = 0) -> str:
    """An expression of the same value in types that JSON knows.

    NaN and infinities are null, single precision keeps its short form (0.1, not 0.10000000149011612), times are
    ISO 8601 in UTC, bytes base64. Lists and structs stay what they are, with their members treated alike.
    """
    if pa.types.is_float32(kind):
        return f"CASE WHEN isfinite({value}) THEN {value}::VARCHAR::DOUBLE END"
    if pa.types.is_floating(kind):
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if pa.types.is_timestamp(kind):
        return f"strftime({value}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return f"base64({value})"
    if pa.types.is_struct(kind):
        return f"CASE WHEN {value} IS NOT NULL THEN {_struct(value, kind, depth)} END"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = f"item{depth}"
        members = f"{value}::{_list_name(kind)}" if pa.types.is_fixed_size_list(kind) else value
        return f"list_transform({members}, lambda {item}: {plain(item, kind.value_type, depth + 1)})"
    return value


def row_as_json(schema: pa.Schema) -> str:
    """An expression of a whole row as one JSON object, as text."""
    members = ", ".join(f"{quoted(f.name)} := {plain(quoted(f.name), f.type)}" for f in schema)
    return f"to_json(struct_pack({members}))::VARCHAR"


def cell(field: pa.Field, *, defuse: bool) -> str:
    """An expression of a column as it stands in a CSV file: lists and structs as JSON, numbers as they are.

    Args:
        defuse: put an apostrophe before texts that a spreadsheet would take for a formula (OWASP, CSV injection)
    """
    name, kind = quoted(field.name), field.type
    value = plain(name, kind)
    if pa.types.is_nested(kind):
        value = f"to_json({value})::VARCHAR"
    elif pa.types.is_float32(kind):  # Arrow writes its short form itself
        value = f"CASE WHEN isfinite({name}) THEN {name} END"
    elif defuse and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        value = f"CASE WHEN {_FORMULA.format(name)} THEN '''' || {name} ELSE {name} END"
    return f"{value} AS {name}"


# Spreadsheets skip blanks before the sign; the full-width signs are taken for the narrow ones in some locales.
_FORMULA = "regexp_matches({}, '^[\\s]*[=+\\-@＝＋－＠]|^[\\t\\r\\n]')"


def is_embedding(field: pa.Field) -> bool:
    """Whether a column holds vectors, which only programs read: by its name, or by its type."""
    named = field.name == "embedding" or field.name.endswith("_embedding")
    return named or bool(pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type))


def _struct(value: str, kind: pa.DataType, depth: int) -> str:
    members = (f"{quoted(f.name)} := {plain(f'{value}.{quoted(f.name)}', f.type, depth)}" for f in kind)
    return f"struct_pack({', '.join(members)})"


def _list_name(kind: pa.DataType) -> str:
    names = {pa.float32(): "FLOAT[]", pa.float64(): "DOUBLE[]", pa.int32(): "INTEGER[]", pa.int64(): "BIGINT[]"}
    return names.get(kind.value_type, "VARCHAR[]")
