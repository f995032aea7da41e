"""The default limits at which a replica raises alarms, for `status` and for commands that judge it in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kropot.cli.base import Settings
    from kropot.collect.service import CollectOptions
    from kropot.query.health import Limits

_MISSED_LISTINGS: Final = 3
"""`status` raises an alarm after this many refresh times without a good listing."""
_SHORTEST_REFRESH_S: Final = 60
"""A listing can take this long, so a --refresh-time of a few seconds does not raise an alarm during each listing."""


def listing_limit_s(settings: Settings) -> int:
    """Return how many seconds without a good listing raise an alarm, if it is not known how often runs start."""
    return _MISSED_LISTINGS * max(settings.refresh_time, _SHORTEST_REFRESH_S)


def limits_beside(settings: Settings, options: CollectOptions) -> Limits:
    """Return the limits at which `status` raises alarms, for a collector with these options."""
    from kropot.query.health import Limits
    from kropot.query.storage import StorageLimits

    return Limits(listing_s=listing_limit_s(settings), storage=StorageLimits(min_free=options.min_free))
