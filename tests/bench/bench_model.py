"""An adapter of rank 256 on q_proj and v_proj onto a base of Llama-3-8B's shape in bfloat16: `vera apply` against
copying the files, and against PEFT's load, merge_and_unload and save.

The base is made here, its values repeat a block of random numbers, and it is deleted afterwards. All that is
compared is synced at the end, and begins with the same cache: with the base in it where the memory holds base
and output, else with an empty one where that can be had (root). BENCH_LAYERS="8 32" chooses the sizes by number of
layers, BENCH_SCRATCH=DIR another file system than that of tests/bench. Anonymous memory is sampled while a
process runs; what is mapped from files is not counted.
"""
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import BUILD, HERE, VERA, remove, scratch, timed

HIDDEN, MIDDLE, KEYS, VOCABULARY, RANK = 4096, 14336, 1024, 128256, 256
SHARD = 5_000_000_000  # bytes at most
LAYERS = [int(n) for n in os.environ.get("BENCH_LAYERS", "8 32").split()]
RUNS = 3
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
          "intermediate_size": MIDDLE, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
          "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
          "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
          "bos_token_id": 128000, "eos_token_id": 128001, "attention_bias": False, "mlp_bias": False}


def shapes(layers):
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        name = f"model.layers.{i}"
        yield f"{name}.input_layernorm.weight", (HIDDEN,)
        yield f"{name}.mlp.down_proj.weight", (HIDDEN, MIDDLE)
        yield f"{name}.mlp.gate_proj.weight", (MIDDLE, HIDDEN)
        yield f"{name}.mlp.up_proj.weight", (MIDDLE, HIDDEN)
        yield f"{name}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{name}.self_attn.k_proj.weight", (KEYS, HIDDEN)
        yield f"{name}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{name}.self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield f"{name}.self_attn.v_proj.weight", (KEYS, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def size(shape):
    values = 1
    for n in shape:
        values *= n
    return 2 * values


def header_of(tensors):
    entries, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, length in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, at


def write_repeated(file, block, length):
    while length:
        piece = block[:length]
        file.write(piece)
        length -= len(piece)


def weights_block():
    """64 MB of bfloat16 between 2^-8 and 2^-4, either sign."""
    halves = memoryview(bytearray(os.urandom(1 << 26))).cast("H")
    table = [(x & 0x807f) | 0x3b80 + (x & 0x180) for x in range(65536)]
    return memoryview(bytes(memoryview(struct.pack(f"<{len(halves)}H", *map(table.__getitem__, halves)))))


def make_base(where, layers):
    """The directory of the model; its size in bytes."""
    where.mkdir()
    (where / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}, indent=2) + "\n")
    shards, room = [[]], SHARD
    for name, shape in shapes(layers):
        length = size(shape)
        if length > room:
            shards.append([])
            room = SHARD
        shards[-1].append((name, "BF16", shape, length))
        room -= length
    block, index, total = weights_block(), {}, 0
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, data = header_of(tensors)
        with open(where / file, "wb", buffering=0) as out:
            out.write(header)
            write_repeated(out, block, data)
            os.fsync(out.fileno())
        index.update({name: file for name, *_ in tensors})
        total += len(header) + data
    (where / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2, sort_keys=True) + "\n")
    return total


