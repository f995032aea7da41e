"""One simulated collector: the real decisions and the real dealings with the ledger, with unreliable hands."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote

from kropot.collect.decide.actions import (
    Abandon,
    AskGone,
    Fetch,
    Finish,
    FlushPrefetched,
    ListPage,
    Prefetch,
    Publish,
    RecordFacts,
    Say,
)
from kropot.collect.decide.inputs import (
    Abandoned,
    Fetched,
    GoneAnswered,
    NotReceived,
    Ousted,
    PageFailed,
    PageListed,
    PageRefused,
    Prefetched,
    PrefetchedCopy,
    PublishDone,
    Received,
    Started,
    StopRequested,
    Tick,
)
from kropot.collect.decide.step import Collector
from kropot.collect.run.effects import LEDGER_ACTIONS, LedgerEffects
from kropot.collect.run.workers import bulk_wanted, job_of
from kropot.collect.transfer.receive import ContentReceiver, FreeSpace
from kropot.durable.errors import StorageError, StorageFullError
from kropot.lister.conversation import Trouble
from kropot.objects.memory import MemoryObjects
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published, PublishError
from kropot.objects.stores.retry import PassingError
from kropot.securecopy import bulkwire
from kropot.securecopy.bulkread import read_frames
from kropot.securecopy.content import UnbelievableError
from kropot.securecopy.wire import BadPageError, parse_page, parse_submitdata
from ledger.errors import InstanceBusyError
from ledger.log import Ledger
from tests.oldserver import Answer, Request
from tests.simulation.oldlist import list_request

if TYPE_CHECKING:
    from random import Random

    from kropot.collect.decide.actions import Action
    from kropot.collect.decide.inputs import Input
    from kropot.collect.decide.rules import CollectRules
    from ledger.replica import Entry
    from tests.simulation.world import World

SECOND = 1_000_000
MILLI = 1000


class Actor:
    """A collector's process: started, killed, stopped and woken by the world."""

    def __init__(self, *, world: World, rules: CollectRules, skew_us: int) -> None:
        self.world = world
        self.rules = rules
        self.said: list[Say] = []
        self.code: int | None = None
        self._skew_us = skew_us
        self._life = 0
        self._asleep_until = 0
        self._tick = 0
        self._fetching: dict[int, Entry] = {}
        self._numbers = count()
        self._collector: Collector | None = None
        self._hand: LedgerEffects
        self._objects: MemoryObjects

    @property
    def rng(self) -> Random:
        return self.world.rng

    # --- its life ---

    def start(self) -> None:
        """Begin a new process of this name."""
        world, rules = self.world, self.rules
        self._life += 1
        self._fetching.clear()
        pack = PackRule(worth=0) if world.plan.packs else None
        self._objects = MemoryObjects(rules.instance, world.disk, pack=pack)
        self._objects.lock()
        ledger = Ledger(world.store, writer=rules.instance, entropy=self.rng.randbytes)
        try:
            ledger.work.enroll(rules.instance, place=rules.instance, lease_us=rules.lease_us, here=True)
        except InstanceBusyError:
            raise AssertionError("the lock on the files is held, so no other process of this name lives") from None
        self._objects.clean_own_leftovers(lambda _: False)
        self._hand = LedgerEffects(
            ledger=ledger,
            source_id=world.source_id,
            instance=rules.instance,
            lease_us=rules.lease_us,
            free_bytes=self._objects.free_bytes,
            holds=self._objects.holds,
        )
        self._collector = Collector(world.source_id, ledger.sources()[world.source_id].source, rules)
        self._post(0, Started(position=ledger.head().position))

    def kill(self) -> None:
        """End the process where it stands; the system frees its lock, and nothing else."""
        self._life += 1
        self._collector = None
        self.world.disk.claimed.discard(self.rules.instance)
        self.world.at(self.rng.randrange(300 * SECOND), self.start)

    def wake(self) -> None:
        """End a sleep."""
        self._asleep_until = 0

    def stop(self) -> None:
        """Ask the process to end."""
        self._post(0, StopRequested(how="term"))

    # --- what happens to it ---

    def _post(self, delay_us: int, happened: Input) -> None:
        life = self._life
        self.world.at(delay_us, lambda: self._handle(life, happened))

    def _handle(self, life: int, happened: Input) -> None:
        world = self.world
        if life != self._life or self._collector is None:
            return
        if world.now_us < self._asleep_until:
            world.at(self._asleep_until - world.now_us, lambda: self._handle(life, happened))
            return
        if not world.is_calm and self.rng.random() < world.plan.pauses:
            self._asleep_until = world.now_us + self.rng.randrange(400 * SECOND)
        for action in self._collector.step(world.now_us + self._skew_us, happened):
            if not world.is_calm and self.rng.random() < world.plan.crashes:
                self.kill()
                return
            if isinstance(action, Finish):
                self._finish(int(action.code))
                return
            self._perform(action)
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Have a tick come when the collector wants one; an earlier wish is forgotten."""
        if self._collector is None:
            return
        self._tick += 1
        life, tick = self._life, self._tick
        wait_us = max(self._collector.wakes_us - self._skew_us - self.world.now_us, MILLI)

        def ring() -> None:
            if tick == self._tick:
                self._handle(life, Tick())

        self.world.at(wait_us, ring)

    def _finish(self, code: int) -> None:
        self.code = code
        self._collector = None
        self._life += 1
        self._hand.ledger.work.retire(self.rules.instance)
        self._objects.close()
        if not self.world.is_calm:
            self.world.at(self.rng.randrange(60 * SECOND), self.start)

    # --- what it does ---

    def _perform(self, action: Action) -> None:  # noqa: C901 -- one case an action
        match action:
            case _ if isinstance(action, LEDGER_ACTIONS):
                self._ask_ledger(action)
            case ListPage():
                self._post(self._latency(), self._list(action))
            case AskGone():
                self._post(self._latency(), self._ask_gone(action))
            case Fetch():
                for entry in action.entries:
                    self._begin_fetch(entry)
            case Publish():
                life = self._life
                self.world.at(self._latency(), lambda: self._publish(life, action))
            case Prefetch():
                life = self._life
                self.world.at(self._latency(), lambda: self._prefetch(life, action))
            case FlushPrefetched():
                pass
            case Abandon():
                entries = tuple(self._fetching.values())
                self._fetching.clear()
                self._post(0, Abandoned(entries=entries))
            case Say():
                self.said.append(action)
            case _:
                raise TypeError(type(action))

    def _latency(self) -> int:
        return self.rng.randrange(10 * MILLI, 2 * SECOND)

    def _ask_ledger(self, action: Action) -> None:
        answer = self._hand.perform(action)  # type: ignore[arg-type]
        if isinstance(action, RecordFacts) and not isinstance(answer, Ousted) and self._is_unlucky("lost_answers"):
            # The answer to a commit was lost, and the loop asks once more.
            answer = self._hand.perform(action)
        if answer is not None:
            self._post(0, answer)

    def _is_unlucky(self, share: str) -> bool:
        return not self.world.is_calm and self.rng.random() < getattr(self.world.plan, share)

    def _ask(self, request: Request) -> Answer | None:
        """Return the server's answer, None where it cannot be reached."""
        return None if self.world.is_down else self.world.server.respond(request)[0]

    def _list(self, action: ListPage) -> Input:
        if self._is_unlucky("page_faults"):
            reason = self.rng.choice(["timeout", "cut", "http_500"])
            status = 500 if reason == "http_500" else None
            return PageFailed(trouble=Trouble(reason=reason, status=status), check=action.check)
        answer = self._ask(list_request(self.world.server.token, action.ask))
        if answer is None:
            return PageFailed(trouble=Trouble(reason="unreachable"), check=action.check)
        if answer.status == 403:
            return PageRefused(check=action.check)
        try:
            page = parse_page(answer.status, answer.content_type, _whole(answer))
        except BadPageError as error:
            return PageFailed(trouble=Trouble(reason=error.reason, status=answer.status), check=action.check)
        return PageListed(page=page, check=action.check)

    def _request(self, path: str) -> Request:
        headers = (("token", self.world.server.token), ("User-Agent", "simulated"))
        return Request(number=0, visit=0, method="GET", path=path, query="", headers=headers)

    def _ask_gone(self, action: AskGone) -> Input:
        answer = self._ask(self._request(f"/secure-copy/file/{quote(action.failed.entry.key.id, safe='')}/submitdata"))
        if answer is None:
            return GoneAnswered(failed=action.failed, gone=None)
        try:
            found = parse_submitdata(answer.status, answer.content_type, _whole(answer))
        except BadPageError:
            return GoneAnswered(failed=action.failed, gone=None)
        return GoneAnswered(failed=action.failed, gone=found is None)

    def _begin_fetch(self, entry: Entry) -> None:
        life, number = self._life, next(self._numbers)
        self._fetching[number] = entry

        def end() -> None:
            if life == self._life and self._fetching.pop(number, None) is not None:
                self._post(0, self._fetched(entry))

        self.world.at(self._latency(), end)

    def _fetched(self, entry: Entry) -> Fetched:
        fault = self.rng.choice(["cut", "http_500", "late"]) if self._is_unlucky("content_faults") else ""
        if fault:
            status = 500 if fault == "http_500" else None
            return Fetched(failed=(NotReceived(entry=entry, reason=fault, status=status),))
        answer = self._ask(self._request(f"/secure-copy/file/{quote(entry.key.id, safe='')}/content"))
        if answer is None:
            return Fetched(failed=(NotReceived(entry=entry, reason="unreachable"),))
        receiver = ContentReceiver(job_of(entry), self._objects, FreeSpace(self._objects, 0))
        fields = [(name.lower(), value) for name, value in answer.headers]
        fields += [("content-type", answer.content_type), ("transfer-encoding", "chunked")]
        try:
            receiver.begin(answer.status, 11, fields)
            receiver.write(_whole(answer))
        except (UnbelievableError, StorageError) as error:
            return Fetched(failed=(receiver.failed(error),))
        receipt = receiver.conclude()
        return Fetched(received=(receipt,)) if isinstance(receipt, Received) else Fetched(failed=(receipt,))

    def _prefetch(self, life: int, action: Prefetch) -> None:
        """Fetch in bulk what comes; a stream that breaks off keeps what was whole."""
        if life != self._life:
            return
        wanted = [bulk_wanted(listed) for listed in action.entries]
        body = bulkwire.encode_request([(one.id, one.etag) for one in wanted])
        answer = self._ask(replace(self._request(bulkwire.PATH), method="POST", body=body))
        stream = b"" if answer is None or answer.status != 200 else _whole(answer)
        if self._is_unlucky("content_faults"):
            stream = stream[: self.rng.randrange(len(stream) + 1)]
        came = []
        try:
            for content in read_frames(partial(_exactly, io.BytesIO(stream)), wanted):
                staged = self._objects.stage_whole(content.data, content.sha256)
                if self._is_unlucky("publish_faults"):
                    self._objects.discard([staged])
                else:
                    came.append((content, staged))
        except (EOFError, StorageError):
            pass
        copies = {
            content.at: PrefetchedCopy(sha256=result.sha256, size=result.size, iv=content.iv, place=result.place)
            for (content, _), result in zip(came, self._objects.publish([staged for _, staged in came]), strict=True)
            if isinstance(result, Published)
        }
        self._post(0, Prefetched(copies={action.number: copies}))

    def _publish(self, life: int, action: Publish) -> None:
        if life != self._life:
            return
        results: dict[int, Published | PublishError] = {}
        for at, good in enumerate(action.batch):
            staged = good.staged
            if self._is_unlucky("publish_faults"):
                self._objects.discard([staged])
                kind = self.rng.choice([StorageError, StorageFullError, PassingError])
                results[at] = PublishError(sha256=staged.sha256, size=staged.size, error=kind("simulated"))
        lucky = [at for at in range(len(action.batch)) if at not in results]
        outcomes = self._objects.publish([action.batch[at].staged for at in lucky])
        results |= dict(zip(lucky, outcomes, strict=True))
        self._post(0, PublishDone(batch=action.batch, results=tuple(results[at] for at in sorted(results))))


def _whole(answer: Answer) -> bytes:
    return answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)


def _exactly(stream: io.BytesIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data
