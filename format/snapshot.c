/*
 * A PEFT directory taken apart, and put together again. See snapshot.h.
 *
 * adapter_model.safetensors = layout (its header, verbatim) + its tensors' bytes. A and B come from
 * the recipe or are kept; everything else is the payload, in file order, so the file is at most six
 * pieces one after the other: layout, payload, A or B, payload, B or A, payload. Encoding ends with
 * the way back: the pieces are compared with what came in (P1).
 */
#include "format/snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "format/crew.h"
#include "format/interrupt.h"
#include "format/limits.h"

#define LARGE_FILE MIB /* a model file from here on is worth a second thread */

/* Files */

int adapter_files_add(struct adapter_files *files, const char *path, struct buf *data)
{
    /* The list doubles whenever its length is a power of two. */
    if ((files->count & (files->count - 1)) == 0) {
        size_t bytes, room = files->count ? files->count * 2 : 1;
        struct adapter_file *grown = NULL;
        if (!__builtin_mul_overflow(room, sizeof(*grown), &bytes))
            grown = realloc(files->files, bytes);
        if (!grown)
            return error_set(E_NOMEM, "out of memory for %zu files", room);
        files->files = grown;
    }
    char *name = bytes_dup(text_bytes(path));
    if (!name)
        return error_wrap(E_NOMEM, "%s", path);
    files->files[files->count++] = (struct adapter_file){name, buf_take(data)};
    return 0;
}

const struct adapter_file *adapter_files_find(const struct adapter_files *files, const char *path)
{
    for (size_t i = 0; i < files->count; i++) {
        if (strcmp(files->files[i].path, path) == 0)
            return &files->files[i];
    }
    return NULL;
}

static void files_release(struct adapter_file *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(files[i].path);
        buf_release(&files[i].data);
    }
    free(files);
}

void adapter_files_release(struct adapter_files *files)
{
    files_release(files->files, files->count);
    for (size_t i = 0; i < files->left_out_count; i++)
        free(files->left_out[i]);
    free(files->left_out);
    *files = (struct adapter_files){0};
}

static int file_compare(const void *a, const void *b)
{
    return strcmp(((const struct adapter_file *)a)->path, ((const struct adapter_file *)b)->path);
}

void base_facts_release(struct base_facts *facts)
{
    pin_release(&facts->pin);
    buf_release(&facts->config);
    *facts = (struct base_facts){0};
}

void snapshot_release(struct snapshot *snapshot)
{
    files_release(snapshot->files, snapshot->file_count);
    buf_release(&snapshot->manifest);
    buf_release(&snapshot->config);
    buf_release(&snapshot->layout);
    buf_release(&snapshot->recipe);
    buf_release(&snapshot->payload);
    buf_release(&snapshot->a);
    buf_release(&snapshot->b);
    buf_release(&snapshot->pin);
    buf_release(&snapshot->model_config);
    *snapshot = (struct snapshot){0};
}

/* The model file in pieces */

#define PIECES 6

/* `layout`, then the data with `payload`, `a` and `b` where the tensors lie. Empty pieces are
   skipped by whoever goes through them. */
static void pieces_set(
    struct bytes out[PIECES],
    const struct adapter *adapter,
    struct bytes layout,
    struct bytes payload,
    struct bytes a,
    struct bytes b
)
{
    for (size_t i = 0; i < PIECES; i++)
        out[i] = (struct bytes){0};
    out[0] = layout;
    out[1] = payload;
    if (!adapter->a)
        return;
    bool a_first = adapter->a->begin <= adapter->basis_b->begin;
    const struct tensor *first = a_first ? adapter->a : adapter->basis_b;
    const struct tensor *second = a_first ? adapter->basis_b : adapter->a;
    size_t before = (size_t)first->begin, between = (size_t)(second->begin - first->end);
    const uint8_t *from = payload.data;
    out[1] = (struct bytes){from, before};
    out[2] = a_first ? a : b;
    out[3] = (struct bytes){from ? from + before : NULL, between};
    out[4] = a_first ? b : a;
    out[5] = (struct bytes){from ? from + before + between : NULL, payload.len - before - between};
}