def make_adapter(where, layers):
    where.mkdir()
    config = {"peft_type": "VERA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "llama-shaped", "r": RANK,
              "target_modules": ["q_proj", "v_proj"], "save_projection": False, "projection_prng_key": 0,
              "d_initial": 0.1, "vera_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
              "init_weights": True, "layers_to_transform": None, "layers_pattern": None, "modules_to_save": None}
    (where / "adapter_config.json").write_text(json.dumps(config, indent=2))
    tensors = []
    for i in range(layers):
        for module, out in (("q_proj", HIDDEN), ("v_proj", KEYS)):
            name = f"base_model.model.model.layers.{i}.self_attn.{module}"
            tensors += [(f"{name}.vera_lambda_b", "F32", (out,), 4 * out), (f"{name}.vera_lambda_d", "F32", (RANK,), 4 * RANK)]
    header, data = header_of(tensors)
    values = [((x * 2654435761 % 65536) - 32768) / 655360 for x in range(data // 4)]  # within 0.05
    (where / "adapter_model.safetensors").write_bytes(header + struct.pack(f"<{len(values)}f", *values))


class Memory:
    """The most anonymous memory of a process, sampled."""

    def __init__(self, pid):
        self.pid, self.most, self.stop = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()

    def sample(self):
        while not self.stop.wait(0.02):
            try:
                status = Path(f"/proc/{self.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    self.most = max(self.most, int(line.split()[1]) * 1024)

    def finish(self):
        self.stop.set()
        self.thread.join()
        return self.most


def sync_tree(out):
    for path in sorted(out.iterdir()):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def cache_make_ready(base, fits):
    """Equal for all: the base in the cache, or nothing."""
    os.sync()
    if not fits:
        try:
            Path("/proc/sys/vm/drop_caches").write_text("3\n")
        except OSError:
            pass
        return
    for path in base.iterdir():
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def process(command):
    """Seconds and anonymous memory of a whole process."""
    begin = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    memory = Memory(child.pid)
    talk = child.stderr.read()
    if child.wait() != 0:
        memory.finish()
        sys.exit(f"{' '.join(map(str, command))}: failed\n{talk.decode(errors='replace')}")
    return time.perf_counter() - begin, memory.finish()


def copy(base, out):
    begin = time.perf_counter()
    process(["cp", "-r", base, out])
    sync_tree(out)
    return time.perf_counter() - begin, 0


def peft(base, adapter, out):
    command = [sys.executable, HERE / "peft_merge.py", base, adapter, out]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as child:
        memory = Memory(child.pid)
        answer = child.stdout.readline()
    most = memory.finish()
    if not answer:
        return None
    return float(answer) + timed(lambda: sync_tree(out)), most


def kernel_seconds(layers):
    """One thread's arithmetic for q and v, from what bench_kernel says of bfloat16."""
    out = subprocess.run([BUILD / "tests/bench/bench_kernel", "3"], capture_output=True, text=True, check=True).stdout
    rates = [float(line.split()[3]) for line in out.splitlines() if line.split()[:1] == ["bfloat16"]]
    return layers * (HIDDEN * HIDDEN + KEYS * HIDDEN) * RANK / (rates[-1] * 1e9)


def available_memory():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def measure_size(where, layers):
    base, adapter, out = where / "base", where / "adapter", where / "out"
    total = make_base(base, layers)
    make_adapter(adapter, layers)
    fits = 2.5 * total < available_memory()
    contestants = {"cp -r, sync": lambda: copy(base, out),
                   "vera apply": lambda: process([VERA, "apply", adapter, "--base", base, "--out", out]),
                   "vera apply --threads 1":
                       lambda: process([VERA, "apply", adapter, "--base", base, "--out", out, "--threads", "1"])}
    if not os.environ.get("NOPEFT") and importlib.util.find_spec("peft") and 1.3 * total < available_memory():
        contestants["PEFT"] = lambda: peft(base, adapter, out)
    best = {}
    for name, work in contestants.items():
        for _ in range(1 if name == "PEFT" and layers > 8 else RUNS):
            remove(out)
            cache_make_ready(base, fits)
            result = work()
            if result and (name not in best or result[0] < best[name][0]):
                best[name] = result
    remove(out)
    remove(base)
    threads = os.cpu_count()
    arithmetic = kernel_seconds(layers) / threads
    limit = max(best["cp -r, sync"][0], arithmetic)
    print(f"\n{layers} layers, {total / 1e9:.1f} GB, {'the base in the cache' if fits else 'an empty cache'}, best of {RUNS}")
    print(f"  {'':34}{'seconds':>10}{'of limit':>10}{'memory':>12}")
    for name, (seconds, memory) in best.items():
        line = f"  {name:34}{seconds:10.2f}{seconds / limit:9.2f}x" + (f"{memory / 1e6:9.0f} MB" if memory else "")
        if name == "vera apply":
            line += f"  goals 1.3x: {'reached' if seconds <= 1.3 * limit else 'MISSED'}"
            bound = 300e6 + 4 * RANK * 2 * HIDDEN
            line += f", {bound / 1e6:.0f} MB: {'reached' if memory <= bound else 'MISSED'}"
        print(line)
    print(f"  {f'the arithmetic alone, {threads} threads':34}{arithmetic:10.2f}{arithmetic / limit:9.2f}x")
    if "PEFT" in best:
        print(f"  PEFT takes {best['PEFT'][0] / best['vera apply'][0]:.2f} times vera's time")


def main():
    where = scratch()
    kind = subprocess.run(["stat", "-f", "-c", "%T", where], capture_output=True, text=True, check=True).stdout.strip()
    print(f"\nrank {RANK} onto q_proj and v_proj of Llama-3-8B's shape, bfloat16, on {kind}")
    try:
        for layers in LAYERS:
            need = 21 * sum(size(shape) for _, shape in shapes(layers)) // 10
            if shutil.disk_usage(where).free < need:
                print(f"\n{layers} layers: not measured, the disk has no {need / 1e9:.0f} GB")
                continue
            measure_size(where, layers)
            remove(where / "adapter")
    finally:
        remove(where)


main()
