"""The Python package with torch, PEFT and Transformers, on the real all-MiniLM-L6-v2 and on the fixtures' models.

    sh tests/bench/run.sh check

Swaps in a live model against `vera apply` and PEFT; adapters read straight into PEFT against PEFT's own reading; one
batch of many adapters against PEFT row by row. For contrast, in the same run: what PEFT's merge and unmerge leave of the
weights after 100 cycles. All of it in the host's memory, and in a GPU's where torch finds one.
"""
import doctest
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from common import BUILD, FIXTURES, HERE, MINILM, VERA, remove, scratch

os.environ["VERA"] = str(VERA)
os.environ["VERA_LIBRARY"] = str(BUILD / "apply/libvera_apply.so.1")
if (BUILD / "cli/vera_cuda.so").exists():
    os.environ["VERA_CUDA_MODULE"] = str(BUILD / "cli/vera_cuda.so")
sys.path.insert(0, str(HERE.parent.parent / "python"))

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import verastore

LANGUAGE, CLASSIFIER = AutoModelForCausalLM, AutoModelForSequenceClassification
ADAPTERS = FIXTURES / "adapter"
TOKENS = torch.randint(0, 256, (1, 24), generator=torch.Generator().manual_seed(3))
MODELS = [("llama/step-120", FIXTURES / "base/llama", LANGUAGE),
          ("llama-vectors-only", FIXTURES / "base/llama", LANGUAGE),
          ("llama-half/step-030", FIXTURES / "base/llama-half", LANGUAGE),
          ("llama-half-vectors", FIXTURES / "base/llama-half", LANGUAGE),
          ("gpt2/step-040", FIXTURES / "base/gpt2", LANGUAGE),
          ("bert/step-040", FIXTURES / "base/bert", CLASSIFIER),
          ("minilm/step-320", MINILM, CLASSIFIER)]
TENANTS = [f"minilm/step-{step:03}" for step in range(200, 330, 10)] + [
    f"minilm-tenant-{tenant}/step-{step:03}" for tenant in (0, 1) for step in (0, 10, 20, 30, 40)]


def claim(text, holds):
    print(f"{'ok  ' if holds else 'FAIL'}  {text}", flush=True)
    claim.failed += not holds


claim.failed = 0


def model_of(kind, base):
    """On the device that is tried, model_of.device."""
    extra = {"num_labels": 3} if kind is CLASSIFIER else {}
    torch.manual_seed(5)  # a classifier that the checkpoint lacks is drawn
    return kind.from_pretrained(base, dtype="auto", **extra).eval().to(model_of.device)


model_of.device = "cpu"


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(input_ids=tokens.to(model_of.device)).logits.float()


