"""What the crash laboratory disturbs: a folder as it is before a command, the command, and what is done after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Look = Literal["replica", "tree", "copy", "tokens", "sources", "notes", "quarantine", "key", "space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A command that is disturbed in the folder that `base` names, what follows, and what is compared at the end.

    `before` is whether `verify` must already be content right after the crash. `look` is what is compared beside the
    replica: the tree of files in `out`, a ledger copied to copy.db, the tokens and their kits, the sources, the
    checkpoints in `notes`, what was set aside as damaged, a key to sign by, or what fills the storage. `token` and
    `server` are whom the command speaks to, as whom.
    With more than one of `processors`, collect moves contents in a process of its own, and restore writes small files
    in several.
    A command with `is_once` refuses to run a second time.
    """

    name: str
    base: str
    command: tuple[str, ...]
    recovery: tuple[tuple[str, ...], ...]
    before: bool = True
    look: Look = "replica"
    token: Literal["sealed", "second", "plain"] = "sealed"
    server: Literal["few", "many"] = "few"
    processors: int = 1
    is_once: bool = False


COLLECT = ("collect", "--once", "--full")
# The first client's options, in its order; {token} and {url} are filled in.
FIRST_CLIENT = (
    "--token={token}",
    "--server-url={url}",
    "--storage-path=./storage",
    "--instance-name=first",
    "--db-string=sqlite:///database.db",
    "--log-level=info",
    "--refresh-time=300",
    "--http-timeout=7200",
    "collect",
    "--once",
)
RESTORE = ("restore", "--key", "kit.json", "--to", "out")
RESTORE_TWO = ("restore", "--key", "kit.json", "--key", "kit2.json", "--to", "out")
EXPORT = ("replay", "--export", "out")
SIGN = ("checkpoint", "sign", "--key", "signer.key", "--to", "notes")
INIT = ("checkpoint", "init", "--key", "keys/signer.key")
COPY = ("db", "copy", "sqlite:///database.db", "sqlite:///copy.db")
PACK = ("storage", "pack", "--all")
MOVE = ("source", "alias", "{source}", "--server-url", "http://127.0.0.1:9/moved")
PRUNE = ("--config", "policy.toml", "prune", "--grace", "0s")
REWRITE = (*PRUNE, "--max-unused", "0")
UNDO = ("prune", "--undo")
CLEAN = ("storage", "clean", "--grace", "0s")
TOKEN = ("gateway", "token", "create", "../spec.json")


def _same(name: str, base: str, command: tuple[str, ...], look: Look = "replica") -> Scenario:
    """Return a scenario after which the command is simply given again."""
    return Scenario(name=name, base=base, command=command, recovery=(command,), look=look)


SCENARIOS: tuple[Scenario, ...] = (
    _same("first collect", "empty", COLLECT),
    Scenario(name="collect by two", base="empty", command=COLLECT, recovery=(COLLECT,), processors=2),
    _same("collect changes", "collected", COLLECT),
    Scenario(name="plain collect", base="empty", command=COLLECT, recovery=(COLLECT,), token="plain"),
    Scenario(name="second token", base="current", command=COLLECT, recovery=(COLLECT,), token="second"),
    Scenario(name="many files", base="empty", command=COLLECT, recovery=(COLLECT,), server="many", processors=2),
    _same("verify", "current", ("verify",)),
    Scenario(name="verify damage", base="damaged", command=("verify",), recovery=(("verify",), COLLECT), before=False),
    Scenario(
        name="repair",
        base="damaged",
        command=("verify", "--repair"),
        recovery=(("verify", "--repair"), COLLECT),
        before=False,
        look="quarantine",
    ),
    _same("restore", "current", RESTORE, "tree"),
    Scenario(name="restore by two", base="current", command=RESTORE, recovery=(RESTORE,), look="tree", processors=2),
    _same("restore two kits", "two", RESTORE_TWO, "tree"),
    _same("export", "current", EXPORT, "tree"),
    _same("storage pack", "current", PACK),
    _same("storage index", "packed", ("storage", "index")),
    _same("rebuild", "current", ("rebuild",)),
    _same("snapshot", "current", ("snapshot",)),
    _same("checkpoint", "current", SIGN, "notes"),
    Scenario(name="checkpoint init", base="collected", command=INIT, recovery=(INIT,), look="key", is_once=True),
    _same("db copy", "current", COPY, "copy"),
    _same("db init", "empty", ("db", "init")),
    _same("source alias", "current", MOVE, "sources"),
    _same("source accept", "held", ("source", "accept"), "sources"),
    _same("token create", "gateway", TOKEN, "tokens"),
    _same("prune", "current", PRUNE, "space"),
    _same("prune packs", "packed", REWRITE, "space"),
    _same("prune undo", "released", UNDO, "space"),
    _same("storage clean", "untidy", CLEAN, "space"),
    Scenario(name="first client", base="empty", command=FIRST_CLIENT, recovery=(FIRST_CLIENT,)),
)
