"""Gives a source the label under which the configuration file names it, so that all commands know it by that name."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.errors import UsageError
from kropot.query.names import check_label
from kropot.query.past import labels_of
from ledger.errors import ConflictError
from ledger.events import SourceLabelled
from ledger.keeping import keep, keeping_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.log import Ledger


def label_source(ledger: Ledger, source: bytes, label: str, *, warn: Callable[[str], None]) -> None:
    """Label the source, unless it has a label. If the label cannot be used, only warn: collecting comes first."""
    kept = keeping_of(ledger, source)
    if kept.keeping.label == label:
        return
    if kept.keeping.label is not None:
        warn(
            f"the configuration file calls this source {label}, and the ledger calls it {kept.keeping.label}: give it "
            f"one name, e.g. `kropotcli source label {source.hex()} {label}`"
        )
        return
    try:
        check_label(labels_of(ledger), source, label)
    except UsageError as error:
        warn(
            f"source {source.hex()} is collected without the label {label}: {error}; if its token replaces that of the "
            "other source, give the other one another label first (`kropotcli source label`)"
        )
        return
    # If a person labels it at the same moment, that label counts.
    with suppress(ConflictError):
        keep(ledger, source, SourceLabelled(keeping=replace(kept.keeping, label=label)), version=kept.version)