def distance(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def bits(tensor):
    return tensor.detach().cpu().contiguous().view(torch.uint8)


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(ours, theirs):
    return all(torch.equal(bits(ours[name]), bits(theirs[name])) for name in theirs)


def applied(where, name, base):
    out = where / name.replace("/", "-")
    subprocess.run([VERA, "apply", ADAPTERS / name, "--base", base, "--out", out], check=True, capture_output=True)
    found = {}
    for file in out.glob("*.safetensors"):
        found.update(load_file(file))
    return found


def fits(name, there):
    """A parameter's name as the checkpoint has it."""
    return name if name in there else name.partition(".")[2]


def check_swaps(where):
    """100 swaps of MiniLM: after each the bits of vera apply, at the end the base's; each adapter's logits PEFT's."""
    model = model_of(CLASSIFIER, MINILM)
    before, chosen = weights_of(model), torch.Generator().manual_seed(1)
    written = {name: applied(where, name, MINILM) for name in TENANTS[::4]}
    with verastore.attach(model, base=MINILM) as live:
        equal = 0
        for _ in range(100):
            name = list(written)[int(torch.randint(len(written), (1,), generator=chosen))]
            live.swap(ADAPTERS / name)
            ours = {fits(key, written[name]): value for key, value in model.named_parameters()}
            equal += same(ours, {key: written[name][key] for key in ours})
        claim(f"{equal} of 100 swaps of {len(written)} adapters gave the bits of vera apply", equal == 100)
        worst = 0.0
        for name in written:
            live.swap(ADAPTERS / name)
            theirs = logits(PeftModel.from_pretrained(model_of(CLASSIFIER, MINILM), ADAPTERS / name).eval())
            worst = max(worst, distance(logits(model), theirs))
        claim(f"logits are {worst:.1e} of the largest from PEFT's, of 1e-05 allowed", worst <= 1e-5)
        live.detach()
        claim(f"detached, all {len(before)} parameters have the base's bits",
              same(dict(model.named_parameters()), before))
    return model, before


def check_drift(before):
    """What PEFT's own way leaves: merge into the weights, take out again, 100 times."""
    model = PeftModel.from_pretrained(model_of(CLASSIFIER, MINILM), ADAPTERS / "minilm/step-320").eval()
    for _ in range(100):
        model.merge_adapter()
        model.unmerge_adapter()
    changed = total = 0
    worst = 0.0
    for name, weight in model.named_parameters():
        key = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if key in before and ".base_layer.weight" in name:
            changed += int((weight != before[key]).sum())
            total += weight.numel()
            worst = max(worst, float((weight - before[key]).norm() / before[key].norm()))
    print(f"      for contrast, PEFT's merge and unmerge, 100 cycles: {changed / total:.1%} of {total / 1e6:.1f} M "
          f"weights changed, {worst:.1e} of a weight's norm; swap and detach: 0")
    claim("PEFT's merge and unmerge leave other weights", changed > 0)


def check_models():
    """Every kind of model: attach and swap, and PEFT's logits; then the adapter into PEFT without files."""
    for name, base, kind in MODELS:
        model = model_of(kind, base)
        theirs = PeftModel.from_pretrained(model_of(kind, base), ADAPTERS / name).eval()
        with verastore.attach(model, base=base) as live:
            plain = logits(model)
            live.swap(ADAPTERS / name)
            far, without = distance(logits(model), logits(theirs)), distance(plain, logits(theirs))
            allowed = 5e-2 if "half" in name else 1e-5  # bfloat16: merged weights are rounded, PEFT's are not merged
            claim(f"{name} swapped: {far:.1e} of the largest logit from PEFT, of {allowed:.0e} allowed (without the "
                  f"adapter {without:.1e})", far <= allowed and far <= without / 2)
            live.detach()
        loaded = verastore.load_adapter(model, ADAPTERS / name)
        ours, wanted = (get_peft_model_state_dict(peft) for peft in (loaded, theirs))
        claim(f"{name} loaded into PEFT: {len(wanted)} tensors, all with the bits of PEFT's own loading",
              ours.keys() == wanted.keys() and same(ours, wanted) and torch.equal(logits(loaded), logits(theirs)))


def check_reading():
    """What read() gives is what safetensors reads from the directory."""
    equal = total = 0
    for config in sorted(ADAPTERS.glob("**/adapter_config.json")):
        saved = load_file(config.parent / "adapter_model.safetensors")
        read = {name: tensor.torch() for name, tensor in verastore.read(config.parent).tensors.items()}
        equal += read.keys() == saved.keys() and all(
            read[name].dtype == saved[name].dtype and torch.equal(bits(read[name]), bits(saved[name])) for name in saved)
        total += 1
    claim(f"read() gives the tensors of safetensors for {equal} of {total} adapters", equal == total > 50)


def fails(kind, words, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        return words in str(error)
    return False


def check_refusals(where):
    """From a repository: the base model is compared, A and B too; a failure leaves the model as it was."""
    store = where / "store"
    vera = [VERA, "-C", store]
    subprocess.run([VERA, "init", store], check=True, capture_output=True)
    for name, base in (("llama/step-120", "llama"), ("llama/step-110", "llama"), ("gpt2/step-040", "gpt2")):
        branch = name.replace("/", "-")
        subprocess.run([*vera, "commit", ADAPTERS / name, "--base", FIXTURES / "base" / base, "--branch", branch],
                       check=True, capture_output=True)
    model = model_of(LANGUAGE, FIXTURES / "base/llama")
    before = weights_of(model)
    claim("load_adapter refuses an adapter of other layers", fails(
        verastore.Invalid, "matched 0 of 8", verastore.load_adapter, model, "gpt2-step-040", store))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    claim("load_adapter refuses another base model, naming the weight", fails(
        verastore.Conflict, "model.layers.0.self_attn.q_proj", verastore.load_adapter, model, "llama-step-120", store))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.copy_(before["model.layers.0.self_attn.q_proj.weight"])
    claim("refused, the model is as it was", same(dict(model.named_parameters()), before))
    first = verastore.load_adapter(model, "llama-step-120", store)
    both = verastore.load_adapter(first, "llama-step-110", store, adapter_name="second")
    both.set_adapter("second")
    theirs = PeftModel.from_pretrained(model_of(LANGUAGE, FIXTURES / "base/llama"), ADAPTERS / "llama/step-110").eval()
    claim("a second adapter beside the first computes what PEFT computes", torch.equal(logits(both), logits(theirs)))
    claim("one name twice is refused", fails(verastore.Invalid, "already", verastore.load_adapter, both,
                                             "llama-step-110", store))
    next(iter(both.base_model.vera_A.values()))[0, 0] += 1
    claim("an adapter that stands on another A is refused", fails(
        verastore.Conflict, "vera_A", verastore.load_adapter, both, "llama-step-120", store, adapter_name="third")
        and "third" not in both.peft_config)


def check_hooks(model):
    """Requests of four threads while the adapter changes: each response is one adapter's, whole."""
    names = TENANTS[:1] + TENANTS[-1:]
    with verastore.attach(model, base=MINILM) as live:
        wanted = []
        for name in names:
            live.swap(ADAPTERS / name)
            wanted.append(logits(model))
        stop, mixed, seen = threading.Event(), [], [0, 0]

        def ask():
            while not stop.is_set():
                ours = logits(model)
                near = [distance(ours, one) < 1e-6 for one in wanted]
                seen[near.index(True)] += 1 if True in near else mixed.append(ours) or 0
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(60):
            live.swap(ADAPTERS / names[number % 2])
        stop.set()
        for thread in threads:
            thread.join()
        claim(f"{sum(seen)} responses ({seen[0]} and {seen[1]}) in 4 threads during 60 swaps, {len(mixed)} of two "
              "adapters",
              not mixed and min(seen) > 0)
        claim("a forward that raises lets go of the weights", fails(Exception, "", model, input_ids="no tokens")
              and live.swap(ADAPTERS / names[0]).epoch > 0)
    claim("closed, the model has no hook left", not model._forward_hooks and not model._forward_pre_hooks)


def states(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens.to(model_of.device), output_hidden_states=True).hidden_states[-1]


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def check_batches():
    """32 rows, 23 adapters and the base model, against PEFT one row at a time."""
    model, plain = model_of(CLASSIFIER, MINILM), model_of(CLASSIFIER, MINILM)
    tokens = torch.randint(0, 256, (32, 24), generator=torch.Generator().manual_seed(9))
    names = [None, *TENANTS]
    rows = [names[number % len(names)] for number in range(32)]
    peft = None
    for name in TENANTS:
        if peft is None:
            peft = PeftModel.from_pretrained(plain, ADAPTERS / name, adapter_name=name.replace("/", "-"))
        else:
            peft.load_adapter(ADAPTERS / name, adapter_name=name.replace("/", "-"))
    peft.eval()
    theirs = []
    for row, name in enumerate(rows):
        if name is None:
            with peft.disable_adapter():
                theirs.append(states(peft, tokens[row:row + 1]))
        else:
            peft.set_adapter(name.replace("/", "-"))
            theirs.append(states(peft, tokens[row:row + 1]))
    theirs = torch.cat(theirs)
    base = states(model, tokens)
    hooks = hooks_of(model)
    with verastore.Registry(model, ADAPTERS / TENANTS[0], budget_bytes=1 << 28) as registry:
        claim("a registry has a hook in each of 36 layers", hooks_of(model) == hooks + 36)
        ids = {name: registry.add(ADAPTERS / name, vectors_only=True) for name in TENANTS}
        with registry.batch([ids.get(name) for name in rows]):
            ours = states(model, tokens)
        claim("outside of a batch the model is the base", torch.equal(base, states(model, tokens)))
        with registry.batch([ids[TENANTS[0]]] * 3):
            claim("a batch of another number of rows is refused", fails(
                verastore.Invalid, "32 rows, the batch has 3", states, model, tokens))
            claim("gradients are refused", fails(verastore.Unsupported, "no gradients", model,
                                                 input_ids=tokens[:3].to(model_of.device)))
    far, without = distance(ours, theirs), distance(base, theirs)
    claim(f"32 rows of {len(TENANTS)} adapters in one batch: {far:.1e} of the largest from PEFT row by row, of 1e-05 "
          f"allowed (without adapters {without:.1e})", far <= 1e-5 and without > 100 * far)
    claim("closed, it has none", hooks_of(model) == hooks and torch.equal(base, states(model, tokens)))
    bare = model_of(AutoModel, MINILM)  # its names lack the `bert.` of the adapters'
    with verastore.Registry(bare, ADAPTERS / TENANTS[0], budget_bytes=1 << 26) as registry:
        with registry.batch([registry.add(ADAPTERS / name, vectors_only=True) for name in TENANTS[:2]]), torch.no_grad():
            ours = bare(input_ids=tokens[1:3].to(model_of.device)).last_hidden_state
    claim("the bare model is found by the adapters' names", distance(ours, theirs[1:3]) <= 1e-5)


def check_compiled():
    """torch.compile(): the weights are inputs of what it makes, so swaps are seen; a registry's hooks stand between its
    graphs."""
    model, held = model_of(LANGUAGE, FIXTURES / "base/llama"), []
    with verastore.attach(model, base=FIXTURES / "base/llama") as live:
        def backend(graph, _):
            def run(*inputs):
                held.append(fails(verastore.Invalid, "would wait for itself", live.detach))
                return graph.forward(*inputs)
            return run
        logits(torch.compile(model, backend=backend))
        claim("compiled, the model holds its weights while it runs", held and all(held))
        torch._dynamo.reset()
        compiled = torch.compile(model)
        plain, far = logits(compiled), []
        for name in ("llama/step-060", "llama/step-120"):
            live.swap(ADAPTERS / name)
            far.append(distance(logits(compiled), logits(model)))
        claim(f"compiled, a swap is seen: {max(far):.1e} of the largest logit from the model's, of 1e-05 allowed",
              max(far) <= 1e-5 and distance(plain, logits(model)) > 1e-3)
    model, tokens = model_of(LANGUAGE, FIXTURES / "base/llama"), TOKENS.expand(3, -1)
    with verastore.Registry(model, ADAPTERS / "llama/step-060", budget_bytes=1 << 24) as registry:
        one, two = (registry.add(ADAPTERS / f"llama/step-{step}") for step in ("060", "120"))
        compiled = torch.compile(model)
        far = [distance(logits(compiled, tokens), logits(model, tokens))]
        for rows in ([one, None, two], [two, one, None]):
            with registry.batch(rows):
                far.append(distance(logits(compiled, tokens), logits(model, tokens)))
        claim(f"compiled, a mixed batch is {max(far):.1e} of the largest logit from the model's, of 1e-05 allowed",
              max(far) <= 1e-5)


class Chain(torch.nn.Module):
    """All of llama's adapted layers, one behind the other, and nothing that a CUDA graph could not hold."""

    def __init__(self):
        super().__init__()
        self.model = model_of(LANGUAGE, FIXTURES / "base/llama").model

    def forward(self, x):
        for layer in self.model.layers:
            own, mlp = layer.self_attn, layer.mlp
            x = x + own.o_proj(own.q_proj(x)) + torch.cat([own.k_proj(x), own.v_proj(x)], -1)
            x = x + mlp.down_proj(torch.nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
        return x


def chained(rows):
    """A chain, and an input of so many rows of three."""
    x = torch.randn(rows, 3, 64, generator=torch.Generator().manual_seed(4))
    return Chain(), x.to(model_of.device)


def output(model, x):
    with torch.no_grad():
        return model(x)


def check_streams():
    """A forward in another stream than the weights were attached in is queued, and then they are swapped."""
    model, x = chained(4)
    with verastore.attach(model) as live:
        live.swap(ADAPTERS / "llama/step-060")
        wanted, equal = output(model, x), 0
        for _ in range(10):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(100_000_000)
                ours = output(model, x)
            live.swap(ADAPTERS / "llama/step-120")
            stream.synchronize()
            equal += torch.equal(ours, wanted)
            live.swap(ADAPTERS / "llama/step-060")
        claim(f"{equal} of 10 forwards that were queued in another stream when the adapter changed are one adapter's",
              equal == 10)


def captured(model, x):
    """A CUDA graph of the model, and where it puts its output."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            output(model, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = output(model, x)
    return graph, out


def check_graphs():
    """A CUDA graph that was captured once has the adapter of the last swap, and each batch's rows."""
    names = [f"llama/step-{step:03}" for step in range(10, 130, 10)]
    model, x = chained(4)
    with verastore.attach(model) as live:
        graph, out = captured(model, x)
        equal = 0
        for name in names:
            live.swap(ADAPTERS / name)
            with live.reading():
                graph.replay()
            equal += torch.equal(out, output(model, x))
        claim(f"a CUDA graph computes with {equal} of {len(names)} adapters that are swapped under it",
              equal == len(names))
    model, _ = chained(4)
    with verastore.Registry(model, ADAPTERS / names[0], budget_bytes=1 << 24) as registry:
        ids = [None] + [registry.add(ADAPTERS / name) for name in names]
        slots = torch.empty(4, dtype=torch.int32, device=model_of.device)
        with registry.batch(ids[:4], slots=slots):
            graph, out = captured(model, x)
        equal = 0
        for first in range(len(ids) - 3):
            with registry.batch(ids[first:first + 4], slots=slots):
                graph.replay()
                equal += torch.equal(out, output(model, x))
        claim(f"a CUDA graph of a mixed batch computes {equal} of {len(ids) - 3} others", equal == len(ids) - 3)
        with registry.batch(ids[:4]):
            claim("without slots of its own a batch is not captured", fails(
                verastore.Unsupported, "the slots must have a place that stays", captured, model, x))


def check_devices():
    """What lies on the wrong device."""
    model, rows = model_of(LANGUAGE, FIXTURES / "base/llama"), TOKENS.expand(2, -1)
    with verastore.Registry(model, ADAPTERS / "llama/step-060", budget_bytes=1 << 24) as registry:
        layer, inputs, outputs = "model.layers.1.mlp.down_proj", torch.zeros(2, 176), torch.zeros(2, 64)
        one = registry.add(ADAPTERS / "llama/step-060")
        with registry.batch([one, None]) as batch:
            claim("x in the host's memory is refused", fails(
                verastore.Invalid, "x is in the host's memory, the registry on CUDA device 0", batch.forward, layer,
                inputs, outputs.to(model_of.device)))
            model.to("cpu")
            claim("a model that moved away is refused", fails(
                verastore.Invalid, "x is in the host's memory", model, input_ids=rows))
    model.model.layers[1].to(model_of.device)
    claim("layers in two places are refused", fails(
        verastore.Invalid, "a registry is in one place", verastore.Registry, model, ADAPTERS / "llama/step-060",
        budget_bytes=1 << 24))


def check_refused_models():
    model = model_of(LANGUAGE, FIXTURES / "base/llama")
    peft = PeftModel.from_pretrained(model, ADAPTERS / "llama/step-120")
    claim("a model that PEFT wrapped is refused", fails(verastore.Invalid, "PEFT", verastore.attach, peft))
    with torch.device("meta"):
        empty = torch.nn.Linear(4, 4)
    claim("weights without memory are refused", fails(verastore.Unsupported, "meta", verastore.attach, empty))
    claim("a registry on a GPU for layers in the host's memory is refused", fails(
        verastore.Invalid, "the layers are in the host's memory, not on CUDA device 0", verastore.Registry,
        model_of(LANGUAGE, FIXTURES / "base/llama"), ADAPTERS / "llama/step-120", budget_bytes=1 << 24, device=0))
    tied = model_of(LANGUAGE, FIXTURES / "base/gpt2")
    with verastore.attach(tied, base=FIXTURES / "base/gpt2") as live:
        claim("tied embeddings are registered once", live.tied == {"lm_head.weight": "transformer.wte.weight"})


def check_guide(where):
    """Every snippet of the guide's chapter, with what it prints; and those of python/README.md."""
    os.environ["PATH"] = f"{VERA.parent}{os.pathsep}{os.environ['PATH']}"
    top, here = HERE.parent.parent, os.getcwd()
    folder = where / "guide"
    folder.mkdir()
    (folder / "base").symlink_to(FIXTURES / "base/llama")
    (folder / "runs").symlink_to(ADAPTERS / "llama")
    subprocess.run([VERA, "init", folder], check=True, capture_output=True)
    for step in range(0, 130, 10):
        subprocess.run([VERA, "-C", folder, "commit", folder / f"runs/step-{step:03}", "--base", folder / "base"],
                       check=True, capture_output=True)
    chapter = (top / "docs/guide.md").read_text().partition("\n## From Python\n")[2].partition("\n## ")[0]
    os.chdir(folder)
    try:
        parsed = doctest.DocTestParser().get_doctest(chapter.replace("```", ""), {}, "the guide", None, 0)
        ran = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed)
        claim(f"{ran.attempted} lines of the guide print what it says", ran.attempted > 15 and ran.failed == 0)
        names = {"model": model_of(LANGUAGE, "base"), "inputs": {"input_ids": TOKENS.expand(3, -1)}, "torch": torch}
        text = (top / "python/README.md").read_text()
        for name, real in (("/models/llama", "base"), ("/srv/adapters", "."), ("tenants/a", "runs/step-060"),
                           ('Path("tenants") / name) for name in "ab"',
                            'Path("runs") / f"step-{n}") for n in ("060", "120")')):
            claim(f"python/README.md has {name}", name in text)
            text = text.replace(name, real)
        for code in text.split("```python\n")[1:]:
            exec(code.partition("```")[0], names)
            names["model"] = model_of(LANGUAGE, "base")
        claim("python/README.md runs", True)
    finally:
        os.chdir(here)


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = scratch()
    try:
        check_reading()
        for device in ("cpu", "cuda"):
            if device == "cuda" and not torch.cuda.is_available():
                print("      not tried here: the same in a GPU's memory, streams and CUDA graphs; torch finds no GPU")
                continue
            print(f"      models on the device '{device}'")
            model_of.device = device
            on = where / device
            on.mkdir()
            model, before = check_swaps(on)
            check_drift(before)
            check_hooks(model)
            check_models()
            check_batches()
            check_refusals(on)
            check_compiled()
            if device == "cuda":
                check_streams()
                check_graphs()
                check_devices()
        model_of.device = "cpu"
        check_refused_models()
        check_guide(where)
    finally:
        remove(where)
    sys.exit(claim.failed > 0)


main()
