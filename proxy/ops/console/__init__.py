"""The console: what an operator asks and tells a running mybouncer, over the MySQL protocol.

    server     sockets, logins, the commands of the protocol
    commands   the one table of what can be said: parser, HELP and docs/console.md come from it
    views      the rows of every SHOW; client, where there is more to say about one
    actions    what changes something
    live       which keys can change while it runs, and what that takes
    dialect    what MySQL clients say of their own accord
    place      where the socket is
    shell      `mybouncer console`; connection, how it and `mybouncer top` talk to the server

Law: a SHOW reads what is there when it is asked and stores nothing for it on the hot path. Rows are made in slices, so
that no list, however long, holds up clients. Nothing here shows a password or the text of a statement.
"""
