/*
 * Modules as a map: a row for each layer, a column for each type of module. Names are taken apart
 * at their first component that is a number and not the last: of
 * "model.layers.0.self_attn.q_proj", "model.layers" is the stack, "0" the layer, "self_attn.q_proj"
 * the type. A name without one ("lm_head", "classifier.0") belongs to no layer.
 */
#ifndef CLI_HEAT_MAP_H
#define CLI_HEAT_MAP_H

#include "format/buf.h"

struct heat_cell {
    size_t module; /* its place among the names */
    struct bytes stack, layer, type;
    size_t column; /* the place of `type` among the types */
};

struct heat_map {
    struct heat_cell *cells; /* by stack, layer (as a number), column */
    size_t cell_count;
    struct bytes *types; /* in byte order */
    size_t type_count;
    size_t *others; /* modules without a layer, as they came */
    size_t other_count;
};

#define AUTO_HEAT_MAP(name) __attribute__((cleanup(heat_map_release))) struct heat_map name = {0}

/* Borrows the names, which are all different. E_NOMEM. */
MUST_CHECK int heat_map_init(struct heat_map *out, const char *const *names, size_t count);
void heat_map_release(struct heat_map *map);

bool heat_cell_same_row(const struct heat_cell *a, const struct heat_cell *b);

#endif
