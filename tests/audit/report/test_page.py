"""The page of a report: nothing in it runs, loads or leaks that should not."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from chromium import find_chromium, open_page
from reported_store import HOSTILE, LOUD, N_PROMPTS, TRAITS, write_reported_store
from tistore.audit.report.page import make_visible, write_page
from tistore.audit.report.question import ReportQuestion
from tistore.audit.report.report import PAGE_BYTES, make_report
from tistore.audit.report.scale import STEPS, colour_steps, find_limit, list_colours, name_step

VOID = {"meta", "link", "br", "img", "input", "hr", "area", "base", "col", "embed", "source"}


class Reader(HTMLParser):
    """Reads elements, their attributes, and what the response articles say."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._path: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._path.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self._path:
            while self._path.pop() != tag:
                pass

    def handle_data(self, data):
        self.texts.append((tuple(self._path), data))

    def values(self, name):
        return [found[name] or "" for _, found in self.elements if name in found]

    def text_of(self, tag):
        return "".join(text for path, text in self.texts if path and path[-1] == tag)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_reported_store(tmp_path_factory.mktemp("report") / "s.tistore")


@pytest.fixture(scope="module")
def report(store):
    return make_report(store, ReportQuestion(LOUD))


@pytest.fixture(scope="module")
def files(report, tmp_path_factory):
    return report.write(tmp_path_factory.mktemp("written") / "out")


@pytest.fixture(scope="module")
def page(files):
    return files[1].read_text(encoding="utf-8")


def test_what_models_write_shows_as_text_and_is_no_element(page):
    reader = Reader(page)

    said = reader.text_of("i")
    for text in ("<bos>", "<script>alert(1)</script>", "</script>", "<!--", "]]>", "{{ 7*7 }}"):
        assert text in said
    assert [tag for tag, _ in reader.elements if tag in ("bos", "img", "b")].count("bos") == 0
    assert not [tag for tag, _ in reader.elements if tag == "img"]
    assert [tag for tag, _ in reader.elements].count("script") == 2
    assert "\u2028" not in page and "\u202e" not in page  # a separator ends a line of JavaScript
    assert not reader.values("onerror")


def test_traits_without_a_panel_are_told(report, page, monkeypatch):
    assert "traits are drawn" not in page  # all of them are

    monkeypatch.setattr("tistore.audit.report.page.MOST_PANELS", 2)
    assert f"2 of {len(TRAITS)} traits are drawn: what was found" in write_page(report)


def test_the_prompt_shows_as_text(page):
    assert "Ask &lt;b&gt;3&lt;/b&gt;?" in page and "Ask <b>" not in page


