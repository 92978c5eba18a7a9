"""What an operator can do to a sale over HTTP."""

import pytest
from edge.shop import ADMIN, API, LONG_AGO, OPERATOR, TOKEN, TOMORROW, Shop, faults, product, said, sale

ROUTES = [
    ("POST", "sales"), ("GET", "sales"), ("GET", "sales/S1"), ("PUT", "sales/S1"), ("DELETE", "sales/S1"),
    ("POST", "sales/S1/start"), ("POST", "sales/S1/pause"), ("POST", "sales/S1/resume"), ("POST", "sales/S1/end"),
    ("POST", "sales/S1/products/PHONE/restock"), ("GET", "sales/S1/ledger"), ("GET", "sales/S1/journal"),
    ("GET", "sales/S1/stats"), ("GET", "audit"), ("GET", "events"), ("GET", "dead-letters"),
    ("POST", "dead-letters/redrive"), ("POST", "dead-letters/L1/redrive"), ("GET", "limits"), ("PUT", "limits"),
    ("GET", "limits/users/U1"), ("DELETE", "limits/users/U1"), ("PUT", "users/U1/tier"),
    ("GET", "risk/decisions"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
async def test_every_route_of_operators_needs_the_token(shop: Shop, method: str, path: str, given: str | None) -> None:
    """Also where the body is malformed: without the token it is not read."""
    headers = {} if given is None else {"Authorization": given}
    answer = await shop.ask(method, f"{ADMIN}/{path}", b"{" if method in ("POST", "PUT") else None, headers=headers)
    assert said(answer) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_the_list_of_operators_routes_is_complete(shop: Shop) -> None:
    routed = {(call.method, call.path) for call in shop.app.opt["calls"] if call.path.startswith(ADMIN)}
    named = {
        (
            method,
            f"{ADMIN}/{path}".replace("/S1", "/{saleId}")
            .replace("/PHONE", "/{skuId}")
            .replace("/L1", "/{letterId}")
            .replace("/U1", "/{userId}"),
        )
        for method, path in ROUTES
    }
    assert routed == named


async def test_the_name_of_the_scheme_may_be_written_in_any_case(shop: Shop) -> None:
    answer = await shop.ask("GET", f"{ADMIN}/sales", headers={"Authorization": f"bearer {TOKEN}"})
    assert answer.status_code == 200


async def test_a_new_sale_is_told_with_all_its_terms(shop: Shop) -> None:
    answer = await shop.operate(
        "POST", "sales", sale(product(imageUrl="/p.png"), endsAt=TOMORROW, latePayment="refund")
    )
    told = answer.json()
    assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
    assert (told["id"], told["name"], told["state"], told["version"]) == ("S1", "A sale", "ACTIVE", 1)
    assert (told["startsAt"], told["endsAt"], told["latePayment"]) == (LONG_AGO, TOMORROW, "refund")
    assert (told["reservationSeconds"], told["mode"], told["settlement"]) == (120, "direct", "online")
    assert told["products"] == [
        {
            "skuId": "PHONE", "name": "A phone", "description": "", "category": "", "imageUrl": "/p.png",
            "currency": "USD", "basePrice": 1299.99, "flashSalePrice": 999.99, "stock": 10, "perUserLimit": 1,
            "available": 10, "held": 0, "sold": 0,
        }
    ]  # fmt: skip
    again = await shop.operate("GET", "sales/S1")
    assert (again.status_code, again.headers["etag"]) == (200, '"1"')
    assert again.json() == told | {"serverTime": again.json()["serverTime"]}


async def test_a_sale_without_an_id_gets_one(shop: Shop) -> None:
    told = await shop.open(id=None)
    assert (await shop.ask("GET", f"sales/{told['id']}")).status_code == 200


async def test_an_id_in_use_and_a_product_in_another_open_sale_are_refused(shop: Shop) -> None:
    await shop.open()
    assert said(await shop.operate("POST", "sales", sale(product("OTHER")))) == (409, "ILLEGAL_STATE")
    assert said(await shop.operate("POST", "sales", sale(id="S2"))) == (409, "ILLEGAL_STATE")
    await shop.operate("POST", "sales/S1/end")
    assert (await shop.operate("POST", "sales", sale(id="S2"))).status_code == 201


async def test_all_sales_are_listed_drafts_included(shop: Shop) -> None:
    await shop.open(product("A"))
    await shop.open(product("B"), id="S2", startsAt=None)
    told = (await shop.operate("GET", "sales")).json()
    assert [(each["id"], each["state"]) for each in told] == [("S1", "ACTIVE"), ("S2", "DRAFT")]


# Changing


async def test_a_changed_sale_has_a_new_version_and_its_stock_is_a_journalled_difference(shop: Shop) -> None:
    await shop.open()
    answer = await shop.operate("PUT", "sales/S1", sale(product(stock=15, flashSalePrice=899.5), name="Better"))
    told = answer.json()
    assert (answer.status_code, answer.headers["etag"], told["version"], told["name"]) == (200, '"2"', 2, "Better")
    assert (told["products"][0]["stock"], told["products"][0]["flashSalePrice"]) == (15, 899.5)
    last = (await shop.operate("GET", "sales/S1/journal")).json()["entries"][-1]
    assert (last["kind"], last["quantity"], last["total"], last["actor"]) == ("ADJUST", 5, 15, "operator")


@pytest.mark.parametrize("tag", ['"1"', "*", '"7", "1"', None])
async def test_a_change_that_rests_on_the_present_version_is_made(shop: Shop, tag: str | None) -> None:
    await shop.open()
    headers = {} if tag is None else {"If-Match": tag}
    assert (await shop.operate("PUT", "sales/S1", sale(), **headers)).status_code == 200


@pytest.mark.parametrize("tag", ['"2"', '"0"', "1", 'W/"1"', "", '"x"', '"1'])
async def test_a_change_that_rests_on_another_version_is_refused(shop: Shop, tag: str) -> None:
    await shop.open()
    answer = await shop.operate("PUT", "sales/S1", sale(name="Late"), **{"If-Match": tag})
    assert said(answer) == (412, "ILLEGAL_STATE")
    assert answer.json()["error"] == "Precondition Failed"
    assert (await shop.operate("GET", "sales/S1")).json()["name"] == "A sale"


async def test_a_total_below_what_is_held_and_sold_is_refused(shop: Shop) -> None:
    await shop.open(product(perUserLimit=5))
    await shop.held(quantity=5)
    assert said(await shop.operate("PUT", "sales/S1", sale(product(stock=4)))) == (409, "ILLEGAL_STATE")
    assert (await shop.operate("PUT", "sales/S1", sale(product(stock=5)))).status_code == 200


@pytest.mark.parametrize(
    "changed",
    [sale(product(currency="EUR")), sale(product("OTHER")), sale(product(), product("B")), sale(startsAt=None)],
)
async def test_currency_products_and_start_are_fixed_once_a_sale_is_scheduled(shop: Shop, changed: object) -> None:
    await shop.open(startsAt="2999-01-01T00:00:00Z")
    assert said(await shop.operate("PUT", "sales/S1", changed)) == (409, "ILLEGAL_STATE")


async def test_a_draft_may_change_in_everything(shop: Shop) -> None:
    await shop.open(startsAt=None)
    answer = await shop.operate(
        "PUT", "sales/S1", sale(product("OTHER", currency="JPY", flashSalePrice=5, basePrice=9))
    )
    assert (answer.status_code, answer.json()["state"]) == (200, "ACTIVE")


async def test_the_id_in_the_body_must_be_that_of_the_path(shop: Shop) -> None:
    await shop.open()
    assert list(faults(await shop.operate("PUT", "sales/S1", sale(id="S2")))) == ["id"]
    assert (await shop.operate("PUT", "sales/S1", sale(id=None))).status_code == 200


@pytest.mark.parametrize(
    ("switch", "state"), [("start", "ACTIVE"), ("pause", "PAUSED"), ("resume", "ACTIVE"), ("end", "ENDED")]
)
async def test_a_switch_leads_to_its_state_and_repeated_changes_nothing(shop: Shop, switch: str, state: str) -> None:
    await shop.open(startsAt=None)
    for before in {"pause": ["start"], "resume": ["start", "pause"], "end": ["start"]}.get(switch, []):
        await shop.operate("POST", f"sales/S1/{before}")
    first, again = [await shop.operate("POST", f"sales/S1/{switch}") for _ in range(2)]
    assert (first.status_code, first.json()["state"]) == (200, state)
    assert (again.status_code, again.json()["version"]) == (200, first.json()["version"])


async def test_a_switch_that_the_state_forbids_is_refused(shop: Shop) -> None:
    await shop.open(startsAt=None)
    for switch in ("pause", "resume", "end"):
        assert said(await shop.operate("POST", f"sales/S1/{switch}")) == (409, "ILLEGAL_STATE")


async def test_a_switch_takes_no_body_or_an_empty_object(shop: Shop) -> None:
    await shop.open()
    assert (await shop.operate("POST", "sales/S1/pause", {})).status_code == 200
    assert list(faults(await shop.operate("POST", "sales/S1/resume", {"at": "noon"}))) == ["at"]


async def test_restocking_adds_units_with_a_reason(shop: Shop) -> None:
    await shop.open()
    answer = await shop.operate("POST", "sales/S1/products/PHONE/restock", {"quantity": 5, "reason": "found a box"})
    assert (answer.status_code, answer.json()["products"][0]["stock"]) == (200, 15)
    last = (await shop.operate("GET", "sales/S1/journal")).json()["entries"][-1]
    assert (last["kind"], last["quantity"], last["reason"]) == ("RESTOCK", 5, "found a box")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"quantity": 0, "reason": "r"}, "quantity"),
        ({"quantity": 10**9 + 1, "reason": "r"}, "quantity"),
        ({"quantity": 10**9, "reason": "r"}, "quantity"),
        ({"quantity": 1}, "reason"),
        ({"quantity": 1, "reason": ""}, "reason"),
        ({"quantity": 1, "reason": "r", "total": 3}, "total"),
    ],
)
async def test_a_malformed_restock_is_refused(shop: Shop, body: object, field: str) -> None:
    await shop.open()
    assert list(faults(await shop.operate("POST", "sales/S1/products/PHONE/restock", body))) == [field]


