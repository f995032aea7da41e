"""Files in a folder on an SFTP server, through asyncssh: written under a temporary name, synced, then renamed.

The server's key must be known (`known_hosts`), and this machine logs in with its own key: passwords are never used.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import posixpath
import secrets
import stat as modes
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from kropot.durable.errors import StorageError, StorageFullError
from kropot.durable.filesystem import Room
from kropot.errors import UsageError
from kropot.objects.instance import folder_name
from kropot.objects.stores.files import PIECE, Capabilities, NoSuchKeyError, RemoteStat
from kropot.objects.stores.retry import PassingError, Retries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from kropot.objects.stores.address import SftpAddress

T = TypeVar("T")

_CONNECT_S = 20
_ANSWER_S = 300
_NO_SPACE, _QUOTA = 14, 15  # SFTP version 5 and later; OpenSSH answers a plain failure


class SftpFiles:
    """The files below a folder on a server; each process makes a connection, and a thread for it, at the first use."""

    def __init__(self, address: SftpAddress, instance: str, *, retries: Retries | None = None) -> None:
        """Ask nothing yet; temporary files are in the folder of `instance`."""
        self._address = address
        self._instance = instance
        self._retries = Retries() if retries is None else retries
        self._root = address.path.removeprefix("~/")
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._line: _SshLine | None = None
        self._made: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out, because another process makes its own."""
        return {"address": self._address, "instance": self._instance, "retries": self._retries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without a connection."""
        self.__init__(**state)  # type: ignore[misc]

    @property
    def place(self) -> str:
        """The URL."""
        return str(self._address)

    @property
    def can(self) -> Capabilities:
        """What SFTP can do."""
        return Capabilities(conditional_put=False, rename=True, free_space=True, digests=False)

    def put(self, key: str, data: bytes) -> None:
        """Write, sync, compare the size, rename over."""
        self.put_file(key, io.BytesIO(data))

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Write in pieces."""
        size = file.seek(0, io.SEEK_END)

        async def work(sftp: Any) -> None:
            file.seek(0)
            temporary = self._temporary()
            await self._make_folders(sftp, posixpath.dirname(temporary))
            await self._make_folders(sftp, posixpath.dirname(self._path(key)))
            try:
                async with sftp.open(temporary, "xb") as there:
                    while data := file.read(PIECE):
                        await there.write(data)
                    await _synced(there)
                    written = (await there.stat()).size
                self._confirm(key, written, size)
                await sftp.posix_rename(temporary, self._path(key))
            except BaseException:
                with contextlib.suppress(Exception):
                    await sftp.remove(temporary)
                raise

        self._ask(f"writing {self.place}/{key}", key, work)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read the range."""

        async def work(sftp: Any) -> bytes:
            async with sftp.open(self._path(key), "rb") as there:
                await there.seek(start)
                return bytes(await there.read(-1 if end is None else max(end - start, 0)))

        return b"" if end is not None and end <= start else self._ask(f"reading {self.place}/{key}", key, work)

    def fetch(self, key: str, into: BinaryIO) -> None:
        """Read it in pieces."""
        at = 0
        while piece := self.get(key, at, at + PIECE):
            into.write(piece)
            at += len(piece)

    def tail(self, key: str, length: int) -> tuple[bytes, RemoteStat]:
        """Ask for the size, then for the last bytes, of one open file."""

        async def work(sftp: Any) -> tuple[bytes, RemoteStat]:
            async with sftp.open(self._path(key), "rb") as there:
                found = await there.stat()
                await there.seek(max(found.size - length, 0))
                return bytes(await there.read(length)), _stat_of(key, found)

        return self._ask(f"reading {self.place}/{key}", key, work)

    def stat(self, key: str) -> RemoteStat | None:
        """Look at the file; a symbolic link is not one."""

        async def work(sftp: Any) -> RemoteStat | None:
            found = await sftp.lstat(self._path(key))
            return _stat_of(key, found) if modes.S_ISREG(found.permissions or 0) else None

        try:
            return self._ask(f"looking at {self.place}/{key}", key, work)
        except NoSuchKeyError:
            return None

    def walk(self, folder: str, after: str = "") -> Iterator[RemoteStat]:
        """Read folder by folder; memory holds one folder's names."""
        for name, found in self._listed(folder):
            key = f"{folder}/{name}" if folder else name
            if modes.S_ISDIR(found.permissions or 0):
                if f"{key}0" > after:  # "0" is the character after the slash
                    yield from self.walk(key, after)
            elif modes.S_ISREG(found.permissions or 0) and key > after:
                yield _stat_of(key, found)

    def remove(self, key: str) -> None:
        """Remove the file."""
        with contextlib.suppress(NoSuchKeyError):
            self._ask(f"removing {self.place}/{key}", key, lambda sftp: sftp.remove(self._path(key)))

    def move(self, source: str, target: str) -> None:
        """Rename, in one step."""
        import asyncssh

        async def work(sftp: Any) -> None:
            await self._make_folders(sftp, posixpath.dirname(self._path(target)))
            await sftp.posix_rename(self._path(source), self._path(target))
            # Its age counts from now on, as everywhere else.
            now = int(time.time())
            with contextlib.suppress(asyncssh.SFTPError):
                await sftp.utime(self._path(target), (now, now))

        self._ask(f"moving {self.place}/{source}", source, work)

    def room(self) -> Room:
        """Ask for the file system's free space, which OpenSSH reports."""
        import asyncssh

        async def work(sftp: Any) -> Room:
            path = self._root
            while True:
                try:
                    found = await sftp.statvfs(path)
                except asyncssh.SFTPNoSuchFile:
                    if path in {"", "/", posixpath.dirname(path)}:
                        raise
                    path = posixpath.dirname(path) or "."
                except asyncssh.SFTPOpUnsupported:
                    return Room(bytes=None, files=None)
                else:
                    return Room(bytes=found.bavail * found.frsize, files=found.favail if found.files else None)

        return self._ask(f"asking for the free space of {self.place}", "", work)

    def sweep(self, instance: str) -> int:
        """Remove the temporary files of an instance."""
        swept = 0
        for found in list(self.walk(f"tmp/{folder_name(instance)}")):
            self.remove(found.key)
            swept += 1
        return swept

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _confirm(self, key: str, written: int, size: int) -> None:
        if written != size:
            raise StorageError(f"{self.place}/{key} has {written} bytes there, but {size} were sent: sending it again")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _temporary(self) -> str:
        own = f"{os.getpid()}-{secrets.token_hex(4)}-{next(self._numbers)}"
        return self._path(f"tmp/{folder_name(self._instance)}/{own}")

    def _listed(self, folder: str) -> list[tuple[str, Any]]:
        async def work(sftp: Any) -> list[tuple[str, Any]]:
            names = []
            async for entry in sftp.scandir(self._path(folder)):
                name = entry.filename if isinstance(entry.filename, str) else os.fsdecode(entry.filename)
                if name not in {".", ".."}:
                    names.append((name, entry.attrs))
            # In the order of keys: a folder's keys come where its name with a slash would.
            return sorted(names, key=lambda one: f"{one[0]}/" if modes.S_ISDIR(one[1].permissions or 0) else one[0])

        try:
            return self._ask(f"listing {self.place}/{folder}", folder, work)
        except NoSuchKeyError:
            return []

    async def _make_folders(self, sftp: Any, folder: str) -> None:
        if folder not in self._made:
            await sftp.makedirs(folder, attrs=_private(), exist_ok=True)
            self._made.add(folder)

    def _ask(self, doing: str, key: str, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something over the connection; retry over a new one if that might help."""
        return self._retries.run(lambda: self._once(doing, key, work))

    def _once(self, doing: str, key: str, work: Callable[[Any], Awaitable[T]]) -> T:
        import asyncssh

        line = self._connected(doing)
        try:
            return line.run(_within(work, line.sftp))
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            self._made.clear()
            raise NoSuchKeyError(self.place, key) from None
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError) as error:
            self.close()
            raise PassingError(f"{doing}: the connection to {self._address.host} broke ({error.reason})") from None
        except asyncssh.SFTPError as error:
            if error.code in {_NO_SPACE, _QUOTA}:
                raise StorageFullError(
                    f"{doing}: the server is full, or its quota is used up: free some space"
                ) from None
            raise self._refused(doing, line, error) from None
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            self.close()
            raise PassingError(f"{doing}: the connection to {self._address.host} broke ({error})") from None

    def _refused(self, doing: str, line: _SshLine, error: Any) -> StorageError:
        """Return why the server refused; OpenSSH reports a full disk as a failure, like everything else."""
        if "ermission" in error.reason:
            return StorageError(f"{doing}: the server refuses it: check the user's rights on {self._address.path}")
        with contextlib.suppress(Exception):
            found = line.run(_within(lambda sftp: sftp.statvfs(self._root), line.sftp))
            if found.bavail * found.frsize < 2 * PIECE:
                return StorageFullError(
                    f"{doing}: the server's disk is full: free some space, and it goes on by itself"
                )
        return StorageError(f"{doing}: the server could not do it ({error.reason})")

    def _connected(self, doing: str) -> _SshLine:
        with self._lock:
            if self._line is None or self._line.pid != os.getpid():
                self._made.clear()
                self._line = _SshLine(self._address, doing)
            return self._line


class _SshLine:
    """A connection, and the thread that runs its event loop."""

    def __init__(self, address: SftpAddress, doing: str) -> None:
        """Connect. Raises: StorageError."""
        try:
            import asyncssh
        except ImportError:
            raise UsageError("an sftp:// storage needs the extra `sftp`: pip install 'kropotcli[sftp]'") from None
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sftp", daemon=True)
        self._thread.start()
        self._connection: Any = None
        who, host = address.user or "this user", address.host
        options: dict[str, Any] = {"port": address.port} if address.port is not None else {}
        if address.user is not None:
            options["username"] = address.user

        async def connect() -> Any:
            # No password, and no prompt on a terminal: only a key, and a server that is in known_hosts.
            self._connection = await asyncssh.connect(
                host.strip("[]"),
                connect_timeout=_CONNECT_S,
                login_timeout=_CONNECT_S,
                keepalive_interval=30,
                preferred_auth="publickey",
                password_auth=False,
                kbdint_auth=False,
                **options,
            )
            return await self._connection.start_sftp_client()

        try:
            self.sftp = self.run(connect())
        except asyncssh.HostKeyNotVerifiable:
            self.close()
            raise StorageError(
                f"{doing}: the key of {host} is not in known_hosts, or differs: compare its fingerprint, then connect "
                "once with `ssh` to record it"
            ) from None
        except asyncssh.PermissionDenied:
            self.close()
            raise StorageError(
                f"{doing}: {host} does not let {who} log in: check the user, and that a key of this user (ssh-agent, "
                "~/.ssh/id_ed25519) is in the server's authorized_keys"
            ) from None
        except asyncssh.ChannelOpenError:
            self.close()
            raise StorageError(f"{doing}: {host} does not offer SFTP: enable its subsystem sftp") from None
        except (OSError, TimeoutError, asyncssh.Error) as error:
            self.close()
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
            raise PassingError(
                f"{doing}: {host} cannot be reached over SSH ({why}): check host, port and network"
            ) from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work in the loop, and wait. Raises: whatever it raises; TimeoutError."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, _ANSWER_S), self._loop).result()

    def close(self) -> None:
        """End the connection and the thread, unless they belong to another process."""
        if self.pid != os.getpid():
            return

        async def end() -> None:
            if self._connection is not None:
                self._connection.abort()

        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


async def _within(work: Callable[[Any], Awaitable[T]], sftp: Any) -> T:
    return await work(sftp)


async def _synced(there: Any) -> None:
    """Make the server sync the file, if it can (OpenSSH can)."""
    import asyncssh

    with contextlib.suppress(asyncssh.SFTPOpUnsupported):
        await there.fsync()


def _private() -> Any:
    import asyncssh

    return asyncssh.SFTPAttrs(permissions=0o700)


def _stat_of(key: str, found: Any) -> RemoteStat:
    return RemoteStat(key, int(found.size), float(found.mtime or 0), f"{found.mtime}-{found.size}")
