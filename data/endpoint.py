"""A language model behind an OpenAI-compatible address: one question, one reply, with the patience that takes."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from data.address import host_of
from data.judge import JudgeError

EXAMPLE = "http://127.0.0.1:8000/v1"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
KEY = "R1_JUDGE_KEY"
_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})
_MAX_REPLY = 1 << 20  # bytes
_MAX_PAUSE_S = 30.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An address that points elsewhere is an error: the key is for the one that was given."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url` is the base before `/chat/completions`; the key comes from the environment, where it is set.

    An attempt may take `timeout_s`; after a timeout, a refused connection or a busy server it is made again,
    `retries` times, after pauses that double from `pause_s`. Raises ValueError for an address without http(s).
    """

    url: str
    model: str
    key_variable: str = KEY
    timeout_s: float = 60.0
    retries: int = 3
    pause_s: float = 0.5
    temperature: float = 0.0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        host_of(self.url, "a judge's url", EXAMPLE)

    def __call__(self, prompt: str, seed: int) -> str:
        """Ask. Raises JudgeError where no attempt brings a reply."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed & 0x7FFFFFFF,
        }
        for attempt in range(self.retries + 1):
            try:
                return _content(self._post(json.dumps(body).encode()))
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code} {error.read(200).decode('utf-8', 'replace')}".strip()
                if error.code not in _AGAIN:
                    break
            except (OSError, HTTPException) as error:
                why = str(getattr(error, "reason", None) or error or type(error).__name__)
            if attempt < self.retries:
                time.sleep(min(_MAX_PAUSE_S, self.pause_s * 2**attempt))
        raise JudgeError(f"{self.url}: {why}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url.rstrip("/") + "/chat/completions", body, headers, method="POST")
        direct = [urllib.request.ProxyHandler({})] if urlsplit(self.url).hostname in LOOPBACK else []
        with urllib.request.build_opener(_NoRedirect, *direct).open(request, timeout=self.timeout_s) as reply:
            content: bytes = reply.read(_MAX_REPLY)
            return content


def _content(reply: bytes) -> str:
    try:
        said: Any = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        said = None
    if not isinstance(said, str):
        raise JudgeError(f"no chat completion: {reply[:80].decode('utf-8', 'replace')!r}")
    return said
