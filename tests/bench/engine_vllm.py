"""What vLLM's own loader makes of LoRA directories, and what its resolver finds: for check_engines.py.

    .engines/vllm/bin/python engine_vllm.py load OUT.npz MAX_RANK DIR MODULE...    each module's two factors, as loaded
    .engines/vllm/bin/python engine_vllm.py resolve PUBLISHED BASE NAME...         a line of JSON for each name
"""
import asyncio
import json
import sys

import numpy as np
import torch
from vllm.config.lora import LoRAConfig
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.plugins.lora_resolvers.filesystem_resolver import FilesystemResolver


def load(out, max_rank, directory, *modules):
    helper = PEFTHelper.from_local_dir(directory, max_position_embeddings=128)
    helper.validate_legal(LoRAConfig(max_lora_rank=int(max_rank), lora_dtype=torch.float32))
    loaded = LoRAModel.from_local_checkpoint(directory, set(modules), helper, device="cpu", dtype=torch.float32)
    factors = {}
    for name, lora in loaded.loras.items():
        factors[f"{name}|a"] = lora.lora_a.numpy()
        factors[f"{name}|b"] = lora.lora_b.numpy() * lora.scaling
    np.savez(out, **factors)


def resolve(published, base, *names):
    resolver = FilesystemResolver(published)
    for name in names:
        found = asyncio.run(resolver.resolve_lora(base, name))
        print(json.dumps(found and {"name": found.lora_name, "path": found.lora_path}))


{"load": load, "resolve": resolve}[sys.argv[1]](*sys.argv[2:])
