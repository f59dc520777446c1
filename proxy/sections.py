"""The sections of the configuration: every key with its type and its default, written as people write it ("30s")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from proxy.address import Address
from proxy.values import (
    SHORTEST_SECRET,
    Addresses,
    AddressOrOff,
    Allowed,
    AuthModes,
    BackendUrl,
    Count,
    CountOrAuto,
    CountOrNone,
    CountOrZero,
    Directory,
    Duration,
    DurationOrOff,
    File,
    Flag,
    Name,
    Names,
    Password,
    PasswordOrNone,
    Secret,
    Size,
    SocketPath,
    Weight,
)


class Section(BaseModel):
    """A table of the file: frozen, and no key but the declared ones."""

    # arbitrary types: Address is a plain value that its own parser has checked.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )


def _default(value: object) -> Any:
    """The default as it is written in the file; parsed like any other value."""
    return Field(default=value)


class BackendConfig(Section):
    """The server behind the pooler."""

    url: BackendUrl = _default("mysql://127.0.0.1:3306")
    connect_timeout: Duration = _default("5s")

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self.url

    @property
    def host(self) -> str:
        """The server's host; "" for a unix socket."""
        return self.url.host

    @property
    def port(self) -> int:
        """The server's port; 0 for a unix socket."""
        return self.url.port

    @property
    def unix_path(self) -> str | None:
        """The server's unix socket, if it is one."""
        return self.url.unix_path


class ListenConfig(Section):
    """Where clients come in."""

    addresses: Addresses = _default(("127.0.0.1:6033",))
    max_clients: Count = _default(10_000)
    login_timeout: Duration = _default("10s")
    drain_timeout: DurationOrOff = _default("30s")


class PoolConfig(Section):
    """The backends."""

    max_connections: CountOrAuto = _default("auto")
    idle_timeout: Duration = _default("60s")
    max_lifetime: Duration = _default("1h")
    quantum: Duration = _default("50ms")


class QueueConfig(Section):
    """Waiting for a backend."""

    timeout: Duration = _default("30s")
    timeout_down: Duration = _default("5s")
    max_waiting: CountOrZero = _default(10_000)


class SessionConfig(Section):
    """What is kept for a client, and what is given up."""

    read_ahead: Size = _default("1MiB")
    read_ahead_total: Size = _default("256MiB")
    request_buffer: Size = _default("1MiB")
    idle_transaction_timeout: DurationOrOff = _default("0s")
    on_client_lost: Annotated[Literal["finish", "kill"], Allowed('"finish" or "kill"')] = "finish"
    trusted_functions: Names = _default(())
    pin_log: Flag = _default(True)


class AuthConfig(Section):
    """How clients prove who they are."""

    mode: AuthModes = _default(("passthrough",))
    cache_ttl: Duration = _default("5m")
    lookup_user: Name = _default("")
    lookup_password: Password = _default("")


class HttpConfig(Section):
    """Metrics, health and the status page."""

    address: AddressOrOff = _default("127.0.0.1:9633")


class ConsoleConfig(Section):
    """Where the console is."""

    socket: SocketPath = _default("auto")
    address: AddressOrOff = _default("off")
    password: Secret = _default("")
    password_file: File = _default("")
    statements: CountOrZero = _default(200)

    def read_password(self) -> str:
        """The port's password, "" for none. Raises OSError if its file cannot be read, or holds a short one."""
        if not self.password_file:
            return self.password.get_secret_value()
        password = Path(self.password_file).read_text(encoding="utf-8").strip()
        if len(password) < SHORTEST_SECRET:
            raise OSError(f"{self.password_file}: console.password_file holds fewer than {SHORTEST_SECRET} characters")
        return password


class HoldersConfig(Section):
    """Who keeps connections for suspiciously long: from when on it is told, and whether it is ended."""

    action: Annotated[Literal["report", "kill"], Allowed('"report" or "kill"')] = "report"
    idle_in_transaction: DurationOrOff = _default("10s")
    pinned_idle: DurationOrOff = _default("60s")
    long_statement: DurationOrOff = _default("60s")
    unread_result: DurationOrOff = _default("5s")
    stalled_upload: DurationOrOff = _default("5s")
    unused_connections: CountOrZero = _default(10)
    prepared_statements: CountOrZero = _default(1000)


class LogConfig(Section):
    """What is written to stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Allowed('"debug", "info", "warning" or "error"')] = (
        "info"
    )
    format: Annotated[Literal["logfmt", "json"], Allowed('"logfmt" or "json"')] = "logfmt"
    statements: Annotated[Literal["off", "slow", "sampled"], Allowed('"off", "slow" or "sampled"')] = "off"
    slow_statement: Duration = _default("1s")
    sample_every: Duration = _default("10s")
    sql: Annotated[Literal["digest", "full"], Allowed('"digest" or "full"')] = "digest"


class ClientTlsConfig(Section):
    """TLS to clients."""

    mode: Annotated[Literal["disabled", "preferred", "required"], Allowed('"disabled", "preferred" or "required"')] = (
        "preferred"
    )
    certificate: File = _default("")
    key: File = _default("")
    ca: File = _default("")
    client_certificates: Annotated[Literal["optional", "required"], Allowed('"optional" or "required"')] = "optional"
    minimum_version: Annotated[Literal["1.2", "1.3"], Allowed('"1.2" or "1.3"')] = "1.2"
    state_directory: Directory = _default("auto")


class BackendTlsConfig(Section):
    """TLS to the server."""

    mode: Annotated[
        Literal["disabled", "preferred", "required", "verify-ca", "verify-identity"],
        Allowed('"disabled", "preferred", "required", "verify-ca" or "verify-identity"'),
    ] = "preferred"
    ca: File = _default("")
    certificate: File = _default("")
    key: File = _default("")


class TlsConfig(Section):
    """TLS on both legs."""

    client: ClientTlsConfig = ClientTlsConfig()
    backend: BackendTlsConfig = BackendTlsConfig()


class UserConfig(Section):
    """One account: how its clients log in, and its share in the pool."""

    password: PasswordOrNone = _default(None)
    system_user: Name = _default("")
    weight: Weight = _default(1.0)
    max_connections: CountOrNone = _default(None)
    max_clients: CountOrNone = _default(None)


class Config(Section):
    """The whole configuration."""

    backend: BackendConfig = BackendConfig()
    listen: ListenConfig = ListenConfig()
    pool: PoolConfig = PoolConfig()
    queue: QueueConfig = QueueConfig()
    session: SessionConfig = SessionConfig()
    auth: AuthConfig = AuthConfig()
    tls: TlsConfig = TlsConfig()
    http: HttpConfig = HttpConfig()
    console: ConsoleConfig = ConsoleConfig()
    holders: HoldersConfig = HoldersConfig()
    log: LogConfig = LogConfig()
    users: Mapping[str, UserConfig] = Field(default_factory=dict)
