/*
 * Git packs of whole objects (gitformat-pack(5)), as a registry's layers hold them: no differences,
 * each object deflated by itself. What is read is strict and small, since any hostile registry may
 * have written it: nothing is taken on the word of a header, and no object refers to another.
 */
#ifndef STORE_OCI_PACK_H
#define STORE_OCI_PACK_H

#include "store/internal.h"

struct oci_pack_writer {
    struct buf pack;
    uint32_t count;
};
#define AUTO_OCI_PACK_WRITER(name)                                                                 \
    __attribute__((cleanup(oci_pack_writer_release))) struct oci_pack_writer name = {0}
void oci_pack_writer_release(struct oci_pack_writer *writer);

/* `writer` all-zero at first. */
MUST_CHECK int oci_pack_add(struct oci_pack_writer *writer, git_object_t type, struct bytes data);
/* The whole pack, moved out. */
MUST_CHECK int oci_pack_end(struct buf *out, struct oci_pack_writer *writer);

/* Every object of a pack, in order; `visit` may end it. E_CORRUPT; E_UNSUPPORTED for differences;
   E_LIMIT above LIMIT_FILE bytes of one object or `limit` of all. Memory: the largest object, and
   no more than what really comes out. */
MUST_CHECK int oci_pack_decode(
    struct bytes pack,
    uint64_t limit,
    int (*visit)(void *context, git_object_t type, struct bytes data),
    void *context
);

#endif
