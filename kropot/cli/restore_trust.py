"""Check a restore against signed checkpoints and what the kits saw before, and word its last two lines of output."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import say, warn
from kropot.cli.notes import notes_in
from kropot.errors import IntegrityError, UsageError
from kropot.wording import moment, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kropot.restore.plan import Planned, RestoreProblem
    from kropot.restore.seen import SeenFile, SeenTree
    from kropot.restore.trusted import KnownTree, SignedTree

REQUIREMENTS = ("sealing", "history")


class Requirements(click.ParamType[frozenset[str], Any]):
    """A comma-separated list of the properties that must be proved."""

    name = "requirements"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """Return the words. Raises: click.BadParameter for an unknown word."""
        if isinstance(value, frozenset):
            return value
        words = frozenset(word.strip() for word in str(value).split(",") if word.strip())
        if not words or not words <= set(REQUIREMENTS):
            self.fail(f"{value!r} is not known: give sealing, history, or sealing,history", param, ctx)
        return words


def trust_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a restore is checked against to a command."""
    for option in (
        click.option(
            "--accept-older",
            is_flag=True,
            help="Go on although the ledger lacks what this kit saw before, and name what is lost. From then on, the "
            "kit remembers the ledger as it is now.",
        ),
        click.option(
            "--require",
            type=Requirements(),
            default=frozenset(),
            metavar="sealing,history",
            help="Restore only what is proved: by its authenticated sealing (sc2), by a checkpoint of --against, or "
            "by both. The exit code is 4 if anything is not proved.",
        ),
        click.option("--public-key", metavar="KEY", help="The public key of the checkpoints' signer, or its file."),
        click.option(
            "--against",
            type=click.Path(exists=True, path_type=Path),
            multiple=True,
            help="Compare the history with this checkpoint, or with all checkpoints in this folder. Needs --public-key."
            " Can be repeated.",
        ),
    ):
        function = option(function)
    return function


@dataclass(slots=True)
class Trust:
    """The checkpoints and kits that a restore is checked against, and the results.

    `checkpoint` is the size of the largest checkpoint that agrees, `total` the number of events; None if not compared.
    """

    signed: Sequence[SignedTree]
    files: Sequence[SeenFile]
    require: frozenset[str]
    accept_older: bool = False
    checkpoint: int | None = None
    total: int | None = None
    why_not: str = "no checkpoint given"
    seen: list[str] = field(default_factory=list)
    seen_before: int | None = None

    @classmethod
    def of(
        cls,
        kits: Sequence[Path],
        *,
        against: tuple[Path, ...],
        public_key: str | None,
        require: frozenset[str],
        accept_older: bool,
    ) -> Trust:
        """Read the files that the options name. Raises: UsageError, IntegrityError."""
        from kropot.checkpoints.keys import read_verifier_key
        from kropot.restore.seen import SeenFile
        from kropot.restore.trusted import open_notes

        if against and public_key is None:
            raise UsageError("--against needs --public-key to verify the signatures: give the signer's public key")
        if "history" in require and not against:
            raise IntegrityError(
                "--require history needs a checkpoint to compare the history with: give one with --against"
            )
        signed = [] if public_key is None else open_notes(notes_in(against), read_verifier_key(public_key))
        return cls(signed=signed, files=[SeenFile(kit) for kit in kits], require=require, accept_older=accept_older)

    # --- comparing ---

    def marks(self, ledger_id: bytes | None) -> set[int]:
        """Return the tree sizes for which the root is needed."""
        from kropot.restore.trusted import marks_of

        marks = {each.checkpoint.size for each in self.signed}
        return marks.union(*(marks_of(seen) for _, seen in self.known(ledger_id)))

    def compare(self, history: KnownTree, ledger_id: bytes | None, *, what: str, remember: bool) -> None:
        """Compare the history with the checkpoints and with what the kits saw before. With `remember`, remember it.

        Raises: IntegrityError if the history contradicts them.
        """
        from kropot.restore.trusted import compare_with

        self.total = history.size
        if self.signed:
            if ledger_id is None:
                raise IntegrityError(f"the first event of {what} cannot be read, so no checkpoint belongs to it")
            self.checkpoint = compare_with(history, self.signed, ledger_id, what=what)
        if ledger_id is None:
            self.seen.append("its first event cannot be read, so this kit does not remember it")
        elif not self.files:
            self.seen.append("no kit remembers it, so a rollback is not excluded")
        else:
            self._look_back(history, ledger_id, what)
            if remember:
                self._remember(history, ledger_id)

    def skip(self, why: str) -> None:
        """Record why the history cannot be compared. Raises: IntegrityError if checkpoints were given."""
        if self.signed:
            raise IntegrityError(f"{why}, so nothing can be compared with --against: leave it out")
        self.why_not = why

    def known(self, ledger_id: bytes | None) -> Iterator[tuple[SeenFile, SeenTree]]:
        """Yield what each kit saw of this ledger before, with the file that remembers it."""
        for file in self.files:
            if ledger_id is not None and (seen := file.of(ledger_id.hex())) is not None:
                yield file, seen

    def _look_back(self, history: KnownTree, ledger_id: bytes, what: str) -> None:
        from kropot.restore.trusted import lost_since

        known = list(self.known(ledger_id))
        for file in self.files:
            if file.trouble is not None:
                warn(f"cannot tell what the kit saw before: {file.trouble}")
        for file, seen in known:
            lost = lost_since(history, seen)
            if lost is None:
                continue
            if not self.accept_older:
                raise IntegrityError(
                    f"{what} is older than what {file.path} remembers, or is a different one: {lost}; nothing was "
                    "written: give the newest copy of the ledger, or accept the loss with --accept-older (for example "
                    "after `db recover`)"
                )
            warn(f"{what} lacks what was seen before, as accepted: {lost}")
        if known and not self.accept_older:
            newest = max((seen for _, seen in known), key=lambda seen: seen.tree.size)
            self.seen_before = newest.tree.size
            self.seen.append(f"it goes on from the {number(newest.tree.size, 'event')} seen at {moment(newest.at_us)}")
        elif not known:
            others = max(file.others for file in self.files)
            more = f"; it saw {number(others, 'other ledger')} before" if others else ""
            self.seen.append(f"this kit sees it for the first time, so a rollback is not excluded{more}")

    def _remember(self, history: KnownTree, ledger_id: bytes) -> None:
        from kropot.restore.seen import SeenTree
        from ledger.log import utc_now_us

        now = SeenTree(tree=history.tree, at_us=utc_now_us(), checkpoint=self.checkpoint)
        for file in self.files:
            before = file.of(ledger_id.hex())
            if before is not None and (before.tree, before.checkpoint) == (now.tree, now.checkpoint):
                continue
            why = file.write(ledger_id.hex(), now)
            if why is not None:
                say(f"cannot remember this ledger beside the kit ({why}), so a later rollback will go unnoticed")
                self.seen.append("it is not remembered")

    # --- proving ---

    def unproved(self, plan: Planned) -> str | None:
        """Return, in words, which requirement is not proved for a planned file, None if all are."""
        if "sealing" in self.require and plan.opened.sealing != "sc2":
            return "its sealing is not authenticated, and --require sealing refuses that"
        if "history" in self.require and not self.includes(plan):
            return f"it comes from event {plan.held.position}, which no given checkpoint covers"
        return None

    def includes(self, plan: Planned) -> bool:
        """Return whether a checkpoint that agrees covers the event of a planned file."""
        return self.checkpoint is not None and 0 < plan.held.position <= self.checkpoint

    def demanded(self, plans: Iterable[Planned | RestoreProblem]) -> Iterator[Planned | RestoreProblem]:
        """Yield the plans, but a problem instead of each plan that is not proved as required."""
        from kropot.restore.plan import Planned
        from kropot.restore.problems import finding

        for plan in plans:
            why = self.unproved(plan) if isinstance(plan, Planned) else None
            yield plan if why is None or not isinstance(plan, Planned) else finding("unproved", plan, why)


