#!/usr/bin/env python3
"""Seeds for the fuzzers, made of the fixtures: corpus.py VERA FIXTURES OUT

One folder a target. Frames come out of a repository that VERA made, behind the vectors that they
divide into (see fuzz_frame.c), as far as these are small enough for it.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

DTYPES = ["F32", "BF16", "F16", "U8", "I16", "I32", "F64", "C64"]
TEXTS = ["manifest", "recipe", "model/pin"]


def put(out, target, name, data):
    os.makedirs(os.path.join(out, target), exist_ok=True)
    with open(os.path.join(out, target, name), "wb") as file:
        file.write(data)


def git(repository, *arguments):
    return subprocess.run(["git", f"--git-dir={repository}", *arguments], capture_output=True,
                          check=True).stdout


def vectors(layout):
    """The first few vectors of a layout, as fuzz_frame.c takes them."""
    header = json.loads(layout[8:])
    header.pop("__metadata__", None)
    tensors = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    text = b""
    for name, tensor in tensors[:7]:
        values = 1
        for length in tensor["shape"]:
            values *= length
        group = 8 if name.endswith(".vera_lambda_d") else 0
        text += bytes([DTYPES.index(tensor["dtype"]) | group, min(values, 255)])
    return bytes([len(text) // 2]) + text


def request_of(bundle):
    """As fuzz_control.c takes it: a swap to the bundle, as if it were a bare one."""
    lengths = list(struct.unpack("<10Q", bundle[8:88]))
    lengths[5] = lengths[9] = 0
    head = bundle[:5] + b"\0" + bundle[6:8] + struct.pack("<10Q", *lengths) + bundle[88:152]
    length = struct.pack("<Q", 152 + sum(lengths))
    return b"\0\1VSRQ\1\2\0\0" + length + head + bundle[152:152 + sum(lengths)]


def main(vera, fixtures, out):
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([vera, "init", scratch], check=True, capture_output=True)
        repository = os.path.join(scratch, ".vera")
        for series in ("llama", "llama-half", "bert", "gpt2"):
            for step in ("step-000", "step-010", "step-020", "step-030"):
                adapter = os.path.join(fixtures, "adapter", series, step)
                base = os.path.join(fixtures, "base", series)
                subprocess.run([vera, "-C", scratch, "commit", adapter, "--branch", series,
                                "--base", base], check=True, capture_output=True)
                name = f"{series}-{step}"
                layout = git(repository, "cat-file", "blob", f"{series}:layout")
                frame = git(repository, "cat-file", "blob", f"{series}:vectors/frame")
                put(out, "safetensors", name, layout)
                put(out, "json", name, layout[8:])
                put(out, "json", f"{name}-config", git(repository, "cat-file", "blob",
                                                       f"{series}:adapter_config.json"))
                bundle = subprocess.run([vera, "-C", scratch, "export", series, "-", "--as", "bundle"],
                                        capture_output=True, check=True).stdout
                put(out, "bundle", name, bundle[:88] + bundle[152:])  # see fuzz_bundle.c
                put(out, "control", name, request_of(bundle))
                for text in TEXTS:
                    put(out, "manifest", f"{name}-{text.replace('/', '-')}",
                        git(repository, "cat-file", "blob", f"{series}:{text}"))
                head = vectors(layout)
                put(out, "frame", f"{name}-whole", bytes([1]) + head + frame)
                put(out, "frame", f"{name}-payload", bytes([4]) + head + frame[48:])
                bases = frame[7]
                put(out, "frame", f"{name}-body", bytes([2 | 4]) + head + frame[48 + 32 * bases:])


main(*sys.argv[1:])
