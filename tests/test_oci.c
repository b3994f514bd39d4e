/*
 * What is read of a registry and about it, without one: URLs and tags, challenges, what docker
 * login keeps, manifests and indexes, packs. Tables of cases; every truncation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/limits.h"
#include "store/http.h"
#include "store/oci_auth.h"
#include "store/oci_document.h"
#include "store/oci_name.h"
#include "store/oci_pack.h"
#include "tests/fault.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define DIGEST       "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
#define COMMIT       "9a060869be82474e6e93fc45deac33f696d7bfd8"

/* URLs */

static void test_urls_name_a_host_a_repository_and_perhaps_a_version(void **state)
{
    static const struct {
        const char *url, *origin, *host, *repository, *reference;
        bool is_secret;
    } cases[] = {
        {"oci://example.org/a", "https://example.org", "example.org", "a", NULL, true},
        {"oci://example.org:5000/team/x/y", "https://example.org:5000", "example.org:5000",
         "team/x/y", NULL, true},
        {"oci://localhost:5000/a", "http://localhost:5000", "localhost:5000", "a", NULL, true},
        {"oci://127.0.0.1/a", "http://127.0.0.1", "127.0.0.1", "a", NULL, true},
        {"oci://[::1]:5000/a", "http://[::1]:5000", "[::1]:5000", "a", NULL, true},
        {"oci://[::1]/a", "http://[::1]", "[::1]", "a", NULL, true},
        {"oci://127.0.0.1.example.org/a", "https://127.0.0.1.example.org", "127.0.0.1.example.org",
         "a", NULL, true},
        {"oci://localhost.example.org/a", "https://localhost.example.org", "localhost.example.org",
         "a", NULL, true},
        {"oci+https://localhost/a", "https://localhost", "localhost", "a", NULL, true},
        {"oci+http://example.org/a", "http://example.org", "example.org", "a", NULL, false},
        {"oci+http://localhost/a", "http://localhost", "localhost", "a", NULL, true},
        {"oci://h/a:main", "https://h", "h", "a", "main", true},
        {"oci://h/a.b_c__d--e/f:_2e.X-1", "https://h", "h", "a.b_c__d--e/f", "_2e.X-1", true},
        {"oci://h/a@" DIGEST, "https://h", "h", "a", DIGEST, true},
        {"oci://h/a:main@" DIGEST, "https://h", "h", "a", DIGEST, true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_OCI_NAME(name);
        if (oci_name_parse(&name, cases[i].url) != 0)
            fail_msg("%s: %s", cases[i].url, error_message());
        assert_string_equal(name.origin, cases[i].origin);
        assert_string_equal(name.host, cases[i].host);
        assert_string_equal(name.repository, cases[i].repository);
        assert_int_equal(name.is_secret, cases[i].is_secret);
        if (cases[i].reference)
            assert_string_equal(name.reference, cases[i].reference);
        else
            assert_null(name.reference);
    }
}

static void test_what_is_no_url_of_a_registry_is_refused(void **state)
{
    static const char *const cases[] = {
        "",
        "oci:",
        "oci://",
        "oci:///a",
        "oci://h",
        "oci://h/",
        "https://h/a",
        "OCI://h/a",
        "oci://h/A",
        "oci://h//a",
        "oci://h/a/",
        "oci://h/a//b",
        "oci://h/-a",
        "oci://h/a-",
        "oci://h/a..b",
        "oci://h/.",
        "oci://h/../a",
        "oci://h/a b",
        "oci://h/a\nb",
        "oci://h/a?x",
        "oci://h/a#",
        "oci://h/a%41",
        "oci://h:/a",
        "oci://h:x/a",
        "oci://h:123456/a",
        "oci://-h/a",
        "oci://[::1/a",
        "oci://[]x/a",
        "oci://h h/a",
        "oci://h\r/a",
        "oci://h/a:",
        "oci://h/a:-x",
        "oci://h/a:.x",
        "oci://h/a:x y",
        "oci://h/a:x/y",
        "oci://h/a@",
        "oci://h/a@main",
        "oci://h/a@md5:0",
        "oci://h/a@sha256:44136f",
        "oci://h/a@" DIGEST "0",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_OCI_NAME(name);
        if (oci_name_parse(&name, cases[i]) != E_INVALID)
            fail_msg("'%s' is taken", cases[i]);
        assert_non_null(error_hint_text());
    }
}

static void test_a_password_in_a_url_is_refused_and_not_repeated(void **state)
{
    AUTO_OCI_NAME(name);

    (void)state;
    assert_int_equal(oci_name_parse(&name, "oci://ada:sesame@h/a"), E_INVALID);
    assert_null(strstr(error_message(), "sesame"));
    assert_non_null(strstr(error_hint_text(), "oci://"));
}

/* Tags */

static void test_every_branch_name_has_one_tag_and_comes_back(void **state)
{
    static const struct {
        const char *ref, *tag;
    } cases[] = {
        {"main", "main"},
        {"v1.0", "v1.0"},
        {"run/1", "run_2f1"},
        {"a_b", "a_5fb"},
        {"_", "_5f"},
        {"-x", "_2dx"},
        {".x", "_2ex"},
        {"Ünï", "_c3_9cn_c3_af"},
        {"a+b", "a_2bb"},
        {"main-0123456789ab", "main_2d0123456789ab"},
        {"a-b-0123456789ab", "a-b_2d0123456789ab"},
        {"main-0123456789abc", "main-0123456789abc"},
        {"main-0123456789AB", "main-0123456789AB"},
        {"-0123456789ab", "_2d0123456789ab"},
    };
    struct digest snapshot;

    (void)state;
    assert_int_equal(digest_of(&snapshot, text_bytes("{}")), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_BUF(tag);
        AUTO_BUF(version);
        AUTO_BUF(back);
        assert_int_equal(oci_tag_encode(&tag, cases[i].ref, NULL), 0);
        assert_string_equal(buf_text(&tag), cases[i].tag);
        assert_int_equal(oci_tag_kind(buf_bytes(&tag)), OCI_TAG_REF);
        assert_int_equal(oci_tag_decode(&back, buf_bytes(&tag)), 0);
        assert_string_equal(buf_text(&back), cases[i].ref);
        assert_int_equal(oci_tag_encode(&version, cases[i].ref, &snapshot), 0);
        assert_int_equal(oci_tag_kind(buf_bytes(&version)), OCI_TAG_VERSION);
        assert_memory_equal(version.data + version.len - 13, "-44136fa355b3", 13);
    }
}

static void test_tags_of_others_are_told_apart(void **state)
{
    static const struct {
        const char *tag;
        enum oci_tag_kind kind;
    } cases[] = {
        {"__0123456789abcdef.0", OCI_TAG_CLAIM},
        {"a_b", OCI_TAG_FOREIGN},
        {"a_", OCI_TAG_FOREIGN},
        {"a_5", OCI_TAG_FOREIGN},
        {"a_5F", OCI_TAG_FOREIGN},
        {"_61", OCI_TAG_FOREIGN}, /* 'a' needs no escape */
        {"a_00b", OCI_TAG_FOREIGN},
        {"a-0123456789ab", OCI_TAG_VERSION},
        {"latest", OCI_TAG_REF},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(oci_tag_kind(text_bytes(cases[i].tag)), cases[i].kind);
}

static void test_a_tag_has_at_most_128_characters(void **state)
{
    char ref[OCI_TAG_MAX + 2];
    AUTO_BUF(tag);

    (void)state;
    memset(ref, 'a', sizeof(ref));
    ref[OCI_TAG_MAX] = '\0';
    assert_int_equal(oci_tag_encode(&tag, ref, NULL), 0);
    ref[OCI_TAG_MAX] = 'a';
    ref[OCI_TAG_MAX + 1] = '\0';
    tag.len = 0;
    assert_int_equal(oci_tag_encode(&tag, ref, NULL), E_LIMIT);
}

/* Challenges */

static void test_challenges_are_read_as_their_rfc_says(void **state)
{
    static const struct {
        const char *header;
        enum challenge_kind kind;
        const char *realm, *service, *scope;
    } cases[] = {
        {"Bearer realm=\"https://auth/token\",service=\"reg\",scope=\"repository:a:pull\"",
         CHALLENGE_BEARER, "https://auth/token", "reg", "repository:a:pull"},
        {"bearer REALM=x , service=y", CHALLENGE_BEARER, "x", "y", NULL},
        {"Basic realm=\"a \\\"b\\\" \\\\\"", CHALLENGE_BASIC, "a \"b\" \\", NULL, NULL},
        {"Basic", CHALLENGE_BASIC, NULL, NULL, NULL},
        {"Basic realm=\"b\", Bearer realm=\"c\",error=\"invalid_token\"", CHALLENGE_BEARER, "c",
         NULL, NULL},
        {"Bearer realm=\"c\", Basic realm=\"b\"", CHALLENGE_BEARER, "c", NULL, NULL},
        {"Negotiate, Basic realm=\"b\"", CHALLENGE_BASIC, "b", NULL, NULL},
        {"Digest realm=\"d\", nonce=\"e\"", CHALLENGE_NONE, NULL, NULL, NULL},
        {"", CHALLENGE_NONE, NULL, NULL, NULL},
        {" , ", CHALLENGE_NONE, NULL, NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_CHALLENGE(challenge);
        if (challenge_parse(&challenge, text_bytes(cases[i].header)) != 0)
            fail_msg("%s: %s", cases[i].header, error_message());
        assert_int_equal(challenge.kind, cases[i].kind);
        if (cases[i].realm)
            assert_string_equal(challenge.realm, cases[i].realm);
        if (cases[i].service)
            assert_string_equal(challenge.service, cases[i].service);
        if (cases[i].scope)
            assert_string_equal(challenge.scope, cases[i].scope);
        assert_true(!cases[i].scope == !challenge.scope);
    }
}

static void test_odd_challenges_are_refused(void **state)
{
    static const char *const cases[] = {
        "Bearer",
        "Bearer realm",
        "Bearer realm=",
        "Bearer realm=\"x",
        "Bearer service=x",
        "Basic realm=\"a\"b",
        "Basic realm=\"\x01\"",
        "Bearer realm=a,realm=b",
        "=x",
        "Basic realm=\"a\\",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_CHALLENGE(challenge);
        if (challenge_parse(&challenge, text_bytes(cases[i])) != E_INVALID)
            fail_msg("'%s' is taken", cases[i]);
    }
}

static void test_a_truncated_challenge_is_refused_or_a_shorter_one(void **state)
{
    static const char header[] =
        "Basic realm=\"b\\\"\", Bearer realm=\"https://c/d\", service=\"e\"";

    (void)state;
    for (size_t len = 0; len < sizeof(header); len++) {
        AUTO_CHALLENGE(challenge);
        char *copy = malloc(len + !len);
        memcpy(copy, header, len);
        int err = challenge_parse(&challenge, (struct bytes){(uint8_t *)copy, len});
        assert_true(err == 0 || err == E_INVALID);
        free(copy);
    }
}

/* What docker login keeps. YWRhOnM6ZXNhbWU= is "ada:s:esame". */

static void test_credentials_are_those_of_the_host(void **state)
{
    static const struct {
        const char *json, *user, *secret, *helper;
        bool is_token;
    } cases[] = {
        {"{}", NULL, NULL, NULL, false},
        {"{\"auths\":{}}", NULL, NULL, NULL, false},
        {"{\"auths\":{\"h:1\":{\"auth\":\"YWRhOnM6ZXNhbWU=\"}}}", "ada", "s:esame", NULL, false},
        {"{\"auths\":{\"https://h:1/v1/\":{\"auth\":\"YWRhOnM6ZXNhbWU=\"}}}", "ada", "s:esame",
         NULL, false},
        {"{\"auths\":{\"h\":{\"auth\":\"YWRhOnM6ZXNhbWU=\"}}}", NULL, NULL, NULL, false},
        {"{\"auths\":{\"h:1\":{}}}", NULL, NULL, NULL, false},
        {"{\"auths\":{\"h:1\":{\"username\":\"u\",\"password\":\"p\",\"x\":[1]}}}", "u", "p", NULL,
         false},
        {"{\"auths\":{\"h:1\":{\"identitytoken\":\"t\"}}}", NULL, "t", NULL, true},
        {"{\"credHelpers\":{\"h:1\":\"one\",\"i\":\"two\"},\"credsStore\":\"all\"}", NULL, NULL,
         "one", false},
        {"{\"credHelpers\":{\"i\":\"two\"},\"credsStore\":\"all\",\"HttpHeaders\":{\"a\":\"b\"}}",
         NULL, NULL, "all", false},
        {"{\"auths\":{\"h:1\":{\"auth\":\"YWRhOnM6ZXNhbWU=\"}},\"credsStore\":\"all\"}", "ada",
         "s:esame", NULL, false},
        {"{\"auths\":{\"h:1\":{}},\"credsStore\":\"all\"}", NULL, NULL, "all", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_OCI_CREDENTIALS(credentials);
        AUTO_FREE(char, helper);
        if (oci_config_decode(&credentials, &helper, text_bytes(cases[i].json), "h:1") != 0)
            fail_msg("%s: %s", cases[i].json, error_message());
        assert_true(!cases[i].user == !credentials.user);
        assert_true(!cases[i].secret == !credentials.secret);
        assert_true(!cases[i].helper == !helper);
        assert_int_equal(credentials.is_token, cases[i].is_token);
        if (cases[i].user)
            assert_string_equal(credentials.user, cases[i].user);
        if (cases[i].secret)
            assert_string_equal(credentials.secret, cases[i].secret);
        if (cases[i].helper)
            assert_string_equal(helper, cases[i].helper);
    }
}

static void test_a_config_that_is_none_is_refused_and_not_repeated(void **state)
{
    static const char *const cases[] = {
        "",
        "[]",
        "{\"auths\":[]}",
        "{\"auths\":{\"h:1\":\"sesame\"}}",
        "{\"auths\":{\"h:1\":{\"auth\":\"sesame!\"}}}",
        "{\"auths\":{\"h:1\":{\"auth\":\"c2VzYW1l\"}}}", /* no colon */
        "{\"auths\":{\"h:1\":{\"auth\":5}}}",
        "{\"auths\":{\"h:1\":{\"auth\":\"YWRhOnM6ZXNhbWU\"}}}",
        "{\"auths\":{\"h:1\":{\"password\":\"a\\u0000b\",\"username\":\"u\"}}}",
        "{\"credHelpers\":{\"h:1\":\"../sesame\"}}",
        "{\"credsStore\":\"a b\"}",
        "{\"credsStore\":\".x\"}",
        "{} x",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_OCI_CREDENTIALS(credentials);
        AUTO_FREE(char, helper);
        if (oci_config_decode(&credentials, &helper, text_bytes(cases[i]), "h:1") != E_INVALID)
            fail_msg("'%s' is taken", cases[i]);
        assert_null(strstr(error_message(), "sesame"));
        assert_null(strstr(error_message(), "c2Vz"));
        assert_null(credentials.secret);
        assert_null(helper);
    }
}

static void test_every_truncation_of_a_config_is_refused(void **state)
{
    static const char json[] =
        "{\"auths\":{\"h:1\":{\"auth\":\"YWRhOnM6ZXNhbWU=\",\"identitytoken\":\"t\"}},"
        "\"credHelpers\":{\"i\":\"x\"}}";

    (void)state;
    for (size_t len = 0; len + 1 < sizeof(json); len++) {
        AUTO_OCI_CREDENTIALS(credentials);
        AUTO_FREE(char, helper);
        assert_int_equal(
            oci_config_decode(
                &credentials, &helper, (struct bytes){(const uint8_t *)json, len}, "h:1"
            ),
            E_INVALID
        );
    }
}

static void test_a_helper_answers_with_a_user_and_a_secret(void **state)
{
    AUTO_OCI_CREDENTIALS(password);
    AUTO_OCI_CREDENTIALS(token);
    AUTO_OCI_CREDENTIALS(none);

    (void)state;
    assert_int_equal(
        oci_helper_decode(
            &password, text_bytes("{\"ServerURL\":\"h\",\"Username\":\"u\",\"Secret\":\"s\"}")
        ),
        0
    );
    assert_string_equal(password.user, "u");
    assert_false(password.is_token);
    assert_int_equal(
        oci_helper_decode(&token, text_bytes("{\"Username\":\"<token>\",\"Secret\":\"s\"}")), 0
    );
    assert_true(token.is_token);
    assert_int_equal(oci_helper_decode(&none, text_bytes("{\"Username\":\"u\"}")), E_INVALID);
}

/* Manifests */

static const char manifest_text[] =
    "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_MANIFEST
    "\",\"config\":{\"mediaType\":\"" OCI_TYPE_VERSION "\",\"digest\":\"" DIGEST
    "\",\"size\":2},\"layers\":[{\"mediaType\":\"" OCI_TYPE_PACK "\",\"digest\":\"" DIGEST
    "\",\"size\":12},{\"mediaType\":\"" OCI_TYPE_FRAME "\",\"digest\":\"" DIGEST
    "\",\"size\":34},{\"mediaType\":\"" OCI_TYPE_BLOB "\",\"digest\":\"" DIGEST
    "\",\"size\":56}],\"annotations\":{\"org.verastore.commit\":\"" COMMIT "\"}}";

static void test_a_manifest_is_written_as_it_is_read(void **state)
{
    AUTO_OCI_DOCUMENT(document);
    AUTO_BUF(again);
    const struct oci_annotation annotation = {"org.verastore.commit", COMMIT};

    (void)state;
    assert_int_equal(oci_document_decode(&document, text_bytes(manifest_text)), 0);
    assert_int_equal(document.type, OCI_MANIFEST);
    assert_true(document.is_version);
    assert_true(document.has_commit);
    assert_int_equal(document.count, 3);
    assert_int_equal(document.items[2].type, OCI_BLOB);
    assert_int_equal(document.items[0].type, OCI_PACK);
    assert_int_equal(document.items[1].type, OCI_FRAME);
    assert_int_equal(document.items[1].bytes, 34);
    assert_int_equal(
        oci_manifest_encode(&again, document.items, document.count, &annotation, 1), 0
    );
    assert_string_equal(buf_text(&again), manifest_text);
}

static void test_an_index_is_written_as_it_is_read(void **state)
{
    static const char text[] = "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_INDEX
                               "\",\"manifests\":[{\"mediaType\":\"" OCI_TYPE_MANIFEST
                               "\",\"digest\":\"" DIGEST
                               "\",\"size\":56,\"annotations\":{\"org.verastore.commit\":\"" COMMIT
                               "\"}}],\"annotations\":{\"org.verastore.ref\":\"refs/tags/"
                               "v1\",\"org.verastore.tag\":\"object x\\n\"}}";
    AUTO_OCI_DOCUMENT(document);
    AUTO_BUF(again);

    (void)state;
    assert_int_equal(oci_document_decode(&document, text_bytes(text)), 0);
    assert_int_equal(document.type, OCI_INDEX);
    assert_string_equal(document.ref, "refs/tags/v1");
    assert_string_equal(document.tag, "object x\n");
    assert_non_null(oci_item_find(&document, &document.items[0].commit));
    assert_int_equal(oci_index_encode(&again, &document), 0);
    assert_string_equal(buf_text(&again), text);
}

static void test_every_truncation_of_a_manifest_is_corrupt(void **state)
{
    (void)state;
    for (size_t len = 0; len + 1 < sizeof(manifest_text); len++) {
        AUTO_OCI_DOCUMENT(document);
        assert_int_equal(
            oci_document_decode(&document, (struct bytes){(const uint8_t *)manifest_text, len}),
            E_CORRUPT
        );
    }
}

static void test_manifests_that_lie_are_corrupt_and_others_parts_are_passed_over(void **state)
{
    static const struct {
        const char *json;
        int err;
    } cases[] = {
        {"{\"layers\":[]}", 0},
        {"{\"manifests\":[],\"subject\":{\"a\":[1,{}]},\"artifactType\":\"x\"}", 0},
        {"{\"layers\":[{\"mediaType\":\"text/plain\",\"digest\":\"" DIGEST "\",\"size\":1}]}", 0},
        {"{}", E_CORRUPT},
        {"[]", E_CORRUPT},
        {"{\"layers\":[],\"manifests\":[]}", E_CORRUPT},
        {"{\"layers\":[],\"layers\":[]}", E_CORRUPT},
        {"{\"layers\":[5]}", E_CORRUPT},
        {"{\"layers\":[{}]}", E_CORRUPT},
        {"{\"layers\":[{\"digest\":\"" DIGEST "\"}]}", E_CORRUPT},
        {"{\"layers\":[{\"digest\":\"sha512:00\",\"size\":1}]}", E_CORRUPT},
        {"{\"layers\":[{\"digest\":\"" DIGEST "\",\"size\":-1}]}", E_CORRUPT},
        {"{\"layers\":[{\"digest\":\"" DIGEST "\",\"size\":1.5}]}", E_CORRUPT},
        {"{\"layers\":[{\"digest\":\"" DIGEST "\",\"size\":18446744073709551616}]}", E_CORRUPT},
        {"{\"layers\":[],\"annotations\":{\"org.verastore.commit\":\"12\"}}", E_CORRUPT},
        {"{\"layers\":[],\"annotations\":{\"org.verastore.ref\":\"a\\u0000b\"}}", E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_OCI_DOCUMENT(document);
        if (oci_document_decode(&document, text_bytes(cases[i].json)) != cases[i].err)
            fail_msg("%s: %s", cases[i].json, error_message());
    }
}

static void test_a_manifest_has_so_many_parts_and_no_more(void **state)
{
    AUTO_OCI_DOCUMENT(document);
    const struct oci_descriptor item = {.type = OCI_FRAME};

    (void)state;
    for (size_t i = 0; i < LIMIT_OCI_ITEMS; i++)
        assert_int_equal(oci_item_add(&document, &item), 0);
    assert_int_equal(oci_item_add(&document, &item), E_LIMIT);
}

/* Packs */

static int object_keep(void *context, git_object_t type, struct bytes data)
{
    int err = buf_printf(context, "%d:", (int)type);

    return err < 0 ? err : buf_append(context, data.data, data.len);
}

static void pack_make(struct buf *out, const char *first, const char *second)
{
    AUTO_OCI_PACK_WRITER(writer);

    assert_int_equal(oci_pack_add(&writer, GIT_OBJECT_COMMIT, text_bytes(first)), 0);
    assert_int_equal(oci_pack_add(&writer, GIT_OBJECT_BLOB, text_bytes(second)), 0);
    assert_int_equal(oci_pack_end(out, &writer), 0);
}

static void test_a_pack_gives_back_its_objects(void **state)
{
    AUTO_OCI_PACK_WRITER(writer);
    AUTO_BUF(pack);
    AUTO_BUF(empty);
    AUTO_BUF(kept);

    (void)state;
    pack_make(&pack, "tree of a commit", "");
    assert_int_equal(oci_pack_decode(buf_bytes(&pack), 100, object_keep, &kept), 0);
    assert_string_equal(buf_text(&kept), "1:tree of a commit3:");
    assert_int_equal(oci_pack_end(&empty, &writer), 0);
    kept.len = 0;
    assert_int_equal(oci_pack_decode(buf_bytes(&empty), 100, object_keep, &kept), 0);
    assert_int_equal(kept.len, 0);
}

static void test_every_truncation_and_flipped_bit_of_a_pack_is_corrupt(void **state)
{
    AUTO_BUF(pack);
    AUTO_BUF(kept);

    (void)state;
    pack_make(&pack, "tree of a commit", "contents of a blob");
    for (size_t len = 0; len < pack.len; len++)
        assert_int_equal(
            oci_pack_decode((struct bytes){pack.data, len}, 1000, object_keep, &kept), E_CORRUPT
        );
    for (size_t bit = 0; bit < pack.len * 8; bit++) {
        pack.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(oci_pack_decode(buf_bytes(&pack), 1000, object_keep, &kept), E_CORRUPT);
        pack.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* One object of this header byte sequence and deflated contents, its SHA-1 right. */
static void pack_forge(struct buf *out, const uint8_t *header, size_t header_len)
{
    static const uint8_t begin[] = {'P', 'A', 'C', 'K', 0, 0, 0, 2, 0, 0, 0, 1};
    static const uint8_t nothing[] = {0x78, 0x9c, 0x03, 0, 0, 0, 0, 1};
    AUTO_OCI_PACK_WRITER(writer);

    assert_int_equal(buf_append(&writer.pack, begin, sizeof(begin)), 0);
    assert_int_equal(buf_append(&writer.pack, header, header_len), 0);
    assert_int_equal(buf_append(&writer.pack, nothing, sizeof(nothing)), 0);
    writer.count = 1;
    assert_int_equal(oci_pack_end(out, &writer), 0);
}

static void test_forged_objects_are_refused_and_take_no_memory(void **state)
{
    static const struct {
        uint8_t header[8];
        size_t len;
        int err;
    } cases[] = {
        {{0x30}, 1, 0},                                 /* an empty blob */
        {{0x31}, 1, E_CORRUPT},                         /* of one byte, it says */
        {{0xb0, 0x80, 0x80, 0x80, 0x20}, 5, E_CORRUPT}, /* of 1 GiB, it says */
        {{0xb0, 0x80, 0x80, 0x80, 0x7f}, 5, E_LIMIT},   /* of more than a file may have */
        {{0xbf, 0xff, 0xff, 0xff, 0xff, 0x7f}, 6, E_LIMIT},
        {{0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 7, E_CORRUPT}, /* a size that nothing has */
        {{0x00}, 1, E_CORRUPT},                                     /* of no type */
        {{0x50}, 1, E_CORRUPT},
        {{0x60}, 1, E_UNSUPPORTED}, /* differences */
        {{0x70}, 1, E_UNSUPPORTED},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_BUF(pack);
        AUTO_BUF(kept);
        pack_forge(&pack, cases[i].header, cases[i].len);
        fault_largest = 0;
        int err = oci_pack_decode(buf_bytes(&pack), LIMIT_FILE, object_keep, &kept);
        if (err != cases[i].err)
            fail_msg("case %zu: %d, %s", i, err, error_message());
        assert_true(fault_largest < MIB);
    }
}

static void test_a_pack_holds_no_more_than_is_allowed(void **state)
{
    AUTO_BUF(pack);
    AUTO_BUF(kept);

    (void)state;
    pack_make(&pack, "12345678", "90");
    assert_int_equal(oci_pack_decode(buf_bytes(&pack), 10, object_keep, &kept), 0);
    assert_int_equal(oci_pack_decode(buf_bytes(&pack), 9, object_keep, &kept), E_LIMIT);
}

/* Without memory */

static int document_try(void)
{
    AUTO_OCI_DOCUMENT(document);
    AUTO_BUF(again);
    const struct oci_annotation annotation = {"org.verastore.commit", COMMIT};

    int err = oci_document_decode(&document, text_bytes(manifest_text));
    if (err < 0)
        return err;
    return oci_manifest_encode(&again, document.items, document.count, &annotation, 1);
}

static int config_try(void)
{
    AUTO_OCI_CREDENTIALS(credentials);
    AUTO_FREE(char, helper);

    return oci_config_decode(
        &credentials, &helper,
        text_bytes("{\"auths\":{\"h:1\":{\"auth\":\"YWRhOnM6ZXNhbWU=\",\"identitytoken\":\"t\"}}}"),
        "h:1"
    );
}

static int challenge_try(void)
{
    AUTO_CHALLENGE(challenge);

    return challenge_parse(
        &challenge, text_bytes("Basic realm=\"b\", Bearer realm=\"c\",service=\"s\",scope=\"x\"")
    );
}

static int name_try(void)
{
    AUTO_OCI_NAME(name);

    return oci_name_parse(&name, "oci://h:1/a/b:main");
}

static int pack_try(void)
{
    AUTO_OCI_PACK_WRITER(writer);
    AUTO_BUF(pack);
    AUTO_BUF(kept);
    int err;

    if ((err = oci_pack_add(&writer, GIT_OBJECT_BLOB, text_bytes("contents"))) < 0 ||
        (err = oci_pack_end(&pack, &writer)) < 0)
        return err;
    return oci_pack_decode(buf_bytes(&pack), 100, object_keep, &kept);
}

static void test_each_allocation_may_fail(void **state)
{
    static int (*const tries[])(void
    ) = {document_try, config_try, challenge_try, name_try, pack_try};

    (void)state;
    for (size_t i = 0; i < COUNT(tries); i++) {
        int failures = 0, err;
        do {
            fault_after = failures;
            err = tries[i]();
            bool is_over = fault_after >= 0;
            fault_after = -1;
            if (is_over)
                break;
            assert_int_equal(err, E_NOMEM);
            failures++;
        } while (failures < 1000);
        assert_int_equal(err, 0);
        assert_in_range(failures, 1, 999);
    }
}

/* HTTP */

static bool is_hidden; /* this system has no libcurl */

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);

void *__wrap_dlopen(const char *name, int flags)
{
    return is_hidden ? NULL : __real_dlopen(name, flags);
}

/* In a process of its own: it is looked for once. */
static void test_without_libcurl_the_package_is_named(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    assert_true(pid >= 0);
    if (pid == 0) {
        struct http *http = NULL;
        is_hidden = true;
        int err = http_new(&http);
        _exit(err == E_UNSUPPORTED && !http && strstr(error_hint_text(), "libcurl4") ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_headers_are_found_by_name_and_number(void **state)
{
    AUTO_HTTP_RESPONSE(response);
    struct bytes value;

    (void)state;
    assert_int_equal(
        buf_append_text(&response.headers, "Link: <a>\nETag:\t\"x\" \nlink:b\nempty:\nno colon\n"),
        0
    );
    assert_true(http_header(&value, &response, "link", 0));
    assert_true(bytes_equal(value, text_bytes("<a>")));
    assert_true(http_header(&value, &response, "LINK", 1));
    assert_true(bytes_equal(value, text_bytes("b")));
    assert_false(http_header(&value, &response, "link", 2));
    assert_true(http_header(&value, &response, "etag", 0));
    assert_true(bytes_equal(value, text_bytes("\"x\"")));
    assert_true(http_header(&value, &response, "empty", 0));
    assert_int_equal(value.len, 0);
    assert_false(http_header(&value, &response, "no colon", 0));
}

static void test_references_resolve_and_origins_compare(void **state)
{
    static const struct {
        const char *base, *reference, *url;
        bool is_same;
    } cases[] = {
        {"https://h/v2/a", "/v2/b?x=1", "https://h/v2/b?x=1", true},
        {"https://h/v2/a", "b", "https://h/v2/b", true},
        {"https://h/v2/a", "https://h:443/c", "https://h:443/c", true},
        {"https://h/v2/a", "https://H/c", "https://H/c", true},
        {"https://h/v2/a", "https://h:444/c", "https://h:444/c", false},
        {"https://h/v2/a", "http://h/c", "http://h/c", false},
        {"https://h/v2/a", "//i/c", "https://i/c", false},
        {"https://h/v2/a", "https://h.evil/c", "https://h.evil/c", false},
        {"https://h/v2/a", "file:///etc/passwd", NULL, false},
        {"https://h/v2/a", "https://u:p@h/c", NULL, false},
        {"https://h/v2/a", "https://h:99999/c", NULL, false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        AUTO_FREE(char, url);
        int err = http_resolve(&url, cases[i].base, cases[i].reference);
        assert_int_equal(err, cases[i].url ? 0 : E_INVALID);
        if (!cases[i].url)
            continue;
        assert_string_equal(url, cases[i].url);
        assert_int_equal(http_same_origin(cases[i].base, url), cases[i].is_same);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls_name_a_host_a_repository_and_perhaps_a_version),
        cmocka_unit_test(test_what_is_no_url_of_a_registry_is_refused),
        cmocka_unit_test(test_a_password_in_a_url_is_refused_and_not_repeated),
        cmocka_unit_test(test_every_branch_name_has_one_tag_and_comes_back),
        cmocka_unit_test(test_tags_of_others_are_told_apart),
        cmocka_unit_test(test_a_tag_has_at_most_128_characters),
        cmocka_unit_test(test_challenges_are_read_as_their_rfc_says),
        cmocka_unit_test(test_odd_challenges_are_refused),
        cmocka_unit_test(test_a_truncated_challenge_is_refused_or_a_shorter_one),
        cmocka_unit_test(test_credentials_are_those_of_the_host),
        cmocka_unit_test(test_a_config_that_is_none_is_refused_and_not_repeated),
        cmocka_unit_test(test_every_truncation_of_a_config_is_refused),
        cmocka_unit_test(test_a_helper_answers_with_a_user_and_a_secret),
        cmocka_unit_test(test_a_manifest_is_written_as_it_is_read),
        cmocka_unit_test(test_an_index_is_written_as_it_is_read),
        cmocka_unit_test(test_every_truncation_of_a_manifest_is_corrupt),
        cmocka_unit_test(test_manifests_that_lie_are_corrupt_and_others_parts_are_passed_over),
        cmocka_unit_test(test_a_manifest_has_so_many_parts_and_no_more),
        cmocka_unit_test(test_a_pack_gives_back_its_objects),
        cmocka_unit_test(test_every_truncation_and_flipped_bit_of_a_pack_is_corrupt),
        cmocka_unit_test(test_forged_objects_are_refused_and_take_no_memory),
        cmocka_unit_test(test_a_pack_holds_no_more_than_is_allowed),
        cmocka_unit_test(test_each_allocation_may_fail),
        cmocka_unit_test(test_without_libcurl_the_package_is_named),
        cmocka_unit_test(test_headers_are_found_by_name_and_number),
        cmocka_unit_test(test_references_resolve_and_origins_compare),
    };

    return cmocka_run_group_tests_name("oci", tests, NULL, NULL);
}
