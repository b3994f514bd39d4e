"""Do other programs load what vera exports, and compute with it what PEFT computes with the VeRA adapter?

    sh tests/bench/run.sh check      PEFT: export --as lora, on the fixtures and on the real all-MiniLM-L6-v2
    sh tests/bench/run.sh llama      llama.cpp: export --as gguf, on the fixtures, on MiniLM and on small random models

Each adapter must also matter: without it the result has to be another one, by far.
"""
import os
import subprocess
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from peft import PeftModel, VeraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, MistralConfig, Qwen2Config,
                          Qwen3Config)

from common import FIXTURES, HERE, MINILM, VERA, remove, scratch

LLAMA_PYTHON = HERE / ".llama/bin/python"
TOKENS = torch.randint(0, 256, (1, 24), generator=torch.Generator().manual_seed(3))
LANGUAGE, CLASSIFIER = AutoModelForCausalLM, AutoModelForSequenceClassification

# Adapter, base model, kind of model.
REAL = [("llama/step-120", FIXTURES / "base/llama", LANGUAGE),
        ("llama-half/step-030", FIXTURES / "base/llama-half", LANGUAGE),
        ("gpt2/step-040", FIXTURES / "base/gpt2", LANGUAGE),
        ("bert/step-040", FIXTURES / "base/bert", CLASSIFIER),
        ("minilm/step-320", MINILM, CLASSIFIER)]

SIZES = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
         "tie_word_embeddings": False}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANDOM = {"mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def claim(text, holds):
    print(f"{'ok  ' if holds else 'FAIL'}  {text}", flush=True)
    claim.failed += not holds


claim.failed = 0


def export(adapter, out, base, *options):
    done = subprocess.run([VERA, "export", adapter, out, "--base", base, *options], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return out


def model_of(kind, base, adapter):
    extra = {"num_labels": 3} if kind is CLASSIFIER else {}
    torch.manual_seed(5)  # a classifier that the checkpoint lacks is drawn
    model = kind.from_pretrained(base, dtype=torch.float32, **extra)
    if adapter:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, adapter)
        lost = [str(one.message) for one in said if "missing" in str(one.message) or "unexpected" in str(one.message)]
        claim(f"PEFT finds all of {Path(adapter).name}", not lost)
    return model.eval()


def logits(kind, base, adapter):
    with torch.no_grad():
        return model_of(kind, base, adapter)(input_ids=TOKENS).logits.numpy()


def states(kind, base, adapter):
    """The last layer's states, which is all that llama.cpp computes of a BERT."""
    with torch.no_grad():
        model = model_of(kind, base, adapter)
        return model(input_ids=TOKENS, output_hidden_states=True).hidden_states[-1].numpy()[0]


def distance(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(what, ours, theirs, without, allowed):
    far = distance(without, theirs)
    claim(f"{what}: {distance(ours, theirs):.1e} of the largest from PEFT's VeRA, of {allowed:.0e} allowed "
          f"(without the adapter {far:.1e})", distance(ours, theirs) <= min(allowed, far / 10))


def check_peft(where):
    for name, base, kind in REAL:
        adapter = FIXTURES / "adapter" / name
        lora = export(adapter, where / name.replace("/", "-"), base, "--as", "lora")
        compare(f"{name} as LoRA in PEFT", logits(kind, base, lora), logits(kind, base, adapter),
                logits(kind, base, None), 1e-5)


def make_base(base, settings):
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(base)


def make_adapter(adapter, base, targets):
    """A VeRA adapter that changes much."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, VeraConfig(r=32, task_type="CAUSAL_LM", target_modules=targets))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "vera_lambda_b" in name:
                parameter.normal_(std=0.5)
    adapted.save_pretrained(adapter)


def make_random(kind, where):
    """A small random model, and a VeRA adapter for it."""
    base, adapter = where / f"{kind}-base", where / f"{kind}-vera"
    make_base(base, RANDOM[kind](**SIZES))
    make_adapter(adapter, base, ALL_LINEAR)
    return base, adapter


def run_llama(where, name, base, gguf, kind):
    out = where / f"{name}.npy"
    if not (where / f"{name}-base.gguf").exists():
        subprocess.run([LLAMA_PYTHON, HERE / "gguf_model.py", base, where / f"{name}-base.gguf"], check=True)
    subprocess.run([LLAMA_PYTHON, HERE / "llama_run.py", *(["--states"] if kind is CLASSIFIER else []),
                    where / f"{name}-base.gguf", gguf, out, *map(str, TOKENS[0].tolist())], check=True,
                   stderr=subprocess.DEVNULL)
    return np.load(out)


def check_llama(where):
    cases = [(*case, FIXTURES / "adapter" / case[0]) for case in REAL]
    for kind in RANDOM:
        base, adapter = make_random(kind, where)
        cases.append((f"{kind} (random)", base, LANGUAGE, adapter))
    for title, base, kind, adapter in cases:
        name = title.split()[0].replace("/", "-")
        gguf = export(adapter, where / f"{name}-gguf", base, "--as", "gguf", "--drop") / "adapter.gguf"
        if kind is CLASSIFIER:  # of the same adapter without what a GGUF cannot hold
            lora = export(adapter, where / f"{name}-lora", base, "--as", "lora", "--drop")
            theirs, without = states(kind, base, lora), states(kind, base, None)
        else:
            theirs, without = logits(kind, base, adapter)[0], logits(kind, base, None)[0]
        # ggml approximates GELU, by tanh and a table in half precision: six layers of it in MiniLM.
        allowed = 3e-3 if base == MINILM else 1e-3
        compare(f"{title} as GGUF in llama.cpp", run_llama(where, name, base, gguf, kind), theirs, without, allowed)
        alone = distance(run_llama(where, name, base, "-", kind), without)
        claim(f"{title}: without it llama.cpp is {alone:.1e} from Transformers", alone <= allowed)


def main(what):
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = scratch()
    try:
        check_llama(where) if what == "llama" else check_peft(where)
    finally:
        remove(where)
    sys.exit(claim.failed > 0)


if __name__ == "__main__":
    main(sys.argv[1])