_WORDS = {"sc2": "authentic", "cbc": "not authenticated: AES-CBC", "plain": "not sealed"}


@dataclass(slots=True)
class Proofs:
    """What is proved about the files of a restore: how they are sealed, and how many a checkpoint covers."""

    sealed: Counter[str] = field(default_factory=Counter)
    unbound: int = 0
    included: int = 0

    def count(self, plan: Planned, trust: Trust) -> None:
        """Count a file."""
        self.sealed[plan.opened.sealing] += 1
        self.unbound += plan.opened.sealing == "cbc" and not plan.opened.is_bound
        self.included += trust.includes(plan)

    @property
    def sealing(self) -> str:
        """How the files are sealed, in words."""
        found = [(kind, words) for kind, words in _WORDS.items() if self.sealed[kind]]
        if not found:
            return "no file was opened"
        counted = "; ".join(f"{self.sealed[kind]:,} {words}" for kind, words in found)
        text = found[0][1] if len(found) == 1 else counted
        if self.unbound:
            text += f"; {number(self.unbound, 'name')} not bound to ids, because the kit has no stored salt"
        return text

    def history(self, trust: Trust) -> str:
        """Return how many files the checkpoint covers, in words."""
        files = sum(self.sealed.values())
        if trust.checkpoint is None or trust.total is None:
            text = f"not compared: {trust.why_not}"
        elif self.included == files:
            text = f"included under checkpoint {trust.checkpoint:,} of {trust.total:,}"
        else:
            text = (
                f"{self.included:,} of {number(files, 'file')} included under checkpoint {trust.checkpoint:,} of "
                f"{trust.total:,}; the others come from later events"
            )
        return "; ".join((text, *trust.seen))

    def json(self, trust: Trust) -> dict[str, Any]:
        """Return the same as JSON fields."""
        return {
            "sealing": {**{kind: self.sealed[kind] for kind in _WORDS}, "unbound_names": self.unbound},
            "history": {
                "checkpoint": trust.checkpoint,
                "events": trust.total,
                "included": self.included,
                "not_compared": trust.why_not if trust.checkpoint is None else None,
                "seen_before": trust.seen_before,
                "notes": trust.seen,
            },
        }
