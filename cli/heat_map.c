/* Modules as a map. See heat_map.h. */
#include "cli/heat_map.h"

#include <stdlib.h>
#include <string.h>

/* Is the component that begins at `at` a number, and is there another one behind it? */
static bool is_layer(size_t *length, const char *at)
{
    *length = strspn(at, "0123456789");
    return *length && at[*length] == '.' && at[*length + 1];
}

static bool take_apart(struct heat_cell *out, const char *name)
{
    const char *at = name;
    size_t length;

    while (!is_layer(&length, at)) {
        if (!(at = strchr(at, '.')))
            return false;
        at++;
    }
    size_t stack = at > name ? (size_t)(at - name) - 1 : 0;
    out->stack = (struct bytes){(const uint8_t *)name, stack};
    out->layer = (struct bytes){(const uint8_t *)at, length};
    out->type = text_bytes(at + length + 1);
    return true;
}

static int bytes_order(struct bytes a, struct bytes b)
{
    size_t common = a.len < b.len ? a.len : b.len;
    int order = common ? memcmp(a.data, b.data, common) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static struct bytes without_zeros(struct bytes number)
{
    while (number.len > 1 && number.data[0] == '0') {
        number.data++;
        number.len--;
    }
    return number;
}

/* As numbers of any length; "07" follows "7". */
static int layer_order(struct bytes a, struct bytes b)
{
    struct bytes x = without_zeros(a), y = without_zeros(b);

    if (x.len != y.len)
        return x.len < y.len ? -1 : 1;
    int order = bytes_order(x, y);
    return order ? order : bytes_order(a, b);
}

static int row_order(const struct heat_cell *a, const struct heat_cell *b)
{
    int order = bytes_order(a->stack, b->stack);

    return order ? order : layer_order(a->layer, b->layer);
}

static int cell_order(const void *a, const void *b)
{
    const struct heat_cell *left = a, *right = b;
    int order = row_order(left, right);

    return order ? order : (left->column > right->column) - (left->column < right->column);
}

static int type_order(const void *a, const void *b)
{
    const struct heat_cell *left = a, *right = b;

    return bytes_order(left->type, right->type);
}

bool heat_cell_same_row(const struct heat_cell *a, const struct heat_cell *b)
{
    return row_order(a, b) == 0;
}

static void columns_find(struct heat_map *map)
{
    if (map->cell_count)
        qsort(map->cells, map->cell_count, sizeof(*map->cells), type_order);
    for (size_t i = 0; i < map->cell_count; i++) {
        if (i == 0 || !bytes_equal(map->cells[i].type, map->cells[i - 1].type))
            map->types[map->type_count++] = map->cells[i].type;
        map->cells[i].column = map->type_count - 1;
    }
    if (map->cell_count)
        qsort(map->cells, map->cell_count, sizeof(*map->cells), cell_order);
}

int heat_map_init(struct heat_map *out, const char *const *names, size_t count)
{
    AUTO_HEAT_MAP(map);

    if (!(map.cells = array_new(count, sizeof(*map.cells))) ||
        !(map.types = array_new(count, sizeof(*map.types))) ||
        !(map.others = array_new(count, sizeof(*map.others))))
        return error_wrap(E_NOMEM, "heat map");
    for (size_t i = 0; i < count; i++) {
        struct heat_cell cell = {.module = i};
        if (take_apart(&cell, names[i]))
            map.cells[map.cell_count++] = cell;
        else
            map.others[map.other_count++] = i;
    }
    columns_find(&map);
    *out = map;
    map = (struct heat_map){0};
    return 0;
}

void heat_map_release(struct heat_map *map)
{
    free(map->cells);
    free(map->types);
    free(map->others);
    *map = (struct heat_map){0};
}
