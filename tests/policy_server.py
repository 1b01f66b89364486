"""A policy behind OpenAI's chat protocol, for tests: `policy_server.py FOLDER MODELS`.

Prints its port and serves until its standard input ends. It speaks through `model.sampler`. MODELS is JSON: of
the models that it names, each gives the likeliest of its replies, as servers with guided decoding do. The model
`busy` gets 503 twice. Where `SERVER_KEY` is set, a request without it gets 401.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from data.prompts import render
from model.sampler import logprobs
from tasks.judge import PolicyVoice
from tasks.rollout import Speaker, speaker_in

lock = threading.Lock()
options = argparse.Namespace()


def likeliest(speaker: Speaker, prompt: str, replies: Sequence[str]) -> str:
    """The reply with the highest log-probability a token."""
    tokenizer = speaker.tokenizer
    asked = tokenizer.encode(render(prompt, "chat"))
    scores = []
    for reply in replies:
        said = [*tokenizer.encode(reply), tokenizer.eos_id]
        with torch.no_grad():
            values = logprobs(speaker.model, torch.tensor([asked + said]))
        assert isinstance(values, torch.Tensor)
        scores.append(values[0, len(asked) - 1 :].mean().item())
    return replies[scores.index(max(scores))]


class Handler(BaseHTTPRequestHandler):
    """One request: a list of messages, of which the last is the prompt."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = os.environ.get("SERVER_KEY")
        if self.path != "/v1/chat/completions":
            return self.answer(404, {"error": {"message": f"no {self.path}"}})
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            return self.answer(401, {"error": {"message": "wrong key"}})
        with lock:
            if body["model"] == "busy" and options.fail:
                options.fail -= 1
                return self.answer(503, {"error": {"message": "busy"}})
            spoken = options.speaker.model, options.speaker.tokenizer
            prompt = body["messages"][-1]["content"]
            if body["model"] in options.models:
                said = likeliest(options.speaker, prompt, options.models[body["model"]])
            else:
                said = PolicyVoice(*spoken, body["max_tokens"], body["temperature"])(prompt, body["seed"])
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self.answer(200, {"object": "chat.completion", "model": body["model"], "choices": [choice]})

    def answer(self, status: int, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep standard error for errors."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=json.loads)
    parser.set_defaults(fail=2)
    parser.parse_args(namespace=options)
    torch.set_num_threads(1)
    options.speaker = speaker_in(options.folder, "cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
