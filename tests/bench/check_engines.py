"""Do the engines themselves, vLLM, SGLang and llama.cpp's server, load what vera exports and publishes as it is, and
compute with it what PEFT computes with the VeRA adapter?

    sh tests/bench/run.sh engines

Each is installed into tests/bench/.engines by setup_engines.sh; one that is not there is said to be NOT RUN. No GPU is
needed: vLLM and SGLang run on the processor, in float32. Their kernels for GPUs are not reached by this.
"""
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings

import numpy as np
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from check_exports import ALL_LINEAR, SIZES, claim, export, make_adapter, make_base
from common import FIXTURES, HERE, VERA, remove, scratch

ENGINES = HERE / ".engines"
PROMPT = torch.randint(0, 256, (24,), generator=torch.Generator().manual_seed(3)).tolist()
STEPS = 12       # tokens that an engine goes on by, each with the probabilities of all 256
ALLOWED = 1e-5   # of log-probabilities between 0 and -10, in float32
FIXED = {"llama/step-120": "llama", "llama-half/step-030": "llama-half"}


def not_run(what, why):
    print(f"NOT RUN  {what}: {why}", flush=True)
    not_run.count += 1


not_run.count = 0


def tool(*command):
    """What a program inside an engine's environment says; None where it fails, and why."""
    done = subprocess.run(command, capture_output=True, text=True)
    tool.failure = "".join(done.stderr.splitlines()[-1:])
    return done.stdout if done.returncode == 0 else None


# The servers

