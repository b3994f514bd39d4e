/* Host keys are compared as OpenSSH would; a private key is known by its head, whatever it is cut
 * to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/known_hosts.h"
#include "store/ssh_key.h"
#include "tests/fault.h"

#define FILE_PATH "known_hosts"

/* Keys of no use: a length, the type, a byte that tells them apart. */
#define KEY_A "AAAAC3NzaC1lZDI1NTE5AQ==" /* ssh-ed25519, 1 */
#define KEY_B "AAAAC3NzaC1lZDI1NTE5Ag==" /* ssh-ed25519, 2 */
static const uint8_t key_a[] = "\0\0\0\x0bssh-ed25519\x01";
static const struct bytes shown = {key_a, sizeof(key_a) - 1};
static const struct bytes files = {
    (const uint8_t *)"missing\0" FILE_PATH "\0/dev/null",
    sizeof("missing\0" FILE_PATH "\0/dev/null")};

static int enter(void **state)
{
    char folder[] = "/tmp/vera-test-XXXXXX";

    (void)state;
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : 1;
}

static int leave(void **state)
{
    char folder[256];

    (void)state;
    unlink(FILE_PATH);
    return getcwd(folder, sizeof(folder)) && chdir("/") == 0 && rmdir(folder) == 0 ? 0 : 1;
}

static void write_file(const void *data, size_t len)
{
    FILE *file = fopen(FILE_PATH, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(FILE_PATH, 0600), 0);
}

static enum known_host check(const char *text, const char *name, struct buf *where)
{
    enum known_host result = HOST_REVOKED;

    write_file(text, strlen(text));
    assert_int_equal(known_host_check(&result, where, files, name, shown), 0);
    return result;
}

