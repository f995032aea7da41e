"""The authorities that the program trusts to identify a server: one PEM file or folder for every connection.

The first of these counts: --ca-file; SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE of the
environment; the store of this system, which can hold a company's own authority; the bundle of requests.
Python's ssl, requests and libcurl each have a default of their own, so the choice is passed to all three.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kropot.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

SYSTEM_STORES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, Gentoo, NixOS
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # older RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/usr/local/share/certs/ca-root-nss.crt",  # FreeBSD
    "/etc/ssl/cert.pem",  # macOS, OpenBSD, NetBSD
)


def authorities(
    ca_file: str | Path | None,
    environ: Mapping[str, str] = os.environ,
    stores: Sequence[str] = SYSTEM_STORES,
) -> str:
    """Return the PEM file, or the folder of hashed certificates, of the authorities to trust.

    Raises: UsageError if --ca-file or a variable names something that does not exist.
    """
    if ca_file is not None:
        return checked_ca_file(ca_file)
    for name in VARIABLES:
        named = environ.get(name)
        if named:
            if not Path(named).exists():
                raise UsageError(f"{name} names {named}, but there is nothing: correct or unset it, or use --ca-file")
            return named
    of_python = ssl.get_default_verify_paths()
    for store in (of_python.openssl_cafile, *stores):
        if _holds_certificates(store):
            return store
    if of_python.openssl_capath and any(os.scandir(of_python.openssl_capath)):
        return of_python.openssl_capath
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # it takes a tenth of a second

    return DEFAULT_CA_BUNDLE_PATH


def checked_ca_file(ca_file: str | Path) -> str:
    """Return the path of --ca-file. Raises: UsageError if it is not a file with certificates."""
    if not Path(ca_file).is_file():
        raise UsageError(f"there is no file {ca_file}: name a file of certificates in PEM form with --ca-file")
    if not _holds_certificates(str(ca_file)):
        raise UsageError(f"{ca_file} holds no certificate in PEM form, or cannot be read: name another --ca-file")
    return str(ca_file)


def verifying_context(trusted: str) -> ssl.SSLContext:
    """Return a context that verifies a server's certificate against these authorities (`authorities`)."""
    where: dict[str, Any] = {"capath" if Path(trusted).is_dir() else "cafile": trusted}
    return ssl.create_default_context(**where)


def _holds_certificates(path: str | None) -> bool:
    """Return whether the file can be read and has a certificate, so that TLS libraries accept it."""
    if not path:
        return False
    try:
        with Path(path).open("rb") as file:
            # Comments can come before the first one.
            return any(b"-----BEGIN " in line for line in file)
    except OSError:
        return False
