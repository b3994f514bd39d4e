"""One run of PEFT for bench_apply.py: load, merge_and_unload, save. Prints the seconds, imports not counted,
of the first time in this process and of a second one."""
import sys
import warnings

import peft
import torch
import transformers
from peft import PeftModel
from transformers import BertForSequenceClassification

from common import remove, timed


def merge(base, adapter, out):
    model = BertForSequenceClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)


def main():
    base, adapter, out = sys.argv[1:]
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for _ in range(2):
        remove(out)
        print(timed(lambda: merge(base, adapter, out)))
    print(f"PEFT {peft.__version__}, Transformers {transformers.__version__}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads")


main()
