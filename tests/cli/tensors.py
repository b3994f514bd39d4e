"""safetensors files, by hand: what a test looks into, and what it damages."""
import hashlib
import json
import os
import struct


class Tensors:
    """A file's tensors by name: their entries in the header, their bytes."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        (length,) = struct.unpack_from("<Q", self.data)
        self.begin = 8 + length
        self.entries = json.loads(self.data[8:self.begin])
        self.entries.pop("__metadata__", None)

    def span(self, name):
        begin, end = self.entries[name]["data_offsets"]
        return self.begin + begin, self.begin + end

    def bytes(self, name):
        begin, end = self.span(name)
        return bytes(self.data[begin:end])

    def digest(self, name):
        return hashlib.sha256(self.bytes(name)).hexdigest()

    def flip(self, name, byte=0, bit=0):
        """Flip one bit of a tensor, in the file."""
        self.data[self.span(name)[0] + byte] ^= 1 << bit
        self.save()

    def set(self, name, data, byte=0):
        begin = self.span(name)[0] + byte
        self.data[begin:begin + len(data)] = data
        self.save()

    def save(self):
        with open(self.path, "wb") as file:
            file.write(self.data)


class Model:
    """All tensors of a model's directory, whatever its shards are called."""

    def __init__(self, directory):
        self.tensors = {}
        for name in sorted(os.listdir(directory)):
            if name.endswith(".safetensors"):
                shard = Tensors(os.path.join(directory, name))
                self.tensors.update((tensor, shard) for tensor in shard.entries)

    def bytes(self, name):
        return self.tensors[name].bytes(name)

    def digest(self, name):
        return self.tensors[name].digest(name)


def flip_bit(path, offset, bit=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
