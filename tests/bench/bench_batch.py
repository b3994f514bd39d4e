"""Batches whose rows use different adapters: libvera_apply beside PEFT, which switches them row by row.

The 36 linear layers of MiniLM that its adapters change, rank 256, random weights; 32 rows, 32 adapters. Both
compute what a served model needs, the layers' own product and the adapter's: PEFT sets a row's adapter and runs
the row through all layers; with libvera_apply torch multiplies all rows, and vera_registry_forward() adds each
row's adapter, layer by layer. Results are compared. Wall time, and processor time of all threads, which counts
less of what else the machine does. 20,000 adapters in one registry are bench_batch.c's.
"""
import ctypes
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import BUILD, FIXTURES, measure, remove

ROWS = 32
PEFT, MIXED, SAME = "PEFT, an adapter at a time", f"one batch, {ROWS} adapters", "one batch, one adapter"
ADAPTER = FIXTURES / "adapter" / "minilm" / "step-320"
THREADS = (1, 2)


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("names", ctypes.POINTER(ctypes.c_char_p)),
                ("rows_in", ctypes.POINTER(ctypes.c_uint64)), ("rows_out", ctypes.POINTER(ctypes.c_uint64)),
                ("modules", ctypes.c_uint64), ("directory", ctypes.c_char_p), ("bundle", ctypes.c_void_p),
                ("bundle_bytes", ctypes.c_size_t), ("budget", ctypes.c_uint64), ("base_dtype", ctypes.c_int32),
                ("vector_dtype", ctypes.c_int32), ("reserved", ctypes.c_uint32 * 2)]


class Batch(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("slots", ctypes.POINTER(ctypes.c_int32)), ("x", ctypes.c_void_p),
                ("y", ctypes.c_void_p), ("rows", ctypes.c_uint64), ("x_stride", ctypes.c_uint64),
                ("y_stride", ctypes.c_uint64), ("dtype", ctypes.c_int32), ("threads", ctypes.c_uint32)]


def model_make(torch, peft, folder):
    """MiniLM's layers under PEFT with ROWS adapters, which are saved into `folder`."""
    from transformers import BertConfig, BertForSequenceClassification
    from safetensors.torch import load_file, save_file
    torch.manual_seed(1)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
                        vocab_size=64, num_labels=3)
    vectors = {name: value for name, value in load_file(ADAPTER / "adapter_model.safetensors").items()
               if "vera_lambda" in name}
    told = json.loads((ADAPTER / "adapter_config.json").read_text())
    told["modules_to_save"] = told["task_type"] = None
    for number in range(ROWS):
        where = folder / f"{number}"
        where.mkdir()
        (where / "adapter_config.json").write_text(json.dumps(told))
        save_file({name: value * (1 + 0.1 * torch.rand(value.shape)) for name, value in vectors.items()},
                  where / "adapter_model.safetensors", metadata={"format": "pt"})
    model = peft.PeftModel.from_pretrained(BertForSequenceClassification(config), folder / "0", adapter_name="0")
    for number in range(1, ROWS):
        model.load_adapter(folder / f"{number}", adapter_name=f"{number}")
    layers = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()
              if isinstance(module, peft.tuners.vera.layer.Linear)}
    return model.eval(), layers


def registry_make(layers, folder):
    library = ctypes.CDLL(BUILD / "apply" / "libvera_apply.so")
    library.vera_error_message.restype = ctypes.c_char_p
    names = (ctypes.c_char_p * len(layers))(*(name.encode() for name in layers))
    sizes = [(ctypes.c_uint64 * len(layers))(*(getattr(layer, side) for layer in layers.values()))
             for side in ("in_features", "out_features")]
    options = Options(size=ctypes.sizeof(Options), names=names, rows_in=sizes[0], rows_out=sizes[1],
                      modules=len(layers), directory=str(folder / "0").encode(), budget=64 << 20)
    registry, slots = ctypes.c_void_p(), (ctypes.c_int32 * ROWS)()
    err = library.vera_registry_new(ctypes.byref(registry), ctypes.byref(options))
    for number in range(ROWS):
        held = ctypes.c_int32()
        err = err or library.vera_registry_add_directory(registry, str(folder / f"{number}").encode(), 0, None,
                                                         ctypes.byref(held))
        slots[number] = held.value
    if err:
        sys.exit(f"bench_batch: {library.vera_error_message().decode()}")
    return library, registry, slots


