"""Where a judge is to be found, and how patient to be with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from tistore.errors import ConfigError

KEY_VARIABLE = "TISTORE_JUDGE_KEY"
"""Not another tool's variable: its key would go to whatever address is given."""

_CHAT = "/chat/completions"


@dataclass(frozen=True, slots=True)
class JudgeEndpoint:
    """
    A judging model behind an OpenAI-compatible address.

    The key itself is no part of it: it is read from the environment when it is needed.

    Attributes:
        url: Address that `/chat/completions` follows, such as "http://localhost:8000/v1".
        model: Name of the model there.
        key_variable: Environment variable that holds the key; another than TISTORE_JUDGE_KEY
            must be set.
        timeout_seconds: One request may take so long altogether, however slowly bytes trickle.
        attempts: How often a request is made that is not answered.
        concurrency: Requests under way at once.
        backoff_seconds: Pause before the second attempt; doubles with each one.
        longest_pause_seconds: No pause is longer, whatever `Retry-After` says.
    """

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    timeout_seconds: float = 60.0
    attempts: int = 4
    concurrency: int = 8
    backoff_seconds: float = 0.5
    longest_pause_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check that the address can be one, and hides no password."""
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port  # raises for one that is no number
        except ValueError:
            is_address = False
        if not is_address:
            raise ConfigError(
                "the judge's address is no http or https URL",
                mend="write it like http://localhost:8000/v1",
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"the judge's address at {parts.hostname} holds a password, a query or a fragment",
                mend=f"write scheme, host and path only; a key goes into {self.key_variable}",
            )
        if not self.model:
            raise ConfigError("the judge has no model name", mend="name it with --judge-model")
        for name in ("timeout_seconds", "attempts", "concurrency"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"a judge's {name} is {getattr(self, name)}, not above 0")
        for name in ("backoff_seconds", "longest_pause_seconds"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"a judge's {name} is {getattr(self, name)}, below 0")

    @property
    def base_url(self) -> str:
        """The address as the client wants it: without the path of a request."""
        return self.url.rstrip("/").removesuffix(_CHAT)

    @property
    def host(self) -> str:
        """Host, and port where it is given."""
        return self._parts.netloc

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy leads."""
        name = self._parts.hostname or ""
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")

    def read_key(self) -> str | None:
        """
        Read the key from the environment; None where there is none, as local servers need none.

        Raises:
            ConfigError: A variable was named that is not set.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key and self.key_variable != KEY_VARIABLE:
            raise ConfigError(
                f"the environment variable {self.key_variable} is not set",
                mend="export the judge's key in it, or name another variable",
            )
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"the key in {self.key_variable} holds what no HTTP header may")
        return key or None

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    def __str__(self) -> str:
        """Name the judge as messages do."""
        return f"{self.model} at {self.host}"