static int pieces_join(struct buf *out, const struct bytes pieces[PIECES], uint64_t bytes)
{
    AUTO_BUF(joined);

    int err = buf_reserve(&joined, (size_t)bytes);
    for (size_t i = 0; err == 0 && i < PIECES; i++)
        err = buf_append(&joined, pieces[i].data, pieces[i].len);
    if (err == 0)
        *out = buf_take(&joined);
    return err;
}

static int pieces_digest(struct digest *out, const struct bytes pieces[PIECES])
{
    AUTO_HASH(hash);

    int err = hash_init(&hash);
    for (size_t i = 0; err == 0 && i < PIECES; i++)
        err = hash_update(&hash, pieces[i].data, pieces[i].len);
    return err < 0 ? err : hash_final(out, &hash);
}

/* Taking apart */

static struct bytes slice(struct bytes whole, uint64_t begin, uint64_t end)
{
    return (struct bytes){whole.data + begin, (size_t)(end - begin)};
}

static int buf_copy(struct buf *out, struct bytes data)
{
    AUTO_BUF(copy);

    int err = buf_reserve(&copy, data.len);
    if (err == 0 && (err = buf_append(&copy, data.data, data.len)) == 0)
        *out = buf_take(&copy);
    return err;
}

static int manifest_make(struct snapshot *snapshot, const struct adapter_files *files)
{
    AUTO_FREE(struct manifest_file, lines);
    int err;

    lines = array_new(files->count, sizeof(*lines));
    if (!lines)
        return error_wrap(E_NOMEM, "manifest");
    for (size_t i = 0; i < files->count; i++) {
        struct adapter_file *file = &files->files[i];
        lines[i].path = file->path;
        lines[i].bytes = file->data.len;
        if ((err = content_check(file->path, buf_bytes(&file->data))) < 0 ||
            (err = digest_of(&lines[i].digest, buf_bytes(&file->data))) < 0 ||
            (err = interrupt_check()) < 0)
            return err;
    }
    struct manifest manifest = {lines, files->count};
    if ((err = manifest_encode(&snapshot->manifest, &manifest)) < 0)
        return err;
    return digest_of(&snapshot->id, buf_bytes(&snapshot->manifest));
}

/* All tensors but A and B, in file order. */
static int payload_make(struct buf *out, const struct adapter *adapter, struct bytes data)
{
    const struct tensor *cuts[2] = {adapter->a, adapter->basis_b};
    AUTO_BUF(payload);
    uint64_t at = 0;
    int err = buf_reserve(&payload, (size_t)adapter->payload_bytes);

    if (err < 0)
        return err;
    if (cuts[0] && cuts[1]->begin < cuts[0]->begin) {
        cuts[0] = adapter->basis_b;
        cuts[1] = adapter->a;
    }
    for (size_t i = 0; cuts[0] && i < 2; i++) {
        struct bytes part = slice(data, at, cuts[i]->begin);
        if ((err = buf_append(&payload, part.data, part.len)) < 0)
            return err;
        at = cuts[i]->end;
    }
    if ((err = buf_append(&payload, data.data + at, data.len - at)) == 0)
        *out = buf_take(&payload);
    return err;
}

/* Try to prove A and B; keep them where that fails (P2). */
static int basis_take(
    struct snapshot *snapshot,
    struct recipe *recipe,
    const struct adapter *adapter,
    struct bytes a,
    struct bytes b
)
{
    uint64_t a_values, b_values;
    bool proved = false;
    int err;

    recipe->has_matrices = true;
    recipe->rank = adapter->config.rank;
    recipe->in = adapter->a->shape[1];
    recipe->out = adapter->basis_b->shape[0];
    recipe->dtype_a = adapter->a->dtype;
    recipe->dtype_b = adapter->basis_b->dtype;
    if ((err = basis_values(&a_values, &b_values, recipe->rank, recipe->in, recipe->out)) < 0 ||
        (err = digest_of(&recipe->sha256_a, a)) < 0 || (err = digest_of(&recipe->sha256_b, b)) < 0)
        return err;
    if (recipe->has_seed) {
        recipe->has_variant = true;
        struct basis_recipe drawn = recipe_basis(recipe);
        err = basis_prove(&proved, &drawn, a, recipe->dtype_a, b, recipe->dtype_b);
        if (err < 0)
            return err;
        recipe->variant = drawn.variant;
        recipe->rounding = drawn.rounding;
    }
    recipe->has_variant = proved;
    recipe->state = proved ? BASIS_PROVED : BASIS_STORED;
    if (proved)
        return 0;
    err = buf_copy(&snapshot->a, a);
    return err < 0 ? err : buf_copy(&snapshot->b, b);
}