def contestants(torch, model, layers, folder):
    library, registry, mixed = registry_make(layers, folder)
    forward = library.vera_registry_forward
    inputs = {side: torch.randn(ROWS, side) for side in (384, 1536)}
    same = (ctypes.c_int32 * ROWS)(*([mixed[0]] * ROWS))

    def peft_rows():
        results = [[] for _ in layers]
        for row in range(ROWS):
            model.set_adapter(f"{row}")
            for number, layer in enumerate(layers.values()):
                results[number].append(layer(inputs[layer.in_features][row:row + 1]))
        return [torch.cat(rows) for rows in results]

    def batches(slots, threads):
        results = []
        for number, layer in enumerate(layers.values()):
            x = inputs[layer.in_features]
            y = layer.base_layer(x)
            batch = Batch(size=ctypes.sizeof(Batch), slots=slots, x=x.data_ptr(), y=y.data_ptr(), rows=ROWS,
                          dtype=1, threads=threads)
            if forward(registry, ctypes.c_uint64(number), ctypes.byref(batch)):
                sys.exit(f"bench_batch: {library.vera_error_message().decode()}")
            results.append(y)
        return results

    def contestant(work, threads):
        def do():
            torch.set_num_threads(threads)
            begin = time.perf_counter(), time.process_time()
            do.results = work()
            return time.perf_counter() - begin[0], time.process_time() - begin[1]
        return do

    works = {}
    for threads in THREADS:
        for name, work in [(PEFT, peft_rows), (MIXED, lambda threads=threads: batches(mixed, threads)),
                           (SAME, lambda threads=threads: batches(same, threads))]:
            works[name, threads] = contestant(work, threads)
    return works


def print_times(times, kind, title):
    medians = {name: statistics.median(seconds[kind] for seconds in all_seconds)
               for name, all_seconds in times.items()}
    print(f"  {title}")
    for (name, threads), seconds in medians.items():
        print(f"    {name:26} torch threads {threads}{seconds * 1e3:10.2f} ms{ROWS / seconds:10.0f} rows/s")
    peft, mixed, same = (min(medians[name, threads] for threads in THREADS) for name in (PEFT, MIXED, SAME))
    for what, value, goal, reached in [("throughput, mixed batch beside PEFT", peft / mixed, 5, peft / mixed >= 5),
                                       ("time, mixed beside one adapter", mixed / same, 1.3, mixed / same <= 1.3)]:
        print(f"    {what}, each at its best: {value:.2f}x  goal {goal}x: {'reached' if reached else 'MISSED'}")


def peft_beside_batches():
    try:
        import peft
        import torch
        import transformers
    except ImportError:
        print("\nno torch, PEFT and Transformers here: not measured beside PEFT")
        return
    folder = Path(tempfile.mkdtemp())
    try:
        with torch.inference_mode():
            model, layers = model_make(torch, peft, folder)
            works = contestants(torch, model, layers, folder)
            times = measure(works)
            pairs = zip(works[PEFT, 1].results, works[MIXED, 1].results)
            off = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    finally:
        remove(folder)
    print(f"\n{ROWS} rows, {ROWS} adapters, {len(layers)} layers of MiniLM, their own products included\n"
          f"  torch {torch.__version__}, PEFT {peft.__version__}, Transformers {transformers.__version__}, "
          f"results differ by {off:.1e} of the largest")
    print_times(times, 0, "wall time")
    print_times(times, 1, "processor time")
    if off > 1e-5:
        sys.exit("bench_batch: PEFT's results are others")


if __name__ == "__main__":
    peft_beside_batches()
