"""One run of PEFT for bench_model.py: load, merge_and_unload, save, in bfloat16. Prints the seconds, imports not
counted."""
import sys
import warnings

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

from common import timed


def merge(base, adapter, out):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(timed(lambda: merge(*sys.argv[1:])), flush=True)


main()
