"""A GGUF file taken apart, by hand (ggml, docs/gguf.md)."""
import struct

TYPES = {0: "F32", 1: "F16", 30: "BF16"}
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
ALIGNMENT = 32


class Gguf:
    """`values`: key to value; `tensors`: name to (dtype, [rows, columns], bytes), in file order."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        self.at = 0
        assert self.take("<4s") == b"GGUF" and self.take("<I") == 3
        tensor_count, value_count = self.take("<Q"), self.take("<Q")
        self.values = {}
        for _ in range(value_count):
            key = self.text()
            assert key not in self.values, key
            self.values[key] = self.value()
        places = [self.place() for _ in range(tensor_count)]
        begin = -(-self.at // ALIGNMENT) * ALIGNMENT
        assert not any(self.data[self.at:begin])
        self.tensors, end = {}, 0
        for name, dtype, shape, offset in places:
            size = shape[0] * shape[1] * BYTES[dtype]
            assert offset % ALIGNMENT == 0 and offset == -(-end // ALIGNMENT) * ALIGNMENT and name not in self.tensors
            assert not any(self.data[begin + end:begin + offset])
            end = offset + size
            self.tensors[name] = (dtype, shape, self.data[begin + offset:begin + end])
        assert len(self.data) == begin - (-end // ALIGNMENT) * ALIGNMENT

    def take(self, form):
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        return self.take(f"<{self.take('<Q')}s").decode()

    def value(self):
        kind = self.take("<I")
        if kind == 8:
            return self.text()
        return self.take({4: "<I", 6: "<f"}[kind])

    def place(self):
        name, dimensions = self.text(), self.take("<I")
        assert dimensions == 2 and len(name) < 64
        columns, rows = self.take("<Q"), self.take("<Q")
        return name, TYPES[self.take("<I")], [rows, columns], self.take("<Q")
