/* The host's side of a launch: how many tiles, and of which size. */
#include "apply/cuda/kernels.h"

/* Tiles of 128 x 128 that keep the largest device busy twice: 132 processors, two blocks each. */
static const uint64_t LARGE_TILES = 2 * 264;

/* Tiles of all tensors; UINT32_MAX or more where that is too many. */
static uint64_t
tiles_count(struct merge_tensor *tensors, uint32_t count, uint32_t edge, bool assign)
{
    uint64_t tiles = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t down = tensors[i].rows / edge + (tensors[i].rows % edge != 0);
        uint64_t across = tensors[i].cols / edge + (tensors[i].cols % edge != 0);
        uint64_t more;
        if (assign)
            tensors[i].tile_begin = (uint32_t)tiles;
        if (__builtin_mul_overflow(down, across, &more) ||
            __builtin_add_overflow(tiles, more, &tiles))
            return UINT64_MAX;
    }
    return tiles;
}

bool merge_grid_make(struct merge_grid *out, struct merge_tensor *tensors, uint32_t count)
{
    uint32_t edge = 128;

    if (tiles_count(tensors, count, edge, false) < LARGE_TILES)
        edge = 64;
    uint64_t tiles = tiles_count(tensors, count, edge, false);
    if (tiles > INT32_MAX)
        return false;
    tiles_count(tensors, count, edge, true);
    *out = {(uint32_t)tiles, edge};
    return true;
}
