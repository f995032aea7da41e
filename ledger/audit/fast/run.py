"""Runs of recognised events: applies the rule for the log to all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.audit.fast.page import copies_in
from ledger.audit.log_rule import kept_revision

if TYPE_CHECKING:
    from ledger.audit.fast.page import EventPage
    from ledger.audit.log_rule import Learnt, LogRule


def accept_run(rule: LogRule, page: EventPage, at: int) -> int:
    """Accept a run of events from `at` on that satisfies `rule`. Return where the run ends, or `at` if there is none.

    Its events were recognised, follow one another within one commit, and are each the next of their streams.
    """
    commit, position = rule.tree.commit, rule.position
    due_us = commit.recorded_us
    if due_us < rule.recorded_us:
        return at
    end = min(len(page.seqs), at + commit.last - position)
    unrecognised = page.sound.find(0, at, end)
    end = end if unrecognised < 0 else unrecognised
    if (
        page.seqs[at:end] != tuple(range(position + 1, position + 1 + end - at))
        or page.recorded[at:end].count(due_us) != end - at
    ):
        fitting = at
        while fitting < end and (page.seqs[fitting], page.recorded[fitting]) == (position + 1, due_us):
            fitting, position = fitting + 1, position + 1
        end = fitting
    end = _count(rule.learnt, page, at, end)
    if end > at:
        rule.position += end - at
        rule.recorded_us = due_us
        rule.tree.leaves.extend(page.leaves[at:end])
        rule.learnt.copies.stored_all(copies_in(page, at, end))
    return end


def _count(learnt: Learnt, page: EventPage, at: int, end: int) -> int:
    """Count events in their streams as long as each is the next of its stream. Return where the first one is not."""
    versions, newest, revisions = learnt.versions, learnt.newest, learnt.revisions
    streams, first = page.streams[at:end], len(versions)
    if streams == tuple(range(first, first + end - at)) and page.versions[at:end].count(1) == end - at:
        versions.extend(page.versions[at:end])
        newest.extend(page.seqs[at:end])
        revisions.extend(map(kept_revision, page.revisions[at:end]))
        return end
    columns = (streams, page.versions[at:end], page.seqs[at:end], map(kept_revision, page.revisions[at:end]))
    for stream, version, seq, revision in zip(*columns, strict=True):
        if 0 < stream < first:
            if version != versions[stream] + 1 or revision < revisions[stream]:
                return at
            versions[stream] = version
            newest[stream] = seq
            revisions[stream] = revision
        elif stream == first and version == 1:
            versions.append(1)
            newest.append(seq)
            revisions.append(revision)
            first += 1
        else:
            return at
        at += 1
    return end