static void a_host_is_the_one_that_a_line_names(void **state)
{
    static const struct {
        const char *text, *name;
        enum known_host result;
        const char *where;
    } cases[] = {
        {"", "h", HOST_UNKNOWN, ""},
        {"h ssh-ed25519 " KEY_A, "h", HOST_MATCHES, FILE_PATH ":1"},
        {"\n# h\nH ssh-ed25519 " KEY_A " comment\n", "h", HOST_MATCHES, FILE_PATH ":3"},
        {"h ssh-ed25519 " KEY_A "\r\n", "h", HOST_MATCHES, FILE_PATH ":1"},
        {"h ssh-ed25519 " KEY_B "\nh ssh-ed25519 " KEY_A, "h", HOST_MATCHES, FILE_PATH ":2"},
        {"h ssh-ed25519 " KEY_A "\nh ssh-ed25519 " KEY_B, "h", HOST_MATCHES, FILE_PATH ":1"},
        {"h ssh-ed25519 " KEY_B "\nh ssh-ed25519 x", "h", HOST_CHANGED, FILE_PATH ":1"},
        {"h ssh-ed25519 " KEY_A "x", "h", HOST_CHANGED, FILE_PATH ":1"},
        {"h ssh-ed25519", "h", HOST_UNKNOWN, ""},
        {"g,h ssh-ed25519 " KEY_A, "h", HOST_MATCHES, FILE_PATH ":1"},
        {"*.d,!e.d ssh-ed25519 " KEY_A, "f.d", HOST_MATCHES, FILE_PATH ":1"},
        {"*.d,!e.d ssh-ed25519 " KEY_A, "e.d", HOST_UNKNOWN, ""},
        {"!e.d,*.d ssh-ed25519 " KEY_A, "e.d", HOST_UNKNOWN, ""},
        {"*a*b? ssh-ed25519 " KEY_A, "xaabbc", HOST_MATCHES, FILE_PATH ":1"},
        {"*a*b? ssh-ed25519 " KEY_A, "xaabb", HOST_MATCHES, FILE_PATH ":1"},
        {"*a*b? ssh-ed25519 " KEY_A, "xaab", HOST_UNKNOWN, ""},
        {"[h]:22 ssh-ed25519 " KEY_A, "h", HOST_UNKNOWN, ""},
        {"h ssh-ed25519 " KEY_A, "[h]:23", HOST_UNKNOWN, ""},
        {"[h]:23 ssh-ed25519 " KEY_A, "[h]:23", HOST_MATCHES, FILE_PATH ":1"},
        {"@cert-authority h ssh-ed25519 " KEY_A, "h", HOST_UNKNOWN, ""},
        {"h ssh-ed25519 " KEY_A "\n@revoked * ssh-ed25519 " KEY_A, "h", HOST_REVOKED,
         FILE_PATH ":2"},
        {"@revoked h ssh-ed25519 " KEY_A "\nh ssh-ed25519 " KEY_A, "h", HOST_REVOKED,
         FILE_PATH ":1"},
        {"h ssh-ed25519 " KEY_A "\n@revoked * ssh-ed25519 " KEY_B, "h", HOST_MATCHES,
         FILE_PATH ":1"},
        /* HMAC-SHA1 of "h", its key 20 zeros */
        {"|1|AAAAAAAAAAAAAAAAAAAAAAAAAAA=|pKGEfL80ElPzOH4Xe99PTve5QiY= ssh-ed25519 " KEY_A, "h",
         HOST_MATCHES, FILE_PATH ":1"},
        {"|1|AAAAAAAAAAAAAAAAAAAAAAAAAAA=|pKGEfL80ElPzOH4Xe99PTve5QiY= ssh-ed25519 " KEY_A, "i",
         HOST_UNKNOWN, ""},
        {"|1|AAAA|BBBB ssh-ed25519 " KEY_A, "h", HOST_UNKNOWN, ""},
        {"|1|?AAAAAAAAAAAAAAAAAAAAAAAAAA=|pKGEfL80ElPzOH4Xe99PTve5QiY= ssh-ed25519 " KEY_A, "h",
         HOST_UNKNOWN, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(where);
        assert_int_equal(check(cases[i].text, cases[i].name, &where), cases[i].result);
        assert_string_equal(buf_text(&where), cases[i].where);
    }
}

static void names_have_a_port_where_it_is_not_the_usual_one(void **state)
{
    static const char *const cases[][3] = {
        {"Host", NULL, "host"},
        {"h", "22", "h"},
        {"h", "2222", "[h]:2222"},
        {"::1", "1", "[::1]:1"}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_FREE(char, name);
        assert_int_equal(known_host_name(&name, cases[i][0], cases[i][1]), 0);
        assert_string_equal(name, cases[i][2]);
    }
}

static void the_line_of_a_key_is_the_one_that_makes_it_known(void **state)
{
    enum known_host result = HOST_UNKNOWN;
    AUTO_BUF(line);
    AUTO_BUF(where);

    (void)state;
    assert_int_equal(known_host_line(&line, "[h]:23", shown), 0);
    assert_string_equal(buf_text(&line), "[h]:23 ssh-ed25519 " KEY_A);
    assert_int_equal(check((const char *)line.data, "[h]:23", &where), HOST_MATCHES);
    for (size_t len = 0; len < 15; len++) { /* up to the end of its type */
        const struct bytes cut = {key_a, len};
        assert_int_equal(known_host_line(&line, "h", cut), E_INVALID);
        assert_int_equal(known_host_check(&result, &where, files, "h", cut), E_INVALID);
    }
}

static void without_memory_no_host_is_known(void **state)
{
    int err = E_NOMEM;

    (void)state;
    write_file("h ssh-ed25519 " KEY_A "\n", sizeof("h ssh-ed25519 " KEY_A));
    for (int n = 0; err < 0; n++) {
        enum known_host result = HOST_UNKNOWN;
        AUTO_BUF(where);
        fault_after = n;
        err = known_host_check(&result, &where, files, "h", shown);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_int_equal(result, err == 0 ? HOST_MATCHES : HOST_UNKNOWN);
    }
}

static void judged(struct ssh_key *out, const char *text, size_t len)
{
    bool found = false;

    write_file(text, len);
    assert_int_equal(ssh_key_read(&found, out, FILE_PATH), 0);
    assert_true(found);
    assert_int_equal(out->is_usable, out->why == NULL);
}

/* "openssh-key-v1", "none", "none", "", 1, a public key that begins with "ssh-rsa". */
#define OPENSSH_RSA                                                                                \
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"                                                        \
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAABFwAAAAdzc2gtcn\n"                     \
    "-----END OPENSSH PRIVATE KEY-----\n"

static void a_private_key_is_known_by_its_head(void **state)
{
    static const struct {
        const char *text;
        bool is_usable, is_rsa, is_encrypted;
    } cases[] = {
        {"", false, false, false},
        {"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n", true, true, false},
        {"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", false, true, true},
        {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n", false, false, true},
        {"-----BEGIN EC PRIVATE KEY-----\nAAAA\n", true, false, false},
        {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", false, false, false},
        {"ssh-ed25519 AAAA a public one\n", false, false, false},
    };
    struct ssh_key key;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        judged(&key, cases[i].text, strlen(cases[i].text));
        assert_int_equal(key.is_usable, cases[i].is_usable);
        assert_int_equal(key.is_rsa, cases[i].is_rsa);
        assert_int_equal(key.is_encrypted, cases[i].is_encrypted);
    }
    assert_int_equal(chmod(FILE_PATH, 0640), 0);
    bool found = false;
    assert_int_equal(ssh_key_read(&found, &key, FILE_PATH), 0);
    assert_non_null(strstr(key.why, "others may read it"));
    unlink(FILE_PATH);
    assert_int_equal(ssh_key_read(&found, &key, FILE_PATH), 0);
    assert_false(found);
}

static void a_cut_private_key_is_read_no_further_than_it_goes(void **state)
{
    struct ssh_key key;

    (void)state;
    for (size_t len = 0; len <= strlen(OPENSSH_RSA); len++)
        judged(&key, OPENSSH_RSA, len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_is_the_one_that_a_line_names),
        cmocka_unit_test(names_have_a_port_where_it_is_not_the_usual_one),
        cmocka_unit_test(the_line_of_a_key_is_the_one_that_makes_it_known),
        cmocka_unit_test(without_memory_no_host_is_known),
        cmocka_unit_test(a_private_key_is_known_by_its_head),
        cmocka_unit_test(a_cut_private_key_is_read_no_further_than_it_goes),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
