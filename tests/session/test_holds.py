"""What statements take and give back by name, and when everything has been given back."""

from __future__ import annotations

import pytest

from proxy.session import pins as p
from proxy.session.classify import Classifier
from proxy.session.holds import Held, Hold
from proxy.session.verdict import EXECUTE_TEXT, NAMES

MARIADB = Classifier(mariadb=True)


def held_of(sql: str) -> list[tuple[int, bool, bytes]]:
    verdict = MARIADB.classify(sql.encode(), 0)
    assert bool(verdict.flags & NAMES) == bool(verdict.holds)
    return [(hold.pin, hold.takes, hold.name) for hold in verdict.holds]


@pytest.mark.parametrize(
    ("sql", "pin", "takes", "name"),
    [
        ("CREATE TEMPORARY TABLE a (id INT)", p.TEMPORARY_TABLE, True, b"a"),
        ("create  temporary\ttable if not exists `a b`(id INT)", p.TEMPORARY_TABLE, True, b"a b"),
        ("CREATE OR REPLACE TEMPORARY TABLE d.A LIKE t", p.TEMPORARY_TABLE, True, b"d.A"),
        ("CREATE TEMPORARY TABLE `d` . `a``b` SELECT 1", p.TEMPORARY_TABLE, True, b"d.a`b"),
        ("DROP TEMPORARY TABLE a", p.TEMPORARY_TABLE, False, b"a"),
        ("DROP TABLE IF EXISTS `a` CASCADE;", p.TEMPORARY_TABLE, False, b"a"),
        ("ALTER TABLE a RENAME TO b", p.TEMPORARY_TABLE, True, b""),
        ("RENAME TABLE a TO b", p.TEMPORARY_TABLE, True, b""),
        ("HANDLER t OPEN", p.HANDLER, True, b"t"),
        ("HANDLER d.t OPEN", p.HANDLER, True, b"t"),
        ("HANDLER d.t OPEN AS h", p.HANDLER, True, b"h"),
        ("HANDLER d.t OPEN h;", p.HANDLER, True, b"h"),
        ("HANDLER h CLOSE", p.HANDLER, False, b"h"),
        ("PREPARE s FROM @x", p.TEXT_PREPARE, True, b"s"),
        ("DEALLOCATE PREPARE s", p.TEXT_PREPARE, False, b"s"),
        ("DROP PREPARE `s`", p.TEXT_PREPARE, False, b"s"),
        ("SELECT GET_LOCK('job', 10)", p.NAMED_LOCK, True, b"job"),
        ("DO get_lock( 'job' , 0.5 );", p.NAMED_LOCK, True, b"job"),
        ("SELECT GET_LOCK('job', 10) AS got", p.NAMED_LOCK, True, b"job"),
        ("SELECT RELEASE_LOCK('job')", p.NAMED_LOCK, False, b"job"),
        ("SELECT RELEASE_ALL_LOCKS()", p.NAMED_LOCK, False, b""),
        ("BACKUP STAGE START", p.BACKUP_LOCK, True, b"stage"),
        ("BACKUP STAGE END", p.BACKUP_LOCK, False, b"stage"),
        ("BACKUP LOCK t", p.BACKUP_LOCK, True, b"lock"),
        ("BACKUP UNLOCK", p.BACKUP_LOCK, False, b"lock"),
        ("LOCK INSTANCE FOR BACKUP", p.BACKUP_LOCK, True, b"instance"),
        ("UNLOCK INSTANCE", p.BACKUP_LOCK, False, b"instance"),
    ],
)
def test_a_name_is_read(sql: str, pin: int, takes: bool, name: bytes) -> None:
    assert held_of(sql) == [(pin, takes, name)]


def test_the_name_of_a_lock_may_be_a_parameter() -> None:
    for sql, takes in (
        ("SELECT GET_LOCK(?, ?)", True),
        ("SELECT GET_LOCK(?, 10)", True),
        ("DO RELEASE_LOCK(?)", False),
    ):
        (hold,) = MARIADB.classify(sql.encode(), 0).holds
        assert hold == Hold(p.NAMED_LOCK, takes, b"", bound=True)


def test_a_drop_gives_all_its_tables_back() -> None:
    assert held_of("DROP TABLE a, `b`, d.c") == [(p.TEMPORARY_TABLE, False, name) for name in (b"a", b"b", b"d.c")]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT GET_LOCK(CONCAT('a', 'b'), 1)",
        "SELECT GET_LOCK('it\\'s', 1)",
        "SELECT GET_LOCK('it''s', 1)",
        "SELECT GET_LOCK('a', 1), GET_LOCK('b', 1)",
        "SELECT GET_LOCK('a', 1) FROM t",
        "SELECT IF(0, RELEASE_ALL_LOCKS(), 1)",
        "SELECT RELEASE_ALL_LOCKS() FROM t",
        "DROP TABLE a /* , b */",
        "DROP TEMPORARY TABLE a; SELECT 1",
        "CREATE TEMPORARY SEQUENCE s",
        "CREATE TABLE a (id INT)",
        "HANDLER t READ FIRST",
        "DROP VIEW a",
        "ALTER TABLE a ADD b INT",
    ],
)
def test_what_is_not_understood_names_nothing(sql: str) -> None:
    assert held_of(sql) == []


def test_a_name_without_a_schema_is_of_the_sessions() -> None:
    (one,) = MARIADB.classify(b"DROP TABLE a", 0).holds
    (other,) = MARIADB.classify(b"DROP TABLE d.a", 0).holds
    assert (one.schema, other.schema) == (True, False)


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("PREPARE s FROM 'SELECT 1'", b"SELECT 1"),
        ("PREPARE s FROM 'SELECT ''a'''", b""),
        ("PREPARE s FROM @x", b""),
        ('PREPARE s FROM "SELECT 1"', b""),
    ],
)
def test_a_plain_text_that_is_prepared_is_known(sql: str, text: bytes) -> None:
    (hold,) = MARIADB.classify(sql.encode(), 0).holds
    assert hold == Hold(p.TEXT_PREPARE, True, b"s", text=text)


@pytest.mark.parametrize("sql", ["EXECUTE s", "execute `s` USING @a, @b;"])
def test_the_name_in_an_execute_is_known(sql: str) -> None:
    verdict = MARIADB.classify(sql.encode(), 0)
    assert (verdict.local, verdict.local_label) == (EXECUTE_TEXT, b"s")
    assert verdict.pins & p.OPAQUE


def test_a_kind_is_over_when_all_its_names_are_given_back() -> None:
    held = Held()
    held.take(p.HANDLER, b"a")
    held.take(p.HANDLER, b"b")
    held.take(p.TEMPORARY_TABLE, b"a")
    held.give(p.HANDLER, b"a")
    assert not held.over(p.HANDLER)
    held.give(p.HANDLER, b"b")
    assert held.over(p.HANDLER) and not held.over(p.TEMPORARY_TABLE)


def test_what_has_no_name_is_never_over_until_nothing_is_left() -> None:
    held = Held()
    held.unnamed(p.NAMED_LOCK)
    held.take(p.NAMED_LOCK, b"a")
    held.give(p.NAMED_LOCK, b"a")
    assert held.names(p.NAMED_LOCK) is None and not held.over(p.NAMED_LOCK)
    held.nothing(p.NAMED_LOCK)
    assert held.over(p.NAMED_LOCK)
