"""The keeper's OpenAPI document, built from the table of operations and the schemas of their answers. Pure."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from kropot.keeper.operations import OPERATIONS, STATES
from kropot.keeper.visitor import Role

if TYPE_CHECKING:
    from kropot.keeper.operations import Operation, Parameter

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "integer"}
_FLAG: Final = {"type": "boolean"}
_SHARE: Final = {"type": "number", "minimum": 0, "maximum": 1}
_TIME: Final = {"type": "string", "description": "ISO 8601, UTC."}
_HASH: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_ID: Final = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_BASE64: Final = {"type": "string", "contentEncoding": "base64"}
_ANY: Final[dict[str, Any]] = {}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(fields: dict[str, Any], optional: dict[str, Any] | None = None, *, more: bool = False) -> dict[str, Any]:
    """Return the schema of an object with these fields, and no others unless `more` is set."""
    properties = fields | (optional or {})
    return {
        "type": "object",
        "properties": properties,
        "required": list(fields),
        "additionalProperties": more,
    }


_KEY: Final = {"source": _ID, "type": _TEXT, "id": _TEXT}
_ELEMENT: Final = {
    "state": {"enum": list(STATES)},
    "date": _TIME,
    "tz": _TEXT,
    "revision": _COUNT,
    "present": _FLAG,
    "sha256": _or_null(_HASH),
    "size": _or_null(_COUNT),
    "iv": _or_null(_ID),
}
_TALLIES: Final = {
    "type": "object",
    "additionalProperties": _object({"elements": _COUNT, "bytes": _COUNT}),
}
_OBJECTS: Final = _object({"objects": _COUNT, "bytes": _COUNT})
_MOMENT: Final = {
    "position": _COUNT,
    "until": _or_null(_TEXT),
    "recorded_at": _or_null(_TIME),
    "root": _HASH,
    "notes": _list(_TEXT),
}
_PAST: Final = _or_null(_object({"why": {"enum": ["retired", "taken_over"]}, "since": _TIME, "heir": _or_null(_ID)}))
_COVERAGE: Final = {
    "ranges": _list(
        _object({"start": _HASH, "end": _HASH, "share": _SHARE, "read": _TIME, "position": _COUNT}),
    ),
    "never_read": _SHARE,
    "all_read_by": _or_null(_TIME),
}
_ERASED: Final = _object(
    {
        "elements": _COUNT,
        "payloads": _COUNT,
        "since": _or_null(_TIME),
        "last": _or_null(_TIME),
        "last_position": _or_null(_COUNT),
    }
)
_ALARM: Final = _object({"name": _TEXT, "source": _or_null(_ID), "text": _TEXT, "since": _or_null(_TIME)})

SCHEMAS: Final[dict[str, Any]] = {
    "Alive": _object({"status": {"const": "ok"}}),
    "Document": _object({"openapi": _TEXT}, more=True),
    "Me": _object(
        {
            "number": _COUNT,
            "role": {"enum": [str(role) for role in Role]},
            "label": _or_null(_TEXT),
            "sources": _or_null(_list(_ID)),
        }
    ),
    "Alarms": _object({"healthy": _FLAG, "alarms": _list(_ALARM)}),
    "Status": _object(
        {
            "healthy": _FLAG,
            "alarms": _list(_ALARM),
            "position": _COUNT,
            "recorded": _or_null(_TIME),
            "erased": _ERASED,
            "audited_since": _TIME,
            "audit": _object(_COVERAGE),
            "storage": _or_null(_object({"place": _TEXT, "there": _FLAG}, more=True)),
            "sources": _list(_object({"source": _ID, "label": _or_null(_TEXT), "states": _TALLIES}, more=True)),
        },
        more=True,
    ),
    "Coverage": _object(_COVERAGE | {"audited_since": _TIME}),
    "Space": _object(
        {
            "states": _TALLIES,
            "sources": _list(_object({"source": _ID, "states": _TALLIES})),
            "free_bytes": _or_null(_COUNT),
            "free_files": _or_null(_COUNT),
            "ledger_free_bytes": _or_null(_COUNT),
            "fills": _or_null(
                _object(
                    {
                        **dict.fromkeys(("current", "vanished", "freed"), _COUNT),
                        **dict.fromkeys(
                            ("older", "free", "growth_per_day", "full_in_days", "counted_at"), _or_null(_COUNT)
                        ),
                        **dict.fromkeys(("waiting", "orphans", "quarantine", "unused_in_packs"), _or_null(_OBJECTS)),
                    }
                )
            ),
        }
    ),
    "Timeline": _object(
        {
            "began_us": _NUMBER,
            "ended_us": _NUMBER,
            "bars": _list(
                _object(
                    dict.fromkeys(
                        ("start_us", "end_us", "rounds", "new", "changed", "gone", "held", "seen", "copies", "bytes"),
                        _NUMBER,
                    )
                    | {"position": _COUNT}
                )
            ),
        }
    ),
    "Policy": _object(
        {
            "rules": {"enum": ["none", "recorded", "asked"]},
            "looked": _FLAG,
            "counting": _FLAG,
            "copies": _COUNT,
            "bytes": _COUNT,
            "reasons": {"type": "object", "additionalProperties": _OBJECTS},
        }
    ),
    "Moment": _object(_MOMENT),
    "Sources": _object(
        {
            "position": _COUNT,
            "sources": _list(
                _object(
                    {
                        "source": _ID,
                        "label": _or_null(_TEXT),
                        "past": _PAST,
                        "url": _TEXT,
                        "vault": _or_null(_ID),
                        "began": _TIME,
                        "began_us": _NUMBER,
                        "listed": _or_null(_TIME),
                        "listed_us": _or_null(_NUMBER),
                        "states": _TALLIES,
                    },
                    more=True,
                )
            ),
        }
    ),
    "RestorePoints": _object(
        {
            "points": _list(
                _object(
                    {
                        "position": _COUNT,
                        "time": _TIME,
                        "source": _ID,
                        "label": _or_null(_TEXT),
                        "mode": {"enum": ["window", "full"]},
                        "seen": _COUNT,
                        "new": _COUNT,
                        "changed": _COUNT,
                        "gone": _COUNT,
                        "copies": _COUNT,
                        "bytes": _COUNT,
                        "held": _FLAG,
                        "open": _FLAG,
                    }
                )
            ),
            "next": _or_null(_COUNT),
        }
    ),
    "StoredEvent": _object({"header": _BASE64, "nonce": _or_null(_BASE64), "payload": _or_null(_BASE64)}),
    "Element": _object(
        _KEY | _ELEMENT | {"position": _COUNT, "recorded_at": _TIME},
        {
            "is_older": _FLAG,
            "is_past": _FLAG,
            "refused": _or_null(_TEXT),
            "events": _list(_ref("StoredEvent")),
        },
    ),
    "Elements": _object(_MOMENT | {"elements": _list(_ref("Element")), "next": _or_null(_TEXT)}),
    "OneElement": _object(
        _MOMENT | {"element": _ref("Element"), "size": _COUNT, "paths": _list(_list(_HASH))},
    ),
    "ElementHistory": _object(
        _KEY
        | {
            "events": _list(
                _object(
                    {
                        "position": _COUNT,
                        "version": _COUNT,
                        "event": _TEXT,
                        "recorded_at": _TIME,
                        "observed_at": _TIME,
                        "writer": _TEXT,
                    },
                    _ELEMENT | {"copy_revision": _or_null(_COUNT), "failure": _ANY, "object": _HASH},
                )
            ),
            "next": _or_null(_COUNT),
        }
    ),
    "Differences": _object(
        {
            "from": _ref("Moment"),
            "to": _ref("Moment"),
            "differences": _list(
                _object(
                    {"change": _TEXT, **_KEY, **_ELEMENT, "position": _COUNT}
                    | {"before": _or_null(_object(_KEY | _ELEMENT))}
                )
            ),
            "next": _or_null(_TEXT),
        }
    ),
    "Tree": _object(
        {
            "ledger": _ID,
            "origin": _TEXT,
            "size": _COUNT,
            "root": _HASH,
            "frontier": {"type": "string", "pattern": "^([0-9a-f]{64})*$"},
            "erased": _ERASED,
        },
        {
            "first": _ref("StoredEvent"),
            "salts": {"type": "object", "additionalProperties": _HASH},
        },
    ),
    "Checkpoints": _object(
        {
            "checkpoints": _list(
                _object({"origin": _TEXT, "size": _COUNT, "root": _HASH, "recorded_at": _or_null(_TIME), "note": _TEXT})
            )
        }
    ),
    "Proof": _object({"format": _TEXT, "path": _list(_HASH), "checkpoint": _TEXT}, more=True),
    "Consistency": {
        "anyOf": [
            _object({"old": _COUNT, "new": _COUNT, "path": _list(_HASH)}),
            _object({"format": _TEXT, "old": _TEXT, "new": _TEXT, "path": _list(_HASH)}),
        ]
    },
    "Failure": _object({"status": _TEXT, "error_code": _NUMBER, "http_code": _NUMBER}),
}

_STATUSES: Final = {
    400: "The request is not valid. The message says what is wrong.",
    401: "The request has no token that is valid here.",
    403: "The token is valid, but its role does not allow this.",
    404: "It does not exist, or this token may not see it.",
    409: "The ledger contradicts the request or itself. The message says how.",
    416: "The object does not have these bytes.",
    503: "Too much is asked at once, or the replica cannot be read now.",
}


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "The keeper of a KropotCLI replica",
            "version": "1",
            "description": "Read-only access to a ledger and its sealed objects. See docs/keeper.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": {each.path: {"get": _operation(each)} for each in OPERATIONS},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token that `kropotcli keeper token create` made.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    is_open = operation.name == "healthz"
    failures = () if is_open else (*operation.fails, 401, 503)
    if operation.role is not Role.MONITOR:
        failures = (*failures, 403)
    responses: dict[str, Any] = {"200": {"description": operation.text, "content": _content(operation)}}
    if operation.name == "object":
        responses["206"] = {"description": "The range that was asked for.", "content": _content(operation)}
    for status in sorted(failures):
        shape = {} if status == 416 else {"content": {"application/json": {"schema": _ref("Failure")}}}  # noqa: PLR2004
        responses[str(status)] = {"description": _STATUSES[status], **shape}
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.text,
        "x-role": str(operation.role),
        "responses": responses,
    }
    if operation.parameters:
        found["parameters"] = [_parameter(each) for each in operation.parameters]
    if is_open:
        found["security"] = []
    return found


def _content(operation: Operation) -> dict[str, Any]:
    match operation.answer:
        case "binary":
            schema: dict[str, Any] = {}
        case "text":
            schema = _TEXT
        case name:
            schema = _ref(name)
    return {operation.media: {"schema": schema}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.in_path,
        "description": re.sub(r"\s+", " ", parameter.text),
        "schema": parameter.schema,
    }
