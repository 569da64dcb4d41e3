"""The part of the grammar that names things: relations, columns, calls, and conditions on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from .query_columns import (
    JOINABLE,
    KEYS,
    STEADY_KINDS,
    WHOLE,
    Catalogue,
    Column,
    Ctes,
    Scope,
    Source,
    Written,
    owners_of,
    shared_columns,
)
from .query_spelling import Call, Part, Relation, Text, Value, join, write
from .random_stores import COLUMNS, MEASURES, POINTINGS, RELATIONS

T = TypeVar("T")

NO_SUBQUERIES = -1


def add_where(from_: Text, conditions: Sequence[Text]) -> Text:
    return write("{} WHERE {}", from_, all_of(conditions)) if conditions else from_


def all_of(conditions: Sequence[Text]) -> Text:
    return join(" AND ", [write("({})", condition) for condition in conditions])


@dataclass
class Conditions:
    """
    Draws names and conditions.

    Attributes:
        draw: Hypothesis' own.
        catalogue: What there is.
        is_fragile: Whether what was drawn hangs on the order of scores that may lie close.
        forms: What was drawn, to be counted.
        counts: Numbers given out, so that every name is new.
    """

    draw: Callable[..., Any]
    catalogue: Catalogue
    is_fragile: bool = False
    forms: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    # ---- choices; the first option is what examples shrink to

    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(list(options)))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(0, 99)) >= 100 - percent

    def some(self, options: Sequence[T], least: int, most: int) -> list[T]:
        if not options:
            return []
        most = min(most, len(options))
        places = st.lists(
            st.integers(0, len(options) - 1), min_size=min(least, most), max_size=most, unique=True
        )
        return [options[place] for place in self.draw(places)]

    def fresh(self, prefix: str) -> str:
        self.counts[prefix] = self.counts.get(prefix, 0) + 1
        return f"{prefix}{self.counts[prefix]}"

    def is_taken(self, name: str) -> bool:
        """Whether a name goes without an alias elsewhere: one scope could not hold both."""
        return self.fresh(f"plain {name} ") != f"plain {name} 1"

    def use(self, form: str) -> None:
        self.forms.add(form)

    # ---- what a FROM names

    def relations(self, ctes: Ctes) -> list[str]:
        """Relations that no CTE hides."""
        return [name for name in RELATIONS if name not in ctes]

    def relation(self, name: str) -> Source:
        alias = name if self.chance(40) and not self.is_taken(name) else self.fresh("r")
        self.use(name)
        return Source(
            alias,
            write("{}", Relation(name, alias, self.chance(3))),
            self.catalogue.relations[name],
            KEYS[name],
            name if name != "prompts" else "",
            int(self.fresh("")),
            is_relation=True,
        )

    def named(self, ctes: Ctes) -> Source:
        name = self.pick(list(ctes))
        alias = name if self.chance(40) and not self.is_taken(f"cte {name}") else self.fresh("q")
        self.use("a CTE used")
        return as_source(alias, write(name if alias == name else f"{name} AS {alias}"), ctes[name])

    def inner(self, ctes: Ctes) -> Source:
        """What a subquery in an expression reads."""
        if ctes and self.chance(40):
            self.use("a CTE in a subquery")
            return self.named(ctes)
        return self.relation(self.pick([*self.relations(ctes), *(["prompts"] * 2)]))

    def ref(self, scope: Scope, source: Source, name: str) -> Text:
        """Name a column, without its source where that is clear."""
        if owners_of(scope, name) == [source] and self.chance(40):
            return write(self.letter(name))
        return write(f"{source.alias}.{self.letter(name)}")

    def letter(self, name: str) -> str:
        form = self.pick(["{}"] * 30 + ["upper", '"{}"'])
        return name.upper() if form == "upper" else form.format(name)

    def call(self, scope: Scope, source: Source, is_on: bool = False) -> tuple[Text, Column]:
        """Call a measure on a source; within ON always by its alias."""
        calls = [column for column, (measure, _) in COLUMNS.items() if measure == MEASURES[0]]
        column = self.pick([*calls, *calls, *COLUMNS])
        measure, pointing = COLUMNS[column]
        reference = self.pick(POINTINGS[pointing].texts)
        bound = self.fresh("v") if self.chance(15) else ""
        # A relation goes before the queries beside it.
        meant = [s for s in scope if s.is_seen and s.is_relation and s.measured]
        is_clear = meant == [source] or list(scope) == [source]
        is_bare = is_clear and not is_on and self.chance(60)
        self.use(f"{measure} on {'a relation' if source.is_relation else 'a query'}")
        call = Call(
            measure, pointing, reference, source.alias, is_bare, source.item, bound, self.chance(5)
        )
        return write("{}", call), self.catalogue.scores[source.measured, call.column]

    # ---- conditions

    def conditions(self, scope: Scope, ctes: Ctes, depth: int, most: int = 3) -> list[Text]:
        numbers = [n for n in (1, 0, 1, 2, 2, 3) if n <= most]
        return [self.condition(scope, ctes, depth) for _ in range(self.pick(numbers))]

    def condition(
        self, scope: Scope, ctes: Ctes, depth: int, levels: int = 2, is_on: bool = False
    ) -> Text:
        """A condition; without subqueries where depth is below 0."""
        form = self.pick(["leaf"] * 12 + ["OR", "AND", "NOT", "OR", "="]) if levels else "leaf"
        if form == "leaf":
            return self.leaf(scope, ctes, depth, is_on)
        first = self.condition(scope, ctes, depth, levels - 1, is_on)
        if form == "NOT":
            return write("NOT ({})", first)
        second = self.condition(scope, ctes, depth, levels - 1, is_on)
        return write(f"(({{}}) {form} ({{}}))", first, second)

    def leaf(self, scope: Scope, ctes: Ctes, depth: int, is_on: bool) -> Text:
        seen = [source for source in scope if source.is_seen]
        measured = [s for s in seen if s.measured]
        optional = [s for s in seen if s.is_optional]
        if optional and self.chance(50):
            return self.about_absence(scope, self.pick(optional))
        source = self.pick(seen)
        forms = ["column"] * 5 + ["columns", "typical", "typical"]
        forms += ["score"] * 4 if measured else []
        forms += ["in", "tuple", "exists", "exists", "others"] if depth >= 0 else []
        form = self.pick(forms)
        if form == "score":
            return self.about_score(*self.call(scope, self.pick(measured), is_on))
        text = None
        if form == "typical":
            text = self.typical(source)
        elif form == "columns":
            text = self.column_pair(seen)
        elif form == "in":
            text = self.in_subquery(scope, source, ctes)
        elif form == "tuple":
            text = self.in_tuples(source, ctes)
        elif form == "exists":
            text = self.exists(scope, source, ctes)
        elif form == "others" and source.measured:
            text = self.against_others(scope, source, ctes)
        if text is not None:
            return text
        whole = [column for column in source.columns if column.name in WHOLE]
        column = self.pick(whole if whole and self.chance(60) else source.columns)
        return self.about_column(self.ref(scope, source, column.name), column)

    def about_absence(self, scope: Scope, source: Source) -> Text:
        """What may also hold where a join found no row."""
        self.use("condition that NULL can meet")
        whole = [column for column in source.columns if column.name in WHOLE]
        column = self.pick(whole or source.columns)
        ref = self.ref(scope, source, column.name)
        if column.kind not in STEADY_KINDS or not column.domain:
            return write("{} IS NULL", ref)
        value = self.value(column)
        return self.pick(
            [
                write("{} IS NULL", ref),
                write("{} IS DISTINCT FROM {}", ref, value),
                write("coalesce({}, {}) = {}", ref, value, value),
                write("({} <> {}) IS NOT FALSE", ref, value),
                write("({} IS NULL OR {} = {})", ref, ref, value),
            ]
        )

    def typical(self, source: Source) -> Text | None:
        """What people do ask."""
        alias = source.alias
        options = [
            text
            for text, needs in (
                (f"{alias}.reader = {alias}.organism", {"reader": "text", "organism": "text"}),
                (f"{alias}.reader = 'instruct'", {"reader": "text"}),
                (f"{alias}.baseline = 'instruct'", {"baseline": "text"}),
                (f"{alias}.is_response", {"is_response": "bool"}),
                (f"{alias}.prompt_set = 'audit/discovery'", {"prompt_set": "text"}),
                (f"{alias}.organism = 'hedge'", {"organism": "text"}),
                (f"{alias}.n_tokens >= 3", {"n_tokens": "int"}),
            )
            if all(source.has(name, kind) for name, kind in needs.items())
        ]
        return write(self.pick(options)) if options else None

    def column_pair(self, seen: Scope) -> Text | None:
        first, second = self.pick(seen), self.pick(seen)
        pairs = [
            (a, b)
            for a in first.columns
            for b in second.columns
            if a.kind == b.kind and a.kind in STEADY_KINDS
            if (first.alias, a.name) != (second.alias, b.name)
        ]
        if not pairs:
            return None
        a, b = self.pick(pairs)
        word = self.pick(["=", "=", "<>", "<", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
        return write(f"{first.alias}.{a.name} {word} {second.alias}.{b.name}")

    def about_column(self, ref: Text, column: Column) -> Text:
        if column.kind == "score":
            return self.about_score(ref, column)
        forms = ["{} IS NULL", "{} IS NOT NULL"]
        if column.kind not in STEADY_KINDS or not column.domain:
            return write(self.pick(forms), ref)
        if column.kind == "bool":
            return write(self.pick(["{}", "NOT {}", "{} = TRUE", "{} IS NOT TRUE", *forms]), ref)
        a, b = self.value(column), self.value(column)
        options = [
            write("{} = {}", ref, a),
            write("{} <> {}", ref, a),
            write("{} IN ({}, {})", ref, a, b),
            write("{} NOT IN ({}, {})", ref, a, b),
            write("{} BETWEEN {} AND {}", ref, a, b),
            write("{} >= {}", ref, a),
            write("{} IS DISTINCT FROM {}", ref, a),
            write("CASE WHEN {} = {} THEN TRUE ELSE {} < {} END", ref, a, ref, b),
            write("coalesce({}, {}) = {}", ref, a, b),
            *(write(form, ref) for form in forms),
        ]
        options += self.about_text(ref, a, column) if column.kind == "text" else []
        options += [write("{} + 1 > {}", ref, a), write("{} % 2 = 1", ref)] * (column.kind == "int")
        return self.pick(options)

    def about_text(self, ref: Text, value: Text, column: Column) -> list[Text]:
        start = str(self.pick(column.domain))[:3].replace("'", "").replace("%", "")
        return [
            write(f"{{}} LIKE '{start}%'", ref),
            write(f"{{}} NOT LIKE '%{start[-1:]}'", ref),
            write(f"{{}} ILIKE '%{start[1:]}%'", ref),
            write("lower({}) = lower({})", ref, value),
            write(f"starts_with({{}}, '{start}')", ref),
            write("length({}) > 4", ref),
            write("{} || 'x' = {} || 'x'", ref, value),
        ]

    def value(self, column: Column) -> Text:
        value = self.pick(column.domain)
        if column.kind == "text" and self.chance(5):
            value = "nobody"
        if self.chance(20):
            self.use("bound parameter")
            return write("{}", Value(self.fresh("p"), value))
        return write(
            "{}", "'" + value.replace("'", "''") + "'" if column.kind == "text" else str(value)
        )

    def about_score(self, score: Text, column: Column) -> Text:
        self.use("predicate on a score")
        if not column.domain:
            return write(self.pick(["{} IS NULL", "{} IS NOT NULL"]), score)
        a, b = self.pick(column.domain), self.pick(column.domain)
        if self.chance(15):
            return write("{} > {}", score, Value(self.fresh("p"), a))
        forms = [
            f"{{}} > {a}",
            f"{{}} <= {a}",
            f"{{}} BETWEEN {min(a, b)} AND {max(a, b)}",
            f"NOT ({{}} < {a})",
            f"CASE WHEN {{}} > {a} THEN TRUE ELSE FALSE END",
            f"({{}} > {a}) IS TRUE",
            f"coalesce({{}}, {b}) > {a}",
            "{} IS NULL",
            "{} IS NOT NULL",
        ]
        return write(
            self.pick(forms if a != b else [f for f in forms if "coalesce" not in f]), score
        )

    def tie(self, shared: Sequence[tuple[Source, str]], other: Source) -> list[Text]:
        """Equalities of some columns two items share, always of those that keep the join small."""
        names = [name for _, name in shared]
        needed = [name for name in ("response_id", "position") if name in names]
        needed = needed or [name for name in ("prompt_id", "prompt_set") if name in names] or names
        kept = {*needed, *self.some([name for name in names if name not in needed], 0, 2)}
        return [
            write(f"{owner.alias}.{name} = {other.alias}.{name}")
            for owner, name in shared
            if name in kept
        ]

    # ---- subqueries in conditions

    def in_subquery(self, scope: Scope, source: Source, ctes: Ctes) -> Text | None:
        inner = self.inner(ctes)
        known = {*JOINABLE, "n_tokens", "text"} & set(inner.names) & set(source.names)
        if not known:
            return None
        name = self.pick(sorted(known))
        if source.column(name).kind != inner.column(name).kind:
            return None
        self.use("IN subquery")
        if source.is_relation and inner.is_relation and self.chance(15):
            self.use("shadowed alias")  # inside, the inner one goes first
            relation = Relation(inner.measured or "prompts", source.alias)
            inner = replace(inner, alias=source.alias, text=write("{}", relation))
        conditions = self.conditions([inner], ctes, NO_SUBQUERIES)
        ref = self.ref(scope, source, name)
        named = f"{inner.alias}.{name}"
        tails = ["", "", "", f" GROUP BY {named} HAVING count(*) > 1"]
        if inner.keys:
            keys = ", ".join(f"{inner.alias}.{key}" for key in inner.keys)
            tails.append(f" ORDER BY {keys} LIMIT 2")
        tail = self.pick(tails)
        word = self.pick(["IN", "IN", "NOT IN", "= ANY"])
        distinct = self.pick(["", "DISTINCT "]) if not tail else ""
        from_ = add_where(write("FROM {}", inner.text), conditions)
        return write(f"{{}} {word} (SELECT {distinct}{named} {{}}{tail})", ref, from_)

    def in_tuples(self, source: Source, ctes: Ctes) -> Text | None:
        inner = self.inner(ctes)
        first = sorted(name for _, name in shared_columns([source], inner))
        needed = [(s, name) for s in (source, inner) for name in ("reader", "organism")]
        if not first or not all(s.has(name, "text") for s, name in needed):
            return None
        self.use("IN tuples")
        name, second = self.pick(first), self.pick(["reader", "organism"])
        from_ = add_where(
            write("FROM {}", inner.text), self.conditions([inner], ctes, NO_SUBQUERIES)
        )
        return write(
            f"({source.alias}.{name}, {source.alias}.reader) "
            f"IN (SELECT {inner.alias}.{name}, {inner.alias}.{second} {{}})",
            from_,
        )

    def exists(self, scope: Scope, source: Source, ctes: Ctes) -> Text:
        self.use("EXISTS")
        inner = self.inner(ctes)
        conditions = self.tie(shared_columns([source], inner), inner)
        conditions += self.conditions([inner], ctes, NO_SUBQUERIES, most=2)
        seen = [s for s in scope if s.is_seen and s.alias != inner.alias]
        if seen and self.chance(30) and (pair := self.column_pair([inner, *seen])):
            conditions.append(pair)
        if source.measured and source.alias != inner.alias and self.chance(30):
            self.use("a call on the query around")
            # Without an alias it is the relation around only where none is inside.
            is_clear = inner.is_relation and not inner.measured and len(scope) == 1
            mine, score = self.call(scope, source, is_on=not is_clear)
            if inner.measured and self.chance(50):
                self.is_fragile = True
                theirs, _ = self.call([inner], inner, is_on=True)
                conditions.append(write("{} < {}", mine, theirs))
            else:
                conditions.append(self.about_score(mine, score))
        from_ = add_where(write("FROM {}", inner.text), conditions)
        return write(f"{self.pick(['EXISTS', 'NOT EXISTS'])} (SELECT 1 {{}})", from_)

    def against_others(self, scope: Scope, source: Source, ctes: Ctes) -> Text | None:
        """A score against other scores: whether it holds may hang on little."""
        inner = self.inner(ctes)
        if not inner.measured:
            return None
        self.is_fragile = True
        self.use("score against scores")
        mine, _ = self.call(scope, source)
        theirs, _ = self.call([inner], inner)
        conditions = self.conditions([inner], {}, NO_SUBQUERIES, most=1)
        from_ = write("FROM {}", inner.text)
        from_ = add_where(from_, [*conditions, write("{} IS NOT NULL", theirs)])
        form = self.pick(
            ["> (SELECT avg({}) {})", ">= ALL (SELECT {} {})", "< (SELECT max({}) {})"]
        )
        return write("{} " + form, mine, theirs, from_)


def as_source(alias: str, text: Text | Part, written: Written) -> Source:
    text = text if isinstance(text, Text) else write("{}", text)
    return Source(alias, text, written.outputs, written.keys, written.measured, written.item)
