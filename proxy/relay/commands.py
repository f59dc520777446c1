"""Commands other than the two statements: forwarded, answered here, or refused in words (protocol.md B.1).

`run` is the table. What has a backend's answer goes the way of a statement, through `lease`; what is answered here must
leave a client that holds a lease holding it, or settle it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.session import verdict as v
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError, frame
from proxy.wire.packets import build_ok, parse_change_user
from proxy.wire.response import NO_RESPONSE, PREPARE, QUERY, ROWS_ONLY, SINGLE, STATISTICS

from . import answers, held, release
from .prepared import BULK_HEAD, LAST_PREPARED, Prepared, end_private, remember_bulk_types

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Client
    from .internal import Answer

PLAIN = v.Verdict(b"", flags=v.PLAIN)
_KEEPS_DIAGNOSTICS = v.Verdict(b"", flags=v.PLAIN | v.KEEPS_DIAGNOSTICS)

# Commands whose only treatment is to go to a backend: what they are to the session, and the kind of their response.
_FORWARDED = {
    c.COM_INIT_DB: (_KEEPS_DIAGNOSTICS, SINGLE),
    c.COM_FIELD_LIST: (PLAIN, ROWS_ONLY),
    c.COM_STATISTICS: (_KEEPS_DIAGNOSTICS, STATISTICS),
    c.COM_PROCESS_INFO: (PLAIN, QUERY),
    c.COM_REFRESH: (PLAIN, SINGLE),
    c.COM_DEBUG: (PLAIN, SINGLE),
}

_NO_REPLICATION = "replication does not go through a pooler: connect to the server"
_REFUSED_BY_BOTH = {c.COM_BINLOG_DUMP: _NO_REPLICATION, c.COM_REGISTER_SLAVE: _NO_REPLICATION}
# What a server does not know it may say itself.
_REFUSED_AS_MARIADB = _REFUSED_BY_BOTH | {
    c.COM_SHUTDOWN: "COM_SHUTDOWN is not passed on: stop the server itself, or mybouncer with SIGTERM",
}
_REFUSED_AS_MYSQL = _REFUSED_BY_BOTH | {
    c.COM_BINLOG_DUMP_GTID: _NO_REPLICATION,
    c.COM_SUBSCRIBE_GROUP_REPLICATION_STREAM: _NO_REPLICATION,
    c.COM_CLONE: "cloning does not go through a pooler: connect to the server",
}


def run(client: Client, command: int, packet: bytes) -> None:
    """Run a whole command that is neither COM_QUERY nor COM_STMT_EXECUTE."""
    forwarded = _FORWARDED.get(command)
    handler = _HANDLERS.get(command)
    if forwarded is not None:
        client.run(*forwarded)
    elif handler is not None:
        handler(client, packet)
    else:
        refused = _REFUSED_AS_MARIADB if client.relay.profile.mariadb else _REFUSED_AS_MYSQL
        if command in refused:
            client.reply_error(c.ER_NOT_SUPPORTED_YET, b"42000", refused[command])
        else:
            _unknown(client)


def _unknown(client: Client) -> None:
    client.reply_error(c.ER_UNKNOWN_COMMAND, b"08S01", "Unknown command")


def _ping(client: Client, _packet: bytes) -> None:
    client.reply(build_ok(status=client.status))


def _quit(client: Client, _packet: bytes) -> None:
    client.close("quit")


def special(client: Client, verdict: v.Verdict) -> None:
    """A COM_QUERY that is not what the server would make of it."""
    if verdict.local == v.EXECUTE_TEXT:
        client.run(held.executed(client, verdict), QUERY)
    elif verdict.local == v.SELECT_CONNECTION_ID:
        client.packet = frame(bytes((c.COM_QUERY,)) + _own_id(client, verdict))
        client.run(verdict, QUERY)
    else:
        client.relay.control.kill(client, int(verdict.local_label), query=verdict.local == v.KILL_QUERY)


def _own_id(client: Client, verdict: v.Verdict) -> bytes:
    """SELECT CONNECTION_ID() with the id that the client can be killed by; both servers describe it in the same way."""
    return b"SELECT CAST(%d AS UNSIGNED) AS `%s`" % (client.ident, verdict.local_label.replace(b"`", b"``"))


# Prepared statements


def _prepare(client: Client, packet: bytes) -> None:
    client.preparing = client.text(packet)
    client.last_prepared = 0
    verdict = client.prepared_verdict = client.relay.classifier.classify(client.preparing, client.lex_mode())
    if verdict.local == v.SELECT_CONNECTION_ID:
        client.preparing = _own_id(client, verdict)
        client.packet = frame(bytes((c.COM_STMT_PREPARE,)) + client.preparing)
    client.run(PLAIN, PREPARE)


def find_statement(client: Client, packet: bytes, name: str, size: int = 4) -> Prepared | None:
    """The statement that a command names, which has `size` bytes at least.

    None if there is none, and then an ERR was sent if the command has an answer (`name` is its name in there).
    """
    if len(packet) < 5 + size and ("execute" in name or not client.relay.profile.mariadb):
        malformed(client)  # MariaDB looks at the length of an execution only
        return None
    ident = int.from_bytes(packet[5:9], "little") if len(packet) >= 9 else 0
    known = client.last_prepared if ident == LAST_PREPARED and client.relay.profile.mariadb else ident
    statement = client.statements.get(known) if client.statements else None
    if statement is None and name:
        name = name if client.relay.profile.mariadb else "mysql_stmt_precheck"
        text = f"Unknown prepared statement handler ({ident}) given to {name}"
        client.reply_error(c.ER_UNKNOWN_STMT_HANDLER, b"HY000", text)
    return statement


def malformed(client: Client) -> None:
    """A command that ends before its time; as with the server, the next one may be better."""
    text = _in_flavour(client, "Malformed communication packet")
    client.relay.count_malformed(client.address, text)
    client.reply_error(c.ER_MALFORMED_PACKET, b"HY000", text)


def _in_flavour(client: Client, text: str) -> str:
    """MySQL ends some of its sentences with a full stop."""
    return text if client.relay.profile.mariadb else text + "."


def fail_execution(client: Client, statement: Prepared) -> None:
    """Long data has failed, which had no answer: here it is."""
    error = statement.failure
    assert error is not None
    if not statement.stuck:
        statement.failure = None
    client.reply(answers.error(error, to_libmariadb=client.libmariadb))


def _bulk_execute(client: Client, packet: bytes) -> None:
    """MariaDB: one statement for many rows of parameters."""
    if not client.relay.profile.mariadb:
        _unknown(client)
        return
    if len(packet) >= 5 + BULK_HEAD and not client.capabilities & c.MARIADB_CLIENT_STMT_BULK_OPERATIONS:
        text = "This command is not supported in the prepared statement protocol yet"
        client.reply_error(c.ER_UNSUPPORTED_PS, b"HY000", text)
        return
    statement = find_statement(client, packet, "mysqld_stmt_execute", BULK_HEAD)
    if statement is None:
        return
    if statement.failure is not None:
        fail_execution(client, statement)
        return
    remember_bulk_types(statement, packet)
    client.run(statement.verdict, QUERY, statement)


def _fetch(client: Client, packet: bytes) -> None:
    statement = find_statement(client, packet, "mysqld_stmt_fetch", 8)
    if statement is None:
        return
    if not statement.cursor or client.backend is None:
        text = f"The statement ({int.from_bytes(packet[5:9], 'little')}) has no open cursor"
        client.reply_error(c.ER_STMT_HAS_NO_OPEN_CURSOR, b"HY000", _in_flavour(client, text))
        return
    client.run(PLAIN, ROWS_ONLY, statement)


def _close_statement(client: Client, packet: bytes) -> None:
    statement = find_statement(client, packet, "")
    if statement is None or client.statements is None:
        return
    del client.statements[statement.virtual_id]
    if statement.private:
        end_private(client, statement, client.backend)
        _maybe_release(client)


def _reset_statement(client: Client, packet: bytes) -> None:
    statement = find_statement(client, packet, "mysqld_stmt_reset")
    if statement is None:
        return
    statement.failure, statement.stuck = None, False
    if statement.private:
        end_private(client, statement, client.backend)
    client.reply(build_ok(status=client.status))
    _maybe_release(client)


def _maybe_release(client: Client) -> None:
    """A pin may have ended without a statement."""
    if client.backend is not None and not client.busy:
        release.settle(client, client.backend)


def _long_data(client: Client, packet: bytes) -> None:
    statement = find_statement(client, packet, "", 6)
    if statement is None or statement.failure is not None or len(packet) < 11:
        return
    statement.long_data = True
    client.run(PLAIN, NO_RESPONSE, statement)


# The session


def _set_option(client: Client, packet: bytes) -> None:
    if len(packet) < 7 and not client.relay.profile.mariadb:
        malformed(client)
        return
    value = int.from_bytes(packet[5:7], "little")
    if value > 1:
        _unknown(client)
        return
    client.settings = client.relay.settings.replace(client.settings, multi_statements=value == 0)
    client.reply(answers.end_of_data(deprecate_eof=client.deprecate_eof, status=client.status))


def _process_kill(client: Client, packet: bytes) -> None:
    ident = int.from_bytes(packet[5:9], "little")
    if ident >= client.relay.FIRST_CLIENT_ID:
        client.relay.control.kill(client, ident, query=False)
    else:
        client.run(PLAIN, SINGLE)


def _reset_connection(client: Client, _packet: bytes) -> None:
    """COM_RESET_CONNECTION: a fresh session that keeps its schema, and its role (protocol.md B.1, D.1).

    Whatever the session held has ended on the backend that holds it when the client has its OK: somebody else may take
    the lock then.
    """
    backend = client.backend
    if backend is None:
        _begin_anew(client)
        return
    # MariaDB's connection is broken by a reset with a prepared branch (D.1).
    branch = client.pins & pins.XA and client.status & c.SERVER_STATUS_IN_TRANS and client.relay.profile.mariadb
    if branch or not release.resettable(backend):
        release.release_closed(client, backend, "unresettable_session")
        _begin_anew(client)
        if client.relay.draining:
            client.close("drain")
        return
    kept = client.pins & pins.UNRESETTABLE if client.pins & pins.KEPT_BY_RESET else 0
    closes = client.pins & pins.UNRESETTABLE & ~kept
    client.busy = True

    def done(answers: list[Answer] | None) -> None:
        if client.closed:
            release.reset(backend)
            return
        if answers is None:
            client.backend = backend.client = None
        elif closes or any(answer.error for answer in answers):
            release.release_closed(client, backend, "unresettable_session")
        if unsure and answers is not None and answers[-1].error is None:
            client.settings = client.relay.settings.replace(client.settings, schema=answers[-1].values()[0][0])
        _begin_anew(client)
        client.pins = kept | (pins.BEING_KILLED if backend.killers else 0)
        if client.backend is not None:
            release.settle(client, backend)
        else:
            client.over()
            if client.relay.draining:
                client.close("drain")

    # Where trackers were silent, only the server knows which schema it keeps.
    unsure = client.pins & (pins.SESSION_TRACK | pins.OPAQUE)
    release.run_reset(backend, done, _SCHEMA if unsure else ())


_SCHEMA = (bytes((c.COM_QUERY,)) + b"SELECT DATABASE()",)


def _begin_anew(client: Client) -> None:
    client.pins = 0
    client.held = None
    client.prepared_texts = None
    client.one_shot_transaction = False
    client.statements = None
    client.status = client.relay.profile.status & c.SESSION_FLAGS
    client.settings = client.relay.settings_after_reset(client.initial_settings, client.settings)
    client.insert_id = 0
    client.insert_id_backend = None
    client.row_count = 0
    client.has_diagnostics = False
    client.diagnostics = None
    client.last = None
    client.reply(build_ok(status=client.status))


def _change_user(client: Client, packet: bytes) -> None:
    """COM_CHANGE_USER ends here: a login on this connection. Of the old session only COM_SET_OPTION stays (D.1)."""
    option = c.CLIENT_MULTI_STATEMENTS if client.settings.multi_statements else 0
    capabilities = client.capabilities & ~c.CLIENT_MULTI_STATEMENTS | option
    try:
        response = parse_change_user(packet[4:], capabilities)
    except ProtocolError as exc:
        client.relay.count_malformed(client.address, str(exc))
        _unknown(client)
        if not client.relay.profile.mariadb:
            client.close("error")  # as MySQL does
        return
    rest = client.buffer
    client.forget(client.relay.CHANGE_USER)
    client.relay.change_user(client, response, rest)


_HANDLERS: dict[int, Callable[[Client, bytes], None]] = {
    c.COM_QUIT: _quit,
    c.COM_PING: _ping,
    c.COM_PROCESS_KILL: _process_kill,
    c.COM_CHANGE_USER: _change_user,
    c.COM_STMT_PREPARE: _prepare,
    c.COM_STMT_BULK_EXECUTE: _bulk_execute,
    c.COM_STMT_SEND_LONG_DATA: _long_data,
    c.COM_STMT_CLOSE: _close_statement,
    c.COM_STMT_RESET: _reset_statement,
    c.COM_SET_OPTION: _set_option,
    c.COM_STMT_FETCH: _fetch,
    c.COM_RESET_CONNECTION: _reset_connection,
}
