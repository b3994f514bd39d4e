"""vera diff and show --spectrum, whole processes: adapters of MiniLM's and of Llama-3-8B's size.

MiniLM's are real checkpoints; Llama's have random vectors, which cost the same. The base models have the right names
and shapes and no weights: files with holes, since only their headers are read.
"""
import json
import os
import statistics
import struct
import subprocess
import sys
import time

from common import FIXTURES, RUNS, VERA, remove, run, scratch

ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
RANK, HIDDEN, LAYERS, OUTPUTS = 256, 4096, 32, {"q_proj": 4096, "v_proj": 1024}
GOALS = {"minilm": (0.3, None), "llama": (5, 500)}  # seconds, MB


def random_floats(count):
    """float32 between 0.5 and 1 in size, of either sign."""
    bits = int.from_bytes(os.urandom(4 * count), "little")
    keep, one = (int.from_bytes(struct.pack("<I", word) * count, "little") for word in (0x807FFFFF, 0x3F000000))
    return (bits & keep | one).to_bytes(4 * count, "little")


def safetensors(path, tensors):
    """{name: (dtype, shape, bytes, or their number: a hole)}."""
    table, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        size = data if isinstance(data, int) else len(data)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(table, separators=(",", ":")).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for _, _, data in tensors.values():
            out.seek(data, os.SEEK_CUR) if isinstance(data, int) else out.write(data)
        out.truncate(8 + len(header) + offset)


def base_make(where, weights, dtype, size):
    where.mkdir()
    (where / "config.json").write_text("{}")
    safetensors(where / "model.safetensors", {f"{name}.weight": (dtype, shape, size * shape[0] * shape[1])
                                              for name, shape in weights.items()})
    return where


def minilm_modules(adapter):
    """Shapes of the weights: all have 384 inputs."""
    data = (adapter / "adapter_model.safetensors").read_bytes()
    table = json.loads(data[8:8 + struct.unpack_from("<Q", data)[0]])
    end = ".vera_lambda_b"
    return {name[len("base_model.model."):-len(end)]: (entry["shape"][0], 384)
            for name, entry in table.items() if name.endswith(end)}


def llama_modules():
    return {f"model.layers.{layer}.self_attn.{name}": out for layer in range(LAYERS) for name, out in OUTPUTS.items()}


def llama_adapter(where, matrices):
    """Stored A and B, or, where `matrices` is None, a seed alone."""
    where.mkdir()
    config = {"peft_type": "VERA", "r": RANK, "target_modules": list(OUTPUTS), "projection_prng_key": 0,
              "save_projection": bool(matrices), "base_model_name_or_path": "llama", "task_type": "CAUSAL_LM"}
    (where / "adapter_config.json").write_text(json.dumps(config))
    tensors = dict(matrices or {})
    for name, out in llama_modules().items():
        tensors[f"base_model.model.{name}.vera_lambda_b"] = "F32", [out], random_floats(out)
        tensors[f"base_model.model.{name}.vera_lambda_d"] = "F32", [RANK], random_floats(RANK)
    safetensors(where / "adapter_model.safetensors", tensors)
    return where


def measure(title, commands, goals):
    """{name: command}: seconds and memory of each."""
    print(f"\n{title}\n  {'':34}{'median':>12}{'min':>12}{'n':>5}{'memory':>12}")
    for name, command in commands.items():
        seconds, most = [], 0
        for _ in range(RUNS + 1):
            begin = time.perf_counter()
            child = subprocess.Popen([str(word) for word in command], env=ENV, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            seconds.append(time.perf_counter() - begin)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                sys.exit(f"{name}: exit status {child.returncode}")
            most = max(most, usage.ru_maxrss / 1e3)
        median = statistics.median(seconds[1:])
        line = f"  {name:34}{median * 1e3:9.1f} ms{min(seconds[1:]) * 1e3:9.1f} ms{RUNS:5}{most:9.0f} MB"
        if name.startswith("diff"):
            reached = median <= goals[0] and (goals[1] is None or most <= goals[1])
            line += f"  goal {goals[0]} s{f', {goals[1]} MB' if goals[1] else ''}: {'reached' if reached else 'MISSED'}"
        print(line, flush=True)


def committed(where, adapters, base):
    """A repository with a version of each adapter, its pin recorded."""
    store = where / f"{base.name}-vera"
    run([[VERA, "init", store]] + [[VERA, "-C", store, "commit", a, "--base", base] for a in adapters], ENV)
    return [VERA, "-C", store]


def main():
    where = scratch()
    try:
        pair = [FIXTURES / "adapter/minilm" / step for step in ("step-160", "step-320")]
        weights = minilm_modules(pair[0])
        base = base_make(where / "minilm", weights, "F32", 4)
        vera = committed(where, pair, base)
        measure(f"MiniLM: {len(weights)} modules, rank 256", {
            "start alone": [VERA, "--version"],
            "diff, versions": [*vera, "diff", "main~1", "main"],
            "diff, directories": [VERA, "diff", *pair, "--base", base],
            "spectrum, version": [*vera, "show", "--spectrum"],
        }, GOALS["minilm"])
        base = base_make(where / "llama", {name: (out, HIDDEN) for name, out in llama_modules().items()}, "BF16", 2)
        matrices = {"base_model.vera_A": ("F32", [RANK, HIDDEN], random_floats(RANK * HIDDEN)),
                    "base_model.vera_B": ("F32", [HIDDEN, RANK], random_floats(RANK * HIDDEN))}
        pair = [llama_adapter(where / f"stored-{i}", matrices) for i in range(2)]
        seeds = [llama_adapter(where / f"seed-{i}", None) for i in range(2)]
        vera = committed(where, pair, base)
        measure(f"Llama-3-8B: {len(llama_modules())} modules, rank {RANK}", {
            "diff, versions": [*vera, "diff", "main~1", "main"],
            "diff, directories": [VERA, "diff", *pair, "--base", base],
            "diff, seeds": [VERA, "diff", *seeds, "--base", base],
            "diff, two bases": [VERA, "diff", pair[0], seeds[0], "--base", base],
            "spectrum, version": [*vera, "show", "--spectrum"],
        }, GOALS["llama"])
    finally:
        remove(where)


main()
