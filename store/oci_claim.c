/* One pusher at a time. See oci_claim.h. */
#include "store/oci_claim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "format/file.h"
#include "format/json.h"

#define SLOTS_MAX    64
#define ID_FILE      "vera.oci"
#define ID_BYTES     16
#define PATIENCE_MS  120000
#define PAUSE_MIN_MS 20u

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int random_hex(char *out, size_t digits)
{
    uint8_t bytes[32];

    if (RAND_bytes(bytes, (int)(digits / 2)) != 1)
        return error_set(E_IO, "no random numbers");
    for (size_t i = 0; i < digits / 2; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

/* Names */

/* A byte of the file for this process, and what is random about this repository. */
static int slot_take(int *out_fd, unsigned *slot, char id[ID_BYTES + 1], struct store *store)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);
    AUTO_FD(fd);
    bool got = false;
    int err;

    if ((err = path_join(&path, store->path, ID_FILE)) < 0 || (err = lock_file_open(&fd, path)) < 0)
        return err;
    for (*slot = 0; !got && *slot < SLOTS_MAX; ++*slot) {
        if ((err = lock_byte(&got, fd, *slot, true, path)) < 0)
            return err;
    }
    if (!got)
        return error_set(E_CONFLICT, "%d other processes push from here", SLOTS_MAX);
    if ((err = lock_file_read(&text, fd, ID_BYTES, path)) < 0)
        return err;
    if (text.len == ID_BYTES)
        memcpy(id, text.data, ID_BYTES);
    else if ((err = random_hex(id, ID_BYTES)) < 0 || (err = lock_file_write(fd, (struct bytes){(const uint8_t *)id, ID_BYTES}, path)) < 0)
        return err;
    *out_fd = fd;
    fd = -1;
    return 0;
}

/* "__<ref>." : what the claims of one ref begin with. */
static int prefix_make(struct buf *out, const char *ref)
{
    char hex[DIGEST_HEX_SIZE];
    struct digest digest;

    int err = digest_of(&digest, text_bytes(ref));
    if (err < 0)
        return err;
    digest_hex(hex, &digest);
    return buf_printf(out, "__%.16s.", hex);
}

/* A copy of a repository has the same file, but is elsewhere. */
static int tag_make(char **out, struct store *store, const char *ref, const char *id, unsigned slot)
{
    char host[256] = "", hex[DIGEST_HEX_SIZE];
    struct digest digest;
    AUTO_BUF(who);
    AUTO_BUF(tag);
    int err;

    (void)!gethostname(host, sizeof(host) - 1);
    if ((err = buf_printf(&who, "%s %u %s %s", id, slot, host, store->path)) < 0 ||
        (err = digest_of(&digest, buf_bytes(&who))) < 0 || (err = prefix_make(&tag, ref)) < 0)
        return err;
    digest_hex(hex, &digest);
    if ((err = buf_printf(&tag, "%.16s", hex)) < 0)
        return err;
    if (!buf_text(&tag))
        return error_wrap(E_NOMEM, "registry");
    *out = (char *)buf_take(&tag).data;
    return 0;
}

/* Documents */

static int claim_put(struct oci_claim *claim, const char *nonce)
{
    AUTO_BUF(json);

    int err = buf_printf(
        &json,
        "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_INDEX
        "\",\"manifests\":[],\"annotations\":{\"org.verastore.claim\":\"%s\"}}",
        nonce
    );
    if (err < 0)
        return err;
    return oci_document_put(
        &claim->digest, claim->client, claim->tag, OCI_INDEX, buf_bytes(&json), NULL
    );
}

static int document_forget(struct oci_client *client, const struct digest *digest)
{
    char reference[7 + DIGEST_HEX_SIZE] = "sha256:";

    digest_hex(reference + 7, digest);
    return oci_document_delete(client, reference);
}

void oci_claim_release(struct oci_claim *claim)
{
    const sig_atomic_t interrupted = interrupt_flag;

    if (claim->client) {
        error_keep();
        /* Others wait for this, also where a person does not wait for the rest. */
        interrupt_flag = 0;
        claim->client->hurry_seconds = OCI_CLAIM_SECONDS;
        if (document_forget(claim->client, &claim->digest) == E_UNSUPPORTED)
            (void)!claim_put(claim, "");
        claim->client->hurry_seconds = 0;
        if (!interrupt_flag)
            interrupt_flag = interrupted;
        (void)!error_restore(0);
    }
    free(claim->tag);
    fd_release(&claim->fd);
    *claim = (struct oci_claim){.fd = -1};
}

bool oci_claim_holds(const struct oci_claim *claim)
{
    return now_ms() - claim->since_ms < OCI_CLAIM_SECONDS * 1000;
}

/* The digest of what another's tag holds; *held false where that says that nobody claims. A tag
   without a document is one that is being written. */
static int other_read(bool *held, struct digest *out, struct oci_client *client, const char *tag)
{
    static const char nobody[] = "\"org.verastore.claim\":\"\"";
    AUTO_BUF(json);

    *held = true;
    *out = (struct digest){0};
    int err = oci_document_get(&json, out, NULL, client, tag);
    if (err == E_NOTFOUND)
        return 0;
    if (err < 0)
        return err;
    if (!buf_text(&json))
        return error_wrap(E_NOMEM, "registry");
    *held = strstr((const char *)json.data, nobody) == NULL;
    return 0;
}

