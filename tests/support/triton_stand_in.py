"""A stand-in for Triton that tells everyone the same story, a word a token, and can be made to misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc  # noqa: TID253

from include.gates import Endpoint
from tests.support.web import Handler, serving

STORY = "Count with me, and take your time: one, two, three, four, five, six, seven, eight and nine are all"
WORDS = STORY.split()
SILENT = "say nothing"
END = "<|end|>"
CONFIG = """
name: "ensemble"
platform: "ensemble"
max_batch_size: 8
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
parameters { key: "engine_dir" value: { string_value: "/engines/1" } }
"""
OTHER_CONFIGS = {
    "other batch size": ("max_batch_size: 8", "max_batch_size: 4"),
    "other engine": ("/engines/1", "/engines/2"),
    "decoupled": ("max_batch_size: 8", "max_batch_size: 8 model_transaction_policy { decoupled: true }"),
    "lacks an input": ("text_input", "query"),
    "other type of output": ("TYPE_STRING dims: [ -1 ]", "TYPE_INT32 dims: [ -1 ]"),
}


@dataclass
class StandIn:
    """``fault`` is what it does wrong."""

    fault: str = ""
    asked: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    company: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def answer(self, body: dict[str, Any]) -> str:
        """The text for a request."""
        options = {**body, **body.get("parameters", {})}
        self.asked.append(options["text_input"])
        words = [] if options["text_input"] == SILENT or self._is_silent(options) else self._told(options)
        banned = {word.strip() for word in options.get("bad_words", [""])} - {""}
        if self.fault != "bad word ignored":
            words = [word for word in words if word.strip(",:") not in banned]
        return self._stopped(" ".join(words[: self.limit(options)]), options)

    def limit(self, options: dict[str, Any]) -> int:
        """How many words it says at most."""
        if self.fault == "ends early":
            return min(6, int(options["max_tokens"]))
        return int(options["max_tokens"]) + 3 * (self.fault == "too long")

    def pieces(self, body: dict[str, Any]) -> list[str]:
        """The answer as it is streamed."""
        text = self.answer(body)
        pieces = [text] if self.fault == "stream in one piece" else text.split(" ")
        pieces = [piece if number == 0 else f" {piece}" for number, piece in enumerate(pieces)]
        return pieces[:-1] if self.fault == "stream loses a piece" else pieces

    def config(self) -> str:
        """The config that it says it serves."""
        return CONFIG.replace(*OTHER_CONFIGS.get(self.fault, ("", "")))

    def models(self) -> list[str]:
        """The models that it says it has."""
        return {"model missing": [], "one model more": ["ensemble", "other"]}.get(self.fault, ["ensemble"])

    def is_ready(self, path: str) -> bool:
        """What it says about its health."""
        return not (self.fault.startswith("not ready") and path.endswith(self.fault.removeprefix("not ready: ")))

    def _told(self, options: dict[str, Any]) -> list[str]:
        words = list(WORDS)
        if self.fault == "other text":
            words = ["Something", "else", "from", *words]
        if self.fault == "goes round in circles":
            words = ["la"] * 100
        if self.fault == "goes on":
            words = [*words, *words[:9]]
        if self.fault == "shows the end token":
            words = [*words, END]
        if self.fault == "random" or (self.fault == "random in company" and self._in_company()):
            words = [*words[:4], str(next(self.numbers)), *words[4:]]
        if self.fault == "reads its cache" and options.get("seed") and next(self.numbers) == 0:
            words = [*words[:-2], "1"]
        if self.fault == "a near tie in company" and self._in_company():
            words = [*words[:-2], str(next(self.numbers))]
        return words

    def _in_company(self) -> bool:
        try:
            self.company.wait(timeout=0.05)
        except threading.BrokenBarrierError:
            self.company.reset()
            return False
        return True

    def _is_silent(self, options: dict[str, Any]) -> bool:
        seed_request = "parameters" in options
        return self.fault == "empty" or (self.fault == "silent seed" and seed_request)

    def _stopped(self, text: str, options: dict[str, Any]) -> str:
        words = [word for word in options.get("stop_words", []) if word]
        ends = [text.index(word) + len(word) for word in words if word in text]
        if not ends or self.fault == "stop word ignored":
            return text
        return text[: min(ends) + 10 * (self.fault == "stops too late")]


@contextmanager
def served(model: StandIn) -> Iterator[Endpoint]:
    """Its HTTP and gRPC endpoints."""
    rpc = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Grpc(model), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    with serving(_handler(model)) as web:
        yield Endpoint(host="127.0.0.1", http_port=web.server_port, grpc_port=port)
    rpc.stop(None)


def write_repository(folder: Path) -> Path:
    """The repository that it says it serves."""
    (folder / "ensemble").mkdir(parents=True)
    (folder / "ensemble" / "config.pbtxt").write_text(CONFIG)
    return folder


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer whose tokens are the story's words, and one that ends an answer."""
    words = dict.fromkeys(["[UNK]", END, *WORDS])
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    tokenizer.add_tokens([AddedToken("Count", special=False)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _handler(model: StandIn) -> type[Handler]:
    class Generate(Handler):
        def do_GET(self) -> None:
            self.reply(status=200 if model.is_ready(self.path) else 400)

        def do_POST(self) -> None:
            body = json.loads(self.body())
            if model.fault == "refuses bad words" and body.get("bad_words"):
                self.reply({"error": "bad_words are not supported"}, 400)
            elif self.path.endswith("generate_stream"):
                events = [{"text_output": piece} for piece in model.pieces(body)]
                if model.fault == "stream ends in an error":
                    events.append({"error": "engine failed"})
                self.stream(map(json.dumps, events))
            else:
                text = model.answer(body)
                self.reply({"text_output": text, "num_output_tokens": len(text.split())})

    return Generate


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, model: StandIn) -> None:
        self._model = model

    def ModelStreamInfer(self, requests: Iterable[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            prompt = request.raw_input_contents[0][4:].decode()
            tokens = int.from_bytes(request.raw_input_contents[1], "little")
            text = self._model.answer({"text_input": prompt, "max_tokens": tokens})
            text += "!" * (self._model.fault == "other over gRPC")
            yield _text_response(text.encode())

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        index = service_pb2.RepositoryIndexResponse()
        for name in self._model.models():
            index.models.add(name=name)
        return index

    def ModelConfig(self, request: Any, context: Any) -> Any:
        config = text_format.Parse(self._model.config(), model_config_pb2.ModelConfig())
        return service_pb2.ModelConfigResponse(config=config)


def _text_response(text: bytes) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1, 1])
    response.infer_response.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
    return response
