"""Applies tests/fixtures/adapter/minilm/step-320 to the real all-MiniLM-L6-v2 and looks at the result from
outside: the digests that exact mode must give, every other byte, PEFT's own merge, and Transformers.

    sh tests/bench/run.sh check

The checkpoint names its tensors without the head model's `bert.`, and has no classifier; the adapter has both.
"""
import hashlib
import json
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from common import FIXTURES, MINILM, VERA, remove, scratch

NAME = "minilm/step-320"
ADAPTER = FIXTURES / "adapter" / NAME
STEP = 2.0 ** -24


class Tensors:
    """The tensors of one safetensors file, or of the shards that an index names; bytes and float32."""

    def __init__(self, directory, file="model.safetensors"):
        index = directory / (file + ".index.json")
        files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [file]
        self.entries = {}
        for path in (directory / name for name in files):
            data = path.read_bytes()
            length, = struct.unpack("<Q", data[:8])
            header = json.loads(data[8:8 + length])
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = (8 + length + at for at in entry["data_offsets"])
                self.entries[name] = (entry["shape"], data[begin:end])

    def bytes(self, name):
        return self.entries[name][1]

    def values(self, name):
        shape, data = self.entries[name]
        return np.frombuffer(data, dtype=np.float32).reshape(shape)


def claim(text, holds):
    print(f"{'ok  ' if holds else 'FAIL'}  {text}")
    claim.failed += not holds


claim.failed = 0


def apply(where):
    out = where / "merged"
    answer = subprocess.run([VERA, "apply", ADAPTER, "--base", MINILM, "--out", out, "--json"],
                            capture_output=True, text=True)
    if answer.returncode != 0:
        sys.exit(answer.stderr)
    result = json.loads(answer.stdout)
    claim(f"matched {result['matched']} of {result['modules']} modules", result["matched"] == result["modules"] == 36)
    claim(f"{result['tensors_added']} tensors added", result["tensors_added"] == 2)
    check = subprocess.run([VERA, "verify", out, "--rev", ADAPTER, "--base", MINILM], capture_output=True)
    claim("vera verify finds no difference", check.returncode == 0)
    return out


def merge_with_peft():
    """PEFT's merged weights by the base's names, and what both bounds need of each module."""
    model = BertForSequenceClassification.from_pretrained(MINILM, num_labels=3, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, ADAPTER)
    parts = {}
    for name, module in adapted.named_modules():
        if hasattr(module, "vera_lambda_b") and "default" in module.vera_lambda_b:
            a = module.vera_A["default"][:, :module.in_features]
            b = module.vera_B["default"][:module.out_features]
            factors = [t.detach().numpy().astype(np.float64) for t in
                       (module.vera_lambda_b["default"][:, None] * b.double(),
                        module.vera_lambda_d["default"][:, None] * a.double())]
            parts[name.removeprefix("base_model.model.bert.") + ".weight"] = factors
    merged = adapted.merge_and_unload().state_dict()
    return {name.removeprefix("bert."): tensor.numpy() for name, tensor in merged.items()}, parts


def compare_arithmetic(base, merged):
    """Within 8 * 2^-24 * S of PEFT in every element, 1e-7 as a whole, and as near to the truth as PEFT."""
    theirs, parts = merge_with_peft()
    worst, worst_norm, ours_off, theirs_off = 0.0, 0.0, 0.0, 0.0
    for name, (left, right) in parts.items():
        w, ours, peft = (x.astype(np.float64) for x in (base.values(name), merged.values(name), theirs[name]))
        size = np.abs(w) + np.abs(left) @ np.abs(right)
        worst = max(worst, float((np.abs(ours - peft) / (STEP * size)).max()))
        worst_norm = max(worst_norm, float(np.linalg.norm(ours - peft) / np.linalg.norm(peft)))
        truth = w + left @ right
        ours_off += float(((ours - truth) ** 2).sum())
        theirs_off += float(((peft - truth) ** 2).sum())
    claim(f"{len(parts)} targeted tensors: at most {worst:.2f} * 2^-24 * S from PEFT, of 8 allowed",
          len(parts) == 36 and worst <= 8)
    claim(f"relative Frobenius distance from PEFT at most {worst_norm:.1e}, of 1e-7 allowed", worst_norm <= 1e-7)
    ratio = (ours_off / theirs_off) ** 0.5
    claim(f"distance from a float64 merge {ratio:.2f} times PEFT's, of 1.2 allowed", ratio <= 1.2)
    others = set(merged.entries) - set(parts) - {"classifier.weight", "classifier.bias"}
    claim(f"{len(others)} other tensors are those of PEFT's merge",
          all(np.array_equal(merged.values(n), theirs[n]) for n in others if n in theirs))


def compare_bytes(base, merged):
    exact = json.loads((FIXTURES / "expected/exact.json").read_text())[NAME]
    claim(f"{len(exact)} tensors have the digests of expected/exact.json",
          all(hashlib.sha256(merged.bytes(name)).hexdigest() == digest for name, digest in exact.items()))
    untouched = set(base.entries) - set(exact)
    claim(f"{len(untouched)} tensors are the base's, byte for byte",
          all(merged.bytes(name) == base.bytes(name) for name in untouched))
    added = set(merged.entries) - set(base.entries)
    adapter = Tensors(ADAPTER, "adapter_model.safetensors")
    claim(f"{', '.join(sorted(added))}: added, the adapter's bits",
          len(added) == 2 and all(merged.bytes(n) == adapter.bytes("base_model.model." + n) for n in added))


def load_with_transformers(out):
    adapter = Tensors(ADAPTER, "adapter_model.safetensors")
    model, info = AutoModelForSequenceClassification.from_pretrained(out, num_labels=3, output_loading_info=True)
    claim(f"Transformers loads a {type(model).__name__} and misses nothing",
          not info["missing_keys"] and not info["mismatched_keys"])
    for part in ("weight", "bias"):
        loaded = getattr(model.classifier, part).detach().numpy().tobytes()
        claim(f"its classifier.{part} has the adapter's bits",
              loaded == adapter.bytes(f"base_model.model.classifier.{part}"))


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = scratch()
    try:
        out = apply(where)
        base, merged = Tensors(Path(MINILM)), Tensors(out)
        compare_bytes(base, merged)
        compare_arithmetic(base, merged)
        load_with_transformers(out)
    finally:
        remove(where)
    sys.exit(claim.failed > 0)


main()
