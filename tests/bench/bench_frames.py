"""What frames cost, in bits a value, beside what others would make of the same checkpoints; and their speed.

Prices are means over a run's checkpoints from the third one on, each from the two before it. They are the
same on every machine with the same zstd. Speeds are of one core, by its own time, best of all runs, on a
payload enlarged to 33 MB.
"""
import subprocess
import sys

import enlarge
from common import BUILD, FIXTURES, RUNS, remove, scratch

PROGRAM = BUILD / "tests/bench/bench_frames"
ADAPTERS = FIXTURES / "adapter"
FORMS = ("float32", "bfloat16")
GOALS = {"minilm": (21.3, 5.5), "minilm-tenant-0": (19.9, 4.1), "minilm-tenant-1": (19.9, 4.1), "llama": (22.4, None)}
SERIES = (*GOALS, "llama-c", "llama-perl", "llama-half", "gpt2", "bert")
LARGE = [ADAPTERS / "minilm" / f"step-{step}" / "adapter_model.safetensors" for step in ("150", "160", "170")]
WIDTH, LAYERS = 16, 17
DECODE_GOAL = 500  # MB/s of float32, without hashing


def ask(*words):
    return [float(word) for word in subprocess.run([PROGRAM, *map(str, words)], check=True, text=True,
                                                   stdout=subprocess.PIPE).stdout.split()]


def verdict(value, goal):
    return "" if goal is None else f"  goal {goal}: {'reached' if value <= goal else 'MISSED'}"


def prices():
    print("\nframes, bits a value: normal is what a normal distribution of each vector's width costs, the width free")
    print(f"  {'':26}{'frame':>8}{'XOR':>8}{'zstd -19':>10}{'normal':>8}")
    for series in SERIES:
        for form, goal in zip(FORMS, GOALS.get(series, (None, None))):
            files = sorted(ADAPTERS.glob(f"{series}/step-*/adapter_model.safetensors"))
            frame, xor, raw, normal = ask("price", form, *files)
            print(f"  {series:17}{form:9}{frame:8.3f}{xor:8.3f}{raw:10.3f}{normal:8.3f}{verdict(frame, goal)}", flush=True)


def speeds():
    where = scratch()
    try:
        files = [where / str(i) for i in range(len(LARGE))]
        for source, target in zip(LARGE, files):
            enlarge.write(target, enlarge.copies(enlarge.read(source), WIDTH, LAYERS))
        print("\nframes, MB/s of payload on one core")
        print(f"  {'':26}{'encode':>8}{'decode':>8}   {'frame: write':>12}{'read':>7}   {'whole: write':>12}{'read':>7}")
        for form in FORMS:
            size, *speed = ask("speed", form, RUNS, *files)
            goal = "" if form != "float32" else f"  goal {DECODE_GOAL}: {'reached' if speed[1] >= DECODE_GOAL else 'MISSED'}"
            print(f"  {form:17}{size:6.1f} MB{speed[0]:8.0f}{speed[1]:8.0f}   {speed[2]:12.0f}{speed[3]:7.0f}   "
                  f"{speed[4]:12.0f}{speed[5]:7.0f}{goal}", flush=True)
    finally:
        remove(where)


def main():
    prices()
    speeds()


if __name__ == "__main__":
    sys.exit(main())
