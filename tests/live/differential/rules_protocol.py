"""Rules for commands that are no statements: prepared statements, resets, other users, disconnects and kills."""

from __future__ import annotations

from .grammar import ONE, TWO, Rule, Scene, When, holding, texts
from .steps import Step, Value

# Texts with parameters, and the kinds of values for each.
NUMBERS = ("tiny", "short", "long", "longlong", "double", "null", "varstring")
STRINGS = ("varstring", "string", "blob", "null", "long", "date", "decimal")
ANY = ("tiny", "long", "longlong", "float", "double", "decimal", "string", "blob", "date", "time", "datetime", "null")
PREPARED: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("SELECT ?, v FROM shared WHERE id > ? ORDER BY id", (ANY, NUMBERS)),
    ("SELECT ?, ?, ?", (ANY, ANY, ANY)),
    ("SELECT * FROM all_types WHERE ? IS NULL OR b = ?", (ANY, ANY)),
    ("INSERT INTO s$n (v, u) VALUES (?, ?)", (STRINGS, ("null", "long", "short"))),
    ("UPDATE s$n SET v = ? WHERE id = ?", (STRINGS, NUMBERS)),
    ("SELECT CONCAT(?, ?), 'it', @@sql_mode", (STRINGS, STRINGS)),
    ("SELECT id FROM shared WHERE v = ? OR id IN (?, ?) ORDER BY id", (STRINGS, NUMBERS, NUMBERS)),
    ("SELECT id, v FROM shared ORDER BY id LIMIT ?", (("long", "longlong", "tiny"),)),
    ("INSERT INTO all_types (a, b, c, d, e) VALUES (?, ?, ?, ?, ?)", (NUMBERS, NUMBERS, STRINGS, ANY, ANY)),
    ("DELETE FROM s$n WHERE u = ?", (NUMBERS,)),
    ("SELECT LAST_INSERT_ID(), ?", (NUMBERS,)),
    ('SELECT 1/3, "v", ? FROM shared ORDER BY id', (STRINGS,)),
    ("SELECT * FROM s$n ORDER BY id", ()),
    ("SELECT id FROM shared ORDER BY id", ()),
)
_KINDS_OF = dict(PREPARED)


def value(scene: Scene, kind: str) -> Value:
    """A parameter of this kind."""
    rng = scene.rng
    if kind in ("tiny", "short", "long", "longlong"):
        return kind, rng.choice((0, 1, 2, 3, -1, 100))
    if kind in ("float", "double"):
        return kind, rng.choice((0.0, 1.5, -2.25, 1000.0))
    if kind == "decimal":
        return kind, rng.choice(("1.50", "-3", "2"))
    if kind == "date":
        return kind, (2020, rng.randint(1, 12), 3)
    if kind == "datetime":
        return kind, (2021, 2, rng.randint(1, 28), 4, 5, 6)
    if kind == "time":
        return kind, (rng.randrange(2), 7, 8, 9)
    if kind == "null":
        return kind, None
    return kind, rng.choice(("x", "yy", "2", "ä", "", "1.5x"))


def _without_conversion(kinds: tuple[str, ...]) -> list[str]:
    """MySQL warns of conversions, and how often depends on when a statement was prepared."""
    unlike = {NUMBERS: {"varstring"}, STRINGS: {"long", "date", "decimal"}}.get(kinds, set())
    return [kind for kind in kinds if kind != "null" and kind not in unlike]


def _new_handle(scene: Scene) -> list[Step]:
    text, kinds = scene.rng.choice(PREPARED)
    handle = f"h{scene.rng.randrange(5)}"
    chosen = [scene.rng.choice(one if scene.mariadb else _without_conversion(one)) for one in kinds]
    return [
        scene.step("prepare", text, handle=handle),
        scene.step("execute", handle=handle, values=tuple(value(scene, kind) for kind in chosen)),
    ]


def _known_handles(scene: Scene) -> list[Step]:
    return [step for name, step in scene.model.handles.items() if name.startswith("h")]


def _kinds(scene: Scene, prepared: Step) -> tuple[tuple[str, ...], ...]:
    text = prepared.text.replace(f"s{scene.session} ", "s$n ")
    return _KINDS_OF[text]


def _again(scene: Scene) -> list[Step]:
    prepared = scene.rng.choice(_known_handles(scene))
    before = scene.model.typed.get(prepared.handle)
    if scene.mariadb:
        chosen = [scene.rng.choice(one) for one in _kinds(scene, prepared)]
    elif before is not None:
        # MySQL takes the types of the first execution for all others, which a statement prepared again does not know.
        chosen = list(before)
    else:
        return []
    return [scene.step("execute", handle=prepared.handle, values=tuple(value(scene, kind) for kind in chosen))]


