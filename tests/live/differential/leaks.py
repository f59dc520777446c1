"""Planted leaks: faults put into a pooler's code from outside, each of which the differential test has to find.

A leak is a function that replaces something in `proxy`; `planted` runs a pooler with one of them. Nothing in `proxy`
knows of it. Each is a fault that a change could bring back: something is not restored, not kept, not captured, not
asked for, or given to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.relay import aftercare, commands, lease, release, soft
from proxy.relay.backend import Backend
from proxy.relay.client import Client
from proxy.session import pins, state
from proxy.session.effects import Effects
from proxy.wire import constants as c

_NOTHING = b"SESSION sql_notes=@@session.sql_notes"  # an assignment that changes nothing

LEAKS: dict[str, Callable[[], None]] = {}


def leak(plant: Callable[[], None]) -> Callable[[], None]:
    """Register a leak by the name of its function."""
    LEAKS[plant.__name__] = plant
    return plant


def replace(place: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put what `make` makes of it in the place of an attribute."""
    setattr(place, name, make(getattr(place, name)))


def _never_pins(mask: int) -> None:
    """Sessions are not pinned for these reasons; what a tracker says without a name is ignored as well."""
    replace(Client, "add_pins", lambda real: lambda client, more: real(client, more & ~(mask | pins.UNNAMED_STATE)))


# --- settings ---


@leak
def a_variable_is_not_restored() -> None:
    """`group_concat_max_len` is what the client before has set."""
    item = state._variable_item

    def make(real: Any) -> Any:
        return lambda name, value: _NOTHING if name == b"group_concat_max_len" else item(name, value)

    replace(state, "_variable_item", make)


@leak
def a_variable_never_goes_back() -> None:
    """What only the client before had set stays as it set it."""
    replace(state, "_default_item", lambda real: lambda name: _NOTHING)


@leak
def the_schema_is_not_restored() -> None:
    """A client gets the schema of the one before."""

    def make(real: Any) -> Any:
        def plan(have: Any, want: Any) -> Any:
            found = real(have, want)
            return found if found is state.NEEDS_FRESH or not found else tuple(x for x in found if x[:1] != b"\x02")

        return plan

    replace(state, "_plan", make)


@leak
def autocommit_is_not_restored() -> None:
    """A client gets the autocommit of the one before."""
    replace(state, "_autocommit_item", lambda real: lambda want: b"SESSION autocommit=@@session.autocommit")


@leak
def the_charset_is_not_restored() -> None:
    """A client gets the character sets of the one before."""
    keeps = [b"SESSION character_set_client=@@session.character_set_client"]
    replace(state, "_charset_items", lambda real: lambda want: list(keeps))


@leak
def the_collation_is_not_read_back() -> None:
    """After SET NAMES the collation stays what it was believed to be."""
    replace(aftercare, "CHARSET", lambda real: 0)
    replace(aftercare, "COLLATION_UNKNOWN", lambda real: 0)


@leak
def multi_statements_are_not_restored() -> None:
    """COM_SET_OPTION of one client holds for the next."""

    def make(real: Any) -> Any:
        def plan(have: Any, want: Any) -> Any:
            found = real(have, want)
            return found if found is state.NEEDS_FRESH or not found else tuple(x for x in found if x[:1] != b"\x1b")

        return plan

    replace(state, "_plan", make)


# --- pins ---


@leak
def temporary_tables_do_not_pin() -> None:
    """The session goes on without its table, and the next client finds it."""
    _never_pins(pins.TEMPORARY_TABLE)


@leak
def user_variables_do_not_pin() -> None:
    """They stay on the backend, for whoever comes next."""
    _never_pins(pins.USER_VARIABLE)


@leak
def named_locks_do_not_pin() -> None:
    """GET_LOCK() locks the backend's next client out of nothing."""
    _never_pins(pins.NAMED_LOCK)


@leak
def handlers_do_not_pin() -> None:
    """An open HANDLER is left behind."""
    _never_pins(pins.HANDLER)


@leak
def opaque_statements_do_not_pin() -> None:
    """What a procedure has done is left behind."""
    _never_pins(pins.OPAQUE | pins.USER_VARIABLE)


@leak
def one_transactions_settings_do_not_pin() -> None:
    """SET TRANSACTION is used up by somebody else."""
    _never_pins(pins.NEXT_TRANSACTION)


@leak
def text_prepared_statements_do_not_pin() -> None:
    """PREPARE p is left behind."""
    _never_pins(pins.TEXT_PREPARE | pins.OPAQUE)


@leak
def a_transaction_is_lost_sight_of() -> None:
    """The flag IN_TRANS is not seen: the lease ends in the transaction."""
    flag = c.SERVER_STATUS_IN_TRANS
    replace(aftercare, "_follow_status", lambda real: lambda client, status: real(client, status & ~flag))


# --- prepared statements ---


@leak
def statement_ids_are_mixed_up() -> None:
    """A backend remembers the statement prepared before under the new one's name."""

    def make(real: Any) -> Any:
        return lambda backend, key, ident: real(backend, key, max(1, ident - 1))

    replace(Backend, "remember_statement", make)


@leak
def parameter_types_are_not_remembered() -> None:
    """An execution without types takes those that somebody else bound."""

    def make(real: Any) -> Any:
        def packet(packet: bytes, statement: Any, ident: int, bound: Any) -> bytes:
            return packet[:5] + ident.to_bytes(4, "little") + packet[9:]

        return packet

    replace(lease, "execute_packet", make)


# --- soft state ---


@leak
def the_insert_id_is_somebody_elses() -> None:
    """LAST_INSERT_ID() of the client before is taken for one's own."""
    replace(soft, "insert_id_here", lambda real: lambda client, backend: True)
    replace(soft, "at_hand", lambda real: lambda client, backend, needs: True)


@leak
def warnings_are_not_captured() -> None:
    """What SHOW WARNINGS would have shown is lost when another client comes."""

    def make(real: Any) -> Any:
        def ask(backend: Any, commands: Any) -> Any:
            backend.soft &= ~soft.WARNINGS
            owner = backend.last_client
            if owner is not None and owner.last is backend:
                owner.has_diagnostics = False
            return real(backend, commands)

        return ask

    replace(soft, "_ask_for_soft_state", make)


@leak
def row_counts_are_swapped() -> None:
    """ROW_COUNT() is answered with what FOUND_ROWS() is."""

    def make(real: Any) -> Any:
        def answer(client: Any) -> None:
            client.row_count, client.found_rows = client.found_rows, client.row_count
            real(client)

        return answer

    replace(soft, "answer", make)


# --- the end of a session ---


@leak
def a_backend_is_not_reset() -> None:
    """Whoever left has left everything."""

    def make(real: Any) -> Any:
        def run_reset(backend: Any, done: Any, questions: Any = ()) -> None:
            backend.run_batch((backend.relay.profile.track_command,) * 2 + questions, done)

        return run_reset

    replace(release, "run_reset", make)


@leak
def a_reset_session_keeps_its_settings() -> None:
    """COM_RESET_CONNECTION is answered, and the settings stay."""

    def make(real: Any) -> Any:
        def begin_anew(client: Any) -> None:
            settings = client.settings
            real(client)
            client.settings = settings

        return begin_anew

    replace(commands, "_begin_anew", make)


@leak
def set_at_at_is_not_read_back() -> None:
    """MariaDB reports `SET @@x` by nothing."""

    def make(real: Any) -> Any:
        def variable(self: Any, name: bytes, bare: bool, value: Any) -> Any:
            return real(self, name, False, value)

        return variable

    replace(Effects, "_variable", make)
