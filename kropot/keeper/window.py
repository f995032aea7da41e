"""The API's answers without HTTP, for the page in this process, with the visitor's rights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.datastructures import QueryParams

from kropot.keeper.access import demand
from kropot.keeper.asking import Asked, NotFoundError, key_of
from kropot.keeper.operations import API, OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.keeper.answering import KeeperAnswers
    from kropot.keeper.operations import Operation
    from kropot.keeper.visitor import Visitor
    from ledger.log import Ledger


class ReplicaWindow:
    """Answers one visitor, as the API would. A `Window` of the page (`kropot/page/window.py`)."""

    def __init__(self, ledger: Ledger, answers: KeeperAnswers, visitor: Visitor) -> None:
        """Answer this visitor."""
        self._ledger, self._answers, self._visitor = ledger, answers, visitor

    def get(self, *path: str, **query: object) -> dict[str, Any]:
        """Return the API's answer. Raises: SmallerRoleError, NotFoundError, UsageError, and what the answers raise."""
        operation = _operation(path)
        demand(self._visitor, operation.role)
        known = {each.name for each in operation.parameters if not each.in_path}
        given = [(name, _text(value)) for name, value in query.items() if value is not None]
        asked = Asked(self._ledger, self._visitor, QueryParams(given), known)
        ask: Callable[..., dict[str, Any]] = getattr(self._answers, operation.name)
        if len(path) == 1:
            return ask(self._visitor, asked)
        source, kind, element = path[1:4]
        return ask(self._visitor, asked, key_of(source, kind, element))


def _operation(path: tuple[str, ...]) -> Operation:
    """Return the operation at a path below the API. Raises: NotFoundError."""
    for each in OPERATIONS:
        parts = each.path.removeprefix(f"{API}/").split("/")
        if each.media != "application/json" or not each.path.startswith(API) or len(parts) != len(path):
            continue
        if all(part.startswith("{") or part == given for part, given in zip(parts, path, strict=True)):
            return each
    raise NotFoundError("there is nothing here")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
