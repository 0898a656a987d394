"""Who may use the server: keys, and the web pages that may open a WebSocket."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from maya.errors import MayaError

KEY_PROTOCOLS = ("maya-key.", "openai-insecure-api-key.")  # prefixes of a subprotocol that holds a key


@dataclass(frozen=True, slots=True)
class Access:
    """digests: SHA-256 of the keys; without any, everybody is allowed. origins: of web pages on other hosts,
    such as https://example.org."""

    digests: frozenset[bytes] = frozenset()
    origins: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, keys: Iterable[str], origins: Iterable[str] = ()) -> "Access":
        """From keys in clear text. Raises MayaError for a key below 16 characters."""
        given = [key.strip() for key in keys if key.strip()]
        if short := [key for key in given if len(key) < 16]:
            raise MayaError(f"{len(short)} of {len(given)} keys have fewer than 16 characters")
        digests = frozenset(hashlib.sha256(key.encode()).digest() for key in given)
        return cls(digests, frozenset(origin.rstrip("/").lower() for origin in origins))

    def allows(
        self, headers: Mapping[str, str], query: Mapping[str, str], protocols: Sequence[str] = ()
    ) -> bool:
        """Whether a request carries a key: `Authorization: Bearer KEY` (or Token KEY), a subprotocol, or
        `?token=KEY` for browsers."""
        if not self.digests:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = [key.strip()] if scheme.lower() in ("bearer", "token") else []
        given += [
            p.removeprefix(prefix) for p in protocols for prefix in KEY_PROTOCOLS if p.startswith(prefix)
        ]
        given += [query["token"]] if "token" in query else []
        return any(self._is_key(key) for key in given)

    def _is_key(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode()).digest()
        return any([hmac.compare_digest(digest, own) for own in self.digests])

    def allows_origin(self, headers: Mapping[str, str]) -> bool:
        """Whether a WebSocket may be opened from this page: the server's own, a listed one, or no page. The
        browser's rules for other requests do not hold for WebSockets."""
        origin = headers.get("origin", "").rstrip("/").lower()
        if not origin or origin in self.origins:
            return True
        return urlsplit(origin).netloc == headers.get("host", "").lower()
