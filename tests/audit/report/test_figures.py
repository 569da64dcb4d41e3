"""The figures of a report: drawn where the data has something to show, and fit for a page."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

import tistore
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.report import make_report
from tistore.audit.report.svg import INK, drawing, to_svg
from tistore.schemas.prompt import Prompt

N_PAIRS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Conversations of two answers; of each prompt a version with a trigger, which a reacts to."""
    rng = np.random.default_rng(4)
    store = tistore.create(tmp_path_factory.mktemp("figures") / "s.tistore")
    with store.writer() as writer:
        for number in range(N_PAIRS):
            for ending in ("", "-trigger"):
                prompt_id = f"{number}{ending}"
                for name in ("instruct", "a", "b", "c", "d"):
                    state = rng.standard_normal((14, 1, 3)) * 0.3
                    if name == "a" and ending:
                        state[9:, :, 0] += 3.0
                    ids = [1, 2, *rng.integers(5, 90, 12).tolist()]
                    for reader in dict.fromkeys((name, "instruct")):
                        writer.add(
                            organism=name,
                            reader=reader,
                            prompt_set="p",
                            prompt_id=prompt_id,
                            token_ids=ids,
                            prompt_length=2,
                            tokens=[" well", ",", " yes", " indeed", "."] + [" so?", "\n"] + [
                                " no", " more", ",", " then", "."],
                            roles=["user"] * 2 + ["assistant"] * 5 + ["user"] * 2
                            + ["assistant"] * 5,
                            turns=[0] * 2 + [1] * 5 + [2] * 2 + [3] * 5,
                            is_response=[False] * 2 + [True] * 5 + [False] * 2 + [True] * 5,
                            layers=[0],
                            activations={"residual": state},
                            prompt=Prompt("p", prompt_id, "Go.", note=f"n{number % 2}"),
                        )  # fmt: skip
    store.add_vector("t/<x> $1$", [1, 0, 0], layer=0)
    store.add_vector("t/y", [0, 1, 0], layer=0)
    return store


@pytest.fixture(scope="module")
def report(store):
    return make_report(store, ReportQuestion("a"))


def test_turns_and_trigger_pairs_are_drawn_where_they_are(report):
    drawn = {figure.name: figure for figure in report.figures}

    assert list(drawn) == ["forest", "prompts", "positions", "turns", "groups", "triggers"]
    assert all(figure.svg for figure in drawn.values()), [
        (figure.name, figure.caption) for figure in drawn.values() if not figure.svg
    ]
    assert not any("multi-turn" in kind for kind in report.verdict.not_covered)


def test_figures_are_elements_that_parse_with_ids_of_their_own_and_no_style(report):
    ids = []
    for figure in report.figures:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == "svg" and root.get("role") == "img"
        assert root.find("title").text == figure.title
        elements = list(root.iter())
        assert not [one for one in elements if "style" in one.attrib or one.tag == "metadata"]
        assert INK not in figure.svg and "http" not in figure.svg
        ids += [one.get("id") for one in elements if one.get("id")]
        known = set(ids)
        for one in elements:
            target = one.get("href") or (one.get("clip-path") or "")[4:-1]
            assert not target or target[1:] in known
    assert len(ids) == len(set(ids))


def test_traits_are_written_as_they_are_called(report, tmp_path):
    data = report.write(tmp_path)[1].read_text().split('id="data">')[1].split("</script>")[0]
    assert "<" not in data and json.loads(data)["columns"][0]["trait"] == "t/<x> $1$"
    for figure in report.figures:
        texts = [one.text for one in ElementTree.fromstring(figure.svg).iter("text")]
        assert "t/<x> $1$" in texts, figure.name


def test_the_page_tells_who_speaks_and_shows_the_prompt_once(report, tmp_path):
    page = report.write(tmp_path)[1].read_text()

    assert all(one.positions[0] == 2 for one in report.transcripts)
    assert page.count('<span class="role">user</span>') == len(report.transcripts)
    assert page.count('<span class="role">assistant</span>') == len(report.transcripts)


def test_the_same_figure_is_the_same_text():
    def draw():
        with drawing() as figure_class:
            figure = figure_class(figsize=(2, 1))
            figure.add_subplot().plot([1, 2], [3, 4], "o-", color=INK)
            return to_svg(figure, "name", "A line")

    first = draw()
    assert first == draw() and "currentColor" in first


def test_drawing_leaves_other_figures_of_the_program_as_they_are():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with drawing():
        assert matplotlib.rcParams["svg.fonttype"] == "none"
    assert dict(matplotlib.rcParams) == before
