/*
 * A JSON object as a flat list: "a.b.c" and a value's compact text. What says the same is equal,
 * however it is laid out; lists that PEFT keeps as sets (target_modules ...) are sorted.
 */
#ifndef CLI_CONFIG_ENTRIES_H
#define CLI_CONFIG_ENTRIES_H

#include "format/json.h"

struct config_entry {
    char *key;
    struct buf value; /* JSON; an empty object is one value */
};

struct config_entries {
    struct config_entry *entries; /* in byte order of key */
    size_t count, capacity;
};

#define AUTO_CONFIG_ENTRIES(name)                                                                  \
    __attribute__((cleanup(config_entries_release))) struct config_entries name = {0}

/* E_INVALID where it is no JSON object. */
MUST_CHECK int config_entries_read(struct config_entries *out, struct bytes json);
void config_entries_release(struct config_entries *entries);

#endif
