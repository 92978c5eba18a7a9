"""`flashsale demo`, small."""

from cli.program import run


def test_a_small_demo_ends_with_its_verdict_and_leaves_nothing_but_what_was_asked_for(tmp_path):
    done = run("demo", "--buyers", 12, "--units", 2, "--seed", 7, "--keep", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.code == 0, done.said
    assert "12 buyers for 2 units" in done.said
    assert "seed 7" in done.said
    assert "sold 2 of 2, oversold 0, lost 0" in done.said
    (kept,) = tmp_path.iterdir()
    assert str(kept) in done.said
    assert (kept / "data" / "ledger.db").exists()


def test_a_demo_without_buyers_is_refused(tmp_path):
    refused = run("demo", "--buyers", 0, cwd=tmp_path)
    assert refused.code == 2
    assert "--buyers" in refused.said