static int recipe_make(
    struct snapshot *snapshot,
    const struct adapter *adapter,
    struct bytes data,
    const struct base_facts *base
)
{
    struct recipe recipe = {
        .payload_bytes = adapter->payload_bytes,
        .state = BASIS_DECLARED,
        .has_seed = adapter->config.has_seed,
        .seed = adapter->config.seed,
    };

    int err = digest_of(&recipe.payload, buf_bytes(&snapshot->payload));
    if (err == 0 && adapter->a)
        err = basis_take(
            snapshot, &recipe, adapter, slice(data, adapter->a->begin, adapter->a->end),
            slice(data, adapter->basis_b->begin, adapter->basis_b->end)
        );
    else if (err == 0 && base && recipe.has_seed && dtype_is_applicable(base->dtype))
        err = recipe_set_base(&recipe, adapter, base);
    return err < 0 ? err : recipe_encode(&snapshot->recipe, &recipe);
}

static int other_files_make(struct snapshot *snapshot, const struct adapter_files *files)
{
    struct adapter_file *others = array_new(files->count, sizeof(*others));
    int err = 0;

    if (!others)
        return error_wrap(E_NOMEM, "files");
    snapshot->files = others;
    for (size_t i = 0; err == 0 && i < files->count; i++) {
        const struct adapter_file *file = &files->files[i];
        if (strcmp(file->path, PEFT_CONFIG) == 0 || strcmp(file->path, PEFT_MODEL) == 0)
            continue;
        struct adapter_file *copy = &others[snapshot->file_count];
        if ((err = buf_copy(&copy->data, buf_bytes(&file->data))) < 0)
            continue;
        snapshot->file_count++;
        if (!(copy->path = bytes_dup(text_bytes(file->path))))
            err = error_wrap(E_NOMEM, "files");
    }
    if (err == 0)
        qsort(others, snapshot->file_count, sizeof(*others), file_compare);
    return err;
}

static int base_take(struct snapshot *snapshot, const struct base_facts *base)
{
    int err = pin_encode(&snapshot->pin, &base->pin);

    return err < 0 ? err : buf_copy(&snapshot->model_config, buf_bytes(&base->config));
}

/* The two halves that hash the whole model file, at the same time where that takes long. */

enum { MANIFEST, PAYLOAD, HALVES };

struct taking {
    struct snapshot *snapshot;
    const struct adapter_files *files;
    const struct adapter *adapter;
    struct bytes data; /* of the model file, behind its header */
    const struct base_facts *base;
};

static int half_make(void *context, unsigned member, size_t half)
{
    const struct taking *taking = context;
    struct snapshot *snapshot = taking->snapshot;

    (void)member;
    if (half == MANIFEST)
        return manifest_make(snapshot, taking->files);
    int err = payload_make(&snapshot->payload, taking->adapter, taking->data);
    return err < 0 ? err : recipe_make(snapshot, taking->adapter, taking->data, taking->base);
}

static int parts_make(
    struct snapshot *snapshot,
    const struct adapter_files *files,
    struct bytes config,
    struct bytes model,
    const struct base_facts *base
)
{
    AUTO_ADAPTER(adapter);
    uint64_t header = 0;
    int err;

    if ((err = safetensors_header_size(&header, model, model.len)) < 0)
        return error_wrap(err, "%s", PEFT_MODEL);
    struct bytes layout = slice(model, 0, header), data = slice(model, header, model.len);
    struct taking taking = {snapshot, files, &adapter, data, base};
    unsigned members = model.len < LARGE_FILE ? 1 : crew_size(HALVES);
    if ((err = adapter_decode(&adapter, config, layout, model.len)) < 0 ||
        (err = crew_run(half_make, &taking, HALVES, members)) < 0 ||
        (err = buf_copy(&snapshot->config, config)) < 0 ||
        (err = buf_copy(&snapshot->layout, layout)) < 0 ||
        (err = other_files_make(snapshot, files)) < 0)
        return err;
    return base ? base_take(snapshot, base) : 0;
}