/* Others */

/* What was seen of them before. */
struct others {
    struct other {
        char *tag;
        struct digest digest;
        int64_t since_ms;
    } * seen;
    size_t count, capacity;
};

static void others_release(struct others *others)
{
    for (size_t i = 0; i < others->count; i++)
        free(others->seen[i].tag);
    free(others->seen);
}

static int other_find(struct other **out, struct others *others, const char *tag)
{
    for (size_t i = 0; i < others->count; i++) {
        *out = &others->seen[i];
        if (strcmp((*out)->tag, tag) == 0)
            return 0;
    }
    int err = array_grow(
        &others->seen, &others->capacity, others->count + 1, sizeof(*others->seen)
    );
    if (err < 0)
        return err;
    *out = &others->seen[others->count];
    **out = (struct other){.since_ms = -1};
    if (!((*out)->tag = bytes_dup(text_bytes(tag))))
        return error_wrap(E_NOMEM, "claims");
    others->count++;
    return 0;
}

/* Is it there, and does it live as far as we have seen? */
static int
other_is_alive(bool *out, struct others *others, struct oci_client *client, const char *tag)
{
    struct other *other = NULL;
    struct digest digest;
    bool held = false;
    int err;

    if ((err = other_read(&held, &digest, client, tag)) < 0 ||
        (err = other_find(&other, others, tag)) < 0)
        return err;
    if (other->since_ms < 0 || !digest_equal(&other->digest, &digest)) {
        other->digest = digest;
        other->since_ms = now_ms();
    }
    *out = held && now_ms() - other->since_ms < OCI_CLAIM_DEAD_SECONDS * 1000;
    /* By its digest: a claim that lives again has another one. */
    if (held && !*out)
        (void)!document_forget(client, &digest);
    return 0;
}

static int
others_look(bool *any, struct others *others, const struct oci_claim *claim, const char *prefix)
{
    AUTO_BUF(tags);
    int err = oci_tags(&tags, claim->client);

    *any = false;
    for (size_t at = 0; err == 0 && !*any && at < tags.len;) {
        const char *tag = (const char *)tags.data + at;
        at += strlen(tag) + 1;
        if (strncmp(tag, prefix, strlen(prefix)) == 0 && strcmp(tag, claim->tag) != 0)
            err = other_is_alive(any, others, claim->client, tag);
    }
    return err;
}

/* Longer each time, and never the same as another's. */
static int pause_between(unsigned tried)
{
    unsigned most = PAUSE_MIN_MS << (tried < 6 ? tried : 6);
    uint8_t random[2] = {0};
    int err = interrupt_check();

    if (RAND_bytes(random, sizeof(random)) != 1)
        random[0] = (uint8_t)getpid();
    unsigned ms = PAUSE_MIN_MS + (unsigned)(random[0] << 8 | random[1]) % most;
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
    return err < 0 ? err : interrupt_check();
}

static int claim_try(bool *got, struct oci_claim *claim, struct others *others, const char *prefix)
{
    bool any = false;
    int err;

    *got = false;
    if ((err = random_hex(claim->nonce, sizeof(claim->nonce) - 1)) < 0)
        return err;
    claim->since_ms = now_ms();
    if ((err = claim_put(claim, claim->nonce)) < 0 ||
        (err = others_look(&any, others, claim, prefix)) < 0)
        return err;
    *got = !any;
    return 0;
}

int oci_claim_take(
    struct oci_claim *out, struct store *store, struct oci_client *client, const char *ref
)
{
    __attribute__((cleanup(others_release))) struct others others = {0};
    const int64_t begin = now_ms();
    char id[ID_BYTES + 1] = "";
    unsigned slot = 0;
    AUTO_OCI_CLAIM(claim);
    AUTO_BUF(prefix);
    bool got = false;
    int err;

    if ((err = slot_take(&claim.fd, &slot, id, store)) < 0 ||
        (err = tag_make(&claim.tag, store, ref, id, slot)) < 0 ||
        (err = prefix_make(&prefix, ref)) < 0)
        return err;
    if (!buf_text(&prefix))
        return error_wrap(E_NOMEM, "registry");
    for (unsigned tried = 0; !got; tried++) {
        AUTO_OCI_CLAIM(attempt);
        attempt.client = client;
        if (!(attempt.tag = bytes_dup(text_bytes(claim.tag))))
            return error_wrap(E_NOMEM, "claim");
        if ((err = claim_try(&got, &attempt, &others, (const char *)prefix.data)) < 0)
            return err;
        if (got) {
            free(claim.tag);
            attempt.fd = claim.fd;
            *out = attempt;
            claim = (struct oci_claim){.fd = -1};
            attempt = (struct oci_claim){.fd = -1};
        } else if (now_ms() - begin > PATIENCE_MS)
            return error_set(E_CONFLICT, "others push to '%s' all the time", ref);
        else {
            oci_claim_release(&attempt);
            if ((err = pause_between(tried)) < 0)
                return err;
        }
    }
    return 0;
}
