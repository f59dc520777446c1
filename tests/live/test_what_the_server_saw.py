"""Which commands reach the server, exactly: what the pooler adds to its clients' own, and what it does not.

Each scenario is a script (module `scripts`) on a pooler with one connection, unless it says otherwise, which is in the
state of a new session at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from tests.conftest import Proxy
from tests.live.scripts import for_flavour
from tests.live.stage import Stage
from tests.servers import Server

SCRIPTS = {
    # --- who shares what ---
    "clients_in_one_state_add_nothing": """
        a> SELECT 1 -> 1
            SELECT 1
        b> SELECT 1 -> 1
            SELECT 1
        a> SELECT v FROM t -> 1
            SELECT v FROM t
        c> SELECT v FROM t -> 1
            SELECT v FROM t
        b> UPDATE t SET v = v
            UPDATE t SET v = v
        a> DO 1
            DO 1
    """,
    "a_login_opens_nothing_and_a_quit_says_nothing": """
        a> SELECT 1
            SELECT 1
        b> connect
        b> COM_QUIT
        c> connect seen_two
            COM_INIT_DB seen_two
        c> disconnect
        d> connect
        d> SELECT 1
            COM_INIT_DB seen
            SELECT 1
        d> disconnect
        a> SELECT 1
            SELECT 1
    """,
    "ping_never_gets_there": """
        a> COM_PING
        a> SELECT 1
            SELECT 1
        a> COM_PING
        a> BEGIN
            BEGIN
        a> COM_PING
        a> COMMIT
            COMMIT
        a> COM_PING
    """,
    "statistics_are_the_servers": """
        a> COM_STATISTICS
            COM_STATISTICS
        b> COM_STATISTICS
            COM_STATISTICS
    """,
    # --- settings ---
    "a_variable_is_set_once_and_goes_with_its_client": """
        a> SET sql_mode = 'ANSI_QUOTES'
            SET sql_mode = 'ANSI_QUOTES'
        a> SELECT @@sql_mode -> ANSI_QUOTES
            SELECT @@sql_mode
        a> SELECT @@sql_mode -> ANSI_QUOTES
            SELECT @@sql_mode
        b> SELECT 1
            SET SESSION sql_mode=DEFAULT
            SELECT 1
        b> SELECT 1
            SELECT 1
        a> SELECT @@sql_mode -> ANSI_QUOTES
            SET SESSION sql_mode='ANSI_QUOTES'
            SELECT @@sql_mode
        a> SELECT 1
            SELECT 1
    """,
    "two_clients_with_equal_settings_share_them": """
        a> SET sql_mode = 'ANSI_QUOTES'
            SET sql_mode = 'ANSI_QUOTES'
        b> SET sql_mode = 'ANSI_QUOTES'
            SET SESSION sql_mode=DEFAULT
            SET sql_mode = 'ANSI_QUOTES'
        a> SELECT @@sql_mode -> ANSI_QUOTES
            SELECT @@sql_mode
        b> SELECT @@sql_mode -> ANSI_QUOTES
            SELECT @@sql_mode
    """,
    "several_variables_are_one_SET": """
        a> SET sql_mode = 'ANSI_QUOTES', time_zone = '+02:00', foreign_key_checks = 0
            SET sql_mode = 'ANSI_QUOTES', time_zone = '+02:00', foreign_key_checks = 0
        b> SELECT 1
            SET SESSION foreign_key_checks=@@GLOBAL.foreign_key_checks,SESSION sql_mode=DEFAULT,SESSION time…
            SELECT 1
        a> SELECT @@time_zone -> +02:00
            SET SESSION foreign_key_checks='OFF',SESSION sql_mode='ANSI_QUOTES',SESSION time_zone='+02:00'
            SELECT @@time_zone
        b> SET time_zone = '-01:00', wait_timeout = 1000
            SET SESSION foreign_key_checks=@@GLOBAL.foreign_key_checks,SESSION sql_mode=DEFAULT,SESSION time…
            SET time_zone = '-01:00', wait_timeout = 1000
        a> SELECT @@foreign_key_checks -> 0
            SET SESSION foreign_key_checks='OFF',SESSION sql_mode='ANSI_QUOTES',SESSION time_zone='+02:00',S…
            SELECT @@foreign_key_checks
    """,
    "everything_that_differs_comes_in_one_write": """
        a> SELECT 1
            SELECT 1
        a> SET NAMES latin1
            SET NAMES latin1
            SELECT @@collation_connection
        a> SET autocommit = 0, time_zone = '+02:00'
            SET autocommit = 0, time_zone = '+02:00'
        a> USE seen_two
            USE seen_two
        a> COM_SET_OPTION 0
        b> SELECT DATABASE() -> seen
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1,SESSION time_zone=DEFAULT
            + COM_INIT_DB seen
            SELECT DATABASE()
        a> SELECT DATABASE() -> seen_two
            SET NAMES 'latin1' COLLATE 'latin1_swedish_ci',SESSION autocommit=0,SESSION time_zone='+02:00'
            + COM_INIT_DB seen_two
            SELECT DATABASE()
    """,
    "time_zones_take_turns": """
        a> SET time_zone = '+01:00'
            SET time_zone = '+01:00'
        b> SET time_zone = '+02:00'
            SET SESSION time_zone=DEFAULT
            SET time_zone = '+02:00'
        a> SELECT 1
            SET SESSION time_zone='+01:00'
            SELECT 1
        b> SELECT 1
            SET SESSION time_zone='+02:00'
            SELECT 1
        a> SELECT @@time_zone -> +01:00
            SET SESSION time_zone='+01:00'
            SELECT @@time_zone
    """,
    "schemas_take_turns": """
        a> USE seen_two
            USE seen_two
        b> SELECT DATABASE() -> seen
            COM_INIT_DB seen
            SELECT DATABASE()
        a> SELECT DATABASE() -> seen_two
            COM_INIT_DB seen_two
            SELECT DATABASE()
        b> COM_INIT_DB seen_two
            COM_INIT_DB seen
            COM_INIT_DB seen_two
        a> SELECT DATABASE() -> seen_two
            SELECT DATABASE()
    """,
    "the_schema_that_is_there_is_used_again": """
        a> USE seen
            USE seen
        a> USE seen
            USE seen
        b> COM_INIT_DB seen
            COM_INIT_DB seen
        b> SELECT 1
            SELECT 1
    """,
    "a_client_without_a_schema_gets_a_connection_of_its_own": """
        a> connect without a schema
        a> SELECT DATABASE() -> NULL
            COM_QUIT
            (2) connect
            (2) SET session_track_system_variables=…
            + (2) SELECT @@session.max_user_connections, @@session.wait_timeout
            (2) COM_SET_OPTION 0
            (2) SELECT DATABASE()
        b> SELECT DATABASE() -> seen
            (2) COM_INIT_DB seen
            (2) SELECT DATABASE()
        a> SELECT 1
            (2) COM_QUIT
            (3) connect
            (3) SET session_track_system_variables=…
            + (3) SELECT @@session.max_user_connections, @@session.wait_timeout
            (3) COM_SET_OPTION 0
            (3) SELECT 1
    """,
    "autocommit_off_and_on_take_turns": """
        a> SET autocommit = 0
            SET autocommit = 0
        b> SELECT @@autocommit -> 1
            SET SESSION autocommit=1
            SELECT @@autocommit
        a> SELECT @@autocommit -> 0
            SET SESSION autocommit=0
            SELECT @@autocommit
        a> SELECT v FROM t -> 1
            SELECT v FROM t
        a> COMMIT
            COMMIT
        b> SELECT 1
            SET SESSION autocommit=1
            SELECT 1
    """,
    "autocommit_that_is_on_already": """
        a> SET autocommit = 1
            SET autocommit = 1
        b> SELECT 1
            SELECT 1
        a> SELECT 1
            SELECT 1
    """,
    "set_names_is_read_back_and_restored_as_a_login_does_it": """
        a> SELECT 1
            SELECT 1
        a> SET NAMES latin1
            SET NAMES latin1
            SELECT @@collation_connection
        b> SELECT 1
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'
            SELECT 1
        a> SELECT @@collation_connection
            SET NAMES 'latin1' COLLATE 'latin1_swedish_ci'
            SELECT @@collation_connection
        a> SELECT @@collation_connection
            SELECT @@collation_connection
    """,
    "set_names_with_a_collation": """
        a> SELECT 1
            SELECT 1
        a> SET NAMES utf8mb4 COLLATE utf8mb4_bin
            SET NAMES utf8mb4 COLLATE utf8mb4_bin
        b> SELECT 1
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'
            SELECT 1
        a> SELECT @@collation_connection -> utf8mb4_bin
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_bin'
            SELECT @@collation_connection
    """,
    "set_names_of_what_holds_already": """
        a> SELECT 1
            SELECT 1
        a> SET NAMES utf8mb4 COLLATE utf8mb4_general_ci
            SET NAMES utf8mb4 COLLATE utf8mb4_general_ci
        b> SELECT 1
            SELECT 1
        a> SELECT 1
            SELECT 1
    """,
    "set_names_behind_a_login_gets_there_once": """
        a> SET NAMES cp1250
            SET NAMES cp1250
            SELECT @@collation_connection
        b> SET NAMES cp1250
        b> SELECT @@collation_connection -> cp1250_general_ci
            SELECT @@collation_connection
        c> SET NAMES cp1250 COLLATE cp1250_bin
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'
            SET NAMES cp1250 COLLATE cp1250_bin
        d> SET NAMES cp1250 COLLATE cp1250_bin
        d> SELECT @@collation_connection -> cp1250_bin
            SELECT @@collation_connection
        a> SELECT @@character_set_client -> cp1250
            SET NAMES 'cp1250' COLLATE 'cp1250_general_ci'
            SELECT @@character_set_client
    """,
    "three_charsets_in_turns": """
        a> SET character_set_results = NULL
            SET character_set_results = NULL
            SELECT @@collation_connection
        b> SELECT 1
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'
            SELECT 1
        a> SELECT @@character_set_results -> NULL
            SET SESSION character_set_client='utf8mb4',SESSION character_set_results=NULL,SESSION collation_…
            SELECT @@character_set_results
    """,
    "a_variable_that_no_tracker_reports": """
        a> SET @@sql_select_limit = 7
            SET @@sql_select_limit = 7
            [mariadb] SELECT @@session.sql_select_limit
        b> SELECT @@sql_select_limit
            SET SESSION sql_select_limit=DEFAULT
            SELECT @@sql_select_limit
        a> SELECT @@sql_select_limit -> 7
            SET SESSION sql_select_limit=7
            SELECT @@sql_select_limit
    """,
    # --- transactions ---
    "a_transaction": """
        a> BEGIN
            BEGIN
        a> SELECT v FROM t -> 1
            SELECT v FROM t
        a> UPDATE t SET v = v
            UPDATE t SET v = v
        a> SAVEPOINT one
            SAVEPOINT one
        a> COMMIT
            COMMIT
        b> SELECT 1
            SELECT 1
    """,
    "a_transaction_in_another_state_is_restored_before_it_begins": """
        a> SET time_zone = '+02:00'
            SET time_zone = '+02:00'
        b> SELECT 1
            SET SESSION time_zone=DEFAULT
            SELECT 1
        a> START TRANSACTION READ ONLY
            SET SESSION time_zone='+02:00'
            START TRANSACTION READ ONLY
        a> SELECT @@time_zone -> +02:00
            SELECT @@time_zone
        a> ROLLBACK
            ROLLBACK
        a> SELECT 1
            SELECT 1
    """,
    "isolation_of_the_next_transaction": """
        a> SET TRANSACTION ISOLATION LEVEL READ COMMITTED
            SET TRANSACTION ISOLATION LEVEL READ COMMITTED
        a> BEGIN
            BEGIN
        a> COMMIT
            COMMIT
        b> SELECT 1
            SELECT 1
        a> SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED
            SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED
        b> SELECT 1
            [mariadb] SET SESSION tx_isolation=DEFAULT
            [mysql] SET SESSION transaction_isolation=DEFAULT
            SELECT 1
        a> SELECT 1
            [mariadb] SET SESSION tx_isolation='READ-COMMITTED'
            [mysql] SET SESSION transaction_isolation='READ-COMMITTED'
            SELECT 1
    """,
    # --- ends and beginnings ---
    "a_client_that_vanishes_in_a_transaction_costs_one_reset": """
        a> BEGIN
            BEGIN
        a> UPDATE t SET v = 5
            UPDATE t SET v = 5
        a> disconnect
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
        b> SELECT v FROM t -> 1
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            SELECT v FROM t
        b> SELECT 1
            SELECT 1
    """,
    "a_client_that_quits_pinned_costs_one_reset": """
        a> CREATE TEMPORARY TABLE tmp (i INT)
            CREATE TEMPORARY TABLE tmp (i INT)
        a> COM_QUIT
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
        b> SELECT 1
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            SELECT 1
    """,
    "a_reset_by_a_client_with_nothing_but_settings": """
        a> SET time_zone = '+02:00'
            SET time_zone = '+02:00'
        a> COM_RESET_CONNECTION
        a> SELECT @@time_zone -> SYSTEM
            [mariadb] SET SESSION time_zone=DEFAULT
            [mysql] SET SESSION character_set_client='utf8mb4',SESSION character_set_results='utf8mb4',SESSION colla…
            SELECT @@time_zone
        b> SELECT 1
            [mysql] SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'
            SELECT 1
    """,
    "a_reset_by_a_client_in_a_transaction": """
        a> BEGIN
            BEGIN
        a> COM_RESET_CONNECTION
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
        a> SELECT 1
            [mariadb] SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            [mysql] SET SESSION character_set_client='utf8mb4',SESSION character_set_results='utf8mb4',SESSION colla…
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            SELECT 1
        b> SELECT 1
            [mysql] SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci'
            SELECT 1
    """,
    "a_reset_by_a_client_that_did_nothing": """
        a> SELECT 1
            SELECT 1
        a> COM_RESET_CONNECTION
        a> COM_RESET_CONNECTION
        a> SELECT 1
            [mysql] SET SESSION character_set_client='utf8mb4',SESSION character_set_results='utf8mb4',SESSION colla…
            SELECT 1
    """,
    "change_user_to_oneself": """
        a> SET time_zone = '+02:00'
            SET time_zone = '+02:00'
        a> COM_CHANGE_USER seen seen-secret seen
        a> SELECT @@time_zone -> SYSTEM
            SET SESSION time_zone=DEFAULT
            SELECT @@time_zone
        a> COM_CHANGE_USER seen seen-secret seen
        a> SELECT 1
            SELECT 1
    """,
    # --- several statements in one text ---
    "an_option_is_set_when_it_is_needed": """
        a> COM_SET_OPTION 0
        a> COM_SET_OPTION 1
        a> COM_SET_OPTION 0
        a> SELECT 1; SELECT 2
            SELECT 1; SELECT 2
        b> SELECT 1
            SELECT 1
        b> SELECT 1
            SELECT 1
    """,
    "several_statements_in_one_text": """
        a> COM_SET_OPTION 0
        a> SELECT 1; SELECT 2 -> 2
            SELECT 1; SELECT 2
        a> SELECT 1; SET time_zone = '+03:00' -> OK
            SELECT 1; SET time_zone = '+03:00'
        b> SELECT @@time_zone -> SYSTEM
            SET SESSION time_zone=DEFAULT
            SELECT @@time_zone
        a> SELECT @@time_zone -> +03:00
            SET SESSION time_zone='+03:00'
            SELECT @@time_zone
    """,
    # --- prepared statements ---
    "two_clients_share_one_prepared_statement": """
        a> COM_STMT_PREPARE SELECT ? + 1
            COM_STMT_PREPARE SELECT ? + 1
        a> COM_STMT_EXECUTE SELECT ? + 1 with 5 -> 6
            COM_STMT_EXECUTE SELECT 5 + 1
        b> COM_STMT_PREPARE SELECT ? + 1
            COM_STMT_PREPARE SELECT ? + 1
            [mariadb] COM_STMT_CLOSE
        b> COM_STMT_EXECUTE SELECT ? + 1 with 6 -> 7
            [mariadb] + COM_STMT_EXECUTE SELECT 6 + 1
            [mysql] COM_STMT_EXECUTE SELECT 6 + 1
        a> COM_STMT_EXECUTE SELECT ? + 1 with 7 -> 8
            COM_STMT_EXECUTE SELECT 7 + 1
        a> COM_STMT_CLOSE SELECT ? + 1
        b> COM_STMT_EXECUTE SELECT ? + 1 with 8 -> 9
            COM_STMT_EXECUTE SELECT 8 + 1
        b> COM_STMT_RESET SELECT ? + 1
        b> COM_STMT_CLOSE SELECT ? + 1
        a> COM_STMT_PREPARE SELECT ? + 1
            COM_STMT_PREPARE SELECT ? + 1
            COM_STMT_CLOSE
        a> COM_STMT_EXECUTE SELECT ? + 1 with 9 -> 10
            + COM_STMT_EXECUTE SELECT 9 + 1
    """,
    "prepare_execute_close_of_every_statement": """
        a> COM_STMT_PREPARE SELECT v FROM t WHERE id = ?
            COM_STMT_PREPARE SELECT v FROM t WHERE id = ?
        a> COM_STMT_EXECUTE SELECT v FROM t WHERE id = ? with 1 -> 1
            COM_STMT_EXECUTE SELECT v FROM t WHERE id = 1
        a> COM_STMT_CLOSE SELECT v FROM t WHERE id = ?
        a> COM_STMT_PREPARE SELECT v FROM t WHERE id = ?
            COM_STMT_PREPARE SELECT v FROM t WHERE id = ?
            [mariadb] COM_STMT_CLOSE
        a> COM_STMT_EXECUTE SELECT v FROM t WHERE id = ? with 1 -> 1
            [mariadb] + COM_STMT_EXECUTE SELECT v FROM t WHERE id = 1
            [mysql] COM_STMT_EXECUTE SELECT v FROM t WHERE id = 1
        a> COM_STMT_CLOSE SELECT v FROM t WHERE id = ?
    """,
    "a_prepared_statement_in_another_state": """
        a> COM_STMT_PREPARE SELECT ? + 2
            COM_STMT_PREPARE SELECT ? + 2
        a> SET time_zone = '+02:00'
            SET time_zone = '+02:00'
        a> COM_STMT_EXECUTE SELECT ? + 2 with 5 -> 7
            COM_STMT_EXECUTE SELECT 5 + 2
        b> SELECT 1
            SET SESSION time_zone=DEFAULT
            SELECT 1
        a> COM_STMT_EXECUTE SELECT ? + 2 with 5 -> 7
            SET SESSION time_zone='+02:00'
            COM_STMT_EXECUTE SELECT 5 + 2
        a> SET sql_mode = ''
            SET sql_mode = ''
        a> COM_STMT_EXECUTE SELECT ? + 2 with 5 -> 7
            COM_STMT_EXECUTE SELECT 5 + 2
    """,
    "a_statement_is_prepared_again_after_a_reset": """
        a> COM_STMT_PREPARE SELECT ? + 3
            COM_STMT_PREPARE SELECT ? + 3
        a> COM_STMT_EXECUTE SELECT ? + 3 with 5 -> 8
            COM_STMT_EXECUTE SELECT 5 + 3
        b> BEGIN
            BEGIN
        b> disconnect
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
        a> COM_STMT_EXECUTE SELECT ? + 3 with 5 -> 8
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            + COM_STMT_PREPARE SELECT ? + 3
            COM_STMT_EXECUTE SELECT 5 + 3
        a> COM_STMT_EXECUTE SELECT ? + 3 with 5 -> 8
            COM_STMT_EXECUTE SELECT 5 + 3
    """,
    "a_statement_that_cannot_be_prepared": """
        a> COM_STMT_PREPARE SELEC -> ERROR 1064
            COM_STMT_PREPARE SELEC
        a> SELECT 1
            SELECT 1
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
    """,
    "a_prepared_statement_that_fails": """
        a> COM_STMT_PREPARE INSERT INTO t VALUES (?, 1)
            COM_STMT_PREPARE INSERT INTO t VALUES (?, 1)
        a> COM_STMT_EXECUTE INSERT INTO t VALUES (?, 1) with 1 -> ERROR 1062
            COM_STMT_EXECUTE INSERT INTO t VALUES (1, 1)
            [mysql] SHOW WARNINGS
            [mysql] + COM_SET_OPTION 0
        a> COM_STMT_EXECUTE INSERT INTO t VALUES (?, 1) with 1 -> ERROR 1062
            COM_STMT_EXECUTE INSERT INTO t VALUES (1, 1)
            [mysql] SHOW WARNINGS
            [mysql] + COM_SET_OPTION 0
        a> COM_STMT_CLOSE INSERT INTO t VALUES (?, 1)
        b> SELECT 1
            [mariadb] SHOW WARNINGS
            [mariadb] + SELECT LAST_INSERT_ID()
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            [mysql] SELECT LAST_INSERT_ID()
            SELECT 1
    """,
    "long_data_belong_to_one_client": """
        a> COM_STMT_PREPARE SELECT LENGTH(?)
            COM_STMT_PREPARE SELECT LENGTH(?)
        a> COM_STMT_SEND_LONG_DATA SELECT LENGTH(?)
            COM_STMT_PREPARE SELECT LENGTH(?)
            COM_STMT_SEND_LONG_DATA
        a> COM_STMT_RESET SELECT LENGTH(?)
            + COM_STMT_CLOSE
        a> COM_STMT_EXECUTE SELECT LENGTH(?) with abcd -> 4
            + COM_STMT_EXECUTE SELECT LENGTH('abcd')
        b> COM_STMT_PREPARE SELECT LENGTH(?)
            COM_STMT_PREPARE SELECT LENGTH(?)
            [mariadb] COM_STMT_CLOSE
        b> COM_STMT_EXECUTE SELECT LENGTH(?) with ab -> 2
            [mariadb] + COM_STMT_EXECUTE SELECT LENGTH('ab')
            [mysql] COM_STMT_EXECUTE SELECT LENGTH('ab')
    """,
    # --- soft state ---
    "warnings_are_read_when_another_client_comes": """
        a> SELECT CAST('x' AS SIGNED) -> 0
            SELECT CAST('x' AS SIGNED)
        a> SHOW WARNINGS -> Warning
            SHOW WARNINGS
        a> SHOW WARNINGS -> Warning
            SHOW WARNINGS
        b> SELECT 1
            SHOW WARNINGS
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> SHOW WARNINGS -> Warning
        a> SHOW COUNT(*) WARNINGS -> 1
    """,
    "warnings_that_nobody_asked_for": """
        a> SELECT CAST('x' AS SIGNED) -> 0
            SELECT CAST('x' AS SIGNED)
        a> SELECT 1
            SELECT 1
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> SELECT CAST('x' AS SIGNED) -> 0
            SELECT CAST('x' AS SIGNED)
        a> disconnect
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
    """,
    "warnings_that_are_asked_for_before_anything_else": """
        a> SHOW WARNINGS -> nothing
            SHOW WARNINGS LIMIT 0
        a> SELECT 1
            SELECT 1
        b> SELECT 1
            SELECT 1
        a> SHOW WARNINGS -> nothing
            SHOW WARNINGS LIMIT 0
    """,
    "an_insert_id_is_read_when_another_client_comes": """
        a> INSERT INTO t (v) VALUES (10)
            INSERT INTO t (v) VALUES (10)
        a> SELECT LAST_INSERT_ID() > 1 -> 1
            SELECT LAST_INSERT_ID() > 1
        b> SELECT 1
            SELECT LAST_INSERT_ID()
            SELECT 1
        a> SELECT 1
            SELECT 1
        b> SELECT 1
            SELECT 1
        a> SELECT LAST_INSERT_ID() > 1 -> 1
            SELECT LAST_INSERT_ID() > 1
        b> SELECT LAST_INSERT_ID() -> 0
            SET last_insert_id=0
            SELECT LAST_INSERT_ID()
        a> DELETE FROM t WHERE id > 1
            DELETE FROM t WHERE id > 1
    """,
    "an_insert_id_that_nobody_asks_for": """
        a> INSERT INTO t (v) VALUES (11)
            INSERT INTO t (v) VALUES (11)
        a> INSERT INTO t (v) VALUES (12)
            INSERT INTO t (v) VALUES (12)
        a> DELETE FROM t WHERE id > 1
            DELETE FROM t WHERE id > 1
        a> COM_QUIT
        b> SELECT 1
            SELECT 1
    """,
    "inserts_of_two_clients_in_turns": """
        a> INSERT INTO t (v) VALUES (13)
            INSERT INTO t (v) VALUES (13)
        b> INSERT INTO t (v) VALUES (14)
            SELECT LAST_INSERT_ID()
            + SET last_insert_id=0
            INSERT INTO t (v) VALUES (14)
        a> INSERT INTO t (v) VALUES (15)
            SELECT LAST_INSERT_ID()
            + SET last_insert_id=5
            INSERT INTO t (v) VALUES (15)
        b> SELECT LAST_INSERT_ID() > 1 -> 1
            SELECT LAST_INSERT_ID()
            + SET last_insert_id=6
            SELECT LAST_INSERT_ID() > 1
        a> DELETE FROM t WHERE id > 1
            DELETE FROM t WHERE id > 1
    """,
    "found_rows_of_sql_calc_found_rows": """
        a> SELECT SQL_CALC_FOUND_ROWS v FROM t LIMIT 0 -> nothing
            SELECT SQL_CALC_FOUND_ROWS v FROM t LIMIT 0
            [mariadb] SELECT FOUND_ROWS()
            [mysql] SHOW WARNINGS
            [mysql] + SELECT FOUND_ROWS()
        a> SELECT FOUND_ROWS() -> 1
        b> SELECT 1
            SELECT 1
    """,
    "row_count_and_found_rows_are_known_here": """
        a> SELECT v FROM t -> 1
            SELECT v FROM t
        a> SELECT FOUND_ROWS() -> 1
            SELECT FOUND_ROWS()
        b> SELECT 1
            [mysql] SHOW WARNINGS
            SELECT 1
        a> SELECT ROW_COUNT() -> -1
        a> UPDATE t SET v = 2 WHERE id = 1
            UPDATE t SET v = 2 WHERE id = 1
        b> SELECT 1
            SELECT 1
        a> SELECT ROW_COUNT() -> 1
        a> UPDATE t SET v = 1 WHERE id = 1
            UPDATE t SET v = 1 WHERE id = 1
    """,
    # --- errors ---
    "an_error_is_followed_by_a_question": """
        a> SELECT nosuch FROM t -> ERROR 1054
            SELECT nosuch FROM t
            [mysql] SHOW WARNINGS
            [mysql] + COM_SET_OPTION 0
        a> SELECT 1
            SELECT 1
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> INSERT INTO t VALUES (1, 1) -> ERROR 1062
            INSERT INTO t VALUES (1, 1)
            [mysql] SHOW WARNINGS
            [mysql] + COM_SET_OPTION 0
        b> SELECT 1
            [mariadb] SHOW WARNINGS
            [mariadb] + SELECT LAST_INSERT_ID()
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            [mysql] SELECT LAST_INSERT_ID()
            SELECT 1
    """,
    "an_error_in_a_transaction": """
        a> BEGIN
            BEGIN
        a> INSERT INTO t VALUES (1, 1) -> ERROR 1062
            INSERT INTO t VALUES (1, 1)
            COM_SET_OPTION 0
        a> SHOW WARNINGS -> Error
            SHOW WARNINGS
        a> SELECT nosuch FROM t -> ERROR 1054
            SELECT nosuch FROM t
            COM_SET_OPTION 0
        a> ROLLBACK
            ROLLBACK
        b> SELECT 1
            SELECT LAST_INSERT_ID()
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
    """,
    "an_error_with_autocommit_off": """
        a> SET autocommit = 0
            SET autocommit = 0
        a> INSERT INTO t VALUES (1, 1) -> ERROR 1062
            INSERT INTO t VALUES (1, 1)
            SHOW WARNINGS
            + COM_SET_OPTION 0
        a> ROLLBACK
            ROLLBACK
        a> SELECT nosuch -> ERROR 1054
            SELECT nosuch
            SHOW WARNINGS
            + COM_SET_OPTION 0
        a> ROLLBACK
            ROLLBACK
    """,
    "what_is_no_sql_does_not_pin": """
        a> SELEC -> ERROR 1064
            SELEC
            SHOW WARNINGS
            + COM_STMT_PREPARE SELEC
        b> SELECT 1
            SELECT LAST_INSERT_ID()
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> SELECT nosuch(1) -> ERROR 1305
            SELECT nosuch(1)
            SHOW WARNINGS
            + COM_STMT_PREPARE SELECT nosuch(1)
        b> SELECT 1
            SELECT LAST_INSERT_ID()
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
    """,
    "a_failing_set_changes_nothing": """
        a> SET sql_mode = 'NOSUCH' -> ERROR 1231
            SET sql_mode = 'NOSUCH'
            SHOW WARNINGS
            + COM_SET_OPTION 0
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> SET nosuch = 1 -> ERROR 1193
            SET nosuch = 1
            SHOW WARNINGS
            + COM_SET_OPTION 0
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
    """,
    "a_failing_use_changes_nothing": """
        a> USE nosuch -> ERROR 1044
            USE nosuch
            SHOW WARNINGS
            + COM_SET_OPTION 0
        b> SELECT 1
            [mariadb] DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> COM_INIT_DB nosuch -> ERROR 1044
            COM_INIT_DB nosuch
        b> SELECT 1
            SHOW WARNINGS
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        b> SHOW WARNINGS -> nothing
            SHOW WARNINGS
        a> SHOW WARNINGS -> Error
    """,
    # --- pins ---
    "a_lock_is_asked_about_behind_what_takes_and_gives_it": """
        a> SELECT GET_LOCK('job', 0) -> 1
            SELECT GET_LOCK('job', 0)
            SELECT IS_USED_LOCK('job') <=> CONNECTION_ID()
        a> SELECT 1
            SELECT 1
        a> SELECT RELEASE_LOCK('job') -> 1
            SELECT RELEASE_LOCK('job')
            SELECT IS_USED_LOCK('job') <=> CONNECTION_ID()
        b> SELECT 1
            SELECT 1
        a> SELECT RELEASE_LOCK('job')
            SELECT RELEASE_LOCK('job')
    """,
    "release_all_locks_needs_no_question": """
        a> SELECT GET_LOCK('job', 0) -> 1
            SELECT GET_LOCK('job', 0)
            SELECT IS_USED_LOCK('job') <=> CONNECTION_ID()
        a> SELECT RELEASE_ALL_LOCKS() -> 1
            SELECT RELEASE_ALL_LOCKS()
        b> SELECT 1
            SELECT 1
    """,
    "a_temporary_table_adds_nothing": """
        a> CREATE TEMPORARY TABLE tmp (i INT)
            CREATE TEMPORARY TABLE tmp (i INT)
        a> INSERT INTO tmp VALUES (1)
            INSERT INTO tmp VALUES (1)
        a> SELECT i FROM tmp -> 1
            SELECT i FROM tmp
        a> DROP TEMPORARY TABLE tmp
            DROP TEMPORARY TABLE tmp
        b> SELECT 1
            SELECT 1
    """,
    "lock_tables_adds_nothing": """
        a> LOCK TABLES t WRITE
            LOCK TABLES t WRITE
        a> UPDATE t SET v = v
            UPDATE t SET v = v
        a> UNLOCK TABLES
            UNLOCK TABLES
        b> SELECT 1
            SELECT 1
    """,
    "prepare_and_execute_as_text": """
        a> PREPARE s FROM 'SELECT 1'
            PREPARE s FROM 'SELECT 1'
        a> EXECUTE s -> 1
            EXECUTE s
        a> DEALLOCATE PREPARE s
            DEALLOCATE PREPARE s
        b> SELECT 1
            SELECT 1
    """,
    "a_call_pins_and_its_connection_is_closed": """
        a> CALL nothing()
            CALL nothing()
        a> SELECT 1
            SELECT 1
        a> COM_QUIT
            COM_QUIT
        b> SELECT 1
            (2) connect
            (2) SET session_track_system_variables=…
            + (2) SELECT @@session.max_user_connections, @@session.wait_timeout
            (2) COM_SET_OPTION 0
            + (2) COM_INIT_DB seen
            (2) SELECT 1
    """,
    # --- user variables ---
    "user_variables_are_one_SET_and_their_absence_is_one_reset": """
        a> SET @x = 1, @y = 'two'
            SET @x = 1, @y = 'two'
        b> SELECT @x -> NULL
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
            + SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            SELECT @x
        b> SELECT @x -> NULL
            SELECT @x
        a> SELECT @y -> two
            SET @`x`=1,@`y`=_utf8mb4'two' COLLATE utf8mb4_general_ci
            SELECT @y
        a> SELECT @x -> 1
            SELECT @x
    """,
    "user_variables_of_two_clients_with_the_same_names": """
        a> SET @x = 1
            SET @x = 1
        b> SET @x = 2
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
            + SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            SET @x = 2
        a> SELECT @x -> 1
            SET @`x`=1
            SELECT @x
        b> SELECT @x -> 2
            SET @`x`=2
            SELECT @x
    """,
    "a_user_variable_that_cannot_be_carried": """
        a> SELECT 5 INTO @x
            SELECT 5 INTO @x
        a> SELECT @x -> 5
            SELECT @x
        a> COM_RESET_CONNECTION
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
        b> SELECT @x -> NULL
            SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION autocommit=1
            + COM_SET_OPTION 0
            + COM_INIT_DB seen
            SELECT @x
    """,
    # --- others ---
    "ddl_and_show_add_nothing": """
        a> CREATE TABLE u (i INT)
            CREATE TABLE u (i INT)
        a> SHOW TABLES -> t
            SHOW TABLES
        a> EXPLAIN SELECT * FROM u
            EXPLAIN SELECT * FROM u
        a> ALTER TABLE u ADD j INT
            ALTER TABLE u ADD j INT
        a> DROP TABLE u
            DROP TABLE u
        b> SHOW VARIABLES LIKE 'autocommit' -> autocommit
            SHOW VARIABLES LIKE 'autocommit'
    """,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_the_server_saw(stage: Stage, script: str) -> None:
    lines = for_flavour(script, stage.server.flavour)
    assert "\n".join(stage.play(lines)) == "\n".join(lines)


# --- with two connections ---

WITH_TWO = {
    "a_statement_is_prepared_once_on_each_connection": """
        a> COM_STMT_PREPARE SELECT ? + 1
            COM_STMT_PREPARE SELECT ? + 1
        a> COM_STMT_EXECUTE SELECT ? + 1 with 5 -> 6
            COM_STMT_EXECUTE SELECT 5 + 1
        b> BEGIN
            BEGIN
        a> COM_STMT_EXECUTE SELECT ? + 1 with 6 -> 7
            (2) connect
            (2) SET session_track_system_variables=…
            + (2) SELECT @@session.max_user_connections, @@session.wait_timeout
            (2) COM_SET_OPTION 0
            + (2) COM_INIT_DB seen
            + (2) COM_STMT_PREPARE SELECT ? + 1
            (2) COM_STMT_EXECUTE SELECT 6 + 1
        a> COM_STMT_EXECUTE SELECT ? + 1 with 7 -> 8
            (2) COM_STMT_EXECUTE SELECT 7 + 1
        b> COM_STMT_PREPARE SELECT ? + 1
            COM_STMT_PREPARE SELECT ? + 1
            [mariadb] COM_STMT_CLOSE
        b> COM_STMT_EXECUTE SELECT ? + 1 with 8 -> 9
            [mariadb] + COM_STMT_EXECUTE SELECT 8 + 1
            [mysql] COM_STMT_EXECUTE SELECT 8 + 1
        b> COMMIT
            COMMIT
        a> COM_STMT_EXECUTE SELECT ? + 1 with 9 -> 10
            (2) COM_STMT_EXECUTE SELECT 9 + 1
        b> COM_STMT_EXECUTE SELECT ? + 1 with 10 -> 11
            COM_STMT_EXECUTE SELECT 10 + 1
    """,
    "each_client_finds_its_own_connection_again": """
        a> SET time_zone = '+01:00'
            SET time_zone = '+01:00'
        b> BEGIN
            SET SESSION time_zone=DEFAULT
            BEGIN
        a> SELECT @@time_zone -> +01:00
            (2) connect
            (2) SET session_track_system_variables=…
            + (2) SELECT @@session.max_user_connections, @@session.wait_timeout
            (2) SET SESSION time_zone='+01:00'
            + (2) COM_SET_OPTION 0
            + (2) COM_INIT_DB seen
            (2) SELECT @@time_zone
        b> COMMIT
            COMMIT
        a> SELECT CAST('x' AS SIGNED) -> 0
            (2) SELECT CAST('x' AS SIGNED)
        b> SELECT CAST('y' AS SIGNED) -> 0
            SELECT CAST('y' AS SIGNED)
        a> SHOW WARNINGS -> Warning
            (2) SHOW WARNINGS
        b> SHOW WARNINGS -> Warning
            SHOW WARNINGS
        a> INSERT INTO t (v) VALUES (21)
            (2) INSERT INTO t (v) VALUES (21)
        b> INSERT INTO t (v) VALUES (22)
            INSERT INTO t (v) VALUES (22)
        a> SELECT LAST_INSERT_ID() > 1 -> 1
            (2) SELECT LAST_INSERT_ID() > 1
        c> SELECT 1
            SELECT LAST_INSERT_ID()
            [mariadb] + DO (SELECT 1 FROM (SELECT 1) x)
            SELECT 1
        a> DELETE FROM t WHERE id > 1
            (2) DELETE FROM t WHERE id > 1
    """,
    "a_lock_holds_one_connection_and_the_others_share_the_rest": """
        a> SELECT GET_LOCK('job', 0) -> 1
            SELECT GET_LOCK('job', 0)
            SELECT IS_USED_LOCK('job') <=> CONNECTION_ID()
        b> SELECT 1
            (2) connect
            (2) SET session_track_system_variables=…
            + (2) SELECT @@session.max_user_connections, @@session.wait_timeout
            (2) COM_SET_OPTION 0
            + (2) COM_INIT_DB seen
            (2) SELECT 1
        c> SELECT 1
            (2) SELECT 1
        a> COM_QUIT
            COM_RESET_CONNECTION
            + SET session_track_system_variables=…
        b> SELECT 1
            (2) SELECT 1
    """,
}


@pytest.mark.parametrize("script", WITH_TWO.values(), ids=WITH_TWO.keys())
def test_the_server_saw_on_two_connections(logged: Server, proxy: Callable[..., Proxy], script: str) -> None:
    lines = for_flavour(script, logged.flavour)
    with closing(Stage(logged, proxy, max_connections=2)) as stage:
        assert "\n".join(stage.play(lines)) == "\n".join(lines)