/* Putting together */

/* The stored part that holds this file's bytes, NULL where none does. */
static const struct buf *stored_file(const struct snapshot *snapshot, const char *path)
{
    if (strcmp(path, PEFT_CONFIG) == 0)
        return &snapshot->config;
    for (size_t low = 0, high = snapshot->file_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(path, snapshot->files[middle].path);
        if (order == 0)
            return &snapshot->files[middle].data;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* As many files as the manifest has: config, model and the others, each once. */
static int files_count_check(const struct manifest *manifest, const struct snapshot *snapshot)
{
    if (manifest->count != snapshot->file_count + 2)
        return error_set(
            E_CORRUPT, "snapshot: the manifest has %zu files, %zu are stored", manifest->count,
            snapshot->file_count + 2
        );
    for (size_t i = 1; i < snapshot->file_count; i++) {
        if (file_compare(&snapshot->files[i - 1], &snapshot->files[i]) >= 0)
            return error_set(E_CORRUPT, "snapshot: its files are not in byte order");
    }
    return 0;
}

static int file_check(const struct manifest_file *file, struct bytes data)
{
    struct digest digest;

    int err = digest_of(&digest, data);
    if (err < 0)
        return err;
    if (data.len != file->bytes || !digest_equal(&digest, &file->digest))
        return error_set(E_CORRUPT, "%s: its SHA-256 is not the manifest's", file->path);
    return 0;
}

static int part_check(const char *name, const struct buf *part, const struct digest *wanted)
{
    struct digest digest;

    int err = digest_of(&digest, buf_bytes(part));
    if (err < 0 || digest_equal(&digest, wanted))
        return err;
    return error_set(E_CORRUPT, "%s: its SHA-256 is not the one that was recorded", name);
}

/* The bytes of A and B: drawn into the two buffers, or the stored ones. */
static int matrices_get(
    struct bytes *a,
    struct bytes *b,
    struct buf *drawn_a,
    struct buf *drawn_b,
    const struct loaded_adapter *loaded
)
{
    *a = buf_bytes(&loaded->snapshot->a);
    *b = buf_bytes(&loaded->snapshot->b);
    if (loaded->recipe.state != BASIS_PROVED)
        return 0;
    const struct recipe *recipe = &loaded->recipe;
    struct basis_recipe drawn = recipe_basis(recipe);
    int err = basis_encode(drawn_a, drawn_b, &drawn, recipe->dtype_a, recipe->dtype_b);
    if (err < 0 || (err = part_check("basis A", drawn_a, &recipe->sha256_a)) < 0 ||
        (err = part_check("basis B", drawn_b, &recipe->sha256_b)) < 0)
        return err;
    *a = buf_bytes(drawn_a);
    *b = buf_bytes(drawn_b);
    return 0;
}

static int model_restore(struct buf *out, const struct loaded_adapter *loaded)
{
    const struct adapter *adapter = &loaded->adapter;
    AUTO_BUF(drawn_a);
    AUTO_BUF(drawn_b);
    struct bytes a, b, pieces[PIECES];

    int err = matrices_get(&a, &b, &drawn_a, &drawn_b, loaded);
    if (err < 0)
        return err;
    struct bytes layout = buf_bytes(&loaded->snapshot->layout);
    pieces_set(pieces, adapter, layout, buf_bytes(&loaded->snapshot->payload), a, b);
    return pieces_join(out, pieces, adapter->layout.header_bytes + adapter->layout.data_bytes);
}

static int file_restore(
    struct adapter_files *files,
    const struct manifest_file *file,
    const struct loaded_adapter *loaded
)
{
    AUTO_BUF(data);
    int err;

    if (strcmp(file->path, PEFT_MODEL) == 0) {
        err = model_restore(&data, loaded);
    } else {
        const struct buf *stored = stored_file(loaded->snapshot, file->path);
        if (!stored)
            return error_set(E_CORRUPT, "%s: the manifest has it, it is not stored", file->path);
        err = buf_copy(&data, buf_bytes(stored));
    }
    if (err < 0 || (err = file_check(file, buf_bytes(&data))) < 0)
        return err;
    return adapter_files_add(files, file->path, &data);
}

int snapshot_restore(struct adapter_files *out, const struct snapshot *snapshot)
{
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_MANIFEST(manifest);
    AUTO_ADAPTER_FILES(files);
    int err;

    if ((err = adapter_load(&loaded, snapshot)) < 0 ||
        (err = manifest_decode(&manifest, buf_bytes(&snapshot->manifest))) < 0 ||
        (err = files_count_check(&manifest, snapshot)) < 0)
        return err;
    for (size_t i = 0; i < manifest.count; i++) {
        if ((err = file_restore(&files, &manifest.files[i], &loaded)) < 0 ||
            (err = interrupt_check()) < 0)
            return err;
    }
    *out = files;
    files = (struct adapter_files){0};
    return 0;
}

int snapshot_restore_model(struct buf *out, const struct snapshot *snapshot)
{
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_MANIFEST(manifest);
    AUTO_BUF(data);
    int err;

    if ((err = adapter_load(&loaded, snapshot)) < 0 ||
        (err = manifest_decode(&manifest, buf_bytes(&snapshot->manifest))) < 0 ||
        (err = model_restore(&data, &loaded)) < 0 ||
        (err = file_check(manifest_find(&manifest, PEFT_MODEL), buf_bytes(&data))) < 0)
        return err;
    *out = buf_take(&data);
    return 0;
}

/* The way back, before the way out is over */

static int model_equal(bool *equal, const struct loaded_adapter *loaded, struct bytes data)
{
    AUTO_BUF(drawn_a);
    AUTO_BUF(drawn_b);
    struct bytes a, b, pieces[PIECES];
    size_t at = 0;

    int err = matrices_get(&a, &b, &drawn_a, &drawn_b, loaded);
    if (err < 0)
        return err;
    struct bytes payload = buf_bytes(&loaded->snapshot->payload);
    pieces_set(pieces, &loaded->adapter, buf_bytes(&loaded->snapshot->layout), payload, a, b);
    *equal = true;
    for (size_t i = 0; *equal && i < PIECES; i++) {
        *equal = pieces[i].len <= data.len - at &&
                 bytes_equal(pieces[i], slice(data, at, at + pieces[i].len));
        at += pieces[i].len;
    }
    *equal = *equal && at == data.len;
    return 0;
}

/* P1: what comes out is what came in. The manifest's digests are of what came in, so equal bytes
   need no digests of their own. */
static int round_trip_check(const struct snapshot *snapshot, const struct adapter_files *files)
{
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_MANIFEST(manifest);
    int err;

    if ((err = adapter_load(&loaded, snapshot)) < 0 ||
        (err = manifest_decode(&manifest, buf_bytes(&snapshot->manifest))) < 0 ||
        (err = files_count_check(&manifest, snapshot)) < 0)
        return err;
    bool equal = manifest.count == files->count;
    for (size_t i = 0; equal && i < files->count; i++) {
        const struct adapter_file *file = &files->files[i];
        const struct buf *stored = stored_file(snapshot, file->path);
        if (strcmp(file->path, PEFT_MODEL) == 0)
            err = model_equal(&equal, &loaded, buf_bytes(&file->data));
        else
            equal = stored && bytes_equal(buf_bytes(stored), buf_bytes(&file->data));
        equal = equal && manifest_find(&manifest, file->path);
        if (err < 0 || (err = interrupt_check()) < 0)
            return err;
    }
    return equal ? 0 : error_set(E_CORRUPT, "snapshot: the parts do not give back what was read");
}

static const struct buf *file_data(const struct adapter_files *files, const char *path)
{
    const struct adapter_file *file = adapter_files_find(files, path);

    return file ? &file->data : NULL;
}

int snapshot_encode(
    struct snapshot *out, const struct adapter_files *files, const struct base_facts *base
)
{
    const struct buf *config = file_data(files, PEFT_CONFIG), *model = file_data(files, PEFT_MODEL);
    AUTO_SNAPSHOT(snapshot);
    int err;

    if (!config)
        return error_set(E_NOTFOUND, "no %s", PEFT_CONFIG);
    /* An adapter of another kind is called so before its files are. */
    struct peft_config kind = {0};
    if ((err = peft_config_decode(&kind, buf_bytes(config))) < 0)
        return err;
    peft_config_release(&kind);
    if (!model && file_data(files, "adapter_model.bin"))
        return error_set(E_UNSUPPORTED, "adapter_model.bin is a pickle; %s is needed", PEFT_MODEL);
    if (!model)
        return error_set(E_NOTFOUND, "no %s", PEFT_MODEL);
    if ((err = parts_make(&snapshot, files, buf_bytes(config), buf_bytes(model), base)) < 0 ||
        (err = round_trip_check(&snapshot, files)) < 0)
        return err;
    *out = snapshot;
    snapshot = (struct snapshot){0};
    return 0;
}

/* Checking */

/* But for a proved basis, which would have to be drawn, the model file is there in pieces. */
static int model_check(const struct manifest_file *file, const struct loaded_adapter *loaded)
{
    const struct snapshot *snapshot = loaded->snapshot;
    struct bytes pieces[PIECES];
    struct digest digest;

    if (loaded->recipe.state == BASIS_PROVED)
        return 0;
    pieces_set(
        pieces, &loaded->adapter, buf_bytes(&snapshot->layout), buf_bytes(&snapshot->payload),
        buf_bytes(&snapshot->a), buf_bytes(&snapshot->b)
    );
    int err = pieces_digest(&digest, pieces);
    if (err < 0 || digest_equal(&digest, &file->digest))
        return err;
    return error_set(E_CORRUPT, "%s: its SHA-256 is not the manifest's", file->path);
}

static int
files_check(const struct manifest *manifest, const struct loaded_adapter *loaded, bool bare)
{
    int err = bare ? 0 : files_count_check(manifest, loaded->snapshot);

    for (size_t i = 0; err == 0 && i < manifest->count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        const struct buf *stored = stored_file(loaded->snapshot, file->path);
        if (strcmp(file->path, PEFT_MODEL) == 0)
            err = model_check(file, loaded);
        else if (!stored && bare)
            continue;
        else if (!stored)
            err = error_set(E_CORRUPT, "%s: the manifest has it, it is not stored", file->path);
        else
            err = file_check(file, buf_bytes(stored));
        if (err == 0)
            err = interrupt_check();
    }
    return err;
}

static int pin_check(const struct loaded_adapter *loaded)
{
    const struct snapshot *snapshot = loaded->snapshot;
    const struct adapter *adapter = &loaded->adapter;
    AUTO_PIN(pin);

    if (!snapshot->pin.len)
        return 0;
    int err = pin_decode(&pin, buf_bytes(&snapshot->pin));
    if (err < 0)
        return err;
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        const struct pin_module *pinned = pin_find(&pin, module->name);
        if (!pinned)
            return error_set(E_CORRUPT, "pin: no line for module %s", module->name);
        if (pinned->rows != module->out && pinned->columns != module->out)
            return error_set(E_CORRUPT, "pin: module %s has another shape", module->name);
    }
    return 0;
}

static int parts_check(const struct snapshot *snapshot, bool bare)
{
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_MANIFEST(manifest);
    int err;

    if ((err = part_check("manifest", &snapshot->manifest, &snapshot->id)) < 0 ||
        (err = adapter_load(&loaded, snapshot)) < 0 ||
        (err = manifest_decode(&manifest, buf_bytes(&snapshot->manifest))) < 0)
        return err;
    const struct recipe *recipe = &loaded.recipe;
    if ((err = part_check("payload", &snapshot->payload, &recipe->payload)) < 0)
        return err;
    if (recipe->state == BASIS_STORED &&
        ((err = part_check("basis A", &snapshot->a, &recipe->sha256_a)) < 0 ||
         (err = part_check("basis B", &snapshot->b, &recipe->sha256_b)) < 0))
        return err;
    err = files_check(&manifest, &loaded, bare);
    return err < 0 ? err : pin_check(&loaded);
}

int snapshot_check(const struct snapshot *snapshot)
{
    return parts_check(snapshot, false);
}

int snapshot_check_bare(const struct snapshot *snapshot)
{
    return parts_check(snapshot, true);
}