def _without_types(scene: Scene) -> list[Step]:
    prepared = scene.rng.choice(_known_handles(scene))
    before = scene.model.typed.get(prepared.handle)
    # MySQL knows the charset of the parameters' types, which a statement prepared again does not.
    if before is None or (not scene.mariadb and prepared.handle in scene.model.recoded):
        return []
    values = tuple(value(scene, kind) for kind in before)
    return [scene.step("execute", handle=prepared.handle, values=values, number=2)]


def _cursor(scene: Scene) -> list[Step]:
    text = scene.rng.choice(("SELECT * FROM shared ORDER BY id", "SELECT id FROM s$n ORDER BY id", "DO 1"))
    steps = [scene.step("prepare", text, handle="cursor"), scene.step("execute", handle="cursor", number=1)]
    steps += [scene.step("fetch", handle="cursor", number=scene.rng.choice((1, 2, 100))) for _ in range(2)]
    return [*steps, scene.step(scene.rng.choice(("close", "reset_statement")), handle="cursor")]


def _long_data(scene: Scene) -> list[Step]:
    text = scene.rng.choice(("SELECT LENGTH(?), ?", "INSERT INTO s$n (v, u) VALUES (?, ?)"))
    steps = [scene.step("prepare", text, handle="long")]
    steps += [scene.step("long_data", scene.rng.choice(("x", "abc")), handle="long") for _ in range(2)]
    steps.append(scene.step("execute", handle="long", values=(("blob", ""), ("null", None))))
    return [*steps, scene.step("close", handle="long")]


def _on_handle(op: str) -> Rule:
    def make(scene: Scene) -> list[Step]:
        return [scene.step(op, handle=scene.rng.choice(_known_handles(scene)).handle)]

    return Rule(op.replace("_", " "), 2, make, lambda scene: bool(_known_handles(scene)))


def _unknown_handle(scene: Scene) -> list[Step]:
    op = scene.rng.choice(("execute", "close", "reset_statement", "fetch"))
    return [scene.step(op, handle="unknown", number=1 if op == "fetch" else 0)]


def _change_user(scene: Scene) -> bool:
    """MariaDB hands the role on to the next user, which mybouncer does not."""
    return not (scene.mariadb and scene.model.kept)


def _op(
    name: str,
    weight: float,
    op: str,
    *choices: str,
    number: int = 0,
    held: bool | None = None,
    when: When | None = None,
) -> Rule:
    def make(scene: Scene) -> list[Step]:
        return [scene.step(op, scene.rng.choice(choices) if choices else "", number=number)]

    if held is not None:
        when = lambda scene: scene.model.holds is held  # noqa: E731
    return Rule(name, weight, make, when)


def _kill(scene: Scene) -> list[Step]:
    victim = scene.rng.choice([i for i in range(len(scene.models.each)) if i != scene.session])
    return [scene.step("kill", scene.rng.choice(("QUERY", "CONNECTION", "CONNECTION")), number=victim)]


RULES = (
    Rule("prepare", 7, _new_handle),
    Rule("execute again", 9, _again, lambda scene: bool(_known_handles(scene))),
    Rule("execute without types", 5, _without_types, lambda scene: bool(_known_handles(scene))),
    Rule("cursor", 1.5, _cursor),
    Rule("long data", 1.5, _long_data),
    Rule("unknown handle", 0.7, _unknown_handle),
    _on_handle("close"),
    _on_handle("reset_statement"),
    texts("prepare wrong", 1, "SELECT ? FROM nosuch", "SELEC ?", "SELECT ?; SELECT ?", prepared=False),
    _op("init db", 4, "init_db", ONE, TWO, "nosuch", ONE),
    _op("ping", 2, "ping"),
    _op("field list", 1, "field_list", "shared", "all_types", "nosuch"),
    _op("statistics", 0.5, "statistics"),
    _op("multi statements off", 0.5, "set_option", number=1),
    _op("multi statements on", 1.5, "set_option", number=0),
    _op("set option wrong", 0.3, "set_option", number=7),
    _op("unknown command", 0.3, "bytes", "63", "1d", "0f"),
    _op("reset held", 25, "reset", held=True),
    _op("reset", 1, "reset", held=False),
    _op("change user", 1.5, "change_user", ONE, TWO, number=0, when=_change_user),
    _op("change to another user", 1, "change_user", ONE, TWO, number=1, when=_change_user),
    _op("quit", 0.5, "quit"),
    _op("quit held", 4, "quit", held=True),
    _op("vanish", 0.3, "vanish"),
    _op("vanish held", 3, "vanish", held=True),
    Rule("kill", 0.6, _kill),
    texts("kill the held", 0.2, "DO 2", when=holding),
)
