/* An adapter, for whoever builds it up by itself. See unpacked.h. */
#include "apply/unpacked.h"

#include "format/bundle.h"
#include "format/file.h"

void unpacked_release(struct unpacked *unpacked)
{
    buf_release(&unpacked->config);
    buf_release(&unpacked->recipe);
    buf_release(&unpacked->pin);
    safetensors_release(&unpacked->table);
    buf_release(&unpacked->model);
    *unpacked = (struct unpacked){0};
}

/* Takes the snapshot's configuration, recipe and pin over. */
static int unpack(struct unpacked *out, struct snapshot *snapshot)
{
    AUTO_UNPACKED(unpacked);
    int err;

    if ((err = snapshot_restore_model(&unpacked.model, snapshot)) < 0)
        return err;
    struct bytes model = buf_bytes(&unpacked.model);
    if ((err = safetensors_decode(&unpacked.table, model, model.len)) < 0)
        return err;
    unpacked.id = snapshot->id;
    unpacked.config = buf_take(&snapshot->config);
    unpacked.recipe = buf_take(&snapshot->recipe);
    unpacked.pin = buf_take(&snapshot->pin);
    *out = unpacked;
    unpacked = (struct unpacked){0};
    return 0;
}

int unpacked_read_bundle(struct unpacked *out, struct bytes bundle)
{
    AUTO_SNAPSHOT(snapshot);

    int err = bundle_decode(&snapshot, bundle, &bundle_room_any);
    return err < 0 ? err : unpack(out, &snapshot);
}

int unpacked_read_directory(struct unpacked *out, const char *dir)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);

    int err = adapter_files_read(&files, dir, false, NULL);
    if (err < 0)
        return err;
    if ((err = snapshot_encode(&snapshot, &files, NULL)) < 0)
        return error_wrap(err, "%s", dir);
    return unpack(out, &snapshot);
}

struct bytes unpacked_tensor(const struct unpacked *unpacked, const struct tensor *tensor)
{
    const uint8_t *data = unpacked->model.data + unpacked->table.header_bytes;

    return (struct bytes){data + tensor->begin, (size_t)(tensor->end - tensor->begin)};
}
