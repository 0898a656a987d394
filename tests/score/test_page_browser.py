"""The report page in headless Chromium: times, filters, audio, keys, safety of texts, contrast, print.

pytest tests/score/test_page_browser.py -m slow -s      prints the times of 10 000 utterances
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from maya.score.page import ScoredSystem, UtteranceDetails, write_comparison_page, write_page
from maya.score.report import Report, Utterance, make_report, score_utterances
from maya.score.wer import compare, wer
from tests.browser import CONTRAST, Browser, click, settle
from tests.score.twelve_scripts import WORDS, details, utterances

ROWS, MANY_ROWS = 1200, 10_000
SECONDS_TO_READY, SECONDS_TO_FILTER = 1.0, 0.1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture(autouse=True)
def _no_complaints(browser: Browser) -> Iterator[None]:
    """A test fails if the page wrote an error to the console, or asked for a file that is absent."""
    browser.complaints.clear()
    browser.window(1200, 900)
    yield
    assert browser.complaints == []


def written(folder: Path, count: int) -> tuple[Path, Report]:
    """A page of utterances in twelve scripts, with audio, noise and confidences."""
    rows = utterances(count)
    report, by_id = make_report(rows, replicates=50), details(rows, folder / "audio")
    write_page(report, folder / "report.html", title="twelve scripts", details=by_id)
    return folder / "report.html", report


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    return written(tmp_path_factory.mktemp("big"), ROWS)


@pytest.fixture
def opened(browser: Browser, big: tuple[Path, Report]) -> Browser:
    """The big page, as it is after loading."""
    if browser.run("decodeURI(location.pathname)") != str(big[0]):
        browser.open(big[0])
    browser.run("document.activeElement.blur(), scrollTo(0, 0)")
    click(browser, "#clear")
    settle(browser)
    return browser


def setting(name: str, value: str) -> str:
    """Code that sets a control as a user does and gives the milliseconds until the list is laid out."""
    return f"""(() => {{
      const control = document.getElementById({json.dumps(name)});
      control.value = {json.dumps(value)};
      const began = performance.now();
      control.dispatchEvent(new Event("input", {{bubbles: true}}));
      document.body.offsetHeight;
      return performance.now() - began;
    }})()"""


def count(browser: Browser) -> int:
    return int(browser.run("document.getElementById('count').textContent").split(" of ")[0].replace(",", ""))


def measured(browser: Browser, path: Path) -> dict[str, list[float]]:
    """Milliseconds of the first paint, until the page is ready, and of each change of a control."""
    times: dict[str, list[float]] = {"first paint": [], "ready": []}
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    for _ in range(5):
        browser.open(path)
        settle(browser)
        times["first paint"].append(browser.run(paint))
        times["ready"].append(float(browser.run("document.documentElement.dataset.ready")))
    changes = [("text", "क्ष"), ("text", "school"), ("text", ""), ("language", "ta"), ("language", "")]
    changes += [("kind", "sub"), ("kind", "any"), ("speaker", "ml-speaker-01"), ("speaker", "")]
    changes += [("order", "errors"), ("order", "long"), ("order", "first")]
    for _ in range(4):
        for name, value in changes:
            times.setdefault(f"{name}={value}", []).append(browser.run(setting(name, value)))
            settle(browser)
    print(f"\n{browser.run('document.title')}, {path.stat().st_size / 1e6:.1f} MB")
    for name, values in times.items():
        print(f"  {name:<24} best {min(values):6.1f} ms, median {median(values):6.1f} ms")
    return times


@pytest.mark.slow
def test_times_of_ten_thousand_utterances(browser: Browser, tmp_path: Path) -> None:
    """One system, and two. The best of some tries: other programs on the machine make a time longer, never
    shorter."""
    path, report = written(tmp_path, MANY_ROWS)
    other = make_report(utterances(MANY_ROWS, 1, errors=0.08), replicates=50)
    systems = [ScoredSystem(name=n, report=r, details={}) for n, r in (("a", report), ("b", other))]
    write_comparison_page(systems, tmp_path / "two.html", title="two systems")
    for page in (tmp_path / "two.html", path):
        best = {name: min(values) / 1000 for name, values in measured(browser, page).items()}
        assert max(best.pop("first paint"), best.pop("ready")) < SECONDS_TO_READY
        assert max(best.values()) < SECONDS_TO_FILTER, best
    check_filters(browser, report)


def _cases() -> list[tuple[dict[str, str], Callable[[Any], bool]]]:
    """Controls, and a test of the scored utterances that they shall leave."""
    tamil, word = WORDS["ta"].split()[0], WORDS["kn"].split()[4]
    return [
        ({"language": "ta"}, lambda s: s.utterance.language == "ta"),
        ({"speaker": "gu-speaker-03"}, lambda s: s.utterance.speaker == "gu-speaker-03"),
        ({"speaker": "speaker-0"}, lambda s: "speaker-0" in s.utterance.speaker),
        ({"kind": "wrong"}, lambda s: s.words.errors > 0),
        ({"kind": "right"}, lambda s: s.words.errors == 0),
        ({"kind": "sub"}, lambda s: s.words.substitutions > 0),
        ({"kind": "del"}, lambda s: s.words.deletions > 0),
        ({"kind": "ins"}, lambda s: s.words.insertions > 0),
        ({"kind": "empty"}, lambda s: not s.utterance.hyp),
        ({"text": tamil}, lambda s: tamil in s.utterance.ref + "\n" + s.utterance.hyp),
        ({"text": "EN-0012"}, lambda s: "en-0012" in s.utterance.id),
        ({"text": "nowhere"}, lambda s: False),
        (
            {"language": "kn", "kind": "sub", "text": word, "speaker": "kn-speaker-1"},
            lambda s: s.utterance.language == "kn" and s.words.substitutions > 0
            and word in s.utterance.ref + "\n" + s.utterance.hyp and "kn-speaker-1" in s.utterance.speaker,
        ),
    ]  # fmt: skip


def test_filters_give_the_right_counts(opened: Browser, big: tuple[Path, Report]) -> None:
    check_filters(opened, big[1])


def check_filters(opened: Browser, report: Report) -> None:
    scored = score_utterances(report)
    assert count(opened) == len(scored)
    for controls, chosen in _cases():
        for name, value in controls.items():
            opened.run(setting(name, value))
        matches = [s for s in scored if chosen(s)]
        assert count(opened) == len(matches), controls
        ids = opened.run("Array.from(document.querySelectorAll('.row .id'), e => e.textContent)")
        assert ids[:5] == [s.utterance.id for s in matches[:5]], controls
        errors = sum(s.words.substitutions for s in matches)
        assert f"{errors} sub" in opened.run("document.getElementById('count').textContent")
        click(opened, "#clear")
        assert count(opened) == len(scored)


def test_most_frequent_errors_and_their_utterances(opened: Browser, big: tuple[Path, Report]) -> None:
    opened.run(setting("language", "hi"))
    settle(opened)
    scored = [s for s in score_utterances(big[1]) if s.utterance.language == "hi"]
    pairs = Counter(pair for s in scored for pair in s.pairs if pair[0] != pair[1])
    rows = opened.run(
        "Array.from(document.querySelectorAll('#pairs tbody tr'), r => "
        "[r.querySelector('button').dataset.pair, Number(r.lastChild.textContent)])"
    )
    assert len(rows) == 36
    for text, times in rows:
        op, ref, hyp = json.loads(text)
        assert pairs[ref, hyp] == times
        assert op == ("s" if ref and hyp else "d" if ref else "i")
    for op in "sdi":  # no pair that is left out is more frequent than one that is shown
        kind = {"s": all, "d": lambda p: not p[1], "i": lambda p: not p[0]}[op]
        every = sorted((n for p, n in pairs.items() if kind(p)), reverse=True)
        assert [n for t, n in rows if json.loads(t)[0] == op] == every[:12]
    click(opened, "#pairs button.pick")
    _, ref, hyp = json.loads(rows[0][0])
    assert count(opened) == sum((ref, hyp) in s.pairs for s in scored)
    assert f"{ref} → {hyp}" in opened.run("document.getElementById('chips').textContent")
    click(opened, "#chips button")
    assert count(opened) == len(scored)


def test_bars_and_points_filter(opened: Browser, big: tuple[Path, Report]) -> None:
    click(opened, "button.pick[data-field=language][data-value=ml]")
    assert count(opened) == sum(u.language == "ml" for u in big[1].utterances)
    click(opened, "#clear")
    charts = opened.run(
        "Array.from(document.querySelectorAll('svg .pick'), g => [g.dataset.range, "
        "Number(g.querySelector('.count').textContent.slice(2))])"
    )
    assert [sum(n for f, n in charts if f == field) for field in ("seconds", "snr")] == [ROWS, ROWS]
    for i, (_, expected) in enumerate(charts):
        opened.run(f"document.querySelectorAll('svg .pick')[{i}].dispatchEvent("
                   "new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")  # fmt: skip
        assert count(opened) == expected
        click(opened, "#clear")


PLAY = """(async () => {
  const row = document.querySelectorAll('.row')[%d];
  row.querySelector('button.play').click();
  const audio = row.querySelector('audio');
  await new Promise((done, failed) => {
    if (audio.readyState >= 3) done();
    audio.addEventListener('canplaythrough', done);
    audio.addEventListener('error', () => failed(new Error(audio.src.slice(0, 100) + audio.error.message)));
  });
  return [audio.src.slice(0, 20), audio.duration, audio.paused];
})()"""


def test_length_in_words_without_durations(browser: Browser, tmp_path: Path) -> None:
    rows = [replace(u, seconds=0.0) for u in utterances(200)]
    write_page(make_report(rows, replicates=20), tmp_path / "r.html", title="t")
    browser.open(tmp_path / "r.html")
    fields = browser.run("Array.from(document.querySelectorAll('svg .pick'), g => g.dataset.range)")
    assert set(fields) == {"words"} and len(fields) == 8
    low, high = browser.run(
        "(d => [Number(d.low), Number(d.high)])(document.querySelector('svg .pick').dataset)"
    )
    click(browser, "svg .pick")
    assert count(browser) == sum(low <= len(u.ref.split()) < high for u in rows)


def test_audio_plays(opened: Browser) -> None:
    """A clip that lies in the page, and a file beside it."""
    source, seconds, paused = opened.run(PLAY % 0)
    assert source.startswith("data:audio/mpeg") and seconds == pytest.approx(0.5, abs=0.15)
    assert not paused
    opened.run(setting("order", "long"))
    source, seconds, _ = opened.run(PLAY % 1)
    assert source.startswith("file://") and seconds == pytest.approx(0.5, abs=0.01)
    assert opened.run("document.querySelectorAll('audio').length") == 1
    assert opened.run("document.querySelectorAll('.row button.play').length") == (
        opened.run("document.querySelectorAll('.row').length") - 1
    )


def test_audio_that_was_removed_is_said(browser: Browser, tmp_path: Path) -> None:
    rows = utterances(3)
    by_id = details(rows, tmp_path / "audio", audio=3)
    write_page(make_report(rows), tmp_path / "r.html", title="t", details=by_id, embedded_clips=0)
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    browser.open(tmp_path / "r.html")
    click(browser, ".row button.play")
    browser.run("""new Promise(done => { const look = () => document.querySelector('.row audio') ?
                   setTimeout(look, 20) : done(); look(); })""")
    assert "is not where it was" in browser.run("document.querySelector('.row .facts').textContent")
    assert all("ERR_FILE_NOT_FOUND" in complaint for complaint in browser.complaints)
    browser.complaints.clear()


def test_only_rows_near_the_window_have_elements(opened: Browser) -> None:
    assert opened.run("document.querySelectorAll('.row').length") < 100
    places = []
    for share in (0.3, 0.7, 1.0, 0.5):
        opened.run(f"scrollTo(0, document.documentElement.scrollHeight * {share})")
        settle(opened)
        settle(opened)
        inside = """Array.from(document.querySelectorAll('.row')).filter(r => {
            const box = r.getBoundingClientRect(); return box.bottom > 200 && box.top < innerHeight - 200;
        }).map(r => Number(r.dataset.place))"""
        visible = opened.run(inside)
        assert visible == list(range(visible[0], visible[0] + len(visible)))  # no gap
        places.append(visible[-1])
        assert opened.run("document.querySelectorAll('.row').length") < 150
        if share == 1.0:  # how many rows are within 200 pixels of the end depends on the machine's fonts
            made = "Array.from(document.querySelectorAll('.row')).map(r => Number(r.dataset.place))"
            assert max(opened.run(made)) == ROWS - 1
    assert places[0] < places[3] < places[1] < places[2]


def test_keys(opened: Browser) -> None:
    opened.key("/")
    assert opened.run("document.activeElement.id") == "text"
    opened.send("Input.insertText", text="वि")
    settle(opened)
    filtered = count(opened)
    assert 0 < filtered < ROWS
    opened.key("j")  # a letter of the search, no command
    settle(opened)
    assert count(opened) == 0
    opened.key("Escape")
    settle(opened)
    assert count(opened) == ROWS and opened.run("document.activeElement.id") == ""
    for _ in range(25):  # further than the first rows that have elements
        opened.key("j")
    opened.key("k")
    assert opened.run("document.activeElement.dataset.place") == "23"
    assert opened.run("document.querySelectorAll('.row.current').length") == 1
    box = opened.run("(r => [r.top, r.bottom])(document.activeElement.getBoundingClientRect())")
    bar = opened.run("document.getElementById('filters').getBoundingClientRect().bottom")
    assert bar <= box[0] and box[1] <= 900  # not under the bar of filters
    opened.key("p")
    assert opened.run("document.activeElement.querySelectorAll('audio').length") == 1


HOSTILE = [
    "</script><script>window.broken=1</script>", "<!--<script>", "<img/src=x/onerror=window.broken=1>", "]]>",
    "&lt;b&gt;", "${window.broken=1}", "\u2028x\u2029", "\0zero", "\ud800half", "\\u003c", "'\"`",
    "🙂👩‍👩‍👧", "constructor",
    "__proto__", "\u202eright", "x" * 5000,
]  # fmt: skip


def test_any_text_is_safe(browser: Browser, tmp_path: Path) -> None:
    rows = [
        Utterance(
            id=f"{i} {text[:60]}", language=text[:40] or "x", speaker=text[:60], seconds=1.0 + i,
            ref=" ".join([text, "same"]), hyp=" ".join(["same", HOSTILE[i - 1]]),
        )
        for i, text in enumerate(HOSTILE)
    ]  # fmt: skip
    rows += [
        Utterance(id=f"again {u.id}", language=u.language, speaker=u.speaker, ref="", hyp="") for u in rows
    ]
    title = HOSTILE[0] + HOSTILE[2] + "\ud800"
    systems = [ScoredSystem(name=n, report=make_report(rows, replicates=20), details={}) for n in HOSTILE[:3]]
    for name in ("one", "three"):
        path = tmp_path / f"{name}.html"
        if name == "one":
            write_page(systems[0].report, path, title=title)
        else:
            write_comparison_page(systems, path, title=title)
        browser.open(path)
        settle(browser)
        assert browser.run("window.broken === undefined && document.images.length === 0")
        assert browser.run("document.scripts.length") == 3
        assert count(browser) == 2 * len(HOSTILE)
        lines = set()
        for i in range(browser.run("document.querySelectorAll('.chunk').length")):
            browser.run(f"document.querySelectorAll('.chunk')[{i}].scrollIntoView()")
            settle(browser)
            lines |= set(
                browser.run("Array.from(document.querySelectorAll('.col .ref'), e => e.textContent)")
            )
        assert {text for text in HOSTILE if "half" not in text and text.split() == [text]} <= lines
    for text in ("__proto__", "</script>", "'\"`"):
        browser.run(setting("text", text))
        assert count(browser) > 0
    # Every count of a word goes through a map: no name of JavaScript's own objects is taken for one.
    browser.run(setting("text", ""))
    browser.run(setting("speaker", "__proto__"))
    assert count(browser) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str, opened: Browser) -> None:
    """WCAG 2.2, 1.4.3: text has 4.5 times the luminance of its ground, or the reverse."""
    opened.window(1200, 900, scheme=scheme)
    settle(opened)
    opened.key("j")
    worst = opened.run(CONTRAST)
    assert {"SPAN.hyp ins shaded", "SPAN.ref del", "MARK."} <= set(worst), sorted(worst)
    assert {name: round(ratio, 2) for name, ratio in worst.items() if ratio < 4.5} == {}


def test_narrow_window(opened: Browser) -> None:
    opened.window(360, 700)
    settle(opened)
    opened.run("document.getElementById('rows').scrollIntoView()")
    settle(opened)
    assert opened.run("document.documentElement.scrollWidth") <= 360


def test_print_has_the_first_rows(opened: Browser) -> None:
    opened.run(setting("language", "as"))
    matches = count(opened)
    pdf = opened.pdf()
    pages = pdf.count(b"/Type /Page") - pdf.count(b"/Type /Pages")
    assert 2 <= pages <= 15
    assert count(opened) == matches and opened.run("document.querySelectorAll('.row').length") < 100


def test_characters_that_differ_are_whole_clusters(browser: Browser, tmp_path: Path) -> None:
    """A mark holds conjuncts and vowel signs with their consonant, so that the letters keep their shape."""
    cases = [
        ("hi", "क्षेत्र", "क्षेत", ["त्र"], ["त"]),
        ("hi", "श्रीमान", "श्रिमान", ["श्री"], ["श्रि"]),
        ("bn", "কেন্দ্র", "কেন্দ", ["ন্দ্র"], ["ন্দ"]),
        ("ta", "கொள்கை", "கோள்கை", ["கொ"], ["கோ"]),
        ("kn", "ರಾಷ್ಟ್ರ", "ರಾಷ್ಟ", ["ಷ್ಟ್ರ"], ["ಷ್ಟ"]),
        ("ml", "സംസ്കൃതി", "സംസ്കൃത", ["തി"], ["ത"]),
        ("pa", "ਪੰਜਾਬੀ", "ਪਜਾਬੀ", ["ਪੰ"], ["ਪ"]),
        ("en", "region", "reion", ["g"], []),
        ("en", "iran", "february", ["iran"], ["february"]),  # nothing in common but chance
    ]  # fmt: skip
    rows = [
        Utterance(id=f"{i}", language=code, ref=ref, hyp=hyp) for i, (code, ref, hyp, *_) in enumerate(cases)
    ]
    write_page(make_report(rows, replicates=20), tmp_path / "r.html", title="t")
    browser.open(tmp_path / "r.html")
    browser.run("document.getElementById('rows').scrollIntoView()")
    settle(browser)
    marks = browser.run("""Object.fromEntries(Array.from(document.querySelectorAll('.row'), r =>
        [r.querySelector('.id').textContent, ['.ref', '.hyp'].map(side =>
            Array.from(r.querySelectorAll(side + ' mark'), m => m.textContent))]))""")
    for i, (_, ref, _, in_ref, in_hyp) in enumerate(cases):
        assert marks[str(i)] == [in_ref, in_hyp], ref
    assert browser.run("Array.from(document.querySelectorAll('*')).every("
                       "e => ['normal', '0px'].includes(getComputedStyle(e).letterSpacing))")  # fmt: skip
    languages = browser.run("Array.from(document.querySelectorAll('.aligned'), e => e.lang)")
    assert sorted(languages) == sorted(code for code, *_ in cases)


def test_confidence_is_a_shade(browser: Browser, tmp_path: Path) -> None:
    u = Utterance(id="u", language="en", ref="one two three", hyp="one too three")
    by_id = {"u": UtteranceDetails(confidences=(1.0, 0.25, None))}
    write_page(make_report([u]), tmp_path / "r.html", title="t", details=by_id)
    browser.open(tmp_path / "r.html")
    code = "Array.from(document.querySelectorAll('.aligned .hyp'), e => getComputedStyle(e).backgroundColor)"
    opaque, doubtful, unknown = browser.run(code)
    assert opaque.endswith(", 0)") and unknown == "rgba(0, 0, 0, 0)" and not doubtful.endswith(", 0)")
    assert "confidence 0.2" in browser.run("document.querySelector('.aligned .sub.hyp').title")
    click(browser, "#shade")
    assert browser.run(code)[1] == "rgba(0, 0, 0, 0)"


def test_comparison(browser: Browser, tmp_path: Path) -> None:
    """Two systems, the second given in another order: differences, and utterances side by side."""
    rows, better = utterances(600), utterances(600, 1, errors=0.06)
    reports = [make_report(rows, replicates=200), make_report(better[::-1], replicates=200)]
    names = ["first", "second"]
    systems = [ScoredSystem(name=n, report=r, details={}) for n, r in zip(names, reports, strict=True)]
    write_comparison_page(systems, tmp_path / "r.html", title="first against second")
    browser.open(tmp_path / "r.html")
    errors = [wer([u.ref for u in x], [u.hyp for u in x]) for x in (rows, better)]
    hindi = [i for i, u in enumerate(rows) if u.language == "hi"]
    test = compare(*(type(e)(counts=e.counts[hindi]) for e in errors), replicates=200)
    line = browser.run("Array.from(document.querySelectorAll('tr')).find("
                       "r => r.textContent.startsWith('Hindi')).innerText.split('\\t')")  # fmt: skip
    assert float(line[3]) == pytest.approx(100 * test.difference, abs=0.006)
    low, high = json.loads(line[4].replace("+", ""))
    assert (low, high) == pytest.approx((100 * test.interval.low, 100 * test.interval.high), abs=0.006)
    first, second = (e.utterance_errors for e in errors)
    differs = sum(a.hyp != b.hyp for a, b in zip(rows, better, strict=True))
    for kind, expected in (
        ("differ", differs),
        ("better", (second < first).sum()),
        ("worse", (second > first).sum()),
    ):
        browser.run(setting("kind", kind))
        assert count(browser) == expected
    browser.run(setting("kind", "any"))
    top = browser.run("document.querySelector('.row .id').textContent")
    place = [u.id for u in rows].index(top)
    assert abs(second - first)[place] == abs(second - first).max()
    lines = browser.run("""[0, 1, 2].map(k =>
        Array.from(document.querySelectorAll('.row')[0].querySelectorAll('.col:not(.names)'),
                   c => c.children[k].textContent).filter(t => t !== '–').join(' '))""")
    assert lines == [rows[place].ref, rows[place].hyp, better[place].hyp]