async def test_a_sale_that_nobody_has_used_can_be_deleted(shop: Shop) -> None:
    await shop.open()
    assert (await shop.operate("DELETE", "sales/S1")).status_code == 204
    assert said(await shop.operate("GET", "sales/S1")) == (404, "NOT_FOUND")
    assert (await shop.ask("GET", "products")).json() == []


async def test_a_sale_whose_only_reservation_was_given_back_can_be_deleted(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held()
    assert said(await shop.operate("DELETE", "sales/S1")) == (409, "ILLEGAL_STATE")
    await shop.ask("DELETE", f"reservations/{reservation_id}")
    assert (await shop.operate("DELETE", "sales/S1")).status_code == 204
    assert (await shop.ask("GET", f"reservations/{reservation_id}")).json()["status"] == "CANCELLED"


async def test_what_does_not_exist_is_not_found(shop: Shop) -> None:
    await shop.open()
    restock = {"quantity": 1, "reason": "r"}
    for method, path, body in [
        ("GET", "sales/NONE", None), ("PUT", "sales/NONE", sale(id=None)), ("DELETE", "sales/NONE", None),
        ("POST", "sales/NONE/start", None), ("GET", "sales/NONE/ledger", None), ("GET", "sales/NONE/journal", None),
        ("GET", "sales/NONE/stats", None), ("GET", "sales/S1/journal?skuId=NONE", None),
        ("POST", "sales/NONE/products/PHONE/restock", restock), ("POST", "sales/S1/products/NONE/restock", restock),
    ]:  # fmt: skip
        assert said(await shop.operate(method, path, body)) == (404, "NOT_FOUND"), path


# What the ledger says


async def test_the_ledger_view_has_the_counters_of_every_product(shop: Shop) -> None:
    await shop.open(product("A"), product("B"))
    await shop.held("alice", "A")
    answer = await shop.operate("GET", "sales/S1/ledger")
    assert answer.json() == {
        "saleId": "S1",
        "products": [
            {"skuId": "A", "total": 10, "available": 9, "held": 1, "sold": 0},
            {"skuId": "B", "total": 10, "available": 10, "held": 0, "sold": 0},
        ],
        "consistent": True,
    }


async def test_the_journal_tells_every_movement_of_a_product(shop: Shop) -> None:
    await shop.open(product("A"), product("B"))
    reservation_id = await shop.held("alice", "A")
    await shop.ask("DELETE", f"reservations/{reservation_id}")
    told = (await shop.operate("GET", "sales/S1/journal?skuId=A")).json()
    assert [(each["kind"], each["skuSeq"], each["held"]) for each in told["entries"]] == [
        ("STOCK", 1, 0), ("RESERVE", 2, 1), ("RELEASE", 3, 0),
    ]  # fmt: skip
    assert (told["entries"][1]["reservationId"], told["entries"][1]["actor"]) == (reservation_id, "alice")
    assert told["next"] is None


async def test_a_long_journal_comes_in_pages(shop: Shop) -> None:
    await shop.open(product(perUserLimit=300, stock=300))
    for _ in range(250):
        await shop.held()
    first = (await shop.operate("GET", "sales/S1/journal")).json()
    second = (await shop.operate("GET", f"sales/S1/journal?after={first['next']}")).json()
    assert [len(page["entries"]) for page in (first, second)] == [200, 51]
    assert [each["skuSeq"] for page in (first, second) for each in page["entries"]] == list(range(1, 252))
    assert second["next"] is None


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "9" * 30, ""])
async def test_a_malformed_cursor_is_refused(shop: Shop, after: str) -> None:
    await shop.open()
    assert list(faults(await shop.operate("GET", f"sales/S1/journal?after={after}"))) == ["after"]
    assert list(faults(await shop.operate("GET", f"audit?after={after}"))) == ["after"]


