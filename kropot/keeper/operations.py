"""The keeper's operations: one table, from which the routes and the OpenAPI document are built. Pure."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, field

from kropot.keeper.asking import MOST_ROWS, ROWS
from kropot.keeper.visitor import Role
from kropot.query.timeline import MOST_BARS
from kropot.replay.until import FORMS

API: Final = "/api/1"
MOST_HEADERS: Final = 10_000
STATES: Final = ("current", "pending", "vanished", "damaged", "lost")


class Parameter(Struct, frozen=True, kw_only=True):
    """A parameter of an operation, with its JSON schema."""

    name: str
    text: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    in_path: bool = False


class Operation(Struct, frozen=True, kw_only=True):
    """A GET request that the keeper answers: its path, role, parameters, and the schema of the answer.

    `media` is the answer's media type. `fails` are the failure statuses besides those that every operation has. The
    default is 400, because nearly all operations refuse a request that they do not understand.
    """

    name: str
    path: str
    role: Role
    text: str
    answer: str
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    fails: tuple[int, ...] = (400,)


RULES: Final = {
    "last": "How many of the last rounds are kept.",
    "daily": "Of how many days the last round is kept.",
    "weekly": "Of how many weeks the last round is kept.",
    "monthly": "Of how many months the last round is kept.",
    "yearly": "Of how many years the last round is kept.",
    "min_age_days": "How many days an older version is kept after it was replaced. Default: 30.",
}

_WHOLE: Final[dict[str, Any]] = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}

_UNTIL: Final = Parameter(
    name="until", text=f"The state before this moment: {FORMS}, given as its whole text. Default: now."
)
_SOURCE: Final = Parameter(name="source", text="A source's label, or the beginning of its id. Default: all sources.")
_AFTER_KEY: Final = Parameter(name="after", text="Go on after this element: `next` of the page before.")
_LIMIT: Final = Parameter(
    name="limit",
    text="The most rows in the answer.",
    schema={"type": "integer", "minimum": 1, "maximum": MOST_ROWS, "default": ROWS},
)
_ELEMENT: Final = (
    Parameter(
        name="source", text="The source's id.", schema={"type": "string", "pattern": "^[0-9a-f]{32}$"}, in_path=True
    ),
    Parameter(
        name="type", text="The element's type: file.", schema={"type": "string", "pattern": "^[a-z]+$"}, in_path=True
    ),
    Parameter(name="element", text="The element's id.", schema={"type": "string", "pattern": "^[^/]+$"}, in_path=True),
)
_A, _O, _M = Role.AUDITOR, Role.OWNER, Role.MONITOR
_AT: Final = (400, 409)
_FOUND: Final = (400, 404, 409)

OPERATIONS: Final = (
    Operation(
        name="healthz",
        path="/healthz",
        role=_M,
        text="Whether the keeper is running. Needs no token.",
        answer="Alive",
        fails=(),
    ),
    Operation(
        name="metrics",
        path="/metrics",
        role=_M,
        text="The health of the replica, in the text format of Prometheus.",
        answer="text",
        media="text/plain",
    ),
    Operation(name="openapi", path=f"{API}/openapi.json", role=_M, text="This document.", answer="Document"),
    Operation(name="me", path=f"{API}/me", role=_M, text="What the token that was sent allows.", answer="Me"),
    Operation(
        name="status",
        path=f"{API}/status",
        role=_A,
        text="The state of the replica, as `kropotcli status --json` prints it.",
        answer="Status",
    ),
    Operation(name="alarms", path=f"{API}/alarms", role=_A, text="What a person must act on.", answer="Alarms"),
    Operation(
        name="coverage",
        path=f"{API}/coverage",
        role=_A,
        text="Which contents `verify` has read and compared, and when: ranges of their SHA-256.",
        answer="Coverage",
    ),
    Operation(
        name="space",
        path=f"{API}/space",
        role=_A,
        text="How many elements and stored bytes there are in each state, and how much space is left.",
        answer="Space",
    ),
    Operation(
        name="moment",
        path=f"{API}/moment",
        role=_A,
        text="The position that a moment means, its time and the Merkle root there.",
        answer="Moment",
        parameters=(_UNTIL,),
        fails=_AT,
    ),
    Operation(
        name="sources",
        path=f"{API}/sources",
        role=_A,
        text="The sources at a moment. `states` are today's sums.",
        answer="Sources",
        parameters=(_UNTIL,),
        fails=_AT,
    ),
    Operation(
        name="restore_points",
        path=f"{API}/restore-points",
        role=_A,
        text="The rounds of collecting, the oldest first, as `kropotcli log --json` prints them.",
        answer="RestorePoints",
        parameters=(
            _SOURCE,
            Parameter(
                name="after",
                text="Only rounds that ended after this time, in microseconds since 1970: `next` of the page before.",
                schema=_WHOLE,
            ),
            _LIMIT,
        ),
        fails=_FOUND,
    ),
    Operation(
        name="timeline",
        path=f"{API}/timeline",
        role=_A,
        text="The life of the replica as bars: what the rounds in each stretch of time found new, changed and gone, and"
        " how much they stored. @`position` of a bar is the state at its end. Times are since 1970.",
        answer="Timeline",
        parameters=(
            _SOURCE,
            Parameter(
                name="from_ms",
                text="Where the first bar begins, in milliseconds. Default: the ledger's first event.",
                schema=_WHOLE,
            ),
            Parameter(
                name="to_ms",
                text="Where the last bar ends, in milliseconds. Default: the ledger's last event.",
                schema=_WHOLE,
            ),
            Parameter(
                name="bars",
                text="How many bars.",
                schema={"type": "integer", "minimum": 1, "maximum": MOST_BARS, "default": 120},
            ),
        ),
        fails=_FOUND,
    ),
    Operation(
        name="policy",
        path=f"{API}/policy",
        role=_A,
        text="What a policy would release now, as in `kropotcli prune --dry-run`. Without rules: the policy that was "
        "recorded last. Not for large replicas.",
        answer="Policy",
        parameters=tuple(
            Parameter(name=name, text=text, schema={"type": "integer", "minimum": 0, "maximum": 10_000})
            for name, text in RULES.items()
        ),
        fails=_AT,
    ),
    Operation(
        name="elements",
        path=f"{API}/elements",
        role=_O,
        text="A page of the elements at a moment, in the order of their keys. A page can be short, or empty, although "
        "`next` goes on. Name the moment by its position (@120411) on each page, so that all show the same state.",
        answer="Elements",
        parameters=(
            _UNTIL,
            _SOURCE,
            Parameter(
                name="state", text="Only elements in this state.", schema={"type": "string", "enum": list(STATES)}
            ),
            Parameter(
                name="events",
                text="Whether each row has the events that prove it. The sealed form is in their payload.",
                schema={"type": "boolean", "default": False},
            ),
            Parameter(
                name="since",
                text="Only elements whose last event is after this position. Use it to bring a saved page up to date.",
                schema=_WHOLE,
            ),
            _AFTER_KEY,
            _LIMIT,
        ),
        fails=_FOUND,
    ),
    Operation(
        name="element",
        path=f"{API}/elements/{{source}}/{{type}}/{{element}}",
        role=_O,
        text="One element at a moment: the events that say so, and for each the path to the root over `size` events.",
        answer="OneElement",
        parameters=(
            *_ELEMENT,
            _UNTIL,
            Parameter(name="size", text="The size of the tree to prove it in. Default: all events.", schema=_WHOLE),
        ),
        fails=_FOUND,
    ),
    Operation(
        name="history",
        path=f"{API}/elements/{{source}}/{{type}}/{{element}}/history",
        role=_O,
        text="The events about one element, the oldest first.",
        answer="ElementHistory",
        parameters=(
            *_ELEMENT,
            Parameter(name="after", text="Only events after this version of the stream.", schema=_WHOLE),
            _LIMIT,
        ),
        fails=_FOUND,
    ),
    Operation(
        name="difference",
        path=f"{API}/difference",
        role=_O,
        text="What changed between two moments, in the order of the keys, from the earlier to the later.",
        answer="Differences",
        parameters=(
            Parameter(name="from", text="One moment, in any form of `until`. Default: now."),
            Parameter(name="to", text="The other moment. Default: now."),
            _SOURCE,
            _AFTER_KEY,
            _LIMIT,
        ),
        fails=_FOUND,
    ),
    Operation(
        name="object",
        path=f"{API}/objects/{{sha256}}",
        role=_O,
        text="The sealed bytes of an object, whole or the one range that the header Range asks for.",
        answer="binary",
        parameters=(
            Parameter(
                name="sha256",
                text="The SHA-256 of its bytes.",
                schema={"type": "string", "pattern": "^[0-9a-f]{64}$"},
                in_path=True,
            ),
        ),
        media="application/octet-stream",
        fails=(404, 416),
    ),
    Operation(
        name="tree",
        path=f"{API}/tree",
        role=_A,
        text="The Merkle tree of the first `size` events: its root, and its frontier in hexadecimal digits. For an "
        "owner also the first event, and the salts with which the headers name the streams of his sources.",
        answer="Tree",
        parameters=(Parameter(name="size", text="How many events. Default: all.", schema=_WHOLE),),
        fails=_AT,
    ),
    Operation(
        name="headers",
        path=f"{API}/headers",
        role=_A,
        text="The headers of the events after position `after`, each as a msgpack byte string, in order.",
        answer="binary",
        parameters=(
            Parameter(name="after", text="The position to begin after. Default: 0.", schema=_WHOLE),
            Parameter(
                name="limit",
                text="The most headers in the answer.",
                schema={"type": "integer", "minimum": 1, "maximum": MOST_HEADERS, "default": ROWS},
            ),
        ),
        media="application/octet-stream",
    ),
    Operation(
        name="checkpoints",
        path=f"{API}/checkpoints",
        role=_A,
        text="The signed checkpoints in the ledger. Their signatures were not checked.",
        answer="Checkpoints",
        fails=_AT,
    ),
    Operation(
        name="proof",
        path=f"{API}/proofs/{{source}}/{{type}}/{{element}}",
        role=_A,
        text="What `kropotcli prove` prints about one element. `kropotcli check-proof` checks it.",
        answer="Proof",
        parameters=(*_ELEMENT, _UNTIL),
        fails=_FOUND,
    ),
    Operation(
        name="consistency",
        path=f"{API}/consistency",
        role=_A,
        text="The proof that the tree of the first `old` events grew into that of the first `new` ones (RFC 6962).",
        answer="Consistency",
        parameters=(
            Parameter(name="old", text="The size of the earlier tree. Default: 0.", schema=_WHOLE),
            Parameter(name="new", text="The size of the later tree. Default: all events.", schema=_WHOLE),
            Parameter(
                name="signed",
                text="Whether both sizes are those of kept checkpoints, which then come with the proof.",
                schema={"type": "boolean", "default": False},
            ),
        ),
        fails=_FOUND,
    ),
)