class Server:
    """A server on the loopback; its output goes to `log`."""

    def __init__(self, log, port, command, ready, seconds, **environment):
        self.log, self.url = log, f"http://127.0.0.1:{port}"
        with open(log, "w") as out:
            self.process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=out, cwd=log.parent,
                                            start_new_session=True, env={**os.environ, **environment})
        self.ready, self.seconds = ready, seconds

    def __enter__(self):
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask(self.ready)
                return self
            except OSError:
                time.sleep(0.5)
        self.__exit__()
        sys.exit(f"{self.process.args[0]}: does not answer\n{self.log.read_text(errors='replace')[-4000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, path, **body):
        data = json.dumps(body.pop("whole", body)).encode() if body else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def refused(self, path, **body):
        """The status of a request that must not succeed; None where it does."""
        try:
            self.ask(path, **body)
        except urllib.error.HTTPError as error:
            return error.code
        return None


def matrix(steps):
    """[{token: log-probability}] of all tokens, as an array."""
    return np.array([[step[token] for token in range(SIZES["vocab_size"])] for step in steps])


# What PEFT says

def vera_model(base, adapter, weight=1.0):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "vera_lambda_b" in name:
                    parameter.mul_(weight)
    return model.eval()


def expected(model, tokens):
    """Log-probabilities where `tokens` follow the prompt, one row for each."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1:-1]
    return torch.log_softmax(logits.double(), -1).numpy()


def compare(what, said, base, adapter, allowed=ALLOWED, weight=1.0):
    """`said`: tokens, and the log-probabilities at each. Without the adapter they must be far from that."""
    tokens, ours = said
    away = np.abs(ours - expected(vera_model(base, adapter, weight), tokens)).max()
    text = f"{what}: log-probabilities {away:.1e} from PEFT's, of {allowed:.0e} allowed"
    if adapter:
        far = np.abs(ours - expected(vera_model(base, None), tokens)).max()
        claim(f"{text} (from the bare model's {far:.1e})", away <= min(allowed, far / 10))
    else:
        claim(text, away <= allowed)


# Adapters and models

def effects(adapter):
    """{module: diag(b) B diag(d) A} in float64, from what PEFT saved."""
    tensors = {name.removeprefix("base_model."): tensor.double() for name, tensor in
               load_file(adapter / "adapter_model.safetensors").items()}
    a, b = tensors["vera_A"], tensors["vera_B"]
    inputs = {"down_proj": SIZES["intermediate_size"]}
    found = {}
    for name in tensors:
        if name.endswith(".vera_lambda_b"):
            module = name.removeprefix("model.").removesuffix(".vera_lambda_b")
            lambda_b, lambda_d = tensors[name], tensors[name.removesuffix("b") + "d"]
            width = inputs.get(module.rpartition(".")[2], SIZES["hidden_size"])
            found[module] = (lambda_b[:, None] * b[:len(lambda_b)] @ (lambda_d[:, None] * a[:, :width])).numpy()
    return found


def applied(where, name):
    """{module: (W, W')} of vera apply."""
    base, out = FIXTURES / "base" / FIXED[name], where / f"{FIXED[name]}-applied"
    subprocess.run([VERA, "apply", FIXTURES / "adapter" / name, "--base", base, "--out", out, "--force"], check=True,
                   capture_output=True)

    def weights(directory):
        shards = [load_file(path) for path in sorted(directory.glob("*.safetensors"))]
        return {key.removesuffix(".weight"): tensor.double().numpy() for shard in shards for key, tensor in
                shard.items()}

    before, after = weights(base), weights(out)
    return {module: (before[module], after[module]) for module in after}


def compare_factors(what, factors, where, name):
    """Does B A add what the adapter does, and what vera apply adds but for the rounding of W'?"""
    wanted, weights = effects(FIXTURES / "adapter" / name), applied(where, name)
    claim(f"{what}: all of the {len(wanted)} modules", set(factors) == set(wanted))
    worst = rounding = 0
    unit = 2.0 ** -24 if FIXED[name] == "llama" else 2.0 ** -8  # half a unit in the last place, for |W'| in [1, 2)
    for module, effect in wanted.items():
        a, b = factors[module]
        product = b.astype(np.float64) @ a.astype(np.float64)
        worst = max(worst, np.abs(product - effect).max() / np.abs(effect).max())
        before, after = weights[module]
        steps = np.abs(before + product - after) / (unit * np.abs(after) + 1e-6 * np.abs(effect).max())
        rounding = max(rounding, steps.max())
    claim(f"{what}: B A is {worst:.1e} of the largest from diag(b) B diag(d) A", worst <= 1e-6)
    claim(f"{what}: W + B A is what vera apply writes, to {rounding:.2f} of a rounding", rounding <= 1)


def publish(adapter, out, base, name, base_name):
    done = subprocess.run([VERA, "publish", adapter, out, "--name", name, "--base", base, "--base-name", base_name,
                           "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)["name"]


class Small:
    """A random model with heads that the engines' kernels for processors know (32 wide), and adapters for it in a
    directory where engines look them up."""

    def __init__(self, where):
        self.base, self.published, self.adapters = where / "base", where / "published", {}
        sizes = {**SIZES, "hidden_size": 128, "intermediate_size": 352, "head_dim": 32}
        make_base(self.base, LlamaConfig(**sizes))
        self.write_tokenizer()
        self.add(self.adapters, where / "all", ALL_LINEAR)
        self.add(self.adapters, where / "qv", ["q_proj", "v_proj"])

    def add(self, adapters, directory, targets):
        make_adapter(directory, self.base, targets)
        name = publish(directory, self.published, self.base, directory.name, str(self.base))
        adapters[name] = directory

    def write_tokenizer(self):
        """One letter for each of the 256 tokens: servers want to write their answers."""
        words = {chr(0x100 + token): token for token in range(SIZES["vocab_size"])}
        (self.base / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "\u0100"}}))
        (self.base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


# vLLM

def vllm_tool(*arguments):
    return tool(ENGINES / "vllm/bin/python", HERE / "engine_vllm.py", *arguments)


def check_vllm_loader(where):
    for name, base in FIXED.items():
        out = where / f"vllm-{base}.npz"
        lora = export(FIXTURES / "adapter" / name, where / f"vllm-{base}", FIXTURES / "base" / base, "--as", "lora")
        if vllm_tool("load", out, "32", lora, *ALL_LINEAR) is None:
            claim(f"vLLM's loader takes {name}: {tool.failure}", False)
            continue
        found = np.load(out)
        factors = {key.removesuffix("|a"): (found[key], found[key.removesuffix("a") + "b"]) for key in found.files
                   if key.endswith("|a")}
        compare_factors(f"{name} in vLLM's loader", factors, where, name)
        claim(f"vLLM's loader refuses {name} where 16 is the highest rank",
              vllm_tool("load", out, "16", lora, *ALL_LINEAR) is None)


def check_vllm_resolver(small):
    names = list(small.adapters)
    found = vllm_tool("resolve", small.published, small.base, *names, "all", "nobody@0123456789ab").splitlines()
    claim("vLLM's resolver finds each published name, and no other",
          [json.loads(line) for line in found] ==
          [{"name": name, "path": str(small.published / name)} for name in names] + [None, None])
    other = vllm_tool("resolve", small.published, "another/model", *names).splitlines()
    claim("vLLM's resolver leaves them alone where another model is served", other == ["null"] * len(names))


def vllm_says(server, name):
    answer = server.ask("/v1/completions", model=name, prompt=PROMPT, max_tokens=STEPS, temperature=0,
                        logprobs=SIZES["vocab_size"], return_tokens_as_token_ids=True, ignore_eos=True)
    said = answer["choices"][0]["logprobs"]
    number = len("token_id:")
    return ([int(token[number:]) for token in said["tokens"]],
            matrix([{int(token[number:]): value for token, value in step.items()} for step in said["top_logprobs"]]))


def check_vllm_server(where, small):
    """Its resolver asks adapters for what stands behind --model, whatever --served-model-name says."""
    command = [ENGINES / "vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", small.base,
               "--served-model-name", "short", "--enable-lora", "--max-lora-rank", "32", "--max-loras", "2", "--dtype",
               "float32", "--max-model-len", "64", "--max-logprobs", "256", "--enforce-eager", "--host", "127.0.0.1",
               "--port", "18433"]
    with Server(where / "vllm.log", 18433, command, "/health", 600, VLLM_CPU_KVCACHE_SPACE="1",
                VLLM_ALLOW_RUNTIME_LORA_UPDATING="True", VLLM_PLUGINS="lora_filesystem_resolver",
                VLLM_LORA_RESOLVER_CACHE_DIR=str(small.published), VLLM_NO_USAGE_STATS="1") as server:
        adapters = dict(small.adapters)
        small.add(adapters, where / "q", ["q_proj"])  # published while it runs; SGLang loads none of these
        small.add(adapters, where / "ku", ["k_proj", "up_proj"])
        for name, adapter in adapters.items():
            compare(f"vLLM asked for model {name}", vllm_says(server, name), small.base, adapter)
        compare("vLLM asked for the base model", vllm_says(server, "short"), small.base, None)
        name, adapter = next(iter(small.adapters.items()))
        server.ask("/v1/load_lora_adapter", lora_name="by hand", lora_path=str(small.published / name))
        compare("vLLM, loaded by /v1/load_lora_adapter", vllm_says(server, "by hand"), small.base, adapter)
        claim("vLLM has no model of a name that was not published",
              server.refused("/v1/completions", model="qv@0123456789ab", prompt=PROMPT) == 404)


def check_vllm(where, small):
    if not (ENGINES / "vllm/bin/python").exists():
        return not_run("vLLM", "tests/bench/.engines/vllm is not there (setup_engines.sh vllm)")
    check_vllm_loader(where)
    check_vllm_resolver(small)
    return check_vllm_server(where, small)


# SGLang

def sglang_loads(out, lora, base):
    return tool(ENGINES / "sglang/bin/python", HERE / "engine_sglang.py", out, lora, base) is not None


def unstacked(stacked, wanted):
    """SGLang's weights of q, k, v as one, and of gate and up, as {module: (a, b)}."""
    factors = {}
    groups = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    for key in (key for key in stacked if key.endswith("|a")):
        path, _, last = key.removesuffix("|a").rpartition(".")
        parts = groups.get(last, (last,))
        a, b, row = stacked[key], stacked[key.removesuffix("a") + "b"], 0
        rank = len(a) // len(parts)
        for number, part in enumerate(parts):
            rows = len(wanted[f"{path}.{part}"])
            factors[f"{path}.{part}"] = (a[number * rank:(number + 1) * rank], b[row:row + rows])
            row += rows
    return factors


def check_sglang_loader(where):
    for name, base in FIXED.items():
        out = where / f"sglang-{base}.npz"
        lora = export(FIXTURES / "adapter" / name, where / f"sglang-{base}", FIXTURES / "base" / base, "--as", "lora")
        if not sglang_loads(out, lora, FIXTURES / "base" / base):
            claim(f"SGLang's loader takes {name}: {tool.failure}", False)
            continue
        stacked = dict(np.load(out))
        factors = unstacked(stacked, effects(FIXTURES / "adapter" / name))
        compare_factors(f"{name} in SGLang's loader", factors, where, name)


def check_sglang_pairs(where, small):
    """What publish warns of is what SGLang cannot load, and nothing else."""
    for title in ("q_proj", "v_proj", "q_proj-k_proj", "k_proj-v_proj", "up_proj", "q_proj-v_proj", "gate_proj",
                  "o_proj-down_proj"):
        targets = title.split("-")
        make_adapter(where / title, small.base, targets)
        done = subprocess.run([VERA, "publish", where / title, where / "pairs", "--name", title, "--base", small.base,
                               "--json"], capture_output=True, text=True, check=True)
        loads = sglang_loads(where / f"{title}.npz", json.loads(done.stdout)["path"], small.base)
        warns = "SGLang" in done.stderr
        claim(f"SGLang {'loads' if loads else 'cannot load'} {title}, publish {'warns' if warns else 'does not warn'}",
              warns != loads)


def sglang_says(server, name):
    body = {"input_ids": PROMPT, "return_logprob": True, "top_logprobs_num": SIZES["vocab_size"],
            "sampling_params": {"max_new_tokens": STEPS, "temperature": 0, "ignore_eos": True}}
    answer = server.ask("/generate", **body, **({"lora_path": name} if name else {}))
    said = answer["meta_info"]
    return ([token for _, token, _ in said["output_token_logprobs"]],
            matrix([{token: value for value, token, _ in step} for step in said["output_top_logprobs"]]))


def check_sglang_server(where, small):
    (first, adapter), (second, other) = small.adapters.items()
    command = [ENGINES / "sglang/bin/python", "-m", "sglang.launch_server", "--model-path", small.base, "--enable-lora",
               "--lora-paths", f"{first}={small.published / first}", "--max-lora-rank", "32", "--lora-target-modules",
               *ALL_LINEAR, "--device", "cpu", "--dtype", "float32", "--attention-backend", "torch_native",
               "--sampling-backend", "pytorch", "--lora-backend", "torch_native", "--max-total-tokens", "512",
               "--disable-overlap-schedule", "--host", "127.0.0.1", "--port", "18434"]
    with Server(where / "sglang.log", 18434, command, "/health", 600, PYTHONPATH=str(HERE / "unpinned")) as server:
        compare(f"SGLang with {first} from its start", sglang_says(server, first), small.base, adapter)
        server.ask("/load_lora_adapter", lora_name=second, lora_path=str(small.published / second))
        compare(f"SGLang, {second} loaded while it runs", sglang_says(server, second), small.base, other)
        compare("SGLang without an adapter", sglang_says(server, None), small.base, None)


def check_sglang(where, small):
    if not (ENGINES / "sglang/bin/python").exists():
        return not_run("SGLang", "tests/bench/.engines/sglang is not there (setup_engines.sh sglang)")
    check_sglang_loader(where)
    check_sglang_pairs(where, small)
    return check_sglang_server(where, small)


# llama.cpp's server

def llama_says(server, **options):
    answer = server.ask("/completion", prompt=PROMPT, n_predict=STEPS, n_probs=SIZES["vocab_size"], temperature=0,
                        ignore_eos=True, cache_prompt=False, **options)
    steps = answer["completion_probabilities"]
    return ([step["id"] for step in steps],
            matrix([{one["id"]: one["logprob"] for one in step["top_logprobs"]} for step in steps]))


def check_llama_model(where, base, names):
    """One model with all its adapters in one server, told apart by their numbers."""
    model = where / f"{base}.gguf"
    subprocess.run([ENGINES / "llama/bin/python", HERE / "gguf_model.py", FIXTURES / "base" / base, model, "bytes"],
                   check=True)
    adapters = [FIXTURES / "adapter" / name for name in names]
    outs = [export(adapter, where / f"llama-{base}-{number}", FIXTURES / "base" / base, "--as", "gguf")
            for number, adapter in enumerate(adapters)]
    files = [out / "adapter.gguf" for out in outs]
    loras = [word for file in files for word in ("--lora", file)]
    command = [ENGINES / "llama-server", "-m", model, *loras, "-fa", "off", "-ctk", "f32", "-ctv", "f32", "-c", "64",
               "-np", "1", "-t", "1", "--host", "127.0.0.1", "--port", "18435"]
    with Server(where / "llama.log", 18435, command, "/health", 60) as server:
        listed = server.ask("/lora-adapters")
        claim(f"llama-server lists the {len(files)} of {base}",
              [one["path"] for one in listed] == [str(file) for file in files])
        for number, adapter in enumerate(adapters):
            for scale in (1.0, 0.5):
                server.ask("/lora-adapters", whole=[{"id": number, "scale": scale}])
                compare(f"llama-server, {names[number]} at scale {scale}", llama_says(server),
                        FIXTURES / "base" / base, adapter, 1e-4, scale)
        server.ask("/lora-adapters", whole=[{"id": number, "scale": 0.0} for number in range(len(files))])
        compare(f"llama-server, {base} at scale 0", llama_says(server), FIXTURES / "base" / base, None, 1e-4)
        compare(f"llama-server, {names[0]} for one request", llama_says(server, lora=[{"id": 0, "scale": 1.0}]),
                FIXTURES / "base" / base, adapters[0], 1e-4)


def check_llama(where):
    if not (ENGINES / "llama-server").exists():
        return not_run("llama-server", "tests/bench/.engines/llama-server is not there (setup_engines.sh llama-server)")
    check_llama_model(where, "llama", ["llama/step-120", "llama-c/step-040", "llama-perl/step-040"])
    return check_llama_model(where, "llama-half", ["llama-half/step-030"])


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = scratch()
    try:
        small = Small(where)
        check_llama(where)
        check_vllm(where, small)
        check_sglang(where, small)
    finally:
        remove(where)
    print(f"{3 - not_run.count} engines asked, {claim.failed} claims failed")
    sys.exit(claim.failed > 0 or not_run.count == 3)


if __name__ == "__main__":
    main()
