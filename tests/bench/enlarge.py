"""A larger adapter made of a real one, to measure sizes that the fixtures do not have. Not a trained one.

Every vector is repeated `width` times and every layer `layers` times. Each copy is shuffled in an order of its
own, the same for every checkpoint, and scaled by a factor of its own: no two share their bits, while what two
checkpoints differ by stays what it was.
"""
import argparse
import json
import random
import re
import struct
from array import array
from pathlib import Path

LAYER = re.compile(r"(.*\.layer\.)(\d+)(\..*)")


def read(path):
    """{name: array of floats} of a float32 file, in file order."""
    data = Path(path).read_bytes()
    begin = 8 + struct.unpack_from("<Q", data)[0]
    table = json.loads(data[8:begin])
    table.pop("__metadata__", None)
    return {name: (entry["shape"], array("f", data[begin + entry["data_offsets"][0]:begin + entry["data_offsets"][1]]))
            for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"])}


def varied(values, copy):
    order = list(range(len(values)))
    random.Random(copy).shuffle(order)
    factor = 1 + copy / 1000
    return array("f", [values[i] * factor for i in order])


def copies(tensors, width, layers):
    """Name, shape and values of each tensor of the larger adapter."""
    count = 1 + max(int(found[2]) for found in map(LAYER.fullmatch, tensors) if found)
    for name, (shape, values) in tensors.items():
        found = LAYER.fullmatch(name)
        if not found:
            yield name, shape, values
            continue
        for k in range(layers):
            long = array("f")
            for i in range(width):
                long += varied(values, k * width + i)
            yield f"{found[1]}{int(found[2]) + k * count}{found[3]}", [shape[0] * width], long


def write(path, tensors):
    table, offset, data = {"__metadata__": {"format": "pt"}}, 0, []
    for name, shape, values in tensors:
        data.append(values.tobytes())
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(data[-1])]}
        offset += len(data[-1])
    header = json.dumps(table, separators=(",", ":")).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        out.writelines(data)


def enlarge(source, target, width, layers):
    """An adapter directory without A and B, made larger."""
    source, target = Path(source), Path(target)
    config = json.loads((source / "adapter_config.json").read_text())
    config["r"] *= width
    target.mkdir(parents=True)
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2))
    write(target / "adapter_model.safetensors", copies(read(source / "adapter_model.safetensors"), width, layers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--layers", type=int, default=17)
    given = parser.parse_args()
    enlarge(given.source, given.target, given.width, given.layers)
