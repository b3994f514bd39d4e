/* See engines.h. */
#include "cli/engines.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define VLLM_RANK_MAX 512 /* vllm/config/lora.py, MaxLoRARanks */

/* SGLang joins q, k and v to one weight as it loads them, and gate and up to another; it makes up
   a k or an up that is not there, and fails where one of these is
   (sglang/srt/lora/lora.py: normalize_qkv_proj, normalize_gate_up_proj). */
static const struct pair {
    const char *part, *needs;
} pairs[] = {
    {"k_proj", "q_proj"},
    {"q_proj", "v_proj"},
    {"up_proj", "gate_proj"},
    {"v_proj", "q_proj"},
};

#define PAIR_COUNT (sizeof(pairs) / sizeof(pairs[0]))

/* Names one after the other, as if they were one. */
struct place {
    const char *layer; /* with its last dot */
    size_t layer_len;
    const char *part;
};

static int place_order(const void *key, const void *element)
{
    const struct place *place = key;
    const char *name = ((const struct adapter_module *)element)->name;
    int order = strncmp(place->layer, name, place->layer_len);

    return order != 0 ? order : strcmp(place->part, name + place->layer_len);
}

/* Is this module a `part` that lacks what it needs beside it? */
static bool is_alone(const struct adapter *adapter, const char *name, const struct pair *pair)
{
    const char *dot = strrchr(name, '.');
    size_t len = dot ? (size_t)(dot + 1 - name) : 0;

    if (strcmp(name + len, pair->part) != 0)
        return false;
    struct place place = {.layer = name, .layer_len = len, .part = pair->needs};
    return !bsearch(
        &place, adapter->modules, adapter->module_count, sizeof(*adapter->modules), place_order
    );
}

static void pair_warn(const struct adapter *adapter, const struct pair *pair)
{
    const char *first = NULL;
    size_t count = 0;

    for (size_t i = 0; i < adapter->module_count; i++) {
        const char *name = adapter->modules[i].name;
        if (!is_alone(adapter, name, pair))
            continue;
        first = first ? first : name;
        count++;
    }
    if (count)
        cli_note(
            "vera: warning: SGLang loads %s only beside %s of the same layer, which %zu %s (%s)",
            pair->part, pair->needs, count, count == 1 ? "module lacks" : "modules lack", first
        );
}

void engines_warn(const struct adapter *adapter)
{
    if (adapter->config.rank > VLLM_RANK_MAX)
        cli_note(
            "vera: warning: vLLM takes LoRA up to rank %d, this one has %" PRIu64, VLLM_RANK_MAX,
            adapter->config.rank
        );
    for (size_t i = 0; i < PAIR_COUNT; i++)
        pair_warn(adapter, &pairs[i]);
}