def test_nothing_leads_out_of_the_page(page):
    reader = Reader(page)

    for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "ping"):
        assert all(value.startswith("#") for value in reader.values(name)), name
    styles = " ".join(text for path, text in reader.texts if path[-1:] == ("style",))
    assert "@import" not in styles and "url(" not in styles
    assert all(re.fullmatch(r"url\(#[\w-]+\)", v) for v in re.findall(r"url\([^)]*\)", page))
    assert not [tag for tag, _ in reader.elements if tag in ("link", "iframe", "object", "base")]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(page):
    import hashlib

    reader = Reader(page)
    (policy,) = [
        found["content"] for tag, found in reader.elements if "content-security-policy" in
        (found.get("http-equiv") or "").lower()
    ]  # fmt: skip

    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert set(allowed) == {"default-src", "style-src", "script-src", "base-uri", "form-action"}
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[-1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed[kind] == f"'sha256-{digest}'"
    assert not reader.values("style")  # a style attribute would not be applied


def test_every_link_leads_to_something_and_every_id_is_there_once(page):
    reader = Reader(page)
    ids = reader.values("id")

    assert len(ids) == len(set(ids))
    links = [value[1:] for value in reader.values("href")]
    assert links and set(links) <= set(ids)


def test_the_summarys_links_lead_into_the_page(files, page):
    links = re.findall(r"\]\(report\.html#([^)]+)\)", files[0].read_text(encoding="utf-8"))

    assert len(links) > 10 and set(links) <= set(Reader(page).values("id"))


def test_a_page_is_small_and_says_what_it_leaves_out(files, report):
    assert files[1].stat().st_size < PAGE_BYTES
    assert len(report.transcripts) == N_PROMPTS
    assert report.left_out.startswith(f"{N_PROMPTS} of {N_PROMPTS} responses")


@pytest.fixture
def no_figures(monkeypatch):
    """What takes most of a report's time, and plays no part in some tests."""
    monkeypatch.setattr("tistore.audit.report.report.draw_figures", lambda *_: [])


def test_responses_that_would_make_a_page_too_large_are_left_out_and_counted(
    store, monkeypatch, no_figures
):
    from tistore.audit.report import report as module

    monkeypatch.setattr(module, "_TRANSCRIPT_BYTES", 6_000)
    small = module.make_report(store, ReportQuestion(LOUD))

    assert 0 < len(small.transcripts) < N_PROMPTS
    assert f"{N_PROMPTS - len(small.transcripts)} more would have made" in small.left_out


def test_the_same_store_and_question_give_the_same_report(store, files, tmp_path):
    again = make_report(store, ReportQuestion(LOUD)).write(tmp_path)

    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_another_seed_draws_other_responses(store, monkeypatch, no_figures):
    from tistore.audit.report import report as module

    monkeypatch.setattr(module, "SHOWN", 12)
    reports = [module.make_report(store, ReportQuestion(LOUD, seed=seed)) for seed in (0, 1)]
    shown = [[one.response_id for one in made.transcripts] for made in reports]

    assert len(shown[0]) == len(shown[1]) == 12 and shown[0] != shown[1]


def test_numbers_in_the_page_are_those_that_sql_gives(store, page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    column = data["columns"].index({"trait": "tone/loud", "layer": "chosen"})
    link = re.findall(r'id="(r\d+)">\s*<h3><a href="#r\d+">audit/one#(\d+)', page)
    place, prompt = next((int(r[1:]) - 1, prompt) for r, prompt in link if prompt != "3")
    response = data["responses"][place]
    unit = store.sql(
        "SELECT avg(s), stddev_pop(s) FROM (SELECT project('tone/loud') AS s FROM tokens "
        "WHERE organism = 'instruct' AND reader = 'instruct' AND is_response)"
    ).fetchall()[0]
    for key, reader in (("own", LOUD), ("replay", "instruct")):
        rows = store.sql(
            "SELECT project('tone/loud') FROM tokens WHERE organism = $o AND reader = $r "
            "AND prompt_id = $p ORDER BY position",
            {"o": LOUD, "r": reader, "p": prompt},
        ).fetchall()
        expected = [(row[0] - unit[0]) / unit[1] for row in rows]
        packed = np.frombuffer(base64.b64decode(response[key]["scores"]), dtype="<i2")
        found = packed.reshape(len(data["columns"]), response["n"])[column] / 100
        assert found == pytest.approx(expected, abs=0.0051)
        surprisal = np.frombuffer(base64.b64decode(response[key]["surprisal"]), dtype="<i2")
        assert set(surprisal.tolist()) == {50}


def test_colours_in_the_page_are_those_of_the_one_scale(page, report):
    marks = re.findall(r'<i class="(\w+)">', page.split('id="responses"')[1])
    column = next(at for at, one in enumerate(report.columns) if one.trait == "tone/loud")
    steps = [
        name_step(step)
        for one in report.transcripts
        for step in colour_steps(one.own.scores[column], report.limit).tolist()
    ]

    assert marks == steps
    assert page.count('class="legend"') == 1


def test_one_in_two_hundred_numbers_at_most_lies_beyond_the_colours(report):
    values = np.concatenate(
        [
            view[:, one.is_audited].ravel()
            for one in report.transcripts
            for view in (one.own.scores, one.replay.scores, one.difference)
        ]
    )

    assert np.mean(np.abs(values) > report.limit) <= 1 / 200
    assert np.mean(np.abs(values) > report.limit - 0.5) > 1 / 200
    assert report.limit * 2 == round(report.limit * 2) and find_limit(values[:0]) == 1.0


def test_the_scale_is_symmetric_white_at_zero_and_readable_in_black():
    colours = list_colours()

    assert colours["zero"] == "#ffffff" and len(set(colours.values())) == 2 * STEPS + 1
    values = np.linspace(-9, 9, 181)
    assert (colour_steps(values, 4.0) == -colour_steps(-values, 4.0)).all()
    assert colour_steps(np.array([0.0, 4.0, -4.0, 99.0, np.nan]), 4.0).tolist() == [
        0, STEPS, -STEPS, STEPS, 0,
    ]  # fmt: skip
    luminances = {name: _luminance(hue) for name, hue in colours.items()}
    assert min((one + 0.05) / 0.05 for one in luminances.values()) > 4.5  # WCAG AA, black on it
    for step in range(1, STEPS + 1):
        assert luminances[f"p{step}"] == pytest.approx(luminances[f"n{step}"], abs=0.1)


def _luminance(colour):
    """Relative luminance by WCAG 2.2."""
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_blind_pages_leak_no_name_label_or_note(store, tmp_path):
    made = make_report(store, ReportQuestion(LOUD, blind=True))
    files = made.write(tmp_path)

    models = store.snapshot.models
    secrets = [LOUD, *(name for name in models if name != "instruct"), "hush-note", "calm-note"]
    secrets += [models[LOUD].fingerprint, models[LOUD].adapter_id, store.path.name]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert made.subject in text and made.subject.startswith("subject-")
        for secret in secrets:
            assert secret not in text, secret


def test_pseudonyms_stay_the_same_and_tell_organisms_apart(store, no_figures):
    first, second = (
        make_report(store, ReportQuestion(LOUD, blind=True, seed=seed)).names for seed in (0, 9)
    )

    assert first.organisms == second.organisms
    assert len(set(first.organisms.values())) == 5


def test_space_that_would_be_lost_is_shown():
    assert make_visible("  ") == "␣␣" and make_visible(" a") == " a"
    assert make_visible("a\nb\t") == "a↵\nb⇥"
    assert make_visible("\x1b\u202e\u200d") == "��\u200d"
    assert "".join(HOSTILE).count("<bos>") == 1


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page_without_asking_any_network(files, report, tmp_path):
    difference = [
        name_step(step)
        for one in report.transcripts
        for step in colour_steps(
            np.round(one.own.scores[_column(report)] * 100) / 100
            - np.round(one.replay.scores[_column(report)] * 100) / 100,
            report.limit,
        ).tolist()
    ]
    with open_page(find_chromium(), files[1], tmp_path / "profile") as tab:
        read = "[...document.querySelectorAll('.tokens i')].map((one) => one.className)"
        before = tab.run(read)
        tab.run("document.querySelector('[value=difference]').click()")
        tab.run(
            "(() => { const picker = document.querySelector('[name=trait]');"
            f"picker.value = '{TRAITS[1]}';"
            "document.querySelector('[name=layer]').value = '1';"
            "picker.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        after = tab.run(read)
        tab.run("document.querySelector('[value=own]').click()")
        tab.run(
            "(() => { const picker = document.querySelector('[name=trait]');"
            f"picker.value = '{TRAITS[0]}';"
            "picker.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        tab.press("n")
        spike = tab.run("document.querySelector('.here').className")
        numbers = tab.run("document.getElementById('numbers').textContent")
        visible = tab.run("document.body.innerText")
        figures = tab.run(
            "[...document.querySelectorAll('svg.figure')].map((one) => one.getBBox().width)"
        )

    assert [one for one in tab.list_requests() if not one.startswith("file:")] == []
    assert len(tab.list_requests()) == 1
    assert tab.list_complaints() == []
    assert before != after
    agreeing = np.mean([one == other for one, other in zip(after, difference, strict=True)])
    assert agreeing > 0.98  # halves may be rounded to either side
    assert re.match(r"[pn]\d+ here", spike)
    assert all(trait in numbers for trait in TRAITS) and "surprisal" in numbers
    assert "<script>alert(1)</script>" in visible and "<bos>" in visible
    assert len(figures) >= 3 and min(figures) > 100


def _column(report):
    return next(
        at for at, one in enumerate(report.columns) if (one.trait, one.layer) == (TRAITS[1], "1")
    )
