"""What llama.cpp computes: logits of every token, or with --states the last layer's states, as a .npy file.

    .llama/bin/python llama_run.py [--states] MODEL.gguf ADAPTER.gguf|- OUT.npy TOKEN...
"""
import ctypes
import sys

import llama_cpp as c
import numpy as np

FLOAT32 = 0
NO_FLASH_ATTENTION = 0


@c.llama_log_callback
def quiet(level, text, data):
    if level >= 4:  # GGML_LOG_LEVEL_ERROR
        sys.stderr.write(text.decode())


def main(arguments):
    states = arguments[0] == "--states"
    model_path, adapter_path, out, *tokens = arguments[states:]
    c.llama_log_set(quiet, ctypes.c_void_p(0))
    c.llama_backend_init()
    model = c.llama_model_load_from_file(model_path.encode(), c.llama_model_default_params())
    settings = c.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = FLOAT32
    settings.flash_attn_type = NO_FLASH_ATTENTION  # its sums are in half precision
    settings.embeddings = states
    context = c.llama_init_from_model(model, settings)
    if adapter_path != "-":
        adapter = c.llama_adapter_lora_init(model, adapter_path.encode())
        if not adapter:
            sys.exit(f"{adapter_path}: refused")
        adapters = (c.llama_adapter_lora_p_ctypes * 1)(adapter)
        if c.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
            sys.exit(f"{adapter_path}: not set")
    batch = c.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
        batch.seq_id[i][0] = 0
    if c.llama_decode(context, batch) != 0:
        sys.exit("llama_decode failed")
    width = c.llama_model_n_embd(model) if states else c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    row = c.llama_get_embeddings_ith if states else c.llama_get_logits_ith
    np.save(out, np.array([np.ctypeslib.as_array(row(context, i), (width,)).copy() for i in range(len(tokens))]))


main(sys.argv[1:])
