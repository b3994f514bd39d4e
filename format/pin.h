/*
 * The pin: which base model an adapter was made for, proved by digests. No part of a snapshot's
 * identity.
 *
 *   verastore pin 1\n
 *   name <text>\n                         adapter_config.json's; line missing where null
 *   revision <text>\n                     likewise
 *   module <dtype> <rows>x<columns> <sha256> <name>\n   in byte order of name; the tensor as the
 * base stores it
 *
 * Module names are the adapter's, so the bare and the head checkpoint of one model pin alike.
 * Canonical as the manifest is. A Conv1D weight is [in, out] as stored.
 */
#ifndef FORMAT_PIN_H
#define FORMAT_PIN_H

#include "format/digest.h"
#include "format/dtype.h"

struct pin_module {
    char *name;
    enum dtype dtype;
    uint64_t rows, columns;
    struct digest digest; /* of the tensor's bytes */
};

struct pin {
    char *name;                 /* NULL where not known */
    char *revision;             /* NULL where not known */
    struct pin_module *modules; /* in byte order of name, owned */
    size_t count;
};

#define AUTO_PIN(name) __attribute__((cleanup(pin_release))) struct pin name = {0}

/* Modules in any order. E_INVALID for a name with control characters or one that appears twice. */
MUST_CHECK int pin_encode(struct buf *out, const struct pin *pin);
MUST_CHECK int pin_decode(struct pin *out, struct bytes text);
void pin_release(struct pin *pin);
const struct pin_module *pin_find(const struct pin *pin, const char *name);

#endif
