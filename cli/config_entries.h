/* A JSON object as a flat list: "a.b.c", the value, and what it means (format/json_meaning.h). */
#ifndef CLI_CONFIG_ENTRIES_H
#define CLI_CONFIG_ENTRIES_H

#include "format/json.h"

struct config_entry {
    char *key;
    struct buf value;   /* JSON without white space; an empty object is one value */
    struct buf meaning; /* equal where two values say the same */
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
