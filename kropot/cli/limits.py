"""When a replica raises alarms, if nobody says otherwise: for `status`, and for what judges the replica as it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kropot.cli.base import Settings
    from kropot.collect.service import CollectOptions
    from kropot.query.health import Limits

_MISSED_LISTINGS: Final = 3
"""After this many refresh times without a good listing, `status` raises an alarm."""
_SHORTEST_REFRESH_S: Final = 60
"""A listing may take this long, so a --refresh-time of seconds does not raise an alarm during each."""


def listing_limit_s(settings: Settings) -> int:
    """Return after how many seconds without a good listing there is an alarm, if nobody says how often runs start."""
    return _MISSED_LISTINGS * max(settings.refresh_time, _SHORTEST_REFRESH_S)


def limits_beside(settings: Settings, options: CollectOptions) -> Limits:
    """Return when a replica raises alarms, as `status` has it, for a collector with these options."""
    from kropot.query.health import Limits
    from kropot.query.storage import StorageLimits

    return Limits(listing_s=listing_limit_s(settings), storage=StorageLimits(min_free=options.min_free))
