"""What tests ask a gateway's token to be."""

from __future__ import annotations

from typing import Any


def token_spec() -> dict[str, Any]:
    """Return the specification of a token of 2020: sealed by AES-CBC, with a key that the gateway makes."""
    return {
        "roles": ["securecopy.stream"],
        "expires": "never",
        "data": {"secureCopyEncryptionMethod": "aes-256-cbc", "secureCopyDigestMethod": "sha512"},
    }
