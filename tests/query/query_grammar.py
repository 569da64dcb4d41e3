"""
A grammar of queries.

Thresholds on scores lie in gaps between the scores there are. Where an answer hangs on the order of
scores themselves, the query says so (`is_fragile`): whoever compares must see that it stays the
same when the scores are moved a little.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from .query_columns import (
    KEYS,
    STEADY_KINDS,
    WHOLE,
    Catalogue,
    Column,
    Ctes,
    Query,
    Scope,
    Source,
    Written,
    keys_among,
    owners_of,
    shared_columns,
)
from .query_conditions import NO_SUBQUERIES, Conditions, add_where, all_of, as_source
from .query_spelling import Call, Exposed, Relation, Shown, Text, join, write

JOINS = ("", "", "", "comma", "LEFT", "LEFT", "prompts", "SEMI", "ANTI", "RIGHT", "FULL",
         "LATERAL", "ASOF", "ASOF", "VALUES", "nested", "nested")  # fmt: skip
FLAG = Column("", "bool", (True, False))
NUMBER = Column("", "int", (0, 1, 2, 5))


@st.composite
def queries(draw: st.DrawFn, catalogue: Catalogue) -> Query:
    """Draw a query."""
    author = _Author(draw, catalogue)
    written = author.statement({}, depth=2, as_table=False, n_ctes=author.pick([0, 0, 0, 1, 1, 2]))
    return Query(written.text, written.outputs, author.is_fragile, author.forms)


@dataclass
class _Body:
    """A SELECT in the making: its FROM, its WHERE, and what else it says."""

    scope: list[Source]
    from_: Text
    conditions: list[Text]
    ctes: Ctes
    depth: int
    windows: list[Text] = field(default_factory=list)

    @property
    def seen(self) -> list[Source]:
        return [source for source in self.scope if source.is_seen]

    @property
    def measured(self) -> list[Source]:
        return [source for source in self.seen if source.measured]

    @property
    def handed(self) -> Source | None:
        """The one item whose scores a query around can ask for; a relation before others."""
        measured = [source for source in self.scope if source.measured]
        meant = [source for source in measured if source.is_relation] or measured
        return meant[0] if len(meant) == 1 and meant[0].is_seen else None

    @property
    def order(self) -> list[str]:
        """Columns that order its rows totally; none when there are none."""
        if any(source.keys is None for source in self.seen):
            return []
        return [f"{source.alias}.{key}" for source in self.seen for key in source.keys or ()]

    def write(self, select: Text, is_from_first: bool = False) -> Text:
        if is_from_first:
            return add_where(write("{} {}", self.from_, select), self.conditions)
        return write("{} {}", select, add_where(self.from_, self.conditions))


@dataclass
class _Author(Conditions):
    # ---- statements

    def statement(self, ctes: Ctes, depth: int, as_table: bool, n_ctes: int) -> Written:
        """A query with a WITH of its own."""
        known = dict(ctes)
        texts = []
        for number in range(n_ctes):
            self.use(f"{number + 1} CTEs")
            name, text, written = self.cte(known, min(depth, 1))
            known[name] = written
            texts.append(text)
        body = self.query(known, depth, as_table)
        if not texts:
            return body
        return replace(body, text=write("WITH {} {}", join(", ", texts), body.text))

    def cte(self, ctes: Ctes, depth: int) -> tuple[str, Text, Written]:
        written = self.query(ctes, depth, as_table=True)
        name = self.fresh("c")
        if self.chance(20):
            self.use("CTE named like a relation")
            name = self.pick(self.relations(ctes))
        head, written = self.rename(name, written)
        kind = self.pick(["", "", "", "MATERIALIZED ", "NOT MATERIALIZED "])
        return name, write("{} AS {}({})", head, kind, written.text), written

    def rename(self, name: str, written: Written) -> tuple[str, Written]:
        """Perhaps give a query's columns other names, as in q(a, b)."""
        if written.has_star or not self.chance(12):
            return name, written
        self.use("column aliases")
        names = {column.name: self.fresh("n") for column in written.outputs}
        if self.chance(60):
            self.use("misleading column aliases")
            names = dict(zip(names, [*list(names)[1:], list(names)[0]], strict=True))
        keys = None if written.keys is None else tuple(names[key] for key in written.keys)
        outputs = tuple(replace(column, name=names[column.name]) for column in written.outputs)
        head = f"{name}({', '.join(names.values())})"
        return head, replace(written, outputs=outputs, keys=keys)

    def query(self, ctes: Ctes, depth: int, as_table: bool) -> Written:
        form = self.pick(["rows"] * 9 + ["aggregate"] * 5 + ["set"] * 2 + ["pivot", "unpivot"])
        if form == "set":
            return self.set_operation(ctes, depth)
        if form == "pivot":
            return self.pivot(ctes, depth)
        if form == "unpivot":
            return self.unpivot(ctes, depth)
        body = self.body(ctes, depth)
        if form == "rows" and as_table and self.chance(50):
            return self.plain(body)
        return self.aggregate(body) if form == "aggregate" else self.rows(body, as_table)

    # ---- FROM

    def body(self, ctes: Ctes, depth: int) -> _Body:
        scope = [self.source(ctes, depth)]
        text, ties = write("FROM {}", scope[0].text), []
        for _ in range(self.pick([0, 0, 0, 1, 1, 1, 2])):
            text, ties = self.join(scope, text, ctes, depth)
            if ties:
                break  # what a comma joins, no JOIN after it could name
        return _Body(scope, text, [*ties, *self.conditions(scope, ctes, depth)], ctes, depth)

    def source(self, ctes: Ctes, depth: int) -> Source:
        if ctes and self.chance(70):
            return self.named(ctes)
        if depth > 0 and self.chance(25):
            return self.subquery(ctes, depth)
        return self.relation(self.pick(self.relations(ctes)))

    def subquery(self, ctes: Ctes, depth: int) -> Source:
        self.use("subquery in FROM")
        n_ctes = 1 if self.chance(10) else 0
        written = self.statement(ctes, depth - 1, as_table=True, n_ctes=n_ctes)
        alias = self.fresh("q")
        head, written = self.rename(alias, written)
        return as_source(alias, write("({}) AS {}", written.text, head), written)

    def join(
        self, scope: list[Source], before: Text, ctes: Ctes, depth: int
    ) -> tuple[Text, list[Text]]:
        """Join one more item; gives the FROM, and what a comma leaves to WHERE."""
        form = self.pick(JOINS)
        if form == "LATERAL":
            return self.lateral(scope, before, ctes)
        if form == "ASOF":
            return self.asof(scope, before, ctes), []
        if form == "VALUES":
            return self.values(scope, before), []
        if form == "nested":
            return self.nested(scope, before, ctes), []
        other = self.relation("prompts") if form == "prompts" else self.source(ctes, depth)
        shared = shared_columns(scope, other)
        if not shared:
            return before, []
        if form == "comma":
            self.use("comma join")
            scope.append(other)
            return write("{}, {}", before, other.text), self.tie(shared, other)
        word = form if form != "prompts" else self.pick(["", "", "LEFT", "SEMI", "ANTI"])
        self.use(f"{word or 'INNER'} JOIN")
        shown = replace(other, is_seen=word not in ("SEMI", "ANTI"))
        using = [name for owner, name in shared if owners_of(scope, name) == [owner]]
        if "response_id" in using or "prompt_id" in using:
            using = [name for name in using if name in ("response_id", "prompt_id", "position")
                     or self.chance(50)]  # fmt: skip
        if using and self.chance(40):
            self.use("USING")
            _add_joined(scope, word, replace(shown, merged=tuple(using)))
            return write(
                f"{{}} {word} JOIN {{}} USING ({', '.join(using)})", before, other.text
            ), []
        on = self.on([*scope, other], shared, other)
        _add_joined(scope, word, shown)
        return write(f"{{}} {word} JOIN {{}} ON {{}}", before, other.text, on), []

    def on(self, scope: Scope, shared: list[tuple[Source, str]], other: Source) -> Text:
        visible = [source for source in scope if source.is_seen]
        more = self.pick([0, 0, 1, 2])
        extra = [self.condition(visible, {}, NO_SUBQUERIES, is_on=True) for _ in range(more)]
        return all_of([*self.tie(shared, other), *extra])

    def lateral(self, scope: list[Source], before: Text, ctes: Ctes) -> tuple[Text, list[Text]]:
        inner = self.inner(ctes)
        shared = shared_columns(scope, inner)
        if not shared or not inner.measured:
            return before, []
        self.use("LATERAL")
        call, score = self.call([inner], inner)
        alias, name = self.fresh("q"), self.fresh("m")
        extra = self.conditions([inner], {}, NO_SUBQUERIES, most=1)
        is_last = self.chance(50)
        text = write(
            f"{{}}{',' if is_last else ' CROSS JOIN'} "
            f"LATERAL (SELECT max({{}}) AS {name} FROM {{}} WHERE {{}}) AS {alias}",
            before, call, inner.text, all_of([*self.tie(shared, inner), *extra]),
        )  # fmt: skip
        scope.append(Source(alias, write(""), (replace(score, name=name),), ()))
        return text, [write("TRUE")] if is_last else []

    def asof(self, scope: list[Source], before: Text, ctes: Ctes) -> Text:
        """The clause that began last before each token, or the reader before in the alphabet."""
        left = scope[0]
        if len(scope) > 1 or not left.is_relation or not left.measured or ctes:
            return before
        self.use("ASOF JOIN")
        if left.measured.startswith("token") and self.chance(30):
            other = self.relation("clauses" if left.measured == "tokens" else "clause_diffs")
            keys = [name for name in KEYS[other.measured] if name != "clause"]
            later = f"{left.alias}.position >= {other.alias}.token_start"
        else:
            other = self.relation("responses")
            keys = ["response_id"]
            later = f"{left.alias}.reader > {other.alias}.reader"
        equal = " AND ".join(f"{left.alias}.{name} = {other.alias}.{name}" for name in keys)
        word = self.pick(["", "LEFT"])
        _add_joined(scope, word, other)
        return write(f"{{}} ASOF {word} JOIN {{}} ON {equal} AND {later}", before, other.text)

    def values(self, scope: list[Source], before: Text) -> Text:
        column = self.pick(["organism", "reader"])
        if not scope[0].has(column, "text") or not scope[0].is_seen:
            return before
        self.use("VALUES")
        alias = self.fresh("w")
        listed = self.pick(["('hedge'), ('instruct')", "('flattery')", "('nobody'), ('instruct')"])
        word = self.pick(["", "LEFT ", "SEMI "])
        who = Column("who", "text", ("hedge", "instruct"))
        scope.append(Source(alias, write(""), (who,), ("who",), is_seen=word != "SEMI "))
        return write(
            f"{{}} {word}JOIN (VALUES {listed}) AS {alias}(who) "
            f"ON {alias}.who = {scope[0].alias}.{column}",
            before,
        )

    def nested(self, scope: list[Source], before: Text, ctes: Ctes) -> Text:
        """A join in parentheses."""
        first, second = self.source(ctes, 0), self.source(ctes, 0)
        inner, outer = shared_columns([first], second), shared_columns(scope, first)
        if not inner or not outer or len({s.alias for s in (*scope, first, second)}) < 2:
            return before
        self.use("join in parentheses")
        inner_on = self.on([first, second], inner, second)
        outer_on = self.on([*scope, first, second], outer, first)
        words = self.pick(["", "LEFT ", "RIGHT "]), self.pick(["", "LEFT "])
        _add_joined(scope, words[0].strip(), first)
        is_optional = "LEFT" in "".join(words)
        scope.append(replace(second, is_optional=is_optional))
        return write(
            f"{{}} {words[0]}JOIN ({{}} {words[1]}JOIN {{}} ON {{}}) ON {{}}",
            before, first.text, second.text, inner_on, outer_on,
        )  # fmt: skip

    # ---- SELECTs that keep rows

    def plain(self, body: _Body) -> Written:
        """A table as people make it to go on from: columns as they are, and no more."""
        self.use("plain table")
        items, outputs, star = self.plain_outputs(body, as_table=True)
        if not items:
            items, outputs, star = self.star(self.pick(body.seen), body, as_table=True)
        return self.put_together(body, items, outputs, star, as_table=True)

    def rows(self, body: _Body, as_table: bool) -> Written:
        items, outputs, star = self.plain_outputs(body, as_table)
        named = []
        for _ in range(self.pick([0, 1, 1, 2, 3])):
            text, column = self.expression(body)
            name = self.other_name(body, outputs) if self.chance(10) else self.fresh("x")
            is_named = as_table or self.chance(70)
            items.append(write(f"{{}} AS {name}", text) if is_named else text)
            outputs.append(replace(column, name=name, origin=None))
            if is_named and "OVER" not in "".join(p for p in text.parts if isinstance(p, str)):
                named.append(outputs[-1])
        if not items:
            return self.counted(body)
        known = {column.name for source in body.scope for column in source.columns}
        named = [column for column in named if column.name not in known]
        if named and self.chance(20):
            self.use("alias in WHERE")
            column = self.pick(named)
            body.conditions.append(self.about_column(write(column.name), column))
        return self.put_together(body, items, outputs, star, as_table)

    def put_together(
        self, body: _Body, items: list[Text], outputs: list[Column], star: str, as_table: bool
    ) -> Written:
        head, tail = self.shape(body, bool(star))
        handed = body.handed if as_table and "DISTINCT" not in head else None
        listed = join(", ", items)
        if handed and star != handed.alias:
            listed = write("{}{}", listed, Exposed(handed.alias))
        select = body.write(write(head, listed), self.chance(5))
        window = write(" WINDOW {}", join(", ", body.windows)) if body.windows else write("")
        keys = keys_among(body.seen, outputs)
        if head == "SELECT DISTINCT {}":
            keys = tuple(column.name for column in outputs)
        return Written(
            write("{}{}{}", select, window, tail),
            tuple(outputs),
            keys,
            handed.measured if handed else "",
            handed.item if handed else -1,
            bool(star),
        )

    def shape(self, body: _Body, has_star: bool) -> tuple[str, Text]:
        """What comes before the columns, and what after the WHERE."""
        form = self.pick(["plain"] * 6 + ["limit", "rank", "distinct", "qualify", "first"])
        order = ", ".join(body.order)
        if form == "distinct" and not has_star:
            self.use("DISTINCT")
            return "SELECT DISTINCT {}", write("")
        if not order:
            return "SELECT {}", write("")
        if form == "first":
            self.use("DISTINCT ON")
            on = self.pick(body.order)
            return f"SELECT DISTINCT ON ({on}) {{}}", write(f" ORDER BY {on}, {order}")
        if form == "limit":
            self.use("ORDER BY keys LIMIT")
            offset = self.pick(["", "", " OFFSET 2"])
            return "SELECT {}", write(
                f" ORDER BY {order} LIMIT {self.pick([1, 3, 10, 40])}{offset}"
            )
        if form == "rank" and body.measured:
            self.use("ORDER BY score LIMIT")
            self.is_fragile = True
            call, _ = self.call(body.scope, self.pick(body.measured))
            way = self.pick(["DESC NULLS LAST", "ASC NULLS LAST", "DESC", "ASC NULLS FIRST"])
            limit = self.pick([1, 3, 10, 40])
            return "SELECT {}", write(f" ORDER BY {{}} {way}, {order} LIMIT {limit}", call)
        return "SELECT {}", self.qualify(body) if form == "qualify" else write("")

    def qualify(self, body: _Body) -> Text:
        self.use("QUALIFY")
        order = write(", ".join(body.order))
        if body.measured and self.chance(50):
            self.is_fragile = True
            call, _ = self.call(body.scope, self.pick(body.measured))
            order = write("{} DESC NULLS LAST, {}", call, order)
        function, most = self.pick(["row_number()", "count(*)"]), self.pick([1, 2])
        split = self.partition(body)
        return write(f" QUALIFY {function} OVER ({split} ORDER BY {{}}) <= {most}", order)

    def partition(self, body: _Body) -> str:
        source = self.pick(body.seen)
        groups = [c.name for c in source.columns if c.kind in STEADY_KINDS]
        return f"PARTITION BY {source.alias}.{self.pick(groups)}" if groups else ""

    def counted(self, body: _Body) -> Written:
        self.use("count(*) alone")
        return Written(body.write(write("SELECT count(*) AS n")), (replace(NUMBER, name="n"),), ())

    def plain_outputs(self, body: _Body, as_table: bool) -> tuple[list[Text], list[Column], str]:
        """Columns as they are: a star, the keys, or some; and the alias of the star."""
        form = self.pick(["keys", "keys", "some", "star", "none"])
        if form == "star":
            return self.star(self.pick(body.seen), body, as_table)
        chosen: list[tuple[Source, Column]] = []
        if form == "keys":
            chosen = [(s, s.column(key)) for s in body.seen for key in s.keys or ()]
        if form in ("keys", "some"):
            chosen += [(s, self.pick(s.columns)) for s in self.some(body.seen, 1, 3)]
        items: list[Text] = []
        outputs: list[Column] = []
        for source, column in chosen:
            origin = (source.alias, column.name)
            if origin in {output.origin for output in outputs}:
                continue
            name = column.name
            if self.chance(10):
                name = self.other_name(body, outputs)
            if name in {output.name for output in outputs} or self.chance(5):
                name = self.fresh("k")
            text = self.ref(body.scope, source, column.name)
            items.append(text if name == column.name else write(f"{{}} AS {name}", text))
            outputs.append(replace(column, name=name, origin=origin))
        return items, outputs, ""

    def star(
        self, source: Source, body: _Body, as_table: bool
    ) -> tuple[list[Text], list[Column], str]:
        self.use("star")
        columns = [replace(c, origin=(source.alias, c.name)) for c in source.columns]
        if not as_table or (source.measured and body.handed != source):
            return [write("{}", Shown(source.alias, source.names))], columns, source.alias
        before = "" if len(body.scope) == 1 and self.chance(50) else f"{source.alias}."
        texts = [c for c in columns if c.kind == "text" and c.name in WHOLE]
        form = self.pick(["", "", "REPLACE", "EXCLUDE"]) if len(texts) > 1 else ""
        if not form:
            return [write(f"{before}*")], columns, source.alias
        self.use(f"star {form}")
        changed = self.pick(texts)
        kept = [c for c in columns if c is not changed]
        if form == "EXCLUDE":
            return [write(f"{before}* EXCLUDE ({changed.name})")], kept, source.alias
        other = self.pick([c for c in texts if c is not changed])
        new = replace(other, name=changed.name, origin=None)
        columns = [new if c is changed else c for c in columns]
        replaced = f"{source.alias}.{other.name} AS {changed.name}"
        return [write(f"{before}* REPLACE ({replaced})")], columns, source.alias

    def other_name(self, body: _Body, outputs: list[Column]) -> str:
        """A name that a column of the FROM has, too."""
        taken = {output.name for output in outputs}
        names = [c.name for s in body.seen for c in s.columns if c.name not in taken]
        self.use("misleading alias")
        return self.pick(names) if names else self.fresh("x")

    def expression(self, body: _Body) -> tuple[Text, Column]:
        forms = ["call"] * 6 + ["case", "difference", "coalesce", "window", "scalar", "null"]
        form = self.pick(forms if body.measured else ["column", "window", "flag"])
        if form == "window":
            return self.window(body)
        if form in ("column", "flag"):
            source = self.pick(body.seen)
            column = self.pick(source.columns)
            ref = self.ref(body.scope, source, column.name)
            return (ref, column) if form == "column" else (self.about_column(ref, column), FLAG)
        source = self.pick(body.measured)
        call, score = self.call(body.scope, source)
        if form == "null":
            return write("{} IS NULL", call), FLAG
        if form == "scalar" and body.depth > 0:
            return self.scalar(source, body.ctes)
        if form in ("call", "scalar"):
            return call, score
        other, column = self.call(body.scope, self.pick(body.measured))
        loose = Column("", "loose", (), score.spread + column.spread)
        if form == "case":
            self.use("CASE")
            test = self.condition(body.scope, {}, NO_SUBQUERIES, levels=1)
            return write("CASE WHEN {} THEN {} ELSE {} END", test, call, other), loose
        return write("{} - {}" if form == "difference" else "coalesce({}, {})", call, other), loose

    def scalar(self, source: Source, ctes: Ctes) -> tuple[Text, Column]:
        self.use("scalar subquery")
        inner = self.relation(self.pick(self.relations(ctes)))
        call, score = self.call([inner], inner)
        conditions = self.tie(shared_columns([source], inner), inner)
        conditions += self.conditions([inner], {}, NO_SUBQUERIES, most=1)
        function = self.pick(["max", "min", "avg"])
        from_ = add_where(write("FROM {}", inner.text), conditions)
        column = replace(score, kind="loose") if function == "avg" else score
        return write(f"(SELECT {function}({{}}) {{}})", call, from_), column

    def window(self, body: _Body) -> tuple[Text, Column]:
        self.use("window function")
        order = ", ".join(body.order)
        split = self.partition(body)
        forms = ["count"]
        forms += ["number", "frame count"] if order else []
        forms += ["mean", "mean", "extreme"] if body.measured else []
        forms += ["running", "lag", "named"] if body.measured and order else []
        form = self.pick(forms)
        sorted_ = f"{split} ORDER BY {order}"
        frame = "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW"
        if form == "count":
            return write(f"count(*) OVER ({split})"), NUMBER
        if form == "number":
            return write(f"row_number() OVER ({sorted_})"), NUMBER
        if form == "frame count":
            return write(f"count(*) OVER ({sorted_} {frame})"), NUMBER
        call, score = self.call(body.scope, self.pick(body.measured))
        loose = replace(score, kind="loose", domain=(), spread=2 * score.spread)
        if form == "mean":
            return write(f"avg({{}}) OVER ({split})", call), loose
        if form == "extreme":
            return write(f"max({{}}) OVER ({split})", call), score
        if form == "lag":
            return write(f"{{}} - lag({{}}) OVER ({sorted_})", call, call), loose
        if form == "named":
            self.use("WINDOW")
            name = self.fresh("o")
            body.windows.append(write(f"{name} AS ({sorted_} {frame})"))
            return write(f"avg({{}}) OVER {name}", call), loose
        return write(f"avg({{}}) OVER ({sorted_} {frame})", call), loose

    # ---- SELECTs that gather rows

    def aggregate(self, body: _Body) -> Written:
        self.use("aggregate")
        items: list[Text] = []
        outputs: list[Column] = []
        groups: list[Text] = []
        for _ in range(self.pick([0, 1, 1, 2])):
            text, column = self.group(body)
            name = self.fresh("g")
            if column.origin and column.name not in {o.name for o in outputs} and self.chance(60):
                name = column.name
            items.append(text if name == column.name else write(f"{{}} AS {name}", text))
            outputs.append(replace(column, name=name))
            # An alias that is no column's name can stand for what it names.
            groups.append(write(name) if name != column.name and self.chance(30) else text)
        keys: tuple[str, ...] | None = tuple(output.name for output in outputs)
        for _ in range(self.pick([1, 1, 2, 3])):
            text, column = self.gathered(body)
            name = self.fresh("a")
            items.append(write(f"{{}} AS {name}", text))
            outputs.append(replace(column, name=name, origin=None))
        text = body.write(write("SELECT {}", join(", ", items)))
        if groups:
            text, keys = self.grouped(text, groups, keys)
        if self.chance(25):
            text = write("{} HAVING {}", text, self.having(body))
        if groups and keys and self.chance(20):
            places = ", ".join(str(place + 1) for place in range(len(groups)))
            text = write(f"{{}} ORDER BY {places} LIMIT {self.pick([1, 3, 10])}", text)
        return Written(text, tuple(outputs), keys)

    def group(self, body: _Body) -> tuple[Text, Column]:
        if body.measured and self.chance(20):
            call, score = self.call(body.scope, self.pick(body.measured))
            if score.domain:
                self.use("CASE in GROUP BY")
                low, high = sorted([self.pick(score.domain), self.pick(score.domain)])
                text = write(
                    f"CASE WHEN {{}} > {high} THEN 'high' WHEN {{}} > {low} THEN 'middle' "
                    "WHEN {} IS NULL THEN 'none' ELSE 'low' END",
                    call, call, call,
                )  # fmt: skip
                return text, Column("", "text", ("high", "low", "none"))
        source = self.pick(body.seen)
        columns = [c for c in source.columns if c.kind in STEADY_KINDS]
        if not columns:
            return write("1 + 1"), Column("", "int", (2,))
        column = self.pick(columns)
        origin = (source.alias, column.name)
        return write(f"{source.alias}.{column.name}"), replace(column, origin=origin)

    def grouped(
        self, text: Text, groups: list[Text], keys: tuple[str, ...] | None
    ) -> tuple[Text, tuple[str, ...] | None]:
        form = self.pick(["written", "written", "ALL", "places", "ROLLUP", "SETS"])
        if form == "ALL":
            return write("{} GROUP BY ALL", text), keys
        if form == "places":
            places = ", ".join(str(place + 1) for place in range(len(groups)))
            return write(f"{{}} GROUP BY {places}", text), keys
        if form in ("ROLLUP", "SETS") and not any(group.calls for group in groups):
            self.use(form)
            if form == "ROLLUP":
                return write("{} GROUP BY ROLLUP ({})", text, join(", ", groups)), None
            sets = join(", ", [write("({})", group) for group in groups])
            return write("{} GROUP BY GROUPING SETS ({})", text, sets), None
        return write("{} GROUP BY {}", text, join(", ", groups)), keys

    def gathered(self, body: _Body) -> tuple[Text, Column]:
        """An aggregate function of something."""
        only = write("")
        if self.chance(25):
            self.use("FILTER")
            test = self.condition(body.scope, {}, NO_SUBQUERIES, levels=1)
            only = write(" FILTER (WHERE {})", test)
        form = self.pick(["score"] * 4 + ["count", "column"] if body.measured else ["column"])
        source = self.pick(body.seen)
        columns = [c for c in source.columns if c.kind in ("text", "int")]
        if form == "count" or (form == "column" and not columns):
            return write("count(*){}", only), NUMBER
        if form == "column":
            column = self.pick(columns)
            ref = self.ref(body.scope, source, column.name)
            function = self.pick(["max({})", "min({})", "count({})", "count(DISTINCT {})"])
            column = NUMBER if "count" in function else column
            return write(f"{function}{{}}", ref, only), column
        call, score = self.call(body.scope, self.pick(body.measured))
        function = self.pick(["avg", "max", "min", "count", "sum", "stddev_pop", "median"])
        if function == "count":
            return write("count({}){}", call, only), NUMBER
        # In a sum, every row may be off by the tolerance.
        spread = (20 if function == "sum" else 1) * score.spread
        is_one = function in ("max", "min")
        column = score if is_one else Column("", "loose", (), spread)
        return write(f"{function}({{}}){{}}", call, only), column

    def having(self, body: _Body) -> Text:
        self.use("HAVING")
        form = self.pick(["count(*) > 1", "count(*) BETWEEN 2 AND 30", "score", "score"])
        if form == "score" and body.measured:
            call, score = self.call(body.scope, self.pick(body.measured))
            if score.domain:
                return write(f"max({{}}) > {self.pick(score.domain)}", call)
        return write("count(*) > 2")

    # ---- set operations and pivots

    def set_operation(self, ctes: Ctes, depth: int) -> Written:
        word = self.pick(["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "UNION ALL BY NAME",
                          "EXCEPT ALL"])  # fmt: skip
        self.use(word)
        names = self.pick([("response_id",), ("organism", "reader"), ("prompt_id", "sample"),
                           ("response_id", "reader")])  # fmt: skip
        has_score = word.startswith("UNION ALL") and self.chance(60)
        columns = [c for c in self.catalogue.relations["responses"] if c.name in names]
        sides, spread = [], 0.0
        for place in range(self.pick([2, 2, 3]) if word == "UNION" else 2):
            source = self.relation(self.pick(self.relations(ctes)))
            items = [self.ref([source], source, column.name) for column in columns]
            if has_score:
                call, score = self.call([source], source)
                items.append(write("{} AS s", call))
                spread = max(spread, score.spread)
            if place and "BY NAME" in word:
                items.reverse()
            conditions = self.conditions([source], ctes, depth - 1, most=2)
            body = _Body([source], write("FROM {}", source.text), conditions, ctes, depth)
            sides.append(body.write(write("SELECT {}", join(", ", items))))
        text = join(f" {word} ", sides)
        outputs = [*columns, Column("s", "loose", (), spread)] if has_score else columns
        if not has_score and self.chance(30):
            text = write(f"{{}} ORDER BY ALL LIMIT {self.pick([2, 9])}", text)
        keys = None if "ALL" in word else tuple(column.name for column in columns)
        return Written(text, tuple(outputs), keys)

    def pivot(self, ctes: Ctes, depth: int) -> Written:
        self.use("PIVOT")
        source = self.relation(self.pick(self.relations(ctes)))
        group = self.pick(["prompt_id", "sample", "reader", "prompt_set"])
        names = self.some(source.column("organism").domain, 1, 3)
        function = self.pick(["max", "avg", "count"])
        for_ = f"FOR organism IN ({', '.join(repr(name) for name in names)})"
        shown = f"{group}, {', '.join(names)}"
        call, score = self.call([source], source)
        if self.chance(40):
            self.use("call inside PIVOT")
            [part] = [part for part in call.parts if isinstance(part, Call)]
            text = write(
                f"SELECT {shown} FROM {{}} PIVOT ({function}({{}}) {for_} GROUP BY {group})",
                Relation(source.measured), replace(part, is_bare=True, alias=""),
            )  # fmt: skip
        else:
            conditions = self.conditions([source], ctes, depth - 1, most=1)
            from_ = add_where(write("FROM {}", source.text), conditions)
            alias = source.alias
            text = write(
                f"SELECT {shown} FROM (SELECT {alias}.{group}, {alias}.organism, {{}} AS s {{}}) "
                f"PIVOT ({function}(s) {for_})",
                call, from_,
            )  # fmt: skip
        cell = {"max": score, "avg": replace(score, kind="loose"), "count": NUMBER}[function]
        outputs = (source.column(group), *(replace(cell, name=name) for name in names))
        return Written(text, outputs, (group,))

    def unpivot(self, ctes: Ctes, depth: int) -> Written:
        self.use("UNPIVOT")
        source = self.relation(self.pick(self.relations(ctes)))
        conditions = self.conditions([source], ctes, depth - 1, most=2)
        alias = source.alias
        text = write(
            f"SELECT who, v, count(*) AS n FROM (SELECT {alias}.organism, {alias}.reader {{}}) "
            "UNPIVOT (v FOR who IN (organism, reader)) GROUP BY who, v",
            add_where(write("FROM {}", source.text), conditions),
        )
        names = source.column("organism").domain
        who = Column("who", "text", ("organism", "reader"))
        return Written(
            text, (who, Column("v", "text", names), replace(NUMBER, name="n")), ("who", "v")
        )


def _add_joined(scope: list[Source], word: str, source: Source) -> None:
    """Add what is joined, and note which items a row may now be without."""
    if word in ("RIGHT", "FULL"):
        scope[:] = [replace(other, is_optional=True) for other in scope]
    scope.append(replace(source, is_optional=word in ("LEFT", "FULL")))