async def test_statistics_are_counted_from_rows(shop: Shop) -> None:
    await shop.open(product(stock=3), endsAt=TOMORROW)
    await shop.paid("alice")
    await shop.paid("bob")
    await shop.held("carol")
    await shop.reserve("dave")
    told = (await shop.operate("GET", "sales/S1/stats")).json()
    assert (told["totalOrders"], told["successfulOrders"], told["failedOrders"], told["queuedOrders"]) == (2, 2, 0, 0)
    assert (told["totalRevenue"], told["averageOrderValue"], told["currency"]) == (1999.98, 999.99, "USD")
    assert (told["totalReservations"], told["conversionRate"], told["uniqueUsers"]) == (3, 0.6667, 3)
    assert (told["isActive"], told["startTime"], told["endTime"]) == (True, LONG_AGO, TOMORROW)
    assert (told["currentQueueSize"], told["peakOrdersPerSecond"] >= 1) == (0, True)


async def test_statistics_of_a_sale_without_orders_are_zero(shop: Shop) -> None:
    await shop.open()
    told = (await shop.operate("GET", "sales/S1/stats")).json()
    assert (told["totalOrders"], told["averageOrderValue"], told["conversionRate"]) == (0, 0, 0)


async def test_revenue_in_several_currencies_is_not_added_up(shop: Shop) -> None:
    await shop.open(product("A"), product("B", currency="EUR"))
    told = (await shop.operate("GET", "sales/S1/stats")).json()
    assert (told["totalRevenue"], told["averageOrderValue"], told["currency"]) == (None, None, None)


async def test_the_audit_tells_who_did_what(shop: Shop) -> None:
    await shop.open()
    await shop.operate("POST", "sales/S1/pause")
    told = (await shop.operate("GET", "audit")).json()
    assert [(each["actor"], each["subject"]) for each in told["entries"]] == [("operator", "S1")] * 2
    assert told["next"] is None
    assert TOKEN not in str(told)


async def test_a_body_of_an_operator_may_be_larger_than_a_buyers(shop: Shop) -> None:
    products = [product(f"P{number}", description="d" * 9000) for number in range(100)]
    assert (await shop.operate("POST", "sales", sale(*products))).status_code == 201
    answer = await shop.ask("POST", f"{API}/reservations", b" " * 16_385)
    assert said(answer) == (413, "VALIDATION_FAILED")
    answer = await shop.ask("POST", f"{ADMIN}/sales", b" " * (1024 * 1024 + 1), headers=OPERATOR)
    assert said(answer) == (413, "VALIDATION_FAILED")
