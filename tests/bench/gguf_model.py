"""Writes a model directory (config.json, safetensors in float32 or bfloat16) as a GGUF that llama.cpp loads, without
its tokenizer: what check_exports.py and check_engines.py lay adapters onto. Names, the order of rows and GPT-2's transposition as in
llama.cpp's conversion/ (llama.py, qwen.py, gpt2.py, bert.py), written down here a second time, independently of apply/.

    .llama/bin/python gguf_model.py MODEL OUT.gguf [bytes]

With `bytes` the 256 tokens are the bytes, which is a tokenizer: llama.cpp's server does not start without one.
"""
import json
import re
import struct
import sys
from pathlib import Path

import gguf
import numpy as np

BLOCK = {
    "llama": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
    "gpt2": {
        "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    "bert": {
        "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"},
}
WHOLE = {
    "llama": {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"},
    "gpt2": {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"},
    "bert": {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
             "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm"},
}
LAYER = {"llama": r"layers\.(\d+)\.(.+)", "gpt2": r"h\.(\d+)\.(.+)", "bert": r"encoder\.layer\.(\d+)\.(.+)"}
HEAD = {"llama": "model.", "gpt2": "transformer.", "bert": "bert."}


def tensors(directory):
    for path in sorted(Path(directory).glob("*.safetensors")):
        data = path.read_bytes()
        begin = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:begin])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            raw = data[begin + entry["data_offsets"][0]:begin + entry["data_offsets"][1]]
            if entry["dtype"] == "F32":
                values = np.frombuffer(raw, np.float32)
            elif entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                continue  # BERT's position_ids
            yield name, values.reshape(entry["shape"])


def permute(weight, heads):
    """conversion/llama.py, LlamaModel.permute."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def rename(family, name):
    """llama.cpp's name; None for what it does not have."""
    module, _, part = name.removeprefix(HEAD[family]).rpartition(".")
    part = {"gamma": "weight", "beta": "bias"}.get(part, part)
    layer = re.fullmatch(LAYER[family], module)
    if layer:
        inner = BLOCK[family].get(layer[2])
        return inner and f"blk.{layer[1]}.{inner}.{part}"
    whole = WHOLE[family].get(module)
    return whole and f"{whole}.{part}"


def settings(writer, config, family):
    get = config.get
    writer.add_block_count(get("num_hidden_layers") or get("n_layer"))
    writer.add_embedding_length(get("hidden_size") or get("n_embd"))
    writer.add_feed_forward_length(get("intermediate_size") or get("n_inner") or 4 * get("n_embd", 0))
    writer.add_head_count(get("num_attention_heads") or get("n_head"))
    writer.add_context_length(get("max_position_embeddings") or get("n_positions"))
    writer.add_vocab_size(config["vocab_size"])
    if family == "llama":
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        size = get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        writer.add_key_length(size)
        writer.add_value_length(size)
        writer.add_rope_dimension_count(size)
        writer.add_rope_freq_base((get("rope_parameters") or {}).get("rope_theta") or get("rope_theta", 10000.0))
    else:
        writer.add_layer_norm_eps(get("layer_norm_epsilon") or get("layer_norm_eps"))
    if family == "bert":
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.NONE)
        writer.add_token_type_count(config["type_vocab_size"])


def tokenizer(writer, is_bytes):
    writer.add_tokenizer_model("llama" if is_bytes else "none")
    if is_bytes:
        writer.add_token_list([f"<0x{value:02X}>" for value in range(256)])
        writer.add_token_scores([0.0] * 256)
        writer.add_token_types([gguf.TokenType.BYTE] * 256)
        writer.add_add_bos_token(False)


def main(directory, out, *options):
    config = json.loads((Path(directory) / "config.json").read_text())
    kind = config["model_type"]
    family = kind if kind in ("gpt2", "bert") else "llama"
    writer = gguf.GGUFWriter(out, {"mistral": "llama"}.get(kind, kind))
    settings(writer, config, family)
    tokenizer(writer, "bytes" in options)
    for name, values in tensors(directory):
        new = rename(family, name)
        if not new:
            continue
        if kind in ("llama", "mistral") and name.endswith("q_proj.weight"):
            values = permute(values, config["num_attention_heads"])
        if kind in ("llama", "mistral") and name.endswith("k_proj.weight"):
            values = permute(values, config["num_key_value_heads"])
        if family == "gpt2" and re.search(r"c_(attn|proj|fc)\.weight$", name):
            values = values.T
        writer.add_tensor(new, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(*sys.argv[1:])
