"""The MiniLM adapter onto its real base: `vera apply` against PEFT.

vera: the whole process, from a version in a repository to a synced model on disk. PEFT: load the base, load
the adapter, merge_and_unload, save_pretrained, in a process that has imported everything and has done it
once before; nothing is synced. Both with all cores.
"""
import os
import shutil
import warnings

from common import FIXTURES, MINILM, VERA, measure, remove, report, run, scratch, timed

ADAPTER = FIXTURES / "adapter/minilm/step-320"

try:
    import peft
    import torch
    import transformers
except ImportError:
    peft = None


def merge_with_peft(out):
    model = transformers.BertForSequenceClassification.from_pretrained(MINILM, num_labels=3, dtype=torch.float32)
    peft.PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(out)


def copy_synced(out):
    """What writing such a model costs without any arithmetic: a copy, synced."""
    out.mkdir()
    shutil.copyfile(MINILM / "model.safetensors", out / "model.safetensors")
    fd = os.open(out / "model.safetensors", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def main():
    if not MINILM.is_dir():
        print("\napply: not measured, the base model is not there")
        return
    where = scratch()
    out = where / "out"

    def fresh(work):
        remove(out)
        return work()

    try:
        run([[VERA, "init", where / "repository"], [VERA, "-C", where / "repository", "commit", ADAPTER]])
        apply = [VERA, "-C", where / "repository", "apply", "HEAD", "--base", MINILM, "--out", out]
        contestants = {"vera apply": lambda: fresh(lambda: run([apply])),
                       "vera apply --threads 1": lambda: fresh(lambda: run([apply + ["--threads", "1"]]))}
        if peft:
            warnings.simplefilter("ignore")
            transformers.logging.set_verbosity_error()
            transformers.logging.disable_progress_bar()
            contestants["PEFT"] = lambda: fresh(lambda: timed(lambda: merge_with_peft(out)))
        contestants["limit: copy the file, sync it"] = lambda: fresh(lambda: timed(lambda: copy_synced(out)))
        report("apply", measure(contestants), "ms", 1e3, {"PEFT": 5})
        if peft:
            print(f"  PEFT {peft.__version__}, Transformers {transformers.__version__}, torch {torch.__version__}, "
                  f"{torch.get_num_threads()} threads")
    finally:
        remove(where)


main()
