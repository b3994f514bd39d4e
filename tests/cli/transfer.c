/*
 * What fetches and pushes, as a program: tests try it against real servers.
 *
 *   transfer fetch REPOSITORY URL
 *   transfer push REPOSITORY URL REF     (+REF: whatever is there; :REF: delete it there)
 *
 * A failure is its code, its message and its hint on standard error, and status 1.
 */
#include <stdio.h>
#include <string.h>

#include "store/arrival.h"
#include "store/push.h"

static int fetch(struct store *store, const char *url)
{
    const struct arrival_request request = {.url = url};
    AUTO_ARRIVAL(arrival);

    int err = arrival_fetch(&arrival, store, &request);
    for (size_t i = 0; err == 0 && i < arrival.count; i++)
        printf("%s %s\n", git_oid_tostr_s(&arrival.refs[i].id), arrival.refs[i].name);
    return err;
}

static int push(struct store *store, const char *url, const char *name)
{
    struct push_ref ref = {
        .name = *name == '+' || *name == ':' ? name + 1 : name,
        .force = *name == '+',
        .is_deletion = *name == ':',
    };
    const struct push_request request = {.url = url, .refs = &ref, .count = 1};
    struct push_result result = {0};
    char digest[DIGEST_HEX_SIZE];

    int err = push_send(&result, store, &request);
    if (err == 0)
        printf("%s %s\n", push_status_name(ref.status), ref.name);
    digest_hex(digest, &result.digest);
    if (err == 0 && result.has_digest)
        printf("sha256:%s\n", digest);
    push_refs_release(&ref, 1);
    return err;
}

int main(int argc, char **argv)
{
    AUTO_STORE(store);

    if (argc < 4)
        return 2;
    int err = store_open(&store, argv[2], argv[2]);
    if (err == 0 && argc == 4 && strcmp(argv[1], "fetch") == 0)
        err = fetch(store, argv[3]);
    else if (err == 0 && argc == 5 && strcmp(argv[1], "push") == 0)
        err = push(store, argv[3], argv[4]);
    if (err == 0)
        return 0;
    const char *hint = error_hint_text();
    fprintf(stderr, "%s: %s\n", error_name(err), error_message());
    if (hint)
        fprintf(stderr, "hint: %s\n", hint);
    return 1;
}
