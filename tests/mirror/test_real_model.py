"""A real model, from a sandbox on a real S3 server to the mirror: it answers from there like from the original."""

import array
import math
from pathlib import Path

from safetensors import deserialize

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.demo.sample import find_model
from tests.rig.agent import AgentProcess

PAIRS = (("a cat sleeps", "a kitten sleeps"), ("a cat sleeps", "parliament voted yesterday"))


def answers(folder: Path) -> list[float]:
    """Similarity of each pair: the cosine of the mean of its words' embeddings. Plain Python."""
    words = {word: n for n, word in enumerate((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())}
    tensors = dict(deserialize((folder / "model.safetensors").read_bytes()))
    table = tensors["embeddings.word_embeddings.weight"]
    width = table["shape"][1]

    def mean(sentence: str) -> list[float]:
        rows = [array.array("f", table["data"][4 * width * words[w] : 4 * width * (words[w] + 1)]) for w in sentence.split()]
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    return [cosine(mean(a), mean(b)) for a, b in PAIRS]


def test_mirrored_model_answers_like_the_original(sandbox: Sandbox, tmp_path: Path) -> None:
    original = find_model(tmp_path / "spare").folder
    sandbox.publish_model("minilm", "v1", original)
    with AgentProcess(tmp_path / "box", sandbox.url, sandbox.key, {"drop": {"enabled": False}}) as agent:
        agent.sync()
        mirrored = answers(agent.mirror / "minilm" / "current")
    assert mirrored == answers(original)
    assert mirrored[0] > mirrored[1] + 0.2, "a kitten is more like a cat than parliament is"
