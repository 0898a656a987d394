from tools.bench.fusion import difference, grams, hot_score, page, rates


def test_phrases_are_counted_by_utterance() -> None:
    assert grams("a b c", 2) == [("a", "b"), ("b", "c")]
    score = hot_score(["a b a b", "c d"], ["a b x", "a b"], ["a b", "c d", "x y"])
    assert (score.spoken, score.hits, score.shown) == (3, 1, 2)
    assert (score + score).spoken == 6


def test_page_has_every_table() -> None:
    refs, plain, fused = ["a b", "c d", "e f"], ["a x", "c d", "e x"], ["a b", "c d", "e x"]
    measured, change = rates(refs, fused), difference(refs, plain, fused)
    assert change["points"] < 0 and measured["words"] == 6
    row = {**measured, "weight": 0.5, "bonus": 1.0, "difference": change, "texts": 3}
    listed = {
        **row,
        "phrases": 500,
        "plain": rates(refs, plain),
        "recall": [1.0, 2.0],
        "precision": [3.0, 4.0],
    }
    point = {"weight": 0.5, "recall": 1.0, "precision": 2.0, "wer": 3.0, "insertions": 4.0,
             "added_insertions": 0.05}  # fmt: skip
    lm = {"plain": rates(refs, plain), "all": row, "unseen": row}
    searches = {"greedy": {"lm": lm, "curve": [point], "listed": listed}}
    text = page({"command": "x", "about": "y", "searches": searches})
    for part in ("without the test and dev texts", "100 spoken phrases", "+0.05 points", "1.0 → 2.0 %"):
        assert part in text
