"""FLASHSALE_LEDGER: what it takes."""

import pytest

from flashsale.settings import SettingsError, load, origins

ONE = "postgresql://ann:secret@db-1/shop"
TWO = "postgresql://ann:secret@db-2/shop"


def test_several_databases_stand_in_the_order_of_their_shards():
    settings = load({"FLASHSALE_LEDGER": f"{ONE} {TWO}"})
    assert settings.postgres_urls == (ONE, TWO)
    assert settings.postgres_url == ONE


def test_a_file_is_no_database():
    for ledger in ("", "sqlite:///shop/a ledger.db"):
        assert load({"FLASHSALE_LEDGER": ledger}).postgres_urls == ()
    assert load({"FLASHSALE_LEDGER": "sqlite:///shop/a ledger.db"}).ledger_path.name == "a ledger.db"


def test_no_password_of_any_of_them_is_shown():
    ledger = f"{ONE} {TWO}"
    shown = {knob.name: knob.value for knob in origins({"FLASHSALE_LEDGER": ledger})}["FLASHSALE_LEDGER"]
    for text in (shown, load({"FLASHSALE_LEDGER": ledger}).ledger_name):
        assert "secret" not in text
        assert "db-2" in text


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ("mysql://host/shop", "must be sqlite:///PATH or postgresql://"),
        (f"{ONE} db-2", "must be sqlite:///PATH or postgresql://"),
        (f"{ONE},{TWO} x", "must be sqlite:///PATH or postgresql://"),
        ("sqlite:///a.db sqlite:///b.db", "one SQLite file is one ledger"),
        (f"sqlite:///a.db {ONE}", "one SQLite file is one ledger"),
        (f"{ONE} sqlite:///a.db", "must be sqlite:///PATH or postgresql://"),
        (f"{ONE} {TWO} {ONE}", "URL 3 is there twice"),
        (" ".join(f"postgresql://db/shop{number}" for number in range(65)), "65 databases, and 64 are the most"),
    ],
)
def test_anything_else_is_refused_with_a_remedy(ledger, said):
    with pytest.raises(SettingsError, match=f"FLASHSALE_LEDGER: {said}"):
        load({"FLASHSALE_LEDGER": ledger})
