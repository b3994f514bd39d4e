"""Adapters with their random matrices, as PEFT saves them by default, made of those without.

PEFT draws A and then B from torch's CPU generator: MT19937, 24 bits of each draw, and one fused
multiply-add in float32 (docs/format.md, "Generator"). Python's own generator is the same one under
another seeding, and a double holds the product and the sum exactly, so that the conversion to
float32 is the only rounding.
"""
import array
import json
import math
import os
import random
import shutil
import struct

A, B = "base_model.vera_A", "base_model.vera_B"
STATE_WORDS = 624


def generator(seed):
    """Python's Mersenne Twister in the state that torch's manual_seed() gives it."""
    words = [seed & 0xffffffff]
    for i in range(1, STATE_WORDS):
        last = words[-1]
        words.append((1812433253 * (last ^ last >> 30) + i) & 0xffffffff)
    twister = random.Random()
    twister.setstate((3, (*words, STATE_WORDS), None))
    return twister


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def uniform(twister, count, fan_in):
    """`count` values of uniform_(-bound, bound), little-endian float32."""
    bound = float32(math.sqrt(3) * (math.sqrt(2) / math.sqrt(fan_in)))
    width = float32(bound + bound)
    draws = array.array("I", twister.getrandbits(32 * count).to_bytes(4 * count, "little"))
    return array.array("f", [(draw & 0xffffff) * 2.0 ** -24 * width - bound for draw in draws]).tobytes()


def projections(seed, rank, features_in, features_out):
    """The bytes of A [rank, in] and of B [out, rank]."""
    twister = generator(seed)
    a = uniform(twister, rank * features_in, features_in)
    return a, uniform(twister, features_out * rank, rank)


def with_projections(directory, source, basis, bytes_a, bytes_b):
    """Write into the new `directory` the adapter in `source`, saved without A and B, as PEFT's
    default would have saved it. Tensors are in order of their names, so A and B are the last ones.
    `basis`: {"A": {"shape": [rank, in]}, "B": {"shape": [out, rank]}}."""
    shutil.copytree(source, directory, copy_function=shutil.copyfile)
    path = os.path.join(directory, "adapter_config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["save_projection"] = True
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, sort_keys=True)
    path = os.path.join(directory, "adapter_model.safetensors")
    with open(path, "rb") as file:
        data = file.read()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header, at = json.loads(data[8:begin]), len(data) - begin
    assert max(header) < A < B, "tensors stand in order of their names"
    for name, matrix, values in ((A, "A", bytes_a), (B, "B", bytes_b)):
        header[name] = {"dtype": "F32", "shape": basis[matrix]["shape"],
                        "data_offsets": [at, at + len(values)]}
        at += len(values)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data[begin:] + bytes_a + bytes_b)
