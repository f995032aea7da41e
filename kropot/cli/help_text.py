"""How the commands are grouped on the help page, the names that people type for some, and one example of each."""

from __future__ import annotations

from typing import Final

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Back up": ("collect", "source"),
    "See what there is": ("status", "ls", "history", "log", "diff", "replay"),
    "Get it back": ("restore", "decrypt", "recipe", "kit"),
    "Check and prove": ("verify", "checkpoint", "prove", "check-proof", "consistency"),
    "Look after the replica": ("db", "rebuild", "snapshot"),
    "Serve files": ("gateway",),
    "Set up": ("config", "completion", "man", "demo"),
}
"""The commands of the root by what a person wants to do. What no group names comes last, under "Other commands"."""

ALIASES: Final[dict[str, str]] = {"check": "verify", "snapshots": "log", "list": "ls"}
"""What people type who know other programs of this kind."""

EXAMPLES: Final[dict[str, str]] = {
    "": "kropotcli demo",
    "check-proof": "kropotcli check-proof proof.json --public-key owner.pub",
    "checkpoint": "kropotcli checkpoint sign --to /mnt/usb",
    "checkpoint init": "kropotcli checkpoint init",
    "checkpoint list": "kropotcli checkpoint list --public-key owner.pub",
    "checkpoint sign": "kropotcli checkpoint sign --to /mnt/usb",
    "collect": "kropotcli collect --once --server-url https://files.example.org --token-file token",
    "completion": "kropotcli completion install",
    "completion install": "kropotcli completion install bash",
    "completion print": "kropotcli completion print zsh",
    "config": "kropotcli config show",
    "config check": "kropotcli config check",
    "config init": "kropotcli config init",
    "config show": "kropotcli config show",
    "consistency": "kropotcli consistency older.ckpt newer.ckpt --public-key owner.pub",
    "db": "kropotcli db info",
    "db accept-clock": "kropotcli db accept-clock",
    "db copy": "kropotcli db copy sqlite:///database.db postgresql://localhost/kropot",
    "db info": "kropotcli db info",
    "db init": "kropotcli db init",
    "db recover": "kropotcli db recover --from-storage",
    "db upgrade": "kropotcli db upgrade",
    "decrypt": "kropotcli decrypt docs/letter.txt --key kit.json -o letter.txt",
    "demo": "kropotcli demo",
    "diff": "kropotcli diff 7d 1d --key kit.json",
    "gateway": "kropotcli gateway serve --source /srv/files",
    "gateway check": "kropotcli gateway check --source /srv/files",
    "gateway serve": "kropotcli gateway serve --source /srv/files",
    "gateway token": "kropotcli gateway token list",
    "gateway token create": "kropotcli gateway token create --kit kit.json",
    "gateway token list": "kropotcli gateway token list",
    "gateway token revoke": "kropotcli gateway token revoke 3",
    "gateway vault": "kropotcli gateway vault list",
    "gateway vault kit": "kropotcli gateway vault kit 1 --kit kit.json",
    "gateway vault list": "kropotcli gateway vault list",
    "gateway vault rotate": "kropotcli gateway vault rotate 1 --kit newer-kit.json",
    "history": "kropotcli history docs/letter.txt --key kit.json",
    "kit": "kropotcli kit check kit.json",
    "kit check": "kropotcli kit check kit.json",
    "kit passphrase": "kropotcli kit passphrase kit.json -o locked-kit.json",
    "kit read": "kropotcli kit read typed.txt -o kit.json",
    "kit show": "kropotcli kit show kit.json --paper",
    "log": "kropotcli log --since 7d",
    "ls": "kropotcli ls --key kit.json",
    "man": "kropotcli man --to ~/.local/share/man/man1",
    "prove": "kropotcli prove laptop:3f9a0c1b",
    "rebuild": "kropotcli rebuild",
    "recipe": "kropotcli recipe laptop:3f9a0c1b --key kit.json",
    "replay": "kropotcli replay --until 2026-05-01",
    "restore": "kropotcli restore docs --key kit.json --to restored --until 7d",
    "snapshot": "kropotcli snapshot",
    "source": "kropotcli source list",
    "source accept": "kropotcli source accept laptop",
    "source alias": "kropotcli source alias laptop --server-url https://new.example.org",
    "source dismiss": "kropotcli source dismiss laptop:3f9a0c1b",
    "source label": "kropotcli source label 3f9a laptop",
    "source list": "kropotcli source list",
    "source retire": "kropotcli source retire laptop",
    "status": "kropotcli status --check --nagios",
    "verify": "kropotcli verify --budget 2h",
}
"""One command line for each command and group, by its names without the root's."""
