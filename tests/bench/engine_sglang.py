"""What SGLang's own loader makes of a LoRA directory: its weights as they go into its buffers, where q, k and v are one
module, gate and up another. For check_engines.py.

    .engines/sglang/bin/python engine_sglang.py OUT.npz DIR BASE
"""
import sys
import warnings

warnings.simplefilter("ignore")

import numpy as np
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.lora.lora import LoRAAdapter
from sglang.srt.lora.lora_config import LoRAConfig
from sglang.srt.lora.utils import get_normalized_target_modules
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler
from transformers import AutoConfig


def main(out, directory, base):
    set_global_server_args_for_scheduler(ServerArgs(model_path=base, device="cpu"))
    settings = LoRAConfig(directory, base_vocab_size=256)
    targets = get_normalized_target_modules(settings.target_modules)
    adapter = LoRAAdapter("1", settings, AutoConfig.from_pretrained(base), LoadConfig(), lora_backend=None)
    adapter.initialize_weights()
    weights = {}
    for layer in adapter.layers:
        for name, weight in layer.weights.items():
            module, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            if module.rpartition(".")[2] not in targets:
                sys.exit(f"{name}: not in {sorted(targets)}")
            weights[f"{module}|{factor.lower()}"] = weight.float().numpy() * (adapter.scaling if factor == "B" else 1)
    np.savez(out, **weights)


main(*sys.argv[1:])
