"""What LoRA's factors of a VeRA adapter must be, computed a second time, without numpy.

A product of two float32 numbers is exact in a double, so storing it as float32 is its only rounding.
"""
import array
import json
import os
import struct

from harness import adapter, read_tensors
from projections import A, B, projections
from versions import fixture_base

PREFIX = "base_model.model."


# llama.cpp's names of weights, by what follows the layer's number in a module's name.
LLAMA_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"}
NAMES = {
    "gpt2": {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    "bert": {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
             "attention.output.dense": "attn_output", "intermediate.dense": "ffn_up", "output.dense": "ffn_down"}}


def floats(tensor):
    """The values of (dtype, shape, bytes), widened."""
    dtype, _, data = tensor
    if dtype == "BF16":
        wide = array.array("I", [bits << 16 for bits in array.array("H", data)])
        return array.array("f", wide.tobytes())
    assert dtype == "F32"
    return array.array("f", data)


def narrowed(values, dtype):
    """Rounded to nearest, ties to even."""
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    if dtype == "BF16":
        words = array.array("I", values.tobytes())
        return array.array("H", [(word + 0x7fff + (word >> 16 & 1)) >> 16 for word in words]).tobytes()
    return values.tobytes()


def scaled(scales, matrix, stride, columns, dtype):
    """diag(scales) matrix[:, :columns], row by row."""
    rows = []
    for row, scale in enumerate(scales):
        begin = row * stride
        values = array.array("f", [scale * value for value in matrix[begin:begin + columns]])
        rows.append(narrowed(values, dtype))
    return rows


class Adapter:
    """An adapter's directory, and how many inputs each of its modules has."""

    def __init__(self, directory, inputs, seed=None):
        self.directory = directory
        self.tensors = read_tensors(os.path.join(directory, "adapter_model.safetensors"))
        with open(os.path.join(directory, "adapter_config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        self.rank = self.config["r"]
        self.modules = sorted(name[len(PREFIX):-len(".vera_lambda_b")] for name in self.tensors
                              if name.endswith(".vera_lambda_b"))
        self.outputs = {name: self.vector(name, "b")[1][0] for name in self.modules}
        self.inputs = {name: inputs(name, self.outputs[name]) for name in self.modules}
        self.others = {name: tensor for name, tensor in self.tensors.items()
                       if ".vera_lambda_" not in name and name not in (A, B)}
        if seed is None:
            self.a, self.b = floats(self.tensors[A]), floats(self.tensors[B])
            self.stride = self.tensors[A][1][1]
        else:
            self.stride = max(self.inputs.values())
            self.a, self.b = (array.array("f", data) for data in projections(
                seed, self.rank, self.stride, max(self.outputs.values())))

    def vector(self, module, letter):
        return self.tensors[f"{PREFIX}{module}.vera_lambda_{letter}"]

    def factor_a(self, module, dtype="F32"):
        """The rows of A' [r, in], as bytes."""
        return scaled(floats(self.vector(module, "d")), self.a, self.stride, self.inputs[module], dtype)

    def factor_b(self, module, dtype="F32"):
        """The rows of B' [out, r]."""
        return scaled(floats(self.vector(module, "b")), self.b, self.rank, self.rank, dtype)

    def lora(self, dtype="F32", bare=False):
        """The tensors of adapter_model.safetensors, in safetensors' order."""
        tensors = {} if bare else dict(self.others)
        for module in self.modules:
            tensors[f"{PREFIX}{module}.lora_A.weight"] = (
                dtype, [self.rank, self.inputs[module]], b"".join(self.factor_a(module, dtype)))
            tensors[f"{PREFIX}{module}.lora_B.weight"] = (
                dtype, [self.outputs[module], self.rank], b"".join(self.factor_b(module, dtype)))
        rank = ("F32", "BF16", "F16")
        return dict(sorted(tensors.items(), key=lambda item: (rank.index(item[1][0]), item[0].encode())))

    def gguf(self, names, heads=None, dtype="F32"):
        """The tensors of adapter.gguf. `heads`: in how many heads a module's rows are reordered."""
        tensors = {}
        for module in self.modules:
            layer, below = next((part, module.partition(f".{part}.")[2])
                                for part in module.split(".") if part.isdigit())
            name = f"blk.{layer}.{names[below]}.weight.lora_"
            a, b = self.factor_a(module, dtype), self.factor_b(module, dtype)
            if heads and below in heads:
                b = heads_together(b, heads[below])
            tensors[name + "a"] = (dtype, [self.rank, self.inputs[module]], b"".join(a))
            tensors[name + "b"] = (dtype, [self.outputs[module], self.rank], b"".join(b))
        return tensors


def base_inputs(directory):
    """Inputs of a module by its name and outputs, from the base's shapes, stored [out, in] or [in, out]."""
    shapes = {}
    for name in os.listdir(directory):
        if name.endswith(".safetensors"):
            shapes.update((tensor, shape) for tensor, (_, shape, _) in
                          read_tensors(os.path.join(directory, name)).items())

    def inputs(module, outputs):
        shape = shapes[module + ".weight"]
        return shape[1] if shape[0] == outputs else shape[0]
    return inputs


def fixture(name):
    """(its directory, its base's, Adapter)."""
    model = fixture_base(name)
    return adapter(name), model, Adapter(adapter(name), base_inputs(model))


def heads_together(rows, heads):
    """Rows of a weight whose rotary halves lie apart, in llama.cpp's order: reshape to [heads, 2, half], swap."""
    half = len(rows) // heads // 2
    return [rows[head * 2 * half + part * half + at]
            for head in range(heads) for at in range(half) for part in range(2)]
