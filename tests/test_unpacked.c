/* Tests of apply/unpacked.c: every kind of adapter comes out of a bundle, and out of its directory,
   with the tensors of the file that PEFT wrote, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "apply/unpacked.h"
#include "format/bundle.h"
#include "format/file.h"
#include "tests/fault.h"

/* Proved in float32 and through bfloat16, all in bfloat16, declared; biases and whole modules. */
static const char *const adapters[] = {
    "llama/step-120",     "llama-vectors-only", "llama-half/step-030",
    "llama-half-vectors", "gpt2/step-040",      "bert/step-040",
};

#define FOREACH(i, list) for (size_t i = 0; i < sizeof(list) / sizeof((list)[0]); i++)

static void fixture(struct adapter_files *files, struct snapshot *snapshot, const char *name)
{
    char dir[512];

    snprintf(dir, sizeof(dir), FIXTURES "/adapter/%s", name);
    assert_int_equal(adapter_files_read(files, dir, false, NULL), 0);
    assert_int_equal(snapshot_encode(snapshot, files, NULL), 0);
}

static void assert_is(const struct unpacked *unpacked, const struct adapter_files *files)
{
    struct bytes model = buf_bytes(&adapter_files_find(files, PEFT_MODEL)->data);
    struct bytes config = buf_bytes(&adapter_files_find(files, PEFT_CONFIG)->data);
    AUTO_SAFETENSORS(table);

    assert_int_equal(safetensors_decode(&table, model, model.len), 0);
    assert_true(bytes_equal(buf_bytes(&unpacked->config), config));
    assert_int_equal(unpacked->table.count, table.count);
    for (size_t i = 0; i < table.count; i++) {
        const struct tensor *ours = &unpacked->table.tensors[i], *theirs = &table.tensors[i];
        struct bytes data = {
            model.data + table.header_bytes + theirs->begin, (size_t)tensor_bytes(theirs)};
        assert_string_equal(ours->name, theirs->name);
        assert_int_equal(ours->dtype, theirs->dtype);
        assert_true(bytes_equal(unpacked_tensor(unpacked, ours), data));
    }
}

static void adapters_come_out_as_peft_saved_them(void **state)
{
    (void)state;
    FOREACH(i, adapters)
    {
        for (int whole = 0; whole <= 1; whole++) {
            AUTO_ADAPTER_FILES(files);
            AUTO_SNAPSHOT(snapshot);
            AUTO_BUF(bundle);
            AUTO_UNPACKED(unpacked);
            fixture(&files, &snapshot, adapters[i]);
            assert_int_equal(bundle_encode(&bundle, &snapshot, whole), 0);
            assert_int_equal(unpacked_read_bundle(&unpacked, buf_bytes(&bundle)), 0);
            assert_is(&unpacked, &files);
            assert_true(digest_equal(&unpacked.id, &snapshot.id));
            assert_true(bytes_equal(buf_bytes(&unpacked.recipe), buf_bytes(&snapshot.recipe)));
        }
    }
}

static void a_directory_gives_what_its_bundle_gives(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_UNPACKED(unpacked);

    (void)state;
    fixture(&files, &snapshot, "bert/step-040");
    assert_int_equal(unpacked_read_directory(&unpacked, FIXTURES "/adapter/bert/step-040"), 0);
    assert_is(&unpacked, &files);
    assert_true(digest_equal(&unpacked.id, &snapshot.id));
}

static void damage_and_nothing_are_refused(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);
    AUTO_UNPACKED(unpacked);

    (void)state;
    fixture(&files, &snapshot, "gpt2/step-040");
    assert_int_equal(bundle_encode(&bundle, &snapshot, true), 0);
    bundle.data[bundle.len / 2] ^= 1;
    assert_int_equal(unpacked_read_bundle(&unpacked, buf_bytes(&bundle)), E_CORRUPT);
    assert_int_equal(unpacked_read_bundle(&unpacked, (struct bytes){0}), E_CORRUPT);
    assert_int_equal(unpacked_read_directory(&unpacked, FIXTURES "/nowhere"), E_NOTFOUND);
    assert_null(unpacked.model.data);
}

static void what_is_put_together_must_be_the_manifests_file(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(out);

    (void)state;
    fixture(&files, &snapshot, "gpt2/step-040");
    snapshot.payload.data[0] ^= 1;
    assert_int_equal(snapshot_restore_model(&out, &snapshot), E_CORRUPT);
    assert_null(out.data);
}

static void every_failed_allocation_leaves_nothing(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);

    (void)state;
    fixture(&files, &snapshot, "gpt2/step-040");
    assert_int_equal(bundle_encode(&bundle, &snapshot, false), 0);
    for (int n = 0;; n++) {
        AUTO_UNPACKED(unpacked);
        fault_after = n;
        int err = unpacked_read_bundle(&unpacked, buf_bytes(&bundle));
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        if (ran_through) {
            assert_int_equal(err, 0);
            assert_is(&unpacked, &files);
            return;
        }
        assert_int_equal(err, E_NOMEM);
        assert_null(unpacked.model.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_come_out_as_peft_saved_them),
        cmocka_unit_test(a_directory_gives_what_its_bundle_gives),
        cmocka_unit_test(damage_and_nothing_are_refused),
        cmocka_unit_test(what_is_put_together_must_be_the_manifests_file),
        cmocka_unit_test(every_failed_allocation_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
