"""Certificates and TLS contexts: from the files that the configuration names, or our own.

Our own is made at the first start and kept in the state directory: self-signed, ECDSA P-256, because the handshake is
what a short connection costs. It has nothing to do with the RSA key that passwords are encrypted with on plain TCP.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from .tls import Tls

if TYPE_CHECKING:
    from proxy.config import BackendTlsConfig, ClientTlsConfig

OWN = "self-signed.pem"
_TEN_YEARS = datetime.timedelta(days=3650)
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class CertificateError(Exception):
    """A certificate, key or CA cannot be used; the text names the file and says why."""


class ServerCertificate:
    """What clients are shown. A context that is in use goes on being used by the connections that have it."""

    def __init__(self, config: ClientTlsConfig) -> None:
        self._config = config
        self._own = not config.certificate
        self._directory = state_directory(config.state_directory)
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self.note = ""
        self.context, self._fingerprint = self._load()

    def connection(self) -> Tls:
        """The TLS of one connection that a client has opened."""
        return Tls(self.context, server_side=True, fingerprint=self._fingerprint)

    def refresh(self) -> bool:
        """Take up changed files: True if there were any. Raises CertificateError; the context before stays then."""
        if self._own or self._stamp() == self._seen:
            return False
        self.context, self._fingerprint = self._load()
        return True

    def _stamp(self) -> tuple[tuple[str, int, int], ...]:
        files = [name for name in (self._config.certificate, self._config.key, self._config.ca) if name]
        found = []
        for name in files:
            with contextlib.suppress(OSError):
                stat = os.stat(name)
                found.append((name, stat.st_mtime_ns, stat.st_ino))
        return tuple(found)

    def _load(self) -> tuple[ssl.SSLContext, bytes]:
        """A context and the fingerprint of what it shows. Raises CertificateError."""
        config = self._config
        self._seen = self._stamp()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[config.minimum_version]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.num_tickets = 1  # enough to resume by, and half of what two cost
        fingerprint = self._load_own(context) if self._own else _load_shown(context, config.certificate, config.key)
        if config.ca:
            load_ca(context, config.ca)
            context.verify_mode = ssl.CERT_REQUIRED if config.client_certificates == "required" else ssl.CERT_OPTIONAL
        return context, fingerprint

    def _load_own(self, context: ssl.SSLContext) -> bytes:
        directory = self._directory
        if directory is not None:
            path = directory / OWN
            try:
                if not path.exists():
                    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _write_private(path, make_self_signed())
                return _load_shown(context, str(path), "")
            except (OSError, CertificateError) as exc:
                self.note = f"{path}: {exc}"
        # Nowhere to keep it: a new one at every start is still better than none.
        with tempfile.TemporaryDirectory(prefix="mybouncer-") as temporary:
            path = Path(temporary) / OWN
            _write_private(path, make_self_signed())
            return _load_shown(context, str(path), "")


def _load_shown(context: ssl.SSLContext, certificate: str, key: str) -> bytes:
    """Load what clients are shown; return its fingerprint. Raises CertificateError."""
    load_pair(context, certificate, key)
    try:
        shown = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    except (OSError, ValueError) as exc:
        raise CertificateError(f"{certificate}: {exc}") from exc
    return shown.fingerprint(hashes.SHA256())


class ServerTls:
    """How connections to the server are secured. The last session is kept, to be resumed by the next connection."""

    def __init__(self, config: BackendTlsConfig) -> None:
        self.mode = config.mode
        self.session: ssl.SSLSession | None = None
        self.context = client_context(config)

    def connection(self, host: str) -> Tls:
        """The TLS of one connection to `host`."""
        return Tls(self.context, server_side=False, server_hostname=host, session=self.session)


def client_context(config: BackendTlsConfig) -> ssl.SSLContext:
    """The context for connections to the server. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = config.mode == "verify-identity"
    context.verify_mode = ssl.CERT_REQUIRED if config.mode.startswith("verify") else ssl.CERT_NONE
    if config.ca:
        load_ca(context, config.ca)
    elif config.mode.startswith("verify"):
        context.load_default_certs()
    if config.certificate:
        load_pair(context, config.certificate, config.key)
    return context


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load a certificate and its key, which may be in the same file. Raises CertificateError."""
    try:
        context.load_cert_chain(certificate, key or None)
    except FileNotFoundError as exc:
        missing = next((name for name in (certificate, key) if name and not os.path.exists(name)), certificate)
        raise CertificateError(f"{missing}: there is no such file") from exc
    except (OSError, ssl.SSLError) as exc:
        where = f"{certificate} with the key {key}" if key else certificate
        raise CertificateError(f"{where}: {_reason(exc)}") from exc


def load_ca(context: ssl.SSLContext, path: str) -> None:
    """Load the certificates that are trusted. Raises CertificateError."""
    try:
        context.load_verify_locations(path)
    except FileNotFoundError as exc:
        raise CertificateError(f"{path}: there is no such file") from exc
    except (OSError, ssl.SSLError) as exc:
        raise CertificateError(f"{path}: {_reason(exc)}") from exc


def _reason(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "no PEM that can be read").replace("_", " ").lower()
    return exc.strerror or str(exc)


def make_self_signed() -> bytes:
    """A new key and a certificate for it, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mybouncer self-signed")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _TEN_YEARS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + private


def state_directory(configured: str) -> Path | None:
    """Where to keep what outlives us: as configured, systemd's, or the user's; None if there is none."""
    if configured != "auto":
        return Path(configured)
    if given := os.environ.get("STATE_DIRECTORY"):  # systemd's StateDirectory=
        return Path(given.partition(":")[0])
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "mybouncer"
    home = os.path.expanduser("~")
    return Path(home) / ".local" / "state" / "mybouncer" if home != "~" and os.path.isabs(home) else None


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that only we may read, in one step."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
