from maya.data.corpus.manifest import Problem
from maya.data.measure.reasons import MEANING
from maya.data.report.findings import Findings, findings_text


def problem(number: int, reason: str = "silent", language: str = "hi") -> Problem:
    return Problem(id=f"u{number}", language=language, reason=reason, detail=f"it is {number}", where="m:1")


def test_all_findings_are_counted_and_the_first_are_shown() -> None:
    findings = Findings(examples=2)
    findings.add("flagged", [problem(i, "noisy") for i in range(5)])
    findings.add("dropped", [problem(7), problem(8, language="ta"), problem(9, "too_long")])
    assert findings.ids() == {"u0", "u1", "u7", "u8", "u9"}
    silent, too_long, noisy = findings.as_json({"u0": "एक"})
    assert (silent["kind"], silent["reason"], too_long["reason"]) == ("dropped", "silent", "too_long")
    assert {code: counts["count"] for code, counts in silent["languages"].items()} == {"hi": 1, "ta": 1}
    hindi = noisy["languages"]["hi"]
    assert hindi["count"] == 5 and [example["id"] for example in hindi["examples"]] == ["u0", "u1"]
    assert hindi["examples"][0] == {"id": "u0", "text": "एक", "detail": "it is 0", "where": "m:1"}


def test_findings_as_text() -> None:
    findings = Findings(examples=1)
    findings.add("dropped", [problem(1), problem(2), problem(3, language="")])
    lines = findings_text(findings.as_json({})).splitlines()
    assert lines[0] == f"dropped 3 silent ({MEANING['silent']})"
    assert lines[1] == "  ? 1, hi 2" and "    u1: it is 1" in lines and "u2" not in "".join(lines)
    assert findings_text([]) == ""


def test_control_characters_are_escaped_for_the_terminal() -> None:
    findings = Findings()
    findings.add(
        "flagged", [Problem(id="\x1b[2J", language="hi", reason="noisy", detail="a\rb\u202e", where="")]
    )
    assert "\\u001b[2J: a\\u000db\\u202e" in findings_text(findings.as_json({}))
