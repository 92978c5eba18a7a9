"""The route that gives out challenges, and the page on which a browser solves one (docs/challenge.md)."""

from importlib import resources
from typing import Any

from flashsale.core.challenge import FOR_ANYBODY, PAGE, PATH, Hardness, Link, bound_to, unsealed
from flashsale.core.refusal import Refused, invalid, not_found
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Page, Param, Reply
from flashsale.edge.operations import KEPT
from flashsale.edge.wire import Answer
from flashsale.engine import Engine

LINK_MAX = 100
FOR = Param(
    "for", "As it stands in `details.challengeUrl` of a refusal; without it the challenge is of the harder kind",
    {"type": "string", "maxLength": LINK_MAX},
)  # fmt: skip
SCRIPT, STYLE = b"text/javascript; charset=utf-8", b"text/css; charset=utf-8"
ASSETS = {
    "challenge.js": ("challenge.js", SCRIPT),
    "challenge.css": ("challenge.css", STYLE),
    "altcha.min.js": ("vendor/altcha/altcha.min.js", SCRIPT),
    "altcha.css": ("vendor/altcha/altcha.css", STYLE),
    "pbkdf2.js": ("vendor/altcha/pbkdf2.js", SCRIPT),
}
"""What the page loads; nothing comes from elsewhere."""
POLICY = (
    b"default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
GUARDS = ((b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff"))
FRESH = ((b"cache-control", b"no-store"),)


class ChallengeShown(schema.Shown):
    """What the altcha widget works on."""

    parameters: dict[str, Any]
    signature: str


class ChallengeRoutes:
    def __init__(self, engine: Engine) -> None:
        self._challenges = engine.risk.challenges
        self._secret = engine.secret
        folder = resources.files("flashsale.edge") / "pages"
        self._page = (folder / "challenge.html").read_bytes()
        self._assets = {
            name: Page(kind, folder.joinpath(*path.split("/")).read_bytes(), KEPT)
            for name, (path, kind) in ASSETS.items()
        }

    async def challenge(self, ask: Ask) -> Answer | Refused:
        link = await self._link(ask)
        if isinstance(link, Refused):
            return link
        made = views.json(self._challenges.make(*link))
        return Answer(made.status, made.body, FRESH)

    async def _link(self, ask: Ask) -> Link | Refused:
        if "for" in ask.query:
            return unsealed(self._secret, ask.text("for", LINK_MAX)) or WRONG_LINK
        await ask.identify()
        user_id = None if isinstance(ask.known, Refused) else ask.known.user_id
        return Link(Hardness.HARD, FOR_ANYBODY if user_id is None else bound_to(self._secret, user_id))

    async def page(self, ask: Ask) -> Page:
        return Page(b"text/html; charset=utf-8", self._page, GUARDS)

    async def asset(self, ask: Ask) -> Reply:
        name = ask.params["file"]
        return self._assets.get(name) or not_found("file", name[:64])


WRONG_LINK = invalid("for", "is not a link that was given out here: take it from details.challengeUrl")


def calls(engine: Engine) -> list[Call]:
    routes, who = ChallengeRoutes(engine), Audience.BUYERS
    return [
        Call("GET", PATH, who, "A challenge for the altcha widget", routes.challenge, {200: ChallengeShown},
             params=(FOR,)),
        Call("GET", PAGE, who, "The page that solves a challenge", routes.page, {}),
        Call("GET", PAGE + "/{file}", who, "What the page loads", routes.asset, {}),
    ]  # fmt: skip
