"""Is what the GPU makes the processor's, bit for bit? On the fixtures, and on layers of Llama-3-8B's shapes that are
made here; with the times of both. "check_gpu.py sanitize TOOL" runs a small merge under compute-sanitizer instead.

$VERA is the program, with its module beside it; $LAYERS how many layers are made (4).
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERA = os.environ["VERA"]
LAYERS = int(os.environ.get("LAYERS", "4"))
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
PAIRS = {"llama/step-120": "llama", "llama-half/step-030": "llama-half", "gpt2/step-040": "gpt2",
         "bert/step-040": "bert"}
MODULES = {"q_proj": (4096, 4096), "v_proj": (1024, 4096)}  # out, in
RANK = 256
RUNS = 3
failures = []


def claim(what, holds):
    print(f"{'ok   ' if holds else 'WRONG'} {what}", flush=True)
    if not holds:
        failures.append(what)


def vera(*args):
    done = subprocess.run([VERA, *map(str, args), "--json"], capture_output=True, text=True, check=False)
    if not done.stdout:
        sys.exit(f"gpu: vera {args[0]} failed: {done.stderr}")
    return json.loads(done.stdout)


def apply(adapter, base, out, *options):
    shutil.rmtree(out, ignore_errors=True)
    done = vera("apply", adapter, "--base", base, "--out", out, *options)
    if "error" in done:
        sys.exit(f"gpu: apply {' '.join(options)}: {done['error']['message']}")
    return done


def same(left, right):
    return subprocess.run(["diff", "-r", left, right], stdout=subprocess.DEVNULL, check=False).returncode == 0


def compare(name, adapter, base, where):
    """The directories of both, the report's sums, and what verify says on the GPU."""
    cpu = apply(adapter, base, where / "cpu", "--device", "cpu", "--report")
    cuda = apply(adapter, base, where / "cuda", "--device", "cuda", "--report")
    claim(f"{name}: the GPU's files are the processor's", same(where / "cpu", where / "cuda"))
    claim(f"{name}: so is the report", cpu["report"] == cuda["report"])
    found = vera("verify", where / "cpu", "--rev", adapter, "--base", base, "--device", "cuda")
    claim(f"{name}: verify on the GPU finds the processor's exact", found.get("ok") is True)


def numbers(count, high):
    """`count` random bf16 of one size: their high bytes are `high` or its negative."""
    data = bytearray(os.urandom(2 * count))
    data[1::2] = bytes(data[1::2]).translate(bytes((high, high | 0x80)) * 128)
    return bytes(data)


def floats(count, low):
    """`count` float32 between low and 3 low."""
    data = os.urandom(count)
    return struct.pack(f"<{count}f", *(low + 2 * low * byte / 255 for byte in data))


def write_tensors(path, tensors):
    """A safetensors file of (name, dtype, shape, bytes)."""
    header, at = {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, data in tensors:
            file.write(data)


def make_llama(base, adapter):
    """q_proj and v_proj of LAYERS layers, a shard for each layer, and vectors for all of them."""
    base.mkdir()
    adapter.mkdir()
    index, vectors = {}, []
    for layer in range(LAYERS):
        shard = f"model-{layer + 1:05}-of-{LAYERS:05}.safetensors"
        tensors = []
        for module, (out, width) in MODULES.items():
            name = f"model.layers.{layer}.self_attn.{module}"
            tensors.append((name + ".weight", "BF16", [out, width], numbers(out * width, 0x3c)))
            index[name + ".weight"] = shard
            vectors.append((f"base_model.model.{name}.vera_lambda_b", "F32", [out], floats(out, 0.01)))
            vectors.append((f"base_model.model.{name}.vera_lambda_d", "F32", [RANK], floats(RANK, 0.1)))
        write_tensors(base / shard, tensors)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (base / "config.json").write_text('{"model_type": "llama"}')
    write_tensors(adapter / "adapter_model.safetensors", vectors)
    (adapter / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "VERA", "r": RANK, "projection_prng_key": 0, "save_projection": False,
         "target_modules": sorted(MODULES)}))


def copied(base, out):
    """Seconds to copy the files and sync them, as vera syncs what it writes."""
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", "--reflink=never", base, out], check=True)
    subprocess.run(["sync", "-f", out], check=True)
    return time.perf_counter() - begin


def measure(adapter, base, where):
    contestants = {
        "cp and sync": lambda: copied(base, where / "copy"),
        "vera apply --device cpu": lambda: apply(adapter, base, where / "cpu", "--device", "cpu")["seconds"],
        "vera apply --device cuda": lambda: apply(adapter, base, where / "cuda", "--device", "cuda")["seconds"],
        "vera apply --device cuda --math fast":
            lambda: apply(adapter, base, where / "fast", "--device", "cuda", "--math", "fast")["seconds"],
    }
    size = sum(file.stat().st_size for file in base.iterdir())
    print(f"\n{LAYERS} layers of Llama-3-8B's q_proj and v_proj, bf16, rank {RANK}: {size * 1e-6:.0f} MB, "
          f"best of {RUNS}, end to end, synced")
    for name, work in contestants.items():
        best = min(work() for _ in range(RUNS))
        print(f"  {name:38} {best * 1e3:9.1f} ms {size * 1e-9 / best:8.2f} GB/s", flush=True)


def sanitize(tool, where):
    name = "gpt2/step-040"
    done = subprocess.run(
        ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", VERA, "apply", FIXTURES / "adapter" / name,
         "--base", FIXTURES / "base" / PAIRS[name], "--out", where / "out", "--device", "cuda"],
        capture_output=True, text=True, check=False)
    claim(f"compute-sanitizer --tool {tool} finds nothing", done.returncode == 0)
    if done.returncode:
        print(done.stdout + done.stderr)


def main():
    where = Path(tempfile.mkdtemp(prefix="vera-gpu-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        if sys.argv[1:2] == ["sanitize"]:
            sanitize(sys.argv[2], where)
        else:
            for name, base in PAIRS.items():
                compare(name, FIXTURES / "adapter" / name, FIXTURES / "base" / base, where)
            make_llama(where / "base", where / "adapter")
            compare(f"{LAYERS} layers of Llama-3-8B", where / "adapter", where / "base", where)
            measure(where / "adapter", where / "base", where)
    finally:
        shutil.rmtree(where, ignore_errors=True)
    return 1 if failures else 0


sys.exit(main())
