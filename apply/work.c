/* The work of writing a merged model, in pieces. See work.h. */
#include "apply/work.h"

#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

#define COPY_BYTES (4 * MIB) /* of a range that stays */

/* A core does some 64 fused multiply-adds in the time in which a byte is read and written. */
#define FMAS_PER_BYTE 64

static uint64_t sum(uint64_t a, uint64_t b)
{
    uint64_t result;

    return __builtin_add_overflow(a, b, &result) ? UINT64_MAX : result;
}

static uint64_t product(uint64_t a, uint64_t b)
{
    uint64_t result;

    return __builtin_mul_overflow(a, b, &result) ? UINT64_MAX : result;
}

/* In bytes that are copied: reading and writing, and for each value a chain as long as the ranks.
 */
static uint64_t rewrite_cost(const struct rewrites *all, const struct rewrite *rewrite)
{
    const struct tensor *tensor = rewrite->base.tensor;
    uint64_t rank = 0;

    for (size_t i = 0; i < rewrite->part_count; i++) {
        const struct rewrite_part *part = &rewrite->parts[i];
        rank = sum(rank, part->target ? all->basis[part->input]->rank : 0);
    }
    uint64_t fmas = product(tensor_values(tensor), rank);
    return sum(tensor_bytes(tensor), fmas / FMAS_PER_BYTE);
}

static void piece_add(struct work *work, struct piece piece, uint64_t cost)
{
    piece.middle = sum(work->total, cost / 2);
    work->total = sum(work->total, cost);
    work->pieces[work->count++] = piece;
}

static void range_add(struct work *work, size_t shard, uint64_t begin, uint64_t end)
{
    while (begin < end) {
        uint64_t len = end - begin < COPY_BYTES ? end - begin : COPY_BYTES;
        piece_add(work, (struct piece){begin, begin + len, shard, PIECE_STAYS, 0}, len);
        begin += len;
    }
}

static void shard_add(struct work *work, size_t number)
{
    const struct rewrites *all = work->rewrites;
    const struct shard *shard = &all->model->shards[number];
    uint64_t done = shard->header.len;
    size_t begin, end;

    piece_add(work, (struct piece){0, done, number, PIECE_HEADER, 0}, done);
    rewrites_of_shard(&begin, &end, all, number);
    for (size_t i = begin; i < end; i++) {
        const struct tensor *tensor = all->tensors[i].base.tensor;
        uint64_t from = shard->header.len + tensor->begin, to = shard->header.len + tensor->end;
        range_add(work, number, done, from);
        piece_add(
            work, (struct piece){from, to, number, i, 0}, rewrite_cost(all, &all->tensors[i])
        );
        done = to;
    }
    range_add(work, number, done, shard->bytes);
}

static void added_add(struct work *work)
{
    const struct rewrites *all = work->rewrites;
    size_t shard = all->model->shard_count;
    uint64_t at = work->output->header.len;

    if (all->added_count == 0)
        return;
    piece_add(work, (struct piece){0, at, shard, PIECE_HEADER, 0}, at);
    for (size_t i = 0; i < all->added_count; i++) {
        uint64_t len = all->added[i].data.len;
        piece_add(work, (struct piece){at, at + len, shard, i, 0}, len);
        at += len;
    }
}

int work_init(struct work *out, const struct rewrites *rewrites, const struct output *output)
{
    const struct model *model = rewrites->model;
    size_t room = 2 * rewrites->count + rewrites->added_count + 1;

    for (size_t i = 0; i < model->shard_count; i++)
        room += 2 + (size_t)(model->shards[i].bytes / COPY_BYTES);
    *out = (struct work){.rewrites = rewrites, .output = output};
    if (!(out->pieces = array_new(room, sizeof(*out->pieces))))
        return error_wrap(E_NOMEM, "%s", model->dir);
    for (size_t i = 0; i < model->shard_count; i++)
        shard_add(out, i);
    added_add(out);
    return 0;
}

void work_release(struct work *work)
{
    free(work->pieces);
    *work = (struct work){0};
}

/* The first piece behind the first `part` of `parts` shares of the work. */
static size_t share_end(const struct work *work, uint64_t part, uint64_t parts)
{
    uint64_t cut = work->total / parts * part + work->total % parts * part / parts;
    size_t begin = 0, end = work->count;

    if (part == parts)
        return work->count;
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        if (work->pieces[middle].middle < cut)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

void work_share(size_t *begin, size_t *end, const struct work *work, uint64_t part, uint64_t parts)
{
    *begin = part == 1 ? 0 : share_end(work, part - 1, parts);
    *end = share_end(work, part, parts);
}

size_t work_shard_end(const struct work *work, size_t begin, size_t end)
{
    size_t at = begin;

    while (at < end && work->pieces[at].shard == work->pieces[begin].shard)
        at++;
    return at;
}

uint64_t work_bytes(const struct work *work, size_t begin, size_t end)
{
    uint64_t bytes = 0;

    for (size_t i = begin; i < end; i++)
        bytes += work->pieces[i].end - work->pieces[i].begin;
    return bytes;
}

void work_count(struct apply_result *out, const struct work *work, size_t begin, size_t end)
{
    const struct rewrites *all = work->rewrites;

    for (size_t i = begin; i < end; i++) {
        const struct piece *piece = &work->pieces[i];
        if (piece->number >= PIECE_HEADER)
            continue;
        if (piece->shard == all->model->shard_count) {
            out->tensors_added++;
            continue;
        }
        const struct rewrite *rewrite = &all->tensors[piece->number];
        out->tensors_rewritten++;
        for (size_t k = 0; k < rewrite->part_count; k++)
            out->matched += rewrite->parts[k].target != NULL;
    }
}

int work_digest(struct digest *out, const struct work *work, uint64_t parts)
{
    AUTO_HASH(hash);
    int err = hash_init(&hash);

    for (uint64_t part = 1; err == 0 && part <= parts; part++) {
        size_t begin, end;
        work_share(&begin, &end, work, part, parts);
        for (size_t i = begin; err == 0 && i < end; i++) {
            const struct piece *piece = &work->pieces[i];
            const uint64_t line[] = {
                part, piece->shard, piece->begin, piece->end, (uint64_t)piece->number};
            err = hash_update(&hash, line, sizeof(line));
        }
    }
    return err < 0 ? err : hash_final(out, &hash);
}
